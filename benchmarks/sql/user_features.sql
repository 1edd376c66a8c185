-- Silver to the features of users as of one date.
CREATE TEMP TABLE events AS
SELECT user_id, item_id, event_type, event_date, order_id, amount, session_id FROM silver_activity
WHERE visible_date <= DATE '$as_of'
QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY known_at DESC) = 1 AND NOT is_deleted;

COPY (
  WITH of_events AS (
    SELECT user_id,
      DATE '$as_of' - max(event_date) FILTER (event_type = 'buy') AS recency_days,
      DATE '$as_of' - min(event_date) AS tenure_days,
      coalesce(sum(amount) FILTER (event_type IN ('buy', 'cancel') AND event_date > DATE '$as_of' - 30), 0) AS monetary_30d,
      coalesce(sum(amount) FILTER (event_type IN ('buy', 'cancel') AND event_date > DATE '$as_of' - 90), 0) AS monetary_90d,
      coalesce(sum(amount) FILTER (event_type IN ('buy', 'cancel') AND event_date > DATE '$as_of' - 365), 0) AS monetary_365d,
      count(*) FILTER (event_type = 'view' AND event_date > DATE '$as_of' - 7) AS views_7d,
      count(*) FILTER (event_type = 'view' AND event_date > DATE '$as_of' - 30) AS views_30d,
      count(DISTINCT event_date) FILTER (event_date > DATE '$as_of' - 30) AS active_days_30d,
      count(DISTINCT session_id) FILTER (event_date > DATE '$as_of' - 30) AS sessions_30d
    FROM events GROUP BY user_id
  ), orders AS (
    SELECT user_id, order_id, min(event_date) AS event_date FROM events WHERE event_type = 'buy' GROUP BY ALL
  ), frequencies AS (
    SELECT user_id, count(*) FILTER (event_date > DATE '$as_of' - 30) AS frequency_30d,
      count(*) FILTER (event_date > DATE '$as_of' - 90) AS frequency_90d,
      count(*) FILTER (event_date > DATE '$as_of' - 365) AS frequency_365d
    FROM orders GROUP BY user_id
  ), sectors AS (
    SELECT item_id, arg_max(sector, valid_from) AS sector FROM silver_items GROUP BY ALL
  ), spending AS (
    SELECT user_id, sector, sum(amount)::DOUBLE AS amount FROM events LEFT JOIN sectors USING (item_id)
    WHERE event_type = 'buy' AND event_date > DATE '$as_of' - 365 GROUP BY ALL
  ), totals AS (
    SELECT user_id, 1 - sum(amount * amount) / (sum(amount) * sum(amount)) AS portfolio_diversity
    FROM spending GROUP BY user_id HAVING sum(amount) > 0
  ), together AS (
    SELECT *, DATE '$as_of' AS as_of_date, coalesce(recency_days < 365, false) AS is_recent
    FROM of_events LEFT JOIN frequencies USING (user_id) LEFT JOIN totals USING (user_id)
  )
  SELECT * EXCLUDE (is_recent, frequency_30d, frequency_90d, frequency_365d), coalesce(frequency_30d, 0) AS frequency_30d,
    coalesce(frequency_90d, 0) AS frequency_90d, coalesce(frequency_365d, 0) AS frequency_365d,
    monetary_365d / nullif(frequency_365d, 0) AS avg_ticket_365d,
    CASE WHEN is_recent THEN 1 + 5 * (rank() OVER (peers ORDER BY recency_days DESC) - 1) // count(*) OVER peers END AS rfm_r,
    CASE WHEN is_recent THEN 1 + 5 * (rank() OVER (peers ORDER BY frequency_365d) - 1) // count(*) OVER peers END AS rfm_f,
    CASE WHEN is_recent THEN 1 + 5 * (rank() OVER (peers ORDER BY monetary_365d) - 1) // count(*) OVER peers END AS rfm_m
  FROM together WINDOW peers AS (PARTITION BY is_recent)
) TO '$out' (FORMAT parquet);
