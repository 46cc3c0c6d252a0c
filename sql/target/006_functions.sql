-- What the applier and the readers may ask.

-- Which tenants hold one of these rows (ids: a JSON array; NULL: any row at all). Looks at each tenant in turn, as that
-- tenant, so that row-level security holds here too; then the caller's own setting comes back (after an error its
-- transaction is over, and the setting with it).
CREATE OR REPLACE FUNCTION replication_tenants_holding(relation text, ids jsonb) RETURNS TABLE (tenant_id integer)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted CONSTANT bigint[] := CASE WHEN ids IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(ids)::bigint) END;
    asking CONSTANT text := COALESCE(current_setting('app.current_tenant_id', true), '');
    holds boolean;
BEGIN
    IF relation NOT IN ('inboxes', 'contacts', 'conversations', 'contact_inboxes', 'messages') THEN
        RAISE EXCEPTION 'no replicated relation of this name' USING ERRCODE = 'undefined_table';
    END IF;
    FOR tenant_id IN SELECT t.id FROM :"schema".tenants AS t ORDER BY t.id LOOP
        PERFORM set_config('app.current_tenant_id', tenant_id::text, true);
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM :"schema".%I AS r WHERE r.tenant_id = $1 AND ($2 IS NULL OR r.id = ANY ($2)))',
            relation
        ) INTO holds USING tenant_id, wanted;
        IF holds THEN
            RETURN NEXT;
        END IF;
    END LOOP;
    PERFORM set_config('app.current_tenant_id', asking, true);
END
$$;
REVOKE ALL ON FUNCTION replication_tenants_holding(text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION replication_tenants_holding(text, jsonb) TO :"applier";

-- How fresh the own tenant's rows are; no row without app.current_tenant_id. Reads the control tables as their owner.
-- fresh_at: everything that the source committed before it is applied; NULL while a partition has not said so. Pools and
-- topics that nobody reads any more say nothing.
CREATE OR REPLACE FUNCTION replication_own_freshness() RETURNS TABLE (
    tenant_id integer,
    last_applied_at timestamptz,
    last_change_at timestamptz,
    fresh_at timestamptz,
    is_parked boolean,
    backfilling boolean
)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT
        own.id,
        (SELECT max(w.applied_at) FROM replication_watermarks AS w WHERE w.tenant_id = own.id),
        (SELECT max(w.source_at) FROM replication_watermarks AS w WHERE w.tenant_id = own.id),
        (
            SELECT CASE WHEN bool_and(part.source_at IS NOT NULL) THEN min(part.source_at) END
            FROM (
                SELECT CASE WHEN k.tenant_id IS NULL THEN p.source_at ELSE w.source_at END AS source_at
                FROM (
                    SELECT DISTINCT ON (r.partition) r.partition, r.source_at
                    FROM replication_progress AS r
                    WHERE r.topic_id = (
                        SELECT n.topic_id FROM replication_progress AS n ORDER BY n.read_at DESC NULLS LAST LIMIT 1
                    )
                    ORDER BY r.partition, r.read_at DESC NULLS LAST
                ) AS p
                LEFT JOIN replication_parked AS k ON k.tenant_id = own.id AND k.partition = p.partition
                LEFT JOIN replication_watermarks AS w ON w.tenant_id = own.id AND w.partition = p.partition
            ) AS part
        ),
        EXISTS (SELECT FROM replication_parked AS k WHERE k.tenant_id = own.id),
        EXISTS (
            SELECT FROM inbox_tenant_mapping AS m
            WHERE m.tenant_id = own.id AND m.is_active AND m.backfilled_at IS NULL
        )
    FROM tenants AS own
    WHERE own.id = NULLIF(current_setting('app.current_tenant_id', true), '')::integer;
END;
REVOKE ALL ON FUNCTION replication_own_freshness() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION replication_own_freshness() TO :"applier", replication_readers;

CREATE OR REPLACE VIEW replication_freshness WITH (security_invoker = true) AS
    SELECT f.tenant_id, f.last_applied_at, f.last_change_at, f.fresh_at, f.is_parked, f.backfilling
    FROM replication_own_freshness() AS f;
