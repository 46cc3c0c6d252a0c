-- A change of the mapping waits for the transactions of the tenants concerned, asks for a backfill where an inbox
-- has begun to belong to its tenant, and tells the workers. So do a tenant's being set aside and taken back.

-- 1229867864 ('INBX' in ASCII) is the class of the tenants' advisory locks; a worker holds its tenant's while it writes.
CREATE OR REPLACE FUNCTION replication_mapping_changes() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    -- In ascending order, so that two such changes can't wait for each other.
    PERFORM pg_advisory_xact_lock(1229867864, concerned.tenant_id)
    FROM (
        SELECT DISTINCT t.tenant_id
        FROM unnest(ARRAY[OLD.tenant_id, NEW.tenant_id]) AS t (tenant_id)
        WHERE t.tenant_id IS NOT NULL
        ORDER BY t.tenant_id
    ) AS concerned;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    IF TG_OP = 'INSERT' OR (NEW.inbox_id, NEW.tenant_id) IS DISTINCT FROM (OLD.inbox_id, OLD.tenant_id)
            OR (NEW.is_active AND OLD.is_active IS NOT TRUE) THEN
        NEW.backfill_id := NULL;
        NEW.backfilled_at := NULL;
    END IF;
    -- A finished backfill is no edit of the mapping.
    IF TG_OP = 'UPDATE' AND (NEW.inbox_id, NEW.tenant_id, NEW.inbox_name, NEW.channel_type, NEW.is_active)
            IS DISTINCT FROM (OLD.inbox_id, OLD.tenant_id, OLD.inbox_name, OLD.channel_type, OLD.is_active) THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION replication_mapping_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_notify('inbox_tenant_mapping', COALESCE(NEW.inbox_id, OLD.inbox_id)::text);
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER replication_mapping_changes BEFORE INSERT OR UPDATE OR DELETE ON inbox_tenant_mapping
    FOR EACH ROW EXECUTE FUNCTION replication_mapping_changes();

CREATE OR REPLACE TRIGGER replication_mapping_changed AFTER INSERT OR UPDATE OR DELETE ON inbox_tenant_mapping
    FOR EACH ROW EXECUTE FUNCTION replication_mapping_changed();

-- Of a tenant that is set aside nothing is applied: taken back, it lacks what came meanwhile. Whoever may do that need
-- not have a right on the mapping.
CREATE OR REPLACE FUNCTION replication_tenant_changes() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1229867864, NEW.id);
    IF NEW.deleted_at IS NULL THEN
        UPDATE :"schema".inbox_tenant_mapping SET backfill_id = NULL, backfilled_at = NULL WHERE tenant_id = NEW.id;
    END IF;
    PERFORM pg_notify('inbox_tenant_mapping', '');
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION replication_tenant_changes() FROM PUBLIC;

CREATE OR REPLACE TRIGGER replication_tenant_changes AFTER UPDATE OF deleted_at ON tenants
    FOR EACH ROW WHEN ((OLD.deleted_at IS NULL) <> (NEW.deleted_at IS NULL))
    EXECUTE FUNCTION replication_tenant_changes();
