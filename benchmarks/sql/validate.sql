-- Bronze to typed rows: parse, judge by the rules, keep each version once, write what is kept and what is rejected.
CREATE TEMP TABLE items AS
SELECT r.* FROM (SELECT from_json(payload, '{"item_id": "VARCHAR", "valid_from": "DATE", "valid_to": "DATE", "name": "VARCHAR",
  "sector": "VARCHAR", "category": "VARCHAR", "market_cap_category": "VARCHAR", "known_at": "TIMESTAMPTZ"}') AS r FROM bronze_items)
WHERE r.valid_to IS NULL OR r.valid_to > r.valid_from;

CREATE TEMP TABLE users AS
SELECT r.* FROM (SELECT from_json(payload, '{"user_id": "VARCHAR", "valid_from": "DATE", "risk_tolerance": "VARCHAR",
  "user_segment": "VARCHAR", "country": "VARCHAR", "signup_date": "DATE", "known_at": "TIMESTAMPTZ"}') AS r FROM bronze_users);

CREATE TEMP TABLE bars AS
WITH parsed AS (
  SELECT context['ticker'] AS item_id, context['bar_size'] AS bar_size, payload, payload_hash, ingested_at,
    from_json(payload, '{"t": "BIGINT", "o": "DOUBLE", "h": "DOUBLE", "l": "DOUBLE", "c": "DOUBLE", "v": "DOUBLE", "vw": "DOUBLE", "n": "BIGINT"}') AS r
  FROM bronze_bars
), typed AS (
  SELECT item_id, bar_size, to_timestamp(r.t / 1000) AS ts, r.o AS open, r.h AS high, r.l AS low, r.c AS close, r.v AS volume, r.vw AS vwap,
    r.n AS trade_count, payload, payload_hash, ingested_at
  FROM parsed
), dated AS (
  SELECT *, (ts AT TIME ZONE '$zone')::DATE AS session_date,
    ln(close / nullif(lag(close) OVER near, 0)) AS jump, ln(lead(close) OVER near / nullif(close, 0)) AS jump_back
  FROM typed WINDOW near AS (PARTITION BY item_id, bar_size ORDER BY ts)
)
SELECT *, list_filter([
  CASE WHEN item_id IS NULL OR ts IS NULL OR close IS NULL THEN 'null' END,
  CASE WHEN NOT (low <= least(open, close) AND greatest(open, close) <= high) THEN 'ohlc_inconsistent' END,
  CASE WHEN least(open, high, low, close) <= 0 THEN 'price_not_positive' END,
  CASE WHEN NOT isfinite(open + high + low + close + volume) THEN 'not_finite' END,
  CASE WHEN volume < 0 THEN 'negative_volume' END,
  CASE WHEN bar_size NOT IN ('1d', '1m') THEN 'unknown_bar_size' END,
  CASE WHEN ts > ingested_at AT TIME ZONE 'UTC' THEN 'in_the_future' END,
  CASE WHEN abs(jump) > 0.3 AND abs(jump_back) > 0.3 AND abs(jump + jump_back) <= 0.15 THEN 'bad_print' END
], lambda name: name IS NOT NULL) AS reasons
FROM dated;

CREATE TEMP TABLE activity AS
WITH parsed AS (
  SELECT from_json(payload, '{"event_id": "VARCHAR", "user_id": "VARCHAR", "item_id": "VARCHAR", "event_type": "VARCHAR",
    "event_ts": "TIMESTAMPTZ", "order_id": "VARCHAR", "quantity": "DOUBLE", "price": "DECIMAL(18,4)", "amount": "DECIMAL(18,4)",
    "session_id": "VARCHAR", "known_at": "TIMESTAMPTZ", "is_deleted": "BOOLEAN"}') AS r, payload, payload_hash, ingested_at
  FROM bronze_activity
), typed AS (
  SELECT r.*, payload, payload_hash, ingested_at, r.event_type IN ('buy', 'sell', 'cancel') AS is_trade,
    (r.event_ts AT TIME ZONE '$zone')::DATE AS event_date,
    (greatest(r.event_ts, r.known_at) AT TIME ZONE '$zone')::DATE AS visible_date
  FROM parsed
)
SELECT *, list_filter([
  CASE WHEN event_id IS NULL OR user_id IS NULL OR event_type IS NULL OR event_ts IS NULL OR known_at IS NULL THEN 'null' END,
  CASE WHEN event_ts > ingested_at AT TIME ZONE 'UTC' THEN 'in_the_future' END,
  CASE WHEN known_at < event_ts THEN 'known_before_it_happened' END,
  CASE WHEN is_trade AND (item_id IS NULL OR amount IS NULL) THEN 'trade_incomplete' END,
  CASE WHEN is_trade AND price <= 0 THEN 'trade_price_not_positive' END,
  CASE WHEN (event_type = 'buy' AND (quantity <= 0 OR amount < 0)) OR (event_type = 'cancel' AND (quantity >= 0 OR amount > 0))
    OR (is_trade AND isnan(quantity)) THEN 'trade_sign' END,
  CASE WHEN user_id NOT IN (SELECT user_id FROM users) THEN 'unknown_user' END,
  CASE WHEN item_id NOT IN (SELECT item_id FROM items UNION SELECT item_id FROM bars) THEN 'unknown_item' END
], lambda name: name IS NOT NULL) AS reasons
FROM typed;

COPY items TO '$out/items.parquet';
COPY users TO '$out/users.parquet';
COPY (SELECT DISTINCT ON (item_id, bar_size, ts) * EXCLUDE (payload, reasons, jump, jump_back) FROM bars WHERE len(reasons) = 0
  ORDER BY item_id, bar_size, ts, payload_hash DESC) TO '$out/bars.parquet';
COPY (SELECT DISTINCT ON (event_id, known_at) * EXCLUDE (payload, reasons, is_trade) FROM activity WHERE len(reasons) = 0
  ORDER BY event_id, known_at, payload_hash DESC) TO '$out/activity.parquet';
COPY (SELECT payload, reasons FROM bars WHERE len(reasons) > 0 UNION ALL SELECT payload, reasons FROM activity WHERE len(reasons) > 0)
  TO '$out/rejected.parquet';
