-- How quickly a conversation was answered and resolved, and what its state means. Seconds are whole and rounded down.
--
-- Chatwoot's numbers: status 0 open, 1 resolved, 2 pending, 3 snoozed; priority 0 low, 1 medium, 2 high, 3 urgent, NULL
-- none. Snoozed without an end means until the next reply. A resolved conversation counts as resolved when it was last
-- updated: Chatwoot keeps no better time in this row.
CREATE VIEW vw_conversations_analytics_metrics AS
SELECT
    c.id AS conversation_id,
    floor(EXTRACT(EPOCH FROM c.first_reply_created_at - c.created_at))::integer AS first_response_time_seconds,
    round(EXTRACT(EPOCH FROM c.first_reply_created_at - c.created_at)::numeric / 60, 2) AS first_response_time_minutes,
    CASE WHEN c.status = 1 THEN floor(EXTRACT(EPOCH FROM c.updated_at - c.created_at))::integer END
        AS resolution_time_seconds,
    floor(EXTRACT(EPOCH FROM now() - c.waiting_since::timestamp))::integer AS waiting_time_seconds,
    c.assignee_id IS NOT NULL AS is_assigned,
    c.team_id IS NOT NULL AS has_team,
    c.status = 1 AS is_resolved,
    c.status = 0 AS is_open,
    c.status = 2 AS is_pending,
    c.status = 3 AND (c.snoozed_until IS NULL OR c.snoozed_until > now()) AS is_snoozed,
    c.contact_id IS NOT NULL AS has_contact,
    c.waiting_since IS NOT NULL AS is_waiting,
    c.priority IS NOT NULL AS has_priority,
    COALESCE(c.priority >= 2, false) AS is_high_priority,
    c.campaign_id IS NOT NULL AS is_from_campaign,
    COALESCE(c.first_reply_created_at <= c.created_at + interval '5 minutes', false) AS is_fast_response,
    COALESCE(c.first_reply_created_at > c.created_at + interval '1 hour', false) AS is_slow_response,
    c.status = 1 AND c.updated_at <= c.created_at + interval '24 hours' AS is_fast_resolution,
    COALESCE(c.waiting_since::timestamp < now() - interval '1 hour', false) AS is_waiting_long,
    c.contact_last_seen_at IS NOT NULL AS contact_has_seen,
    c.agent_last_seen_at IS NOT NULL AS agent_has_seen,
    CASE c.priority WHEN 0 THEN 1 WHEN 1 THEN 2 WHEN 2 THEN 3 WHEN 3 THEN 4 ELSE 0 END AS priority_score,
    CASE c.priority WHEN 0 THEN 'Low' WHEN 1 THEN 'Medium' WHEN 2 THEN 'High' WHEN 3 THEN 'Urgent' ELSE 'None' END
        AS priority_label,
    CASE c.status
        WHEN 0 THEN 'Aberta'
        WHEN 1 THEN 'Resolvida'
        WHEN 2 THEN 'Pendente'
        WHEN 3 THEN 'Adiada'
        ELSE 'Desconhecida'
    END AS status_label_pt
FROM conversations AS c;
