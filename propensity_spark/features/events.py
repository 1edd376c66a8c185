"""Activity as the features see it: every version with the as-of dates it lives on."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.features.registry import MONEY_SUM
from propensity_spark.features.windows import Grid, version_intervals
from propensity_spark.schemas import IS_CORRECTION

VISIT_DAYS = 30
"""How far back active days and sessions are counted."""

FEW = 500_000
"""Corrections up to which they are sent to every task; with more, all versions of all events are put in order."""
FEW_OF_ONE = 100
"""And corrections of one event: each of its versions is held against each of them."""

_UNITS = 10_000  # of amount, in one of currency: silver has four digits after the point


def corrections(activity: DataFrame) -> DataFrame:
    """(event_id, known_at, visible_date) of the versions in silver/activity that may have an earlier one."""
    return activity.where(F.coalesce(IS_CORRECTION, F.lit(True))).select("event_id", "known_at", "visible_date")


def live_events(activity: DataFrame, grid: Grid, few: DataFrame | None = None) -> DataFrame:
    """One row per version of an event that is visible on some as-of date, by user.

    In: silver/activity; its `corrections`, where they are few (at most `FEW`), else null. Out: user_id, item_id, event_type, event_date,
    order_id, amount, session_id, and the positions [enters, leaves) at which this version is the visible one. Partitioned by user, so that
    what follows need not shuffle.
    `amount` is in ten-thousandths of currency, a whole number: sums of those are as exact as sums of decimals, and many
    times as fast; one beyond 9·10¹⁴ of currency is an error of Spark (arithmetic overflow). `money` turns them back.
    What no feature looks at is null, since every event is shuffled: `order_id` but of purchases, and
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
    return version_intervals(versions, ["event_id"], grid, few).drop("event_id").repartition("user_id")


def money(units: Column) -> Column:
    """A sum of `amount` of `live_events` as currency."""
    return (units.cast("decimal(19,0)") * F.lit(Decimal(1) / _UNITS)).cast(MONEY_SUM)
