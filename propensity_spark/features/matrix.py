"""The point-in-time join: what the model sees of one user (and item) as of one date."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame

from propensity_spark.features.registry import features_of, model_features
from propensity_spark.schemas import grain_key


def assemble(
    user_features: DataFrame,
    user_item_features: DataFrame | None = None,
    market_features: DataFrame | None = None,
    carry: Sequence[str] = (),
) -> DataFrame:
    """One row per user and as-of date, or per candidate pair and date where `user_item_features` is given.

    Key columns, then `model_features` in registry order. Both sides of every join are as of the same date. A pair whose
    item has no market row on the date keeps its row, with null market features. Features of the crowd are there when the pairs bring
    them. `carry` names further columns of the frame that gives the rows (the label, say), which follow the features.
    """
    grain = "user" if user_item_features is None else "user_item"
    has_market = user_item_features is not None and market_features is not None
    has_crowd = user_item_features is not None and {feature.name for feature in features_of("crowd")} <= set(user_item_features.columns)
    rows = user_features
    if user_item_features is not None:
        rows = user_item_features.drop("candidate_source").join(user_features, ["user_id", "as_of_date"], "inner")
    if has_market and market_features is not None:
        market = market_features.drop("day_of_week", "last_session_date")
        rows = rows.join(market, ["item_id", "as_of_date"], "left")
    return rows.select(*grain_key(grain), *(feature.name for feature in model_features(grain, has_market, has_crowd)), *carry)
