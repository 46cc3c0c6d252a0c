-- What the owner of the target decides for each tenant. A tenant without a row has the defaults.
--
-- lead_signals says where the five columns of a lead come from: `source`, as the source's view has them; `rules`, out of
-- what client and agents wrote; `external`, from somebody else, so that they are never touched. NULL: each is the
-- source's where it says something of a conversation, else by the rules.

CREATE TABLE IF NOT EXISTS tenant_settings (
    tenant_id integer NOT NULL,
    time_zone text NOT NULL DEFAULT 'America/Sao_Paulo',
    lead_signals text CHECK (lead_signals IN ('source', 'rules', 'external')),
    CONSTRAINT tenant_settings_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT tenant_settings_tenant FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE
);
ALTER TABLE tenant_settings ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_settings ON tenant_settings FOR SELECT TO replication_readers
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));
CREATE POLICY applier_reads ON tenant_settings FOR SELECT TO :"applier"
    USING (true);
GRANT SELECT ON tenant_settings TO :"applier", replication_readers;

-- A place has its own rules of daylight saving; an offset, which PostgreSQL would take too, has none.
CREATE OR REPLACE FUNCTION replication_knows_time_zone() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.time_zone NOT LIKE '%/%' AND NEW.time_zone <> 'UTC'
            OR NOT EXISTS (SELECT FROM pg_timezone_names AS z WHERE z.name = NEW.time_zone) THEN
        RAISE EXCEPTION '% is no time zone of a place, such as America/Sao_Paulo', NEW.time_zone
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER replication_knows_time_zone BEFORE INSERT OR UPDATE OF time_zone ON tenant_settings
    FOR EACH ROW EXECUTE FUNCTION replication_knows_time_zone();
