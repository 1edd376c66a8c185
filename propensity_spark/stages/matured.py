"""The edge of monitor that looks back: estimates of earlier days, and those days' scores against the labels of today."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.features.registry import USER_FEATURES
from propensity_spark.label import purchases
from propensity_spark.monitor.performance import Estimate, Performance, judged, matured, realised
from propensity_spark.platform import keep, release
from propensity_spark.run import Run
from propensity_spark.schemas import ACTIVITY, PERFORMANCE, scores_table
from propensity_spark.score import eligible
from propensity_spark.tables import local_frame

REMEMBERED_DAYS = 90
"""How long a scored day may wait to be judged, and how far back judged days are shown."""


def known_before(run: Run) -> list[Performance]:
    """What earlier days left in ops/performance: a few rows a day."""
    day = F.col("as_of_date")
    rows = run.lake.read_or_empty(PERFORMANCE).where((day < F.lit(run.as_of)) & (day >= F.lit(_oldest(run)))).collect()
    names = ("as_of_date", "scored_date", "model_version", "measure", "estimated", "realised", "low", "high", "breached")
    return [Performance(*(row[name] for name in names)) for row in rows]


def judge(run: Run, before: Sequence[Performance]) -> list[Performance]:
    """Realised measures of the scored days that have matured by D and were not judged before; labels as visible as of D."""
    settings = run.settings
    scores = run.lake.read(scores_table(settings.grain)).where(
        (F.col("as_of_date") >= F.lit(_oldest(run))) & (F.col("as_of_date") < run.as_of)
    )
    done = {row.scored for row in before if row.as_of > row.scored}
    versions = {row["as_of_date"]: row["model_version"] for row in scores.select("as_of_date", "model_version").distinct().collect()}
    days = matured(versions, done, run.as_of, settings.label.horizon_days + settings.monitor.label_delay_days)
    if not days:
        return []
    bought = keep(_purchases(run, days))
    try:
        found = {day: _realised(run, scores, bought, day) for day in days}
    finally:
        release(bought)
    estimated = {(row.scored, row.measure): row.estimated for row in before if row.as_of == row.scored}
    rows = []
    for day in days:
        expected = {measure: estimated.get((day, measure)) for measure in found[day]}
        rows += judged((run.as_of, day), versions[day], found[day], expected, settings.monitor)
    return rows


def write(run: Run, rows: Sequence[Performance], model_name: str) -> None:
    """Replace the day's slice of ops/performance."""
    values = [
        (r.as_of, run.run_id, model_name, r.model_version, r.scored, r.measure, r.estimated, r.realised, r.low, r.high, r.error, r.breached)
        for r in rows
    ]
    run.lake.replace(local_frame(run.spark, values, PERFORMANCE.schema), PERFORMANCE, f"as_of_date = DATE'{run.as_of}'")


def _purchases(run: Run, days: Sequence[date]) -> DataFrame:
    """Purchases in the label windows of the days by users of their populations, of what may be scored."""
    settings = run.settings
    every = purchases(run.lake.read(ACTIVITY), days, settings.label, grain=settings.grain, as_of=run.as_of)
    population = run.lake.read(USER_FEATURES).where(F.col("as_of_date").isin(list(days))).select("user_id", "as_of_date")
    return eligible(every.join(population, ["user_id", "as_of_date"], "left_semi"), settings.score)


def _realised(run: Run, scores: DataFrame, bought: DataFrame, day: date) -> dict[str, Estimate]:
    of_day = F.col("as_of_date") == F.lit(day)
    return realised(scores.where(of_day), bought.where(of_day), run.settings.grain, run.settings.evaluate)


def _oldest(run: Run) -> date:
    waiting = run.settings.label.horizon_days + run.settings.monitor.label_delay_days
    return run.as_of - timedelta(days=waiting + REMEMBERED_DAYS)
