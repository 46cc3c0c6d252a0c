-- Rights, after everything that limits them is in place.

GRANT SELECT, INSERT, UPDATE, DELETE ON inboxes, contacts, conversations, contact_inboxes, messages TO :"applier";
GRANT SELECT ON inboxes, contacts, conversations, contact_inboxes, messages TO replication_readers;

GRANT SELECT ON tenants TO :"applier", replication_readers;
GRANT SELECT ON replication_freshness TO :"applier", replication_readers;

GRANT SELECT, UPDATE (backfill_id, backfilled_at) ON inbox_tenant_mapping TO :"applier";
GRANT SELECT, INSERT, UPDATE ON etl_control TO :"applier";
GRANT SELECT, INSERT, UPDATE, DELETE
    ON replication_progress, replication_watermarks, replication_parked, replication_generations, unmapped_inboxes
    TO :"applier";
GRANT SELECT ON replication_migrations, replication_tenant_pools TO :"applier";
