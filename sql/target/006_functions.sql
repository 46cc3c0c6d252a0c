-- What the applier and the readers may ask.

-- The replicated tables, found by what they carry: the source's position, a unique index (tenant_id, key), and setup's
-- index <table>_stubs, which somebody's copy of a table has not. A partition is none of its own. Of several such keys the one that the target does not number by itself. inbox: its
-- column, which an index <table>_inbox may name; NULL: rows say none.
CREATE OR REPLACE FUNCTION replication_relations() RETURNS TABLE (relation text, key text, inbox text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT DISTINCT ON (c.relname) c.relname::text, k.attname::text, COALESCE(
        (
            SELECT a.attname::text
            FROM pg_class AS n
            JOIN pg_index AS i ON i.indexrelid = n.oid
            JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[1]
            WHERE n.relnamespace = c.relnamespace AND n.relname = c.relname || '_inbox' AND i.indrelid = c.oid
        ),
        CASE c.relname WHEN 'inboxes' THEN 'id' END,
        (SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'inbox_id')
    )
    FROM pg_class AS c
    JOIN pg_index AS i ON i.indrelid = c.oid AND i.indnkeyatts = 2
    JOIN pg_attribute AS t ON t.attrelid = c.oid AND t.attname = 'tenant_id'
    JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attnum IN (i.indkey[0], i.indkey[1]) AND k.attnum <> t.attnum
    WHERE c.relnamespace = ':"schema"'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
        AND t.attnum IN (i.indkey[0], i.indkey[1])
        AND k.atttypid IN ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype)
        AND 4 = (
            SELECT count(*) FROM pg_attribute AS a
            WHERE a.attrelid = c.oid
                AND a.attname IN ('source_epoch', 'source_point', 'source_ordinal', 'synced_at')
        )
        AND EXISTS (
            SELECT FROM pg_class AS n JOIN pg_index AS s ON s.indexrelid = n.oid
            WHERE n.relnamespace = c.relnamespace AND n.relname = c.relname || '_stubs' AND s.indrelid = c.oid
        )
    ORDER BY c.relname, (k.atthasdef OR k.attidentity <> ''), NOT i.indisprimary, k.attname <> 'id', k.attname
$$;
REVOKE ALL ON FUNCTION replication_relations() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION replication_relations() TO :"applier";

-- Which tenants hold which of these rows (ids: a JSON array), or any row at all (ids: NULL; held is NULL then). Looks at
-- each tenant in turn, as that tenant, so that row-level security holds here too; then the caller's own setting comes
-- back (after an error its transaction is over, and the setting with it).
CREATE OR REPLACE FUNCTION replication_holders(relation text, ids jsonb)
    RETURNS TABLE (tenant_id integer, held bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted CONSTANT bigint[] := ARRAY(SELECT jsonb_array_elements_text(ids)::bigint);
    asking CONSTANT text := COALESCE(current_setting('app.current_tenant_id', true), '');
    key CONSTANT text := (
        SELECT known.key FROM :"schema".replication_relations() AS known
        WHERE known.relation = replication_holders.relation
    );
    question CONSTANT text := CASE
        WHEN ids IS NULL THEN 'SELECT $1, NULL::bigint WHERE EXISTS (SELECT FROM :"schema".%I AS r WHERE r.tenant_id = $1)'
        ELSE 'SELECT r.tenant_id, r.%2$I::bigint FROM :"schema".%1$I AS r WHERE r.tenant_id = $1 AND r.%2$I = ANY ($2)'
    END;
BEGIN
    IF key IS NULL THEN
        RAISE EXCEPTION 'no replicated relation of this name' USING ERRCODE = 'undefined_table';
    END IF;
    FOR tenant_id IN SELECT t.id FROM :"schema".tenants AS t ORDER BY t.id LOOP
        PERFORM set_config('app.current_tenant_id', tenant_id::text, true);
        RETURN QUERY EXECUTE format(question, relation, key) USING tenant_id, wanted;
    END LOOP;
    PERFORM set_config('app.current_tenant_id', asking, true);
END
$$;
REVOKE ALL ON FUNCTION replication_holders(text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION replication_holders(text, jsonb) TO :"applier";

-- The pool that serves a tenant.
CREATE OR REPLACE FUNCTION replication_pool_of(tenant integer) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT COALESCE((SELECT p.pool FROM replication_tenant_pools AS p WHERE p.tenant_id = tenant), 'default');
END;
REVOKE ALL ON FUNCTION replication_pool_of(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION replication_pool_of(integer) TO :"applier";

-- How fresh the own tenant's rows are; no row without app.current_tenant_id. Reads the control tables as their owner.
-- fresh_at: everything that the source committed before it is applied; NULL while a partition has not said so. Other
-- pools, and topics that nobody reads any more, say nothing.
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
                    SELECT r.partition, r.source_at
                    FROM replication_progress AS r
                    WHERE r.pool = replication_pool_of(own.id) AND r.topic_id = (
                        SELECT n.topic_id FROM replication_progress AS n ORDER BY n.read_at DESC NULLS LAST LIMIT 1
                    )
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
