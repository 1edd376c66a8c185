-- Silver to the features of users, of candidate pairs and of the market, for the as-of dates in `dates`.
CREATE TEMP TABLE events AS
SELECT user_id, item_id, event_type, event_date, order_id, amount, session_id FROM silver_activity
WHERE visible_date <= (SELECT max(as_of_date) FROM dates)
QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY known_at DESC) = 1 AND NOT is_deleted;

CREATE TEMP TABLE sectors AS SELECT item_id, arg_max(sector, valid_from) AS sector FROM silver_items GROUP BY ALL;

CREATE TEMP TABLE user_dates AS
WITH days AS (
  SELECT user_id, event_date, count(*) FILTER (event_type = 'view') AS views,
    sum(amount) FILTER (event_type IN ('buy', 'cancel')) AS money, max(event_date) FILTER (event_type = 'buy') AS last_buy
  FROM events GROUP BY ALL
)
SELECT user_id, as_of_date, as_of_date - max(last_buy) AS recency_days, as_of_date - min(event_date) AS tenure_days,
  coalesce(sum(money) FILTER (event_date > as_of_date - 30), 0) AS monetary_30d,
  coalesce(sum(money) FILTER (event_date > as_of_date - 90), 0) AS monetary_90d,
  coalesce(sum(money) FILTER (event_date > as_of_date - 365), 0) AS monetary_365d,
  coalesce(sum(views) FILTER (event_date > as_of_date - 7), 0) AS views_7d,
  coalesce(sum(views) FILTER (event_date > as_of_date - 30), 0) AS views_30d,
  count(*) FILTER (event_date > as_of_date - 30) AS active_days_30d
FROM days JOIN dates ON event_date <= as_of_date GROUP BY user_id, as_of_date;

CREATE TEMP TABLE frequencies AS
WITH orders AS (SELECT user_id, order_id, min(event_date) AS event_date FROM events WHERE event_type = 'buy' GROUP BY ALL)
SELECT user_id, as_of_date, count(*) FILTER (event_date > as_of_date - 30) AS frequency_30d,
  count(*) FILTER (event_date > as_of_date - 90) AS frequency_90d, count(*) AS frequency_365d
FROM orders JOIN dates ON event_date <= as_of_date AND event_date > as_of_date - 365 GROUP BY ALL;

CREATE TEMP TABLE visits AS
WITH sessions AS (SELECT DISTINCT user_id, session_id, event_date FROM events WHERE session_id IS NOT NULL)
SELECT user_id, as_of_date, count(DISTINCT session_id) AS sessions_30d
FROM sessions JOIN dates ON event_date <= as_of_date AND event_date > as_of_date - 30 GROUP BY ALL;

CREATE TEMP TABLE spending AS
WITH buys AS (SELECT user_id, sector, event_date, sum(amount) AS amount FROM events LEFT JOIN sectors USING (item_id)
  WHERE event_type = 'buy' GROUP BY ALL)
SELECT user_id, as_of_date, sector, sum(amount)::DOUBLE AS amount
FROM buys JOIN dates ON event_date <= as_of_date AND event_date > as_of_date - 365 GROUP BY ALL;

CREATE TEMP TABLE totals AS
SELECT user_id, as_of_date, sum(amount) AS total, 1 - sum(amount * amount) / nullif(sum(amount) * sum(amount), 0) AS portfolio_diversity
FROM spending GROUP BY ALL;

CREATE TEMP TABLE buyers AS
WITH deals AS (SELECT DISTINCT user_id, item_id, event_date FROM events WHERE event_type = 'buy')
SELECT item_id, as_of_date, count(DISTINCT user_id) FILTER (event_date > as_of_date - 7) AS item_buyers_7d,
  count(DISTINCT user_id) FILTER (event_date > as_of_date - 30) AS item_buyers_30d, count(DISTINCT user_id) AS item_buyers_90d
FROM deals JOIN dates ON event_date <= as_of_date AND event_date > as_of_date - 90 GROUP BY ALL;

CREATE TEMP TABLE pairs AS
WITH days AS (
  SELECT user_id, item_id, event_date, count(*) FILTER (event_type = 'view') AS views, count(*) FILTER (event_type = 'buy') AS buys,
    count(DISTINCT order_id) FILTER (event_type = 'buy') AS orders
  FROM events WHERE item_id IS NOT NULL AND event_type IN ('view', 'buy') GROUP BY ALL
)
SELECT user_id, item_id, as_of_date, sum(views) FILTER (event_date > as_of_date - 7) AS item_views_7d,
  sum(views) FILTER (event_date > as_of_date - 30) AS item_views_30d, sum(orders) FILTER (event_date > as_of_date - 365) AS item_purchases_365d,
  as_of_date - max(event_date) FILTER (views > 0) AS days_since_item_view,
  as_of_date - max(event_date) FILTER (buys > 0) AS days_since_item_purchase,
  coalesce(sum(views) FILTER (event_date > as_of_date - $viewed_days), 0) AS viewed,
  coalesce(sum(buys) FILTER (event_date > as_of_date - $held_days), 0) AS held
FROM days JOIN dates ON event_date <= as_of_date GROUP BY user_id, item_id, as_of_date;

CREATE TEMP TABLE candidates AS
WITH ranked AS (
  SELECT *, row_number() OVER (PARTITION BY as_of_date ORDER BY item_buyers_30d DESC, item_id) AS place,
    row_number() OVER (PARTITION BY as_of_date, sector ORDER BY item_buyers_30d DESC, item_id) AS place_in_sector
  FROM buyers JOIN sectors USING (item_id) WHERE item_buyers_30d > 0
), favourites AS (
  SELECT user_id, as_of_date, sector FROM spending WHERE amount > 0 AND sector IS NOT NULL
  QUALIFY row_number() OVER (PARTITION BY user_id, as_of_date ORDER BY amount DESC, sector) <= $affine_sectors
)
SELECT user_id, item_id, as_of_date FROM pairs WHERE viewed > 0 OR held > 0
UNION SELECT user_id, item_id, as_of_date FROM user_dates JOIN ranked USING (as_of_date) WHERE place <= $popular_items
UNION SELECT user_id, item_id, as_of_date FROM favourites JOIN ranked USING (as_of_date, sector) WHERE place_in_sector <= $items_per_affine_sector;

COPY (
  WITH levels AS (SELECT user_id, arg_max(risk_tolerance, valid_from) AS risk_tolerance FROM silver_users GROUP BY ALL),
  together AS (
    SELECT u.*, coalesce(frequency_30d, 0) AS frequency_30d, coalesce(frequency_90d, 0) AS frequency_90d,
      coalesce(frequency_365d, 0) AS frequency_365d, coalesce(sessions_30d, 0) AS sessions_30d, portfolio_diversity,
      list_position($risk_levels, risk_tolerance) AS risk_level, coalesce(recency_days < 365, false) AS is_recent
    FROM user_dates u LEFT JOIN frequencies USING (user_id, as_of_date) LEFT JOIN visits USING (user_id, as_of_date)
    LEFT JOIN totals USING (user_id, as_of_date) LEFT JOIN levels USING (user_id)
  )
  SELECT *, isodow(as_of_date) AS day_of_week, monetary_365d / nullif(frequency_365d, 0) AS avg_ticket_365d,
    CASE WHEN is_recent THEN 1 + 5 * (rank() OVER (peers ORDER BY recency_days DESC) - 1) // count(*) OVER peers END AS rfm_r,
    CASE WHEN is_recent THEN 1 + 5 * (rank() OVER (peers ORDER BY frequency_365d) - 1) // count(*) OVER peers END AS rfm_f,
    CASE WHEN is_recent THEN 1 + 5 * (rank() OVER (peers ORDER BY monetary_365d) - 1) // count(*) OVER peers END AS rfm_m
  FROM together WINDOW peers AS (PARTITION BY as_of_date, is_recent)
) TO '$out/user_features.parquet';

COPY (
  SELECT c.*, coalesce(item_views_7d, 0) AS item_views_7d, coalesce(item_views_30d, 0) AS item_views_30d,
    coalesce(item_purchases_365d, 0) AS item_purchases_365d, days_since_item_view, days_since_item_purchase,
    CASE WHEN total > 0 THEN coalesce(amount, 0) / total END AS sector_affinity_365d, coalesce(item_buyers_7d, 0) AS item_buyers_7d,
    coalesce(item_buyers_30d, 0) AS item_buyers_30d, coalesce(item_buyers_90d, 0) AS item_buyers_90d,
    item_buyers_7d * 30 / 7.0 / nullif(item_buyers_30d, 0) AS item_buyers_trend
  FROM candidates c LEFT JOIN pairs USING (user_id, item_id, as_of_date) LEFT JOIN buyers USING (item_id, as_of_date)
  LEFT JOIN sectors USING (item_id) LEFT JOIN totals USING (user_id, as_of_date) LEFT JOIN spending USING (user_id, as_of_date, sector)
) TO '$out/user_item_features.parquet';

COPY (
  WITH last_versions AS (
    SELECT * FROM silver_bars WHERE bar_size = '1d'
    QUALIFY row_number() OVER (PARTITION BY item_id, ts ORDER BY known_at DESC) = 1 AND NOT is_deleted
  ), returns AS (
    SELECT *, ln(close / lag(close) OVER (PARTITION BY item_id ORDER BY session_date)) AS log_return FROM last_versions
  ), windows AS (
    SELECT item_id, session_date, sector, close / lag(close, 1) OVER s - 1 AS return_1d, close / lag(close, 5) OVER s - 1 AS momentum_5d,
      close / lag(close, 21) OVER s - 1 AS momentum_21d, close / lag(close, 63) OVER s - 1 AS momentum_63d,
      close / lag(close, 126) OVER s - 1 AS momentum_126d, close / lag(close, 252) OVER s - 1 AS momentum_252d,
      lag(close, 21) OVER s / lag(close, 252) OVER s - 1 AS momentum_12_1, stddev_samp(log_return) OVER last_21 AS volatility_21d,
      avg(volume) OVER before_30 AS avg_volume_30d, avg(volume) OVER last_5 / avg(volume) OVER before_30 AS volume_ratio_5d_30d,
      volume / avg(volume) OVER before_30 AS volume_ratio_30d, (high - low) / close AS range_1d,
      close / max(close) OVER last_252 - 1 AS drawdown_252d
    FROM returns LEFT JOIN sectors USING (item_id)
    WINDOW s AS (PARTITION BY item_id ORDER BY session_date),
      last_5 AS (PARTITION BY item_id ORDER BY session_date ROWS 4 PRECEDING),
      last_21 AS (PARTITION BY item_id ORDER BY session_date ROWS 20 PRECEDING),
      last_252 AS (PARTITION BY item_id ORDER BY session_date ROWS 251 PRECEDING),
      before_30 AS (PARTITION BY item_id ORDER BY session_date ROWS BETWEEN 30 PRECEDING AND 1 PRECEDING)
  )
  SELECT *, momentum_21d - median(momentum_21d) OVER (PARTITION BY session_date, sector) AS relative_momentum_21d FROM windows
) TO '$out/market_features.parquet';
