-- Survey answers, with the inbox of their conversation. As 003 and 004 have the other replicated tables.

CREATE TABLE IF NOT EXISTS csat_survey_responses (
    tenant_id integer NOT NULL,
    id bigint NOT NULL,
    account_id bigint,
    conversation_id bigint,
    message_id bigint,
    rating integer,
    feedback_message text,
    contact_id bigint,
    assigned_agent_id bigint,
    created_at timestamp,
    updated_at timestamp,
    csat_review_notes text,
    review_notes_updated_at timestamp,
    review_notes_updated_by_id bigint,
    inbox_id integer,
    source_epoch bigint NOT NULL DEFAULT 0,
    source_point bigint NOT NULL DEFAULT 0,
    source_ordinal bigint NOT NULL DEFAULT 0,
    synced_at timestamptz,
    CONSTRAINT csat_survey_responses_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT csat_survey_responses_tenant FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT csat_survey_responses_conversation
        FOREIGN KEY (tenant_id, conversation_id) REFERENCES conversations (tenant_id, id)
);
CREATE INDEX IF NOT EXISTS csat_survey_responses_inbox ON csat_survey_responses (tenant_id, inbox_id);
CREATE INDEX IF NOT EXISTS csat_survey_responses_tenant_conversation_id
    ON csat_survey_responses (tenant_id, conversation_id);
CREATE INDEX IF NOT EXISTS csat_survey_responses_stubs ON csat_survey_responses (tenant_id, id) WHERE synced_at IS NULL;

ALTER TABLE csat_survey_responses ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON csat_survey_responses
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));
CREATE POLICY applier_tenant_rows ON csat_survey_responses AS RESTRICTIVE TO :"applier"
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));
GRANT SELECT, INSERT, UPDATE, DELETE ON csat_survey_responses TO :"applier";
GRANT SELECT ON csat_survey_responses TO replication_readers;
