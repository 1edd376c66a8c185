"""Activity as the features see it: every version with the as-of dates it lives on."""

from __future__ import annotations

from pyspark.sql import DataFrame

from propensity_spark.features.windows import Grid, version_intervals


def live_events(activity: DataFrame, grid: Grid) -> DataFrame:
    """One row per version of an event that is visible on some as-of date, by user.

    In: silver/activity. Out: user_id, item_id, event_type, event_date, order_id, amount, session_id, and the positions
    [enters, leaves) at which this version is the visible one. Partitioned by user, so that what follows need not shuffle.
    """
    columns = ["event_id", "user_id", "item_id", "event_type", "event_date", "order_id", "amount", "session_id"]
    versions = activity.select(*columns, "known_at", "visible_date", "is_deleted")
    return version_intervals(versions, ["event_id"], grid).drop("event_id").repartition("user_id")
