"""Activity as the features see it: every version with the as-of dates it lives on."""

from __future__ import annotations

from decimal import Decimal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.features.registry import MONEY_SUM
from propensity_spark.features.windows import Grid, version_intervals

_UNITS = 10_000  # of amount, in one of currency: silver has four digits after the point


def live_events(activity: DataFrame, grid: Grid) -> DataFrame:
    """One row per version of an event that is visible on some as-of date, by user.

    In: silver/activity. Out: user_id, item_id, event_type, event_date, order_id, amount, session_id, and the positions
    [enters, leaves) at which this version is the visible one. Partitioned by user, so that what follows need not shuffle.
    `amount` is in ten-thousandths of currency, a whole number: sums of those are as exact as sums of decimals, and many
    times as fast; one beyond 9·10¹⁴ of currency is an error of Spark (arithmetic overflow). `money` turns them back.
    """
    columns = ["event_id", "user_id", "item_id", "event_type", "event_date", "order_id", "amount", "session_id"]
    versions = activity.select(*columns, "known_at", "visible_date", "is_deleted")
    lives = version_intervals(versions, ["event_id"], grid).drop("event_id")
    return lives.withColumn("amount", (F.col("amount") * F.lit(_UNITS)).cast("long")).repartition("user_id")


def money(units: Column) -> Column:
    """A sum of `amount` of `live_events` as currency."""
    return (units.cast("decimal(19,0)") * F.lit(Decimal(1) / _UNITS)).cast(MONEY_SUM)
