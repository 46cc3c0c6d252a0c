"""A database as the batch ETL keeps it, and one run of that ETL: its tables, roles, policies and ways of writing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from tests.integration.targets import Target

ANALYTICS = "conversations_analytics"
TENANTS = (1, 2, 3)
LOCAL = (
    *("is_lead", "visit_scheduled", "crm_converted", "ai_probability_label", "ai_probability_score"),
    *("nome_mapeado_bot", "tipo_conversa", "analise_ia", "sugestao_disparo", "score_prioridade", "dados_extraidos_ia"),
    *("metadados_analise_ia", "analisado_em", "precisa_remarketing", "status_resolucao", "nivel_interesse"),
)
ROLES = ("authenticated_users", "admin_users", "etl_service")
EXTRACTED = (
    *("display_id", "conversation_uuid", "account_id", "account_name", "inbox_id", "inbox_name", "inbox_channel_type"),
    *("status", "status_label_pt", "priority", "priority_label", "assignee_id", "assignee_name", "team_id"),
    *("team_name", "contact_id", "contact_name", "contact_email", "contact_phone", "contact_identifier"),
    *("conversation_created_at", "conversation_updated_at", "last_activity_at", "first_reply_created_at"),
    *("message_compiled", "client_sender_id", "client_phone", "t_messages", "mc_first_message_at"),
    *("mc_last_message_at", "first_response_time_minutes", "is_resolved", "is_open", "has_contact"),
    *("user_messages_count", "contact_messages_count", "private_notes_count", "first_message_text"),
    *("last_message_text", "has_human_intervention", "avg_message_length"),
)
"""Of the view; with the key, 42."""
COMPUTED = (
    *("conversation_date", "conversation_year", "conversation_month", "conversation_day", "conversation_hour"),
    *("conversation_minute", "conversation_day_of_week", "conversation_period", "user_message_ratio"),
    "contact_message_ratio",
)
WRITTEN = (*EXTRACTED, *COMPUTED, *LOCAL[:5])

SCHEMA = """
CREATE TABLE tenants (id serial PRIMARY KEY, name varchar(255) NOT NULL, slug varchar(100) NOT NULL UNIQUE,
    inbox_ids int[] NOT NULL DEFAULT '{}', account_id int, status varchar(20) DEFAULT 'active', plan varchar(50),
    limits jsonb, created_at timestamp DEFAULT CURRENT_TIMESTAMP, updated_at timestamp DEFAULT CURRENT_TIMESTAMP,
    deleted_at timestamp, CHECK (status IN ('active', 'suspended', 'cancelled', 'trial')));
CREATE INDEX ON tenants USING gin (inbox_ids);
CREATE TABLE inbox_tenant_mapping (inbox_id int PRIMARY KEY,
    tenant_id int NOT NULL REFERENCES tenants ON DELETE CASCADE, inbox_name varchar(255), channel_type varchar(50),
    is_active boolean DEFAULT true, created_at timestamp DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE etl_control (id serial PRIMARY KEY, tenant_id int REFERENCES tenants, execution_id uuid,
    started_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, finished_at timestamp, duration_seconds numeric,
    load_type varchar(50), is_full_load boolean DEFAULT false, status varchar(20) NOT NULL, triggered_by varchar(100),
    watermark_start timestamp, watermark_end timestamp, records_extracted int, records_inserted int,
    records_updated int, records_failed int, error_message text, error_details jsonb, source_system varchar(100),
    target_table varchar(100), etl_version varchar(20), openai_api_calls int, openai_total_tokens int,
    openai_cost_brl numeric);
CREATE TABLE conversations_analytics (id serial PRIMARY KEY,
    tenant_id int NOT NULL REFERENCES tenants ON DELETE CASCADE, conversation_id int NOT NULL, display_id int,
    conversation_uuid uuid, etl_inserted_at timestamp DEFAULT CURRENT_TIMESTAMP,
    etl_updated_at timestamp DEFAULT CURRENT_TIMESTAMP, account_id int, account_name varchar(255), inbox_id int,
    inbox_name varchar(255), inbox_channel_type varchar(50), inbox_timezone varchar(50), status int,
    status_label_pt varchar(50), priority int, priority_label varchar(20), priority_score int, snoozed_until timestamp,
    assignee_id int, assignee_name varchar(255), assignee_email varchar(255), team_id int, team_name varchar(255),
    campaign_id int, contact_id int, contact_name varchar(255), contact_email varchar(255), contact_phone varchar(50),
    contact_identifier varchar(255), conversation_created_at timestamp, conversation_updated_at timestamp,
    last_activity_at timestamp, first_reply_created_at timestamp, waiting_since timestamp,
    contact_last_seen_at timestamp, agent_last_seen_at timestamp, message_compiled jsonb, client_sender_id int,
    client_phone varchar(50), t_messages int, total_messages_public int, total_messages_private int,
    mc_first_message_at timestamp, mc_last_message_at timestamp, csat_response_id int, csat_rating int,
    csat_feedback text, csat_created_at timestamp, csat_nps_category varchar(50), csat_sentiment_category varchar(50),
    has_written_feedback boolean, has_detailed_feedback boolean, has_csat boolean, first_response_time_seconds int,
    first_response_time_minutes numeric, resolution_time_seconds int, waiting_time_seconds int,
    conversation_duration_seconds int, avg_time_between_messages_seconds numeric, is_assigned boolean,
    has_team boolean, is_resolved boolean, is_open boolean, is_pending boolean, is_snoozed boolean,
    has_contact boolean, is_waiting boolean, has_priority boolean, is_high_priority boolean, is_from_campaign boolean,
    is_fast_response boolean, is_slow_response boolean, is_fast_resolution boolean, is_waiting_long boolean,
    contact_has_seen boolean, agent_has_seen boolean, user_messages_count int, contact_messages_count int,
    private_notes_count int, first_message_text text, last_message_text text, first_message_sender_type varchar(50),
    last_message_sender_type varchar(50), avg_message_length int, max_message_length int, has_user_messages boolean,
    has_contact_messages boolean, has_private_notes boolean, has_contact_reply boolean, is_short_conversation boolean,
    is_long_conversation boolean, user_message_ratio numeric, contact_message_ratio numeric,
    has_human_intervention boolean, is_bot_resolved boolean, conversation_date date, conversation_year int,
    conversation_month int, conversation_day int, conversation_day_of_week int, conversation_hour int,
    conversation_minute int, conversation_week_of_year int, conversation_quarter int,
    conversation_day_name varchar(20), conversation_month_name varchar(20), conversation_period varchar(20),
    is_weekday boolean, is_weekend boolean, is_business_hours boolean, is_night_time boolean, days_since_creation int,
    is_today boolean, is_yesterday boolean, is_this_week boolean, is_this_month boolean, is_this_year boolean,
    conversation_date_formatted varchar(20), conversation_datetime_formatted varchar(30),
    conversation_year_month varchar(10), conversation_year_week varchar(10), is_lead boolean, visit_scheduled boolean,
    crm_converted boolean, ai_probability_label varchar(50), ai_probability_score numeric, nome_mapeado_bot text,
    tipo_conversa varchar(50), analise_ia text, sugestao_disparo text, score_prioridade int, dados_extraidos_ia jsonb,
    metadados_analise_ia jsonb, analisado_em timestamp, precisa_remarketing boolean, status_resolucao varchar(50),
    nivel_interesse varchar(20), UNIQUE (tenant_id, conversation_id));
CREATE INDEX ON conversations_analytics (tenant_id, conversation_created_at);
CREATE VIEW vw_remarketing_queue AS
    SELECT tenant_id, conversation_id, mc_last_message_at, tipo_conversa, nivel_interesse
    FROM conversations_analytics WHERE precisa_remarketing;

CREATE FUNCTION update_etl_timestamp() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.etl_updated_at := CURRENT_TIMESTAMP; RETURN NEW; END $$;
CREATE TRIGGER trigger_update_etl_timestamp BEFORE UPDATE ON conversations_analytics
    FOR EACH ROW EXECUTE FUNCTION update_etl_timestamp();
CREATE FUNCTION get_current_tenant_id() RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS
    $$ BEGIN RETURN current_setting('app.current_tenant_id')::integer; EXCEPTION WHEN OTHERS THEN RETURN -1; END $$;

ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE inbox_tenant_mapping ENABLE ROW LEVEL SECURITY;
ALTER TABLE etl_control ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversations_analytics ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON tenants FOR SELECT TO {authenticated_users} USING (id = get_current_tenant_id());
CREATE POLICY mapping_isolation ON inbox_tenant_mapping FOR SELECT TO {authenticated_users}
    USING (tenant_id = get_current_tenant_id());
CREATE POLICY etl_isolation ON etl_control FOR SELECT TO {authenticated_users}
    USING (tenant_id = get_current_tenant_id() OR tenant_id IS NULL);
CREATE POLICY analytics_isolation ON conversations_analytics FOR SELECT TO {authenticated_users}
    USING (tenant_id = get_current_tenant_id());
"""
"""As the scripts leave it; names of roles are put in."""


def make(target: Target) -> None:
    """Empty tables, owned by `owner`, as whom the ETL writes; its roles, and one, `outsider`, without any right."""
    for role in (*ROLES, "outsider"):
        target.make_role(role)
    named = {role: target.role(role) for role in ROLES}
    ((database,),) = target.rows("SELECT current_database()")
    target.execute(f"ALTER DATABASE \"{database}\" SET timezone TO 'America/Sao_Paulo'")
    made = SCHEMA
    for role, name in named.items():
        made = made.replace("{" + role + "}", name)
    made += "".join(
        f"CREATE POLICY {role}_all ON {table} TO {named[role]} USING (true) WITH CHECK (true);"
        for table in ("tenants", "inbox_tenant_mapping", "etl_control", ANALYTICS)
        for role in ("admin_users", "etl_service")
    )
    tables = f"tenants, inbox_tenant_mapping, etl_control, {ANALYTICS}"
    made += (
        f"GRANT SELECT ON {tables}, vw_remarketing_queue TO {named['authenticated_users']};"
        f"GRANT ALL ON {tables}, vw_remarketing_queue TO {named['admin_users']};"
        f"GRANT SELECT, INSERT, UPDATE ON {tables} TO {named['etl_service']};"
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {named['admin_users']}, {named['etl_service']};"
    )
    target.execute(made, what="owner")


def add_tenants(target: Target, owned: dict[int, Sequence[int]]) -> None:
    with target.connected("owner") as etl:
        for tenant, inboxes in owned.items():
            etl.execute(
                "INSERT INTO tenants (id, name, slug, inbox_ids, account_id) VALUES (%s, %s, %s, %s, %s)",
                [tenant, f"Tenant {tenant}", f"tenant-{tenant}", list(inboxes), tenant],
            )
            for inbox in inboxes:
                etl.execute(
                    "INSERT INTO inbox_tenant_mapping (inbox_id, tenant_id, inbox_name) VALUES (%s, %s, %s)",
                    [inbox, tenant, f"Inbox {inbox}"],
                )
        etl.execute("SELECT setval('tenants_id_seq', (SELECT max(id) FROM tenants))")


def fill(target: Target, conversations: int = 1000) -> None:
    """Rows without a source: tenants 1 to 3 with the inboxes 1 to 6, conversations in turn, analysed here and there."""
    add_tenants(target, {tenant: (2 * tenant - 1, 2 * tenant) for tenant in TENANTS})
    with target.connected("owner") as etl:
        etl.execute(
            f"INSERT INTO {ANALYTICS} (tenant_id, conversation_id, inbox_id, contact_name, contact_phone, team_id,"
            " message_compiled, t_messages, conversation_created_at, conversation_updated_at, is_lead)"
            " SELECT 1 + (g - 1) / 2 % 3, g, 1 + (g - 1) % 6, 'Contact ' || g, '+0000' || g, NULLIF(g % 5, 0),"
            " jsonb_build_array(jsonb_build_object('message_id', g, 'text', 'text ' || g)), 1,"
            " timestamp '2026-01-01' + g * interval '1 minute', timestamp '2026-02-01' + g * interval '1 minute',"
            f" g % 3 = 0 FROM generate_series(1, {conversations}) AS g".encode(),
        )
        analyse(etl, "conversation_id % 7 = 0")
        log(etl)


def analyse(etl: psycopg.Connection[Any], which: str) -> None:
    """The later pass: local columns, without the tenant's id."""
    etl.execute(
        f"UPDATE {ANALYTICS} SET tipo_conversa = 'venda', analise_ia = 'analysis of ' || conversation_id,"
        " score_prioridade = conversation_id, dados_extraidos_ia = jsonb_build_object('n', conversation_id),"
        f" precisa_remarketing = true, nivel_interesse = 'alto', analisado_em = now() WHERE {which}".encode()
    )


def log(etl: psycopg.Connection[Any], status: str = "success") -> None:
    """One row of the log for each tenant."""
    etl.execute(
        "INSERT INTO etl_control (tenant_id, started_at, finished_at, status, triggered_by, watermark_end)"
        " SELECT id, now(), now(), %s, 'scheduler', now() FROM tenants",
        [status],
    )


def run(target: Target, source_dsn: str, since: str = "-infinity") -> int:
    """One run: what the source's view says of conversations updated since, upserted as the tables' owner."""
    query = sql.SQL(
        "SELECT DISTINCT ON (conversation_id) {columns} FROM vw_conversations_analytics_final"
        " WHERE conversation_updated_at > %s ORDER BY conversation_id"
    ).format(columns=sql.SQL(", ").join(map(sql.Identifier, ("conversation_id", *EXTRACTED))))
    with psycopg.connect(source_dsn, options="-c TimeZone=UTC") as source, target.connected("owner") as etl:
        tenants = dict(etl.execute("SELECT inbox_id, tenant_id FROM inbox_tenant_mapping").fetchall())
        found = [dict(zip(("conversation_id", *EXTRACTED), row, strict=True)) for row in source.execute(query, [since])]
        rows = [_transformed(row, tenants[row["inbox_id"]]) for row in found if row["inbox_id"] in tenants]
        listed = ("tenant_id", "conversation_id", *WRITTEN)
        etl.cursor().executemany(
            sql.SQL(
                "INSERT INTO conversations_analytics ({columns}) VALUES ({values})"
                " ON CONFLICT (tenant_id, conversation_id) DO UPDATE SET {sets}"
            ).format(
                columns=sql.SQL(", ").join(map(sql.Identifier, listed)),
                values=sql.SQL(", ").join(map(sql.Placeholder, listed)),
                sets=sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(n)) for n in WRITTEN),
            ),
            rows,
        )
        log(etl)
        return len(rows)


def _transformed(row: dict[str, Any], tenant: int) -> dict[str, Any]:
    began, messages = row["conversation_created_at"], row["t_messages"] or 0
    return {
        **row,
        "tenant_id": tenant,
        "message_compiled": psycopg.types.json.Jsonb(row["message_compiled"]),
        "first_response_time_minutes": float(row["first_response_time_minutes"] or 0) or None,
        "conversation_date": began.date(),
        "conversation_year": began.year,
        "conversation_month": began.month,
        "conversation_day": began.day,
        "conversation_hour": began.hour,
        "conversation_minute": began.minute,
        "conversation_day_of_week": began.weekday(),
        "conversation_period": "manhã" if began.hour < 12 else "tarde" if began.hour < 18 else "noite",
        "user_message_ratio": round((row["user_messages_count"] or 0) / messages, 4) if messages else None,
        "contact_message_ratio": round((row["contact_messages_count"] or 0) / messages, 4) if messages else None,
        "is_lead": row["conversation_id"] % 3 == 0,
        "visit_scheduled": False,
        "crm_converted": False,
        "ai_probability_label": "Baixo",
        "ai_probability_score": 10,
    }
