-- Columns that the source has and the target lacks, and the rows that were written without them.

CREATE TABLE IF NOT EXISTS replication_skipped_columns (
    relation text NOT NULL,
    name text NOT NULL,
    type text NOT NULL,
    rows bigint NOT NULL DEFAULT 0,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT replication_skipped_columns_pkey PRIMARY KEY (relation, name)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON replication_skipped_columns TO :"applier";
