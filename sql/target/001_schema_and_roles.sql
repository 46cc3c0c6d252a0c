-- The target's schema, the roles, and the list of what was applied.
--
-- These files say what must be there. `consumers setup` carries out each statement only if the catalogue lacks its
-- effect, so that every file can be applied again, and an existing table of the same name is adopted: it gets the
-- columns, keys and indexes that it lacks, and loses nothing. :"schema" and :"applier" are replaced by quoted names.

CREATE SCHEMA IF NOT EXISTS :"schema";

-- Members read what app.current_tenant_id names.
CREATE ROLE replication_readers NOLOGIN;

-- The workers: bound by row-level security, owner of nothing. `consumers setup` adds the password of its DSN.
CREATE ROLE :"applier" LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB;

GRANT USAGE ON SCHEMA :"schema" TO :"applier", replication_readers;

-- PostgreSQL gives both to everybody, unless somebody took them away; workers stage rows in temporary tables. Setup puts
-- the name of the database in.
GRANT CONNECT, TEMPORARY ON DATABASE current_database TO :"applier";

CREATE TABLE IF NOT EXISTS replication_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT replication_migrations_pkey PRIMARY KEY (version)
);
