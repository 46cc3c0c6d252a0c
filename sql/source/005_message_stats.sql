-- Who wrote how much in a conversation. First and last are what the client could read, so private notes are left out; an
-- attachment alone has no text. Shares are of what agents and contacts wrote; bots and Chatwoot itself do not count.
CREATE VIEW vw_conversations_analytics_message_stats AS
SELECT
    m.conversation_id,
    count(*) FILTER (WHERE m.sender_type = 'User') AS user_messages_count,
    count(*) FILTER (WHERE m.sender_type = 'Contact') AS contact_messages_count,
    count(*) FILTER (WHERE m.private) AS private_notes_count,
    (array_agg(m.content ORDER BY m.created_at, m.id) FILTER (WHERE NOT m.private))[1] AS first_message_text,
    (array_agg(m.content ORDER BY m.created_at DESC, m.id DESC) FILTER (WHERE NOT m.private))[1] AS last_message_text,
    (array_agg(m.sender_type ORDER BY m.created_at, m.id) FILTER (WHERE NOT m.private))[1]
        AS first_message_sender_type,
    (array_agg(m.sender_type ORDER BY m.created_at DESC, m.id DESC) FILTER (WHERE NOT m.private))[1]
        AS last_message_sender_type,
    floor(EXTRACT(EPOCH FROM max(m.created_at) - min(m.created_at)))::integer AS conversation_duration_seconds,
    round(EXTRACT(EPOCH FROM max(m.created_at) - min(m.created_at))::numeric / NULLIF(count(*) - 1, 0), 2)
        AS avg_time_between_messages_seconds,
    round(avg(length(m.content)))::integer AS avg_message_length,
    max(length(m.content)) AS max_message_length,
    count(*) FILTER (WHERE m.sender_type = 'User') > 0 AS has_user_messages,
    count(*) FILTER (WHERE m.sender_type = 'Contact') > 0 AS has_contact_messages,
    count(*) FILTER (WHERE m.private) > 0 AS has_private_notes,
    COALESCE(
        max(m.created_at) FILTER (WHERE m.sender_type = 'Contact')
            > min(m.created_at) FILTER (WHERE m.sender_type = 'User' AND NOT m.private),
        false
    ) AS has_contact_reply,
    count(*) <= 5 AS is_short_conversation,
    count(*) > 20 AS is_long_conversation,
    round(
        count(*) FILTER (WHERE m.sender_type = 'User')::numeric
            / NULLIF(count(*) FILTER (WHERE m.sender_type IN ('User', 'Contact')), 0),
        4
    ) AS user_message_ratio,
    round(
        count(*) FILTER (WHERE m.sender_type = 'Contact')::numeric
            / NULLIF(count(*) FILTER (WHERE m.sender_type IN ('User', 'Contact')), 0),
        4
    ) AS contact_message_ratio,
    count(*) FILTER (WHERE m.sender_type = 'User' AND NOT m.private) > 0 AS has_human_intervention,
    count(*) FILTER (WHERE m.sender_type IN ('AgentBot', 'Captain::Assistant') AND NOT m.private) > 0 AS has_bot_messages
FROM messages AS m
GROUP BY m.conversation_id;
