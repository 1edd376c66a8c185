"""What needs a Spark session: the time of user features on 100,000 events, and which Parquet files the lake's tables are made of."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date
from urllib.parse import unquote, urlparse

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.features.affinity import sector_spending
from propensity_spark.features.events import live_events
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES, training_set_table
from propensity_spark.features.rfm import user_features
from propensity_spark.features.windows import Grid
from propensity_spark.logs import log_folder, stderr_to
from propensity_spark.schemas import ACTIVITY, BARS, BRONZE, ITEMS, USERS
from propensity_spark.session import get_session
from propensity_spark.stages.carrying import few_corrections
from propensity_spark.tables import Lake

ROWS, WARM_UPS, REPETITIONS = 100_000, 3, 5


@dataclass(frozen=True)
class SparkSide:
    """`seconds` of each repetition over `rows` events; `files`: table → Parquet files of its current version."""

    rows: int
    seconds: tuple[float, ...]
    files: dict[str, list[str]]


def measure(settings: Settings, as_of: date) -> SparkSide:
    """Call it in a process of its own: with that the JVM is gone too, and does not disturb what is measured next."""
    with stderr_to(log_folder(settings) / "spark.log"):  # where the line's JVM writes too
        spark = get_session(settings.spark)
    lake = Lake(spark, settings.lake)
    tables = (*(BRONZE[name] for name in ("items", "users", "bars", "activity")), ACTIVITY, BARS, ITEMS, USERS)
    gold = (USER_FEATURES, USER_ITEM_FEATURES, MARKET_FEATURES, training_set_table(settings.grain, settings.has_market))
    # Before anything is cached: a cached table no longer tells its files.
    files = {table.full_name: paths(lake.read(table)) for table in (*tables, *gold)}
    rows, seconds = _user_features(spark, settings, lake, as_of)
    spark.stop()
    return SparkSide(rows, seconds, files)


def _user_features(spark: SparkSession, settings: Settings, lake: Lake, as_of: date) -> tuple[int, tuple[float, ...]]:
    """User features of one as-of date, as the features stage computes them, from rows in memory into a sink that keeps nothing.

    The events with the smallest hashes of their ids, so the same ones every time; of many users, few each. Repetitions
    after the warm-ups (compiled code, a hot JVM) count.
    """
    visible = lake.read(ACTIVITY).where(F.col("visible_date") <= F.lit(as_of))
    chosen = visible.orderBy(F.xxhash64("event_id"), "event_id", "known_at").limit(ROWS)
    activity = chosen.repartition(spark.sparkContext.defaultParallelism).persist()
    users, items = lake.read(USERS).persist(), lake.read(ITEMS).persist()
    rows = activity.count()
    users.count(), items.count()
    times = [_once(activity, users, items, settings, Grid((as_of,))) for _ in range(WARM_UPS + REPETITIONS)]
    return rows, tuple(times[WARM_UPS:])


def _once(activity: DataFrame, users: DataFrame, items: DataFrame, settings: Settings, grid: Grid) -> float:
    clock = time.monotonic()
    with few_corrections(activity) as few:
        events = live_events(activity, grid, few).persist()
        spending = sector_spending(events, items, grid).persist()
        found = user_features(events, activity, users, spending, grid=grid, risk_levels=settings.features.risk_levels)
        found.write.format("noop").mode("overwrite").save()
    seconds = time.monotonic() - clock
    spending.unpersist()
    events.unpersist()
    return seconds


def paths(frame: DataFrame) -> list[str]:
    """The Parquet files a frame is read from, as paths of this machine."""
    return sorted(unquote(urlparse(uri).path) for uri in frame.inputFiles())
