-- Survey answers. A conversation that was surveyed twice has two: whoever needs one row takes the newest answer.
CREATE VIEW vw_conversations_analytics_csat AS
SELECT
    answer.conversation_id,
    answer.id AS csat_response_id,
    answer.rating AS csat_rating,
    answer.feedback_message AS csat_feedback,
    answer.created_at::timestamp AS csat_created_at,
    CASE
        WHEN answer.rating >= 5 THEN 'Promoter'
        WHEN answer.rating = 4 THEN 'Passive'
        ELSE 'Detractor'
    END AS csat_nps_category,
    CASE
        WHEN answer.rating >= 4 THEN 'Positive'
        WHEN answer.rating = 3 THEN 'Neutral'
        ELSE 'Negative'
    END AS csat_sentiment_category,
    COALESCE(length(btrim(answer.feedback_message)), 0) > 0 AS has_written_feedback,
    COALESCE(length(btrim(answer.feedback_message)), 0) >= 50 AS has_detailed_feedback
FROM csat_survey_responses AS answer;
