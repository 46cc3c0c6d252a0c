-- The replicated tables: the source's columns under the source's types, all nullable but the key, so that a stub (a parent
-- made only so that a child's foreign key holds) can stand. synced_at IS NULL: a stub. source_*: the position of the
-- row's last change; a write needs a later one.

CREATE TABLE IF NOT EXISTS inboxes (
    tenant_id integer NOT NULL,
    id integer NOT NULL,
    channel_id integer,
    account_id integer,
    name varchar,
    created_at timestamp,
    updated_at timestamp,
    channel_type varchar,
    enable_auto_assignment boolean,
    greeting_enabled boolean,
    greeting_message varchar,
    email_address varchar,
    working_hours_enabled boolean,
    out_of_office_message varchar,
    timezone varchar,
    enable_email_collect boolean,
    csat_survey_enabled boolean,
    allow_messages_after_resolved boolean,
    auto_assignment_config jsonb,
    lock_to_single_conversation boolean,
    portal_id bigint,
    sender_name_type integer,
    business_name varchar,
    csat_config jsonb,
    source_epoch bigint NOT NULL DEFAULT 0,
    source_point bigint NOT NULL DEFAULT 0,
    source_ordinal bigint NOT NULL DEFAULT 0,
    synced_at timestamptz,
    CONSTRAINT inboxes_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT inboxes_tenant FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS inboxes_stubs ON inboxes (tenant_id, id) WHERE synced_at IS NULL;

CREATE TABLE IF NOT EXISTS contacts (
    tenant_id integer NOT NULL,
    id integer NOT NULL,
    name varchar,
    email varchar,
    phone_number varchar,
    account_id integer,
    created_at timestamp,
    updated_at timestamp,
    additional_attributes jsonb,
    identifier varchar,
    custom_attributes jsonb,
    last_activity_at timestamp,
    contact_type integer,
    middle_name varchar,
    last_name varchar,
    location varchar,
    country_code varchar,
    blocked boolean,
    company_id bigint,
    source_epoch bigint NOT NULL DEFAULT 0,
    source_point bigint NOT NULL DEFAULT 0,
    source_ordinal bigint NOT NULL DEFAULT 0,
    synced_at timestamptz,
    CONSTRAINT contacts_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT contacts_tenant FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS contacts_stubs ON contacts (tenant_id, id) WHERE synced_at IS NULL;

CREATE TABLE IF NOT EXISTS conversations (
    tenant_id integer NOT NULL,
    id integer NOT NULL,
    account_id integer,
    inbox_id integer,
    status integer,
    assignee_id integer,
    created_at timestamp,
    updated_at timestamp,
    contact_id bigint,
    display_id integer,
    contact_last_seen_at timestamp,
    agent_last_seen_at timestamp,
    additional_attributes jsonb,
    contact_inbox_id bigint,
    uuid uuid,
    identifier varchar,
    last_activity_at timestamp,
    team_id bigint,
    campaign_id bigint,
    snoozed_until timestamp,
    custom_attributes jsonb,
    assignee_last_seen_at timestamp,
    first_reply_created_at timestamp,
    priority integer,
    sla_policy_id bigint,
    waiting_since timestamp,
    cached_label_list text,
    assignee_agent_bot_id bigint,
    source_epoch bigint NOT NULL DEFAULT 0,
    source_point bigint NOT NULL DEFAULT 0,
    source_ordinal bigint NOT NULL DEFAULT 0,
    synced_at timestamptz,
    CONSTRAINT conversations_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT conversations_tenant FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT conversations_inbox FOREIGN KEY (tenant_id, inbox_id) REFERENCES inboxes (tenant_id, id),
    CONSTRAINT conversations_contact FOREIGN KEY (tenant_id, contact_id) REFERENCES contacts (tenant_id, id)
);
CREATE INDEX IF NOT EXISTS conversations_tenant_inbox_id ON conversations (tenant_id, inbox_id);
CREATE INDEX IF NOT EXISTS conversations_tenant_contact_id ON conversations (tenant_id, contact_id);
CREATE INDEX IF NOT EXISTS conversations_stubs ON conversations (tenant_id, id) WHERE synced_at IS NULL;

CREATE TABLE IF NOT EXISTS contact_inboxes (
    tenant_id integer NOT NULL,
    id bigint NOT NULL,
    contact_id bigint,
    inbox_id bigint,
    source_id text,
    created_at timestamp,
    updated_at timestamp,
    hmac_verified boolean,
    pubsub_token varchar,
    source_epoch bigint NOT NULL DEFAULT 0,
    source_point bigint NOT NULL DEFAULT 0,
    source_ordinal bigint NOT NULL DEFAULT 0,
    synced_at timestamptz,
    CONSTRAINT contact_inboxes_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT contact_inboxes_tenant FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT contact_inboxes_inbox FOREIGN KEY (tenant_id, inbox_id) REFERENCES inboxes (tenant_id, id),
    CONSTRAINT contact_inboxes_contact FOREIGN KEY (tenant_id, contact_id) REFERENCES contacts (tenant_id, id)
);
CREATE INDEX IF NOT EXISTS contact_inboxes_tenant_inbox_id ON contact_inboxes (tenant_id, inbox_id);
CREATE INDEX IF NOT EXISTS contact_inboxes_tenant_contact_id ON contact_inboxes (tenant_id, contact_id);
CREATE INDEX IF NOT EXISTS contact_inboxes_stubs ON contact_inboxes (tenant_id, id) WHERE synced_at IS NULL;

CREATE TABLE IF NOT EXISTS messages (
    tenant_id integer NOT NULL,
    id integer NOT NULL,
    content text,
    account_id integer,
    inbox_id integer,
    conversation_id integer,
    message_type integer,
    created_at timestamp,
    updated_at timestamp,
    private boolean,
    status integer,
    source_id text,
    content_type integer,
    content_attributes json,
    sender_type varchar,
    sender_id bigint,
    external_source_ids jsonb,
    additional_attributes jsonb,
    processed_message_content text,
    sentiment jsonb,
    source_epoch bigint NOT NULL DEFAULT 0,
    source_point bigint NOT NULL DEFAULT 0,
    source_ordinal bigint NOT NULL DEFAULT 0,
    synced_at timestamptz,
    CONSTRAINT messages_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT messages_tenant FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT messages_conversation FOREIGN KEY (tenant_id, conversation_id) REFERENCES conversations (tenant_id, id)
);
CREATE INDEX IF NOT EXISTS messages_tenant_inbox_id ON messages (tenant_id, inbox_id);
CREATE INDEX IF NOT EXISTS messages_tenant_conversation_id ON messages (tenant_id, conversation_id);
CREATE INDEX IF NOT EXISTS messages_stubs ON messages (tenant_id, id) WHERE synced_at IS NULL;
