-- The analytics view of conversations, for a Chatwoot that has none: eight views, each in a file of its own, that end in
-- vw_conversations_analytics_final. They are made in the schema that comes first in search_path, where Chatwoot's tables
-- are; `replicator setup` does so. PostgreSQL 13 and later.
--
-- All times are UTC, as Rails stores them. What depends on the clock is right in a session whose TimeZone is UTC.

-- A conversation as it stands, with the names of those concerned. Nothing here is sure to exist: Chatwoot has no
-- foreign keys.
CREATE VIEW vw_conversations_analytics_base AS
SELECT
    c.id AS conversation_id,
    c.display_id,
    c.uuid AS conversation_uuid,
    c.account_id,
    c.status,
    c.priority,
    c.snoozed_until,
    c.assignee_id,
    c.team_id,
    c.campaign_id,
    c.contact_id,
    c.inbox_id,
    c.created_at AS conversation_created_at,
    c.updated_at AS conversation_updated_at,
    c.last_activity_at,
    c.first_reply_created_at,
    c.waiting_since::timestamp AS waiting_since,
    c.contact_last_seen_at,
    c.agent_last_seen_at,
    contact.name AS contact_name,
    contact.email AS contact_email,
    contact.phone_number AS contact_phone,
    contact.identifier AS contact_identifier,
    inbox.name AS inbox_name,
    inbox.channel_type AS inbox_channel_type,
    inbox.timezone AS inbox_timezone,
    assignee.name AS assignee_name,
    assignee.email AS assignee_email,
    team.name AS team_name,
    account.name AS account_name
FROM conversations AS c
LEFT JOIN contacts AS contact ON contact.id = c.contact_id
LEFT JOIN inboxes AS inbox ON inbox.id = c.inbox_id
LEFT JOIN users AS assignee ON assignee.id = c.assignee_id
LEFT JOIN teams AS team ON team.id = c.team_id
LEFT JOIN accounts AS account ON account.id = c.account_id;
