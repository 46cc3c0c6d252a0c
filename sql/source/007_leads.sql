-- What the installation itself has recorded of a lead: conversations.custom_attributes under the names of these columns.
-- NULL where it has recorded nothing, or something of another kind: whoever reads the view then finds out otherwise.
-- Nothing is read out of messages here, and no value can make a cast fail.
--
-- Truths are true and false, scores numbers from 0 to 100, each as JSON's own or as a text of that form; a label is a
-- text of 50 characters at the most. A label that was not recorded follows from the score.
CREATE VIEW vw_conversations_analytics_leads AS
SELECT
    recorded.conversation_id,
    recorded.is_lead,
    recorded.visit_scheduled,
    recorded.crm_converted,
    COALESCE(
        recorded.label,
        CASE
            WHEN recorded.score >= 70 THEN 'Alto'
            WHEN recorded.score >= 40 THEN 'Médio'
            WHEN recorded.score > 0 THEN 'Baixo'
            WHEN recorded.score IS NOT NULL THEN 'Nenhum'
        END
    )::varchar(50) AS ai_probability_label,
    recorded.score AS ai_probability_score
FROM (
    SELECT
        c.id AS conversation_id,
        CASE c.custom_attributes ->> 'is_lead' WHEN 'true' THEN true WHEN 'false' THEN false END AS is_lead,
        CASE c.custom_attributes ->> 'visit_scheduled' WHEN 'true' THEN true WHEN 'false' THEN false END
            AS visit_scheduled,
        CASE c.custom_attributes ->> 'crm_converted' WHEN 'true' THEN true WHEN 'false' THEN false END
            AS crm_converted,
        CASE
            WHEN jsonb_typeof(c.custom_attributes -> 'ai_probability_label') = 'string'
                AND length(btrim(c.custom_attributes ->> 'ai_probability_label')) BETWEEN 1 AND 50
            THEN btrim(c.custom_attributes ->> 'ai_probability_label')
        END AS label,
        CASE
            WHEN c.custom_attributes ->> 'ai_probability_score' ~ '^([0-9]{1,2}([.][0-9]{1,99})?|100([.]0{1,99})?)$'
            THEN (c.custom_attributes ->> 'ai_probability_score')::numeric
        END AS score
    FROM conversations AS c
) AS recorded;
