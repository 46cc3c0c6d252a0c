-- What a tenant has written beside a conversation outlives the conversation's row: a delete sets it aside for 30 days, an
-- insert of the same conversation takes it back. So a conversation that moves, leaves and returns, or is swept and read
-- again, keeps it. It stays with its tenant: nobody else's row of that number ever gets it.

CREATE TABLE IF NOT EXISTS replication_set_aside (
    tenant_id integer NOT NULL,
    conversation_id bigint NOT NULL,
    kept jsonb NOT NULL,
    set_aside_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT replication_set_aside_pkey PRIMARY KEY (tenant_id, conversation_id),
    CONSTRAINT replication_set_aside_tenant FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE
);
ALTER TABLE replication_set_aside ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON replication_set_aside
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));
GRANT SELECT, INSERT, UPDATE, DELETE ON replication_set_aside TO :"applier";

CREATE OR REPLACE FUNCTION replication_set_aside() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Of what others than the applier delete or insert, or a tenant's end does, nothing is kept.
    IF NOT has_table_privilege(':"schema".replication_set_aside', 'INSERT') THEN
        RETURN NULL;
    END IF;
    INSERT INTO :"schema".replication_set_aside AS a (tenant_id, conversation_id, kept)
    SELECT g.tenant_id, g.conversation_id, to_jsonb(own)
    FROM gone AS g CROSS JOIN LATERAL (
        SELECT
            g.is_lead, g.visit_scheduled, g.crm_converted, g.ai_probability_label, g.ai_probability_score,
            g.nome_mapeado_bot, g.tipo_conversa, g.analise_ia, g.sugestao_disparo, g.score_prioridade,
            g.dados_extraidos_ia, g.metadados_analise_ia, g.analisado_em, g.precisa_remarketing, g.status_resolucao,
            g.nivel_interesse
    ) AS own
    WHERE num_nonnulls(
        g.is_lead, g.visit_scheduled, g.crm_converted, g.ai_probability_label, g.ai_probability_score,
        g.nome_mapeado_bot, g.tipo_conversa, g.analise_ia, g.sugestao_disparo, g.score_prioridade,
        g.dados_extraidos_ia, g.metadados_analise_ia, g.analisado_em, g.precisa_remarketing, g.status_resolucao,
        g.nivel_interesse
    ) > 0 AND g.tenant_id = NULLIF(current_setting('app.current_tenant_id', true), '')::integer
    ON CONFLICT (tenant_id, conversation_id) DO UPDATE SET kept = EXCLUDED.kept, set_aside_at = now();
    DELETE FROM :"schema".replication_set_aside AS a USING (SELECT DISTINCT tenant_id FROM gone) AS g
    WHERE a.tenant_id = g.tenant_id AND a.set_aside_at < now() - interval '30 days';
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER replication_set_aside AFTER DELETE ON conversations_analytics
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION replication_set_aside();

-- What the insert has brought itself is newer, and stays; so does what it says of a lead as a whole.
CREATE OR REPLACE FUNCTION replication_take_back() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Of what others than the applier delete or insert, or a tenant's end does, nothing is kept.
    IF NOT has_table_privilege(':"schema".replication_set_aside', 'INSERT') THEN
        RETURN NULL;
    END IF;
    WITH back AS (
        DELETE FROM :"schema".replication_set_aside AS a USING added AS n
        WHERE a.tenant_id = n.tenant_id AND a.conversation_id = n.conversation_id
        RETURNING a.tenant_id, a.conversation_id, a.kept, a.set_aside_at
    )
    UPDATE :"schema".conversations_analytics AS t SET
        is_lead = CASE WHEN t.lead_rules_digest IS NULL THEN COALESCE(t.is_lead, k.is_lead) ELSE t.is_lead END,
        visit_scheduled = CASE WHEN t.lead_rules_digest IS NULL THEN COALESCE(t.visit_scheduled, k.visit_scheduled) ELSE t.visit_scheduled END,
        crm_converted = CASE WHEN t.lead_rules_digest IS NULL THEN COALESCE(t.crm_converted, k.crm_converted) ELSE t.crm_converted END,
        ai_probability_label = CASE WHEN t.lead_rules_digest IS NULL THEN COALESCE(t.ai_probability_label, k.ai_probability_label) ELSE t.ai_probability_label END,
        ai_probability_score = CASE WHEN t.lead_rules_digest IS NULL THEN COALESCE(t.ai_probability_score, k.ai_probability_score) ELSE t.ai_probability_score END,
        nome_mapeado_bot = COALESCE(t.nome_mapeado_bot, k.nome_mapeado_bot),
        tipo_conversa = COALESCE(t.tipo_conversa, k.tipo_conversa),
        analise_ia = COALESCE(t.analise_ia, k.analise_ia),
        sugestao_disparo = COALESCE(t.sugestao_disparo, k.sugestao_disparo),
        score_prioridade = COALESCE(t.score_prioridade, k.score_prioridade),
        dados_extraidos_ia = COALESCE(t.dados_extraidos_ia, k.dados_extraidos_ia),
        metadados_analise_ia = COALESCE(t.metadados_analise_ia, k.metadados_analise_ia),
        analisado_em = COALESCE(t.analisado_em, k.analisado_em),
        precisa_remarketing = COALESCE(t.precisa_remarketing, k.precisa_remarketing),
        status_resolucao = COALESCE(t.status_resolucao, k.status_resolucao),
        nivel_interesse = COALESCE(t.nivel_interesse, k.nivel_interesse)
    FROM back AS b CROSS JOIN LATERAL jsonb_populate_record(NULL:::"schema".conversations_analytics, b.kept) AS k
    WHERE t.tenant_id = b.tenant_id AND t.conversation_id = b.conversation_id
        AND b.set_aside_at >= now() - interval '30 days';
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER replication_take_back AFTER INSERT ON conversations_analytics
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION replication_take_back();
