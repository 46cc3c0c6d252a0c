-- The lead rules that a tenant has beside the shipped ones (consumers/lead_rules.toml), or instead of one of the same
-- name; a rule without a pattern switches that one off. A worker reads them, compiles them with RE2, and says in `refused`
-- why it goes on without one. `consumers rules` writes them and refuses first; so may whoever is given
-- replication_rule_editors, for the tenant of app.current_tenant_id.

CREATE TABLE IF NOT EXISTS lead_rules (
    tenant_id integer NOT NULL,
    name text NOT NULL CHECK (name <> '' AND length(name) <= 100),
    signal text CHECK (signal IN ('lead', 'visit', 'conversion')),
    speaker text CHECK (speaker IN ('client', 'agent', 'any')),
    weight integer CHECK (weight BETWEEN -100 AND 100 AND weight <> 0),
    pattern text CHECK (pattern IS NULL OR num_nulls(signal, speaker, weight) = 0 AND length(pattern) <= 1000),
    refused text,
    CONSTRAINT lead_rules_pkey PRIMARY KEY (tenant_id, name),
    CONSTRAINT lead_rules_tenant FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE
);
ALTER TABLE lead_rules ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON lead_rules
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));
CREATE POLICY applier_tenant_rows ON lead_rules AS RESTRICTIVE TO :"applier"
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));

CREATE ROLE replication_rule_editors NOLOGIN;
GRANT USAGE ON SCHEMA :"schema" TO replication_rule_editors;
GRANT SELECT, UPDATE (refused) ON lead_rules TO :"applier";
GRANT SELECT ON lead_rules TO replication_readers;
GRANT SELECT, INSERT (tenant_id, name, signal, speaker, weight, pattern), DELETE,
    UPDATE (name, signal, speaker, weight, pattern) ON lead_rules TO replication_rule_editors;

-- What was written last is not refused yet.
CREATE OR REPLACE FUNCTION replication_rule_changes() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.refused := NULL;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER replication_rule_changes
    BEFORE INSERT OR UPDATE OF name, signal, speaker, weight, pattern ON lead_rules
    FOR EACH ROW EXECUTE FUNCTION replication_rule_changes();

CREATE OR REPLACE FUNCTION replication_rules_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_notify('lead_rules', COALESCE(NEW.tenant_id, OLD.tenant_id)::text);
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER replication_rules_changed
    AFTER INSERT OR DELETE OR UPDATE OF name, signal, speaker, weight, pattern ON lead_rules
    FOR EACH ROW EXECUTE FUNCTION replication_rules_changed();
CREATE OR REPLACE TRIGGER replication_signals_changed
    AFTER INSERT OR DELETE OR UPDATE OF lead_signals ON tenant_settings
    FOR EACH ROW EXECUTE FUNCTION replication_rules_changed();

-- Whoever else writes signals has other reasons for them than a rule's. Some of what is the source's (an x stands before
-- the letters of those signals) may change where rules find the same.
CREATE OR REPLACE FUNCTION replication_signals_written() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.lead_evidence := NULL;
    NEW.lead_rules_digest := NULL;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER replication_signals_written BEFORE UPDATE ON conversations_analytics
    FOR EACH ROW WHEN (
        NEW.lead_rules_digest IS NOT NULL
        AND NEW.lead_rules_digest = OLD.lead_rules_digest
        AND NEW.lead_evidence IS NOT DISTINCT FROM OLD.lead_evidence
        AND (NEW.is_lead, NEW.visit_scheduled, NEW.crm_converted, NEW.ai_probability_label, NEW.ai_probability_score)
            IS DISTINCT FROM
            (OLD.is_lead, OLD.visit_scheduled, OLD.crm_converted, OLD.ai_probability_label, OLD.ai_probability_score)
        AND NEW.lead_rules_digest <> 'source' AND NEW.lead_rules_digest NOT LIKE '%x%'
    ) EXECUTE FUNCTION replication_signals_written();

-- Rows whose signals are of other rules than the tenant's, looked for now and then.
CREATE INDEX IF NOT EXISTS conversations_analytics_rules ON conversations_analytics (tenant_id, lead_rules_digest);

-- Where signals stand that no rule of ours has made, they come from elsewhere, and stay untouched.
CREATE OR REPLACE FUNCTION replication_note_external_signals() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant integer;
BEGIN
    FOR tenant IN SELECT t.id FROM :"schema".tenants AS t LOOP
        PERFORM set_config('app.current_tenant_id', tenant::text, true);
        INSERT INTO :"schema".tenant_settings AS s (tenant_id, lead_signals)
        SELECT tenant, 'external'
        WHERE EXISTS (
            SELECT FROM :"schema".conversations_analytics AS c
            WHERE c.tenant_id = tenant AND c.lead_rules_digest IS NULL AND num_nonnulls(
                c.is_lead, c.visit_scheduled, c.crm_converted, c.ai_probability_label, c.ai_probability_score
            ) > 0
        )
        ON CONFLICT (tenant_id) DO UPDATE SET lead_signals = 'external' WHERE s.lead_signals IS NULL;
    END LOOP;
    PERFORM set_config('app.current_tenant_id', '', true);
END
$$;
REVOKE ALL ON FUNCTION replication_note_external_signals() FROM PUBLIC;
SELECT replication_note_external_signals();
