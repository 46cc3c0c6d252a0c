-- When a conversation began, by the UTC calendar: whoever wants an inbox's own calendar converts at reading. Weeks are
-- ISO 8601's; days of the week count from Sunday, 0.
CREATE VIEW vw_conversations_analytics_temporal AS
SELECT
    c.id AS conversation_id,
    c.created_at::date AS conversation_date,
    EXTRACT(YEAR FROM c.created_at)::integer AS conversation_year,
    EXTRACT(MONTH FROM c.created_at)::integer AS conversation_month,
    EXTRACT(DAY FROM c.created_at)::integer AS conversation_day,
    EXTRACT(DOW FROM c.created_at)::integer AS conversation_day_of_week,
    EXTRACT(HOUR FROM c.created_at)::integer AS conversation_hour,
    EXTRACT(MINUTE FROM c.created_at)::integer AS conversation_minute,
    EXTRACT(WEEK FROM c.created_at)::integer AS conversation_week_of_year,
    EXTRACT(QUARTER FROM c.created_at)::integer AS conversation_quarter,
    to_char(c.created_at, 'FMDay') AS conversation_day_name,
    to_char(c.created_at, 'FMMonth') AS conversation_month_name,
    CASE
        WHEN EXTRACT(HOUR FROM c.created_at) < 6 THEN 'Night'
        WHEN EXTRACT(HOUR FROM c.created_at) < 12 THEN 'Morning'
        WHEN EXTRACT(HOUR FROM c.created_at) < 18 THEN 'Afternoon'
        WHEN EXTRACT(HOUR FROM c.created_at) < 22 THEN 'Evening'
        ELSE 'Night'
    END AS conversation_period,
    EXTRACT(ISODOW FROM c.created_at) <= 5 AS is_weekday,
    EXTRACT(ISODOW FROM c.created_at) > 5 AS is_weekend,
    EXTRACT(ISODOW FROM c.created_at) <= 5
        AND EXTRACT(HOUR FROM c.created_at) >= 9
        AND EXTRACT(HOUR FROM c.created_at) < 18 AS is_business_hours,
    EXTRACT(HOUR FROM c.created_at) < 6 OR EXTRACT(HOUR FROM c.created_at) >= 22 AS is_night_time,
    CURRENT_DATE - c.created_at::date AS days_since_creation,
    c.created_at::date = CURRENT_DATE AS is_today,
    c.created_at::date = CURRENT_DATE - 1 AS is_yesterday,
    date_trunc('week', c.created_at) = date_trunc('week', CURRENT_DATE::timestamp) AS is_this_week,
    date_trunc('month', c.created_at) = date_trunc('month', CURRENT_DATE::timestamp) AS is_this_month,
    date_trunc('year', c.created_at) = date_trunc('year', CURRENT_DATE::timestamp) AS is_this_year,
    to_char(c.created_at, 'DD/MM/YYYY') AS conversation_date_formatted,
    to_char(c.created_at, 'DD/MM/YYYY HH24:MI') AS conversation_datetime_formatted,
    to_char(c.created_at, 'YYYY-MM') AS conversation_year_month,
    to_char(c.created_at, 'IYYY-"W"IW') AS conversation_year_week
FROM conversations AS c;
