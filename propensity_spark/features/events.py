"""Activity as the features see it: every version with the as-of dates it lives on."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.features.registry import MONEY_SUM
from propensity_spark.features.windows import Grid, version_intervals

VISIT_DAYS = 30
"""How far back active days and sessions are counted."""

_UNITS = 10_000  # of amount, in one of currency: silver has four digits after the point


def live_events(activity: DataFrame, grid: Grid) -> DataFrame:
    """One row per version of an event that is visible on some as-of date, by user.

    In: silver/activity. Out: user_id, item_id, event_type, event_date, order_id, amount, session_id, and the positions
    [enters, leaves) at which this version is the visible one. Partitioned by user, so that what follows need not shuffle.
    `amount` is in ten-thousandths of currency, a whole number: sums of those are as exact as sums of decimals, and many
    times as fast; one beyond 9·10¹⁴ of currency is an error of Spark (arithmetic overflow). `money` turns them back.
    What no feature looks at is null, since every version is sorted and shuffled twice: `order_id` but of purchases, and
    `session_id` of events that are `VISIT_DAYS` old on every date.
    """
    is_recent = F.col("event_date") > F.lit(grid.dates[0] - timedelta(days=VISIT_DAYS))
    versions = activity.select(
        *("event_id", "user_id", "item_id", "event_type", "event_date"),
        F.when(F.col("event_type") == "buy", F.col("order_id")).alias("order_id"),
        (F.col("amount") * F.lit(_UNITS)).cast("long").alias("amount"),
        F.when(is_recent, F.col("session_id")).alias("session_id"),
        *("known_at", "visible_date", "is_deleted"),
    )
    return version_intervals(versions, ["event_id"], grid).drop("event_id").repartition("user_id")


def money(units: Column) -> Column:
    """A sum of `amount` of `live_events` as currency."""
    return (units.cast("decimal(19,0)") * F.lit(Decimal(1) / _UNITS)).cast(MONEY_SUM)
