-- Gold to the training set: purchases in (D, D + H] that were not wholly undone, joined to every candidate's features as of D.
CREATE TEMP TABLE bought AS
WITH events AS (
  SELECT * FROM silver_activity WHERE visible_date <= DATE '$as_of'
  QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY known_at DESC, payload_hash DESC) = 1 AND NOT is_deleted
), orders AS (
  SELECT user_id, item_id, as_of_date, bool_or(event_type <> 'cancel') AS purchased, bool_or(event_type = 'cancel') AS cancelled,
    sum(coalesce(quantity, CASE WHEN event_type = 'cancel' THEN '-inf'::DOUBLE ELSE 1 END)) AS quantity
  FROM events JOIN slices ON event_date > as_of_date AND event_date <= as_of_date + $horizon_days
  WHERE list_contains($event_types, event_type) AND item_id IS NOT NULL
  GROUP BY user_id, item_id, as_of_date, order_id
)
SELECT DISTINCT user_id, item_id, as_of_date FROM orders WHERE purchased AND NOT (cancelled AND quantity <= 0);

COPY (
  WITH labelled AS (
    SELECT c.* EXCLUDE (candidate_source), split, (b.user_id IS NOT NULL)::INTEGER AS label,
      split IN ('train', 'validation') AND b.user_id IS NULL AS thinned
    FROM gold_user_item_features c JOIN slices USING (as_of_date) LEFT JOIN bought b USING (user_id, item_id, as_of_date)
  )
  SELECT l.* EXCLUDE (thinned), u.* EXCLUDE (user_id, as_of_date), m.* EXCLUDE (item_id, as_of_date, day_of_week, last_session_date),
    CASE WHEN thinned THEN 1 / $negative_share ELSE 1 END AS sample_weight
  FROM labelled l JOIN gold_user_features u USING (user_id, as_of_date) LEFT JOIN gold_market_features m USING (item_id, as_of_date)
  WHERE NOT thinned OR hash(user_id, item_id, as_of_date) % 1000000 < $negative_share * 1000000
) TO '$out/training_set.parquet';
