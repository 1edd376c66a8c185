"""What a model must beat: a constant rate, and purchase rates by recency and popularity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import OneClassOnly
from propensity_spark.tables import local_frame

PRIOR_ROWS = 20.0
_PAIR_LIMITS = (1, 7, 30, 90)
_USER_LIMITS = (7, 30, 90)
_LONE_USER_LIMITS = (7, 14, 30, 60, 90, 180)
_FREQUENCY_LIMITS = (0, 1, 2, 4, 9)
_CELL = ["recency", "popularity", "user_recency"]


@dataclass(frozen=True)
class Baseline:
    """`base_rate` of the training slice, and a rate per cell; at most 300 cells. `popularity_limits` are upper limits."""

    grain: str
    base_rate: float
    popularity_limits: tuple[float, ...]
    rates: tuple[tuple[int, int, int, float], ...]


def fit_baseline(train: DataFrame, grain: str) -> Baseline:
    """Rates on the training slice of gold/training_set, each row counted by its `sample_weight`.

    user_item: days since the pair's last view or purchase × decile of `item_buyers_30d` × the user's `recency_days`;
    user: `recency_days` × `frequency_90d`. A cell's rate is (purchases + 20 · base rate) / (rows + 20), so that a cell
    with few rows stays near the base rate. Raises OneClassOnly when the slice has only zeros or only ones.
    """
    limits: tuple[float, ...] = _FREQUENCY_LIMITS
    if grain == "user_item":
        deciles = train.agg(F.percentile("item_buyers_30d", F.lit([step / 10 for step in range(1, 10)]))).first()
        limits = tuple(sorted(set((deciles and deciles[0]) or ())))
    cells = [column.alias(name) for column, name in zip(_cell(grain, limits), _CELL, strict=True)]
    weight = F.col("sample_weight")
    counted = (
        train.select(*cells, weight, (weight * F.col("label")).alias("ones")).groupBy(*_CELL).agg(F.sum("sample_weight"), F.sum("ones"))
    )
    found = [tuple(row) for row in counted.orderBy(*_CELL).collect()]
    rows, ones = sum(row[3] for row in found), sum(row[4] for row in found)
    if ones in (0, rows):
        raise OneClassOnly(f"baseline: expected training rows with and without a purchase, found {ones:.0f} purchases in {rows:.0f} rows")
    base = ones / rows
    rates = tuple((*row[:3], (row[4] + PRIOR_ROWS * base) / (row[3] + PRIOR_ROWS)) for row in found)
    return Baseline(grain, base, limits, rates)


def with_baseline(frame: DataFrame, baseline: Baseline, column: str = "baseline_probability") -> DataFrame:
    """`frame` (with the features of the training set) and the baseline's probability; an unseen cell gets the base rate."""
    table = local_frame(frame.sparkSession, list(baseline.rates), f"{', '.join(f'{name} int' for name in _CELL)}, {column} double")
    cells = dict(zip(_CELL, _cell(baseline.grain, baseline.popularity_limits), strict=True))
    return (
        frame.withColumns(cells)
        .join(F.broadcast(table), _CELL, "left")
        .drop(*_CELL)
        .withColumn(column, F.coalesce(column, F.lit(baseline.base_rate)))
    )


def _cell(grain: str, limits: tuple[float, ...]) -> tuple[Column, Column, Column]:
    if grain == "user":
        return _bucket(F.col("recency_days"), _LONE_USER_LIMITS), _bucket(F.col("frequency_90d"), limits), F.lit(0)
    pair = F.least("days_since_item_view", "days_since_item_purchase")
    return _bucket(pair, _PAIR_LIMITS), _bucket(F.col("item_buyers_30d"), limits), _bucket(F.col("recency_days"), _USER_LIMITS)


def _bucket(value: Column, limits: tuple[float, ...]) -> Column:
    """Number of limits below the value; null: −1."""
    below = reduce(lambda total, limit: total + (value > limit).cast("int"), limits, F.lit(0))
    return F.coalesce(below, F.lit(-1))
