-- A tenant changes pools: in the transaction that says so it is parked in each partition from where it stands, and its
-- new pool reads it up to its own place before it goes on with the others. Always, also where that pool is behind: its
-- workers may not know of the tenant yet, and what they pass over meanwhile is read by the tenant's own reading.
CREATE OR REPLACE FUNCTION replication_pool_changes() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    tenant CONSTANT integer := COALESCE(NEW.tenant_id, OLD.tenant_id);
    old_pool CONSTANT text := COALESCE(OLD.pool, 'default');
    new_pool CONSTANT text := COALESCE(NEW.pool, 'default');
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.tenant_id <> OLD.tenant_id THEN
        RAISE EXCEPTION 'a row of replication_tenant_pools keeps its tenant' USING ERRCODE = 'restrict_violation';
    END IF;
    IF old_pool = new_pool THEN
        RETURN NULL;
    END IF;
    -- An older snapshot would not see how far the pools have come until the lock was free.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a tenant can only change pools in a READ COMMITTED transaction'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM pg_advisory_xact_lock(1229867864, tenant);
    -- A pool that parks the tenant for a fault waits for this, and then finds that the tenant is no longer its own.
    PERFORM pg_advisory_xact_lock(1229867865, tenant);
    IF NOT EXISTS (SELECT FROM :"schema".tenants AS t WHERE t.id = tenant) THEN
        RETURN NULL;
    END IF;

    -- A pool that has not read a partition yet begins where the tenant comes from: its log was read up to there.
    INSERT INTO :"schema".replication_progress (pool, topic_id, partition, next_offset, source_at)
    SELECT new_pool, p.topic_id, p.partition, p.next_offset, p.source_at
    FROM :"schema".replication_progress AS p
    WHERE p.pool = old_pool
    ORDER BY p.partition
    ON CONFLICT (pool, partition) DO NOTHING;

    -- Where one of the two has seen a topic made anew and the other not, all of it is read: nobody has read it before.
    INSERT INTO :"schema".replication_parked AS k
        (tenant_id, partition, pool, topic_id, from_offset, error_class, error, advice)
    SELECT tenant, mine.partition, new_pool, mine.topic_id,
        CASE WHEN theirs.next_offset IS NULL THEN 0 ELSE GREATEST(theirs.next_offset, w.next_offset) END,
        'pool', format('it changes from the pool %s to the pool %s', old_pool, new_pool),
        format('A worker of the pool %s reads it up to the others by itself.', new_pool)
    FROM :"schema".replication_progress AS mine
    LEFT JOIN :"schema".replication_progress AS theirs
        ON theirs.pool = old_pool AND theirs.partition = mine.partition AND theirs.topic_id = mine.topic_id
    LEFT JOIN :"schema".replication_watermarks AS w
        ON w.tenant_id = tenant AND w.partition = mine.partition AND w.topic_id = mine.topic_id
    WHERE mine.pool = new_pool
    ORDER BY mine.partition
    ON CONFLICT (tenant_id, partition) DO UPDATE SET
        pool = EXCLUDED.pool,
        topic_id = EXCLUDED.topic_id,
        error = CASE WHEN k.error_class = 'pool' THEN EXCLUDED.error ELSE k.error END,
        advice = CASE WHEN k.error_class = 'pool' THEN EXCLUDED.advice ELSE k.advice END,
        from_offset = CASE WHEN k.topic_id = EXCLUDED.topic_id THEN k.from_offset ELSE EXCLUDED.from_offset END;

    -- What the topic that is gone still held for it, nobody can read any more: the source has it.
    UPDATE :"schema".inbox_tenant_mapping AS m SET backfill_id = NULL, backfilled_at = NULL
    WHERE m.tenant_id = tenant AND EXISTS (
        SELECT FROM :"schema".replication_progress AS mine
        JOIN :"schema".replication_progress AS theirs ON theirs.pool = old_pool AND theirs.partition = mine.partition
        WHERE mine.pool = new_pool AND mine.topic_id <> theirs.topic_id
    );

    -- A tenant without a watermark stands where its pool does; from now on that is another one.
    INSERT INTO :"schema".replication_watermarks AS w (tenant_id, partition, topic_id, next_offset)
    SELECT k.tenant_id, k.partition, k.topic_id, k.from_offset
    FROM :"schema".replication_parked AS k
    WHERE k.tenant_id = tenant AND k.pool = new_pool
    ON CONFLICT ON CONSTRAINT replication_watermarks_pkey DO UPDATE SET next_offset = EXCLUDED.next_offset
        WHERE w.topic_id = EXCLUDED.topic_id AND w.next_offset < EXCLUDED.next_offset;

    PERFORM pg_notify('inbox_tenant_mapping', '');
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER replication_pool_changes AFTER INSERT OR UPDATE OR DELETE ON replication_tenant_pools
    FOR EACH ROW EXECUTE FUNCTION replication_pool_changes();
