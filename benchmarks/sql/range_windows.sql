-- Silver to counts and sums of a user's events in the last 30, 90 and 365 days, on 52 weekly dates, by range windows.
COPY (
  WITH events AS (
    SELECT user_id, event_date, amount FROM silver_activity
    WHERE visible_date <= DATE '$as_of'
    QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY known_at DESC) = 1 AND NOT is_deleted
  ), days AS (
    SELECT user_id, event_date, count(*) AS events, sum(amount) AS money FROM events
    WHERE event_date > DATE '$first' - 365 GROUP BY ALL
  ), dates AS (
    SELECT unnest(generate_series(DATE '$first', DATE '$as_of', INTERVAL 7 DAYS))::DATE AS as_of_date
  ), asked AS (
    SELECT user_id, as_of_date FROM (SELECT user_id, min(event_date) AS first FROM days GROUP BY ALL) JOIN dates ON first <= as_of_date
  ), rows AS (
    SELECT user_id, event_date, events, money, false AS is_asked FROM days
    UNION ALL SELECT user_id, as_of_date, 0, 0, true FROM asked
  )
  SELECT user_id, event_date AS as_of_date,
    (sum(events) OVER last_30)::BIGINT AS events_30d, (sum(events) OVER last_90)::BIGINT AS events_90d,
    (sum(events) OVER last_365)::BIGINT AS events_365d, coalesce(sum(money) OVER last_30, 0) AS money_30d,
    coalesce(sum(money) OVER last_90, 0) AS money_90d, coalesce(sum(money) OVER last_365, 0) AS money_365d
  FROM rows
  WINDOW last_30 AS (PARTITION BY user_id ORDER BY event_date RANGE BETWEEN INTERVAL 29 DAYS PRECEDING AND CURRENT ROW),
    last_90 AS (PARTITION BY user_id ORDER BY event_date RANGE BETWEEN INTERVAL 89 DAYS PRECEDING AND CURRENT ROW),
    last_365 AS (PARTITION BY user_id ORDER BY event_date RANGE BETWEEN INTERVAL 364 DAYS PRECEDING AND CURRENT ROW)
  QUALIFY is_asked
) TO '$out' (FORMAT parquet);
