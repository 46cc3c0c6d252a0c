-- Relations of which events come and that have no table here, and the changes of rows that came to nothing.

CREATE TABLE IF NOT EXISTS replication_missing_tables (
    relation text NOT NULL,
    changes bigint NOT NULL DEFAULT 0,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT replication_missing_tables_pkey PRIMARY KEY (relation)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON replication_missing_tables TO :"applier";
