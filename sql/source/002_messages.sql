-- What was written in a conversation, oldest first, and whose telephone it came from. The client is the first contact
-- who wrote: in a group, or after an import, another one than the conversation's.
--
-- Messages name their sender by type and id alone. A sender's name would tie every conversation that an agent or a
-- contact ever wrote in to that one row.
CREATE VIEW vw_conversations_analytics_messages AS
SELECT
    written.conversation_id,
    written.message_compiled,
    written.client_sender_id,
    (SELECT client.phone_number FROM contacts AS client WHERE client.id = written.client_sender_id) AS client_phone,
    written.t_messages,
    written.total_messages_public,
    written.total_messages_private,
    written.mc_first_message_at,
    written.mc_last_message_at
FROM (
    SELECT
        m.conversation_id,
        jsonb_agg(
            jsonb_build_object(
                'message_id', m.id,
                'text', m.content,
                'sender', CASE
                    WHEN m.sender_type = 'Contact' THEN 'contact'
                    WHEN m.sender_type = 'User' THEN 'agent'
                    WHEN m.sender_type IN ('AgentBot', 'Captain::Assistant') THEN 'bot'
                    ELSE 'system'
                END,
                'sender_type', m.sender_type,
                'sender_id', m.sender_id,
                'message_type', m.message_type,
                'private', m.private,
                'sent_at', m.created_at
            )
            ORDER BY m.created_at, m.id
        ) AS message_compiled,
        (array_agg(m.sender_id ORDER BY m.created_at, m.id) FILTER (WHERE m.sender_type = 'Contact'))[1]
            AS client_sender_id,
        count(*) AS t_messages,
        count(*) FILTER (WHERE NOT m.private) AS total_messages_public,
        count(*) FILTER (WHERE m.private) AS total_messages_private,
        min(m.created_at) AS mc_first_message_at,
        max(m.created_at) AS mc_last_message_at
    FROM messages AS m
    GROUP BY m.conversation_id
) AS written;
