"""What the report says around the metrics: slices, rows per stage, data quality, drift, and what to read with care."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from propensity_spark import __version__
from propensity_spark.config import FileSource, Settings
from propensity_spark.evaluate.explain import correlated
from propensity_spark.predictor import PropensityModel

SLICES = ("train", "validation", "calibration", "test")
FEW_PURCHASES = 100
ITEMS_TOGETHER = 20


def head(settings: Settings, model: PropensityModel, as_of: date) -> dict[str, Any]:
    """What was evaluated."""
    return {
        "dataset": settings.dataset,
        "grain": settings.grain,
        "as_of": as_of.isoformat(),
        "model_name": model.name,
        "model_version": model.version,
        "event_types": list(model.label.event_types),
        "horizon_days": model.label.horizon_days,
        "new_user_days": settings.evaluate.new_user_days,
        "currency": settings.currency,
        "segments": {"high": settings.score.high, "low": settings.score.low},
        "calibration": None if model.calibration is None else asdict(model.calibration),
        "input_versions": dict(model.inputs),
        "config_hash": settings.config_hash(),
        "code_version": __version__,
    }


def slices(training_set: DataFrame) -> list[dict[str, Any]]:
    """One entry per slice, in time order: dates, users, rows, purchases, and the purchase rate with sampling undone."""
    weight = F.col("sample_weight")
    found = training_set.groupBy("split").agg(
        F.min("as_of_date").cast("string").alias("first"),
        F.max("as_of_date").cast("string").alias("last"),
        F.count_distinct("as_of_date").alias("dates"),
        F.count_distinct("user_id").alias("users"),
        F.count("*").alias("rows"),
        F.sum("label").alias("purchases"),
        (F.sum(weight * F.col("label")) / F.sum(weight)).alias("rate"),
    )
    return sorted((row.asDict() for row in found.collect()), key=lambda entry: SLICES.index(entry["split"]))


def stage_rows(runs: DataFrame, as_of: date) -> list[dict[str, Any]]:
    """The last success of every stage as of the date, in the order they ran (`runs`: ops/runs)."""
    latest = Window.partitionBy("stage").orderBy(F.col("started_at").desc())
    found = (
        runs.where((F.col("as_of_date") == F.lit(as_of)) & (F.col("status") == "succeeded"))
        .withColumn("place", F.row_number().over(latest))
        .where("place = 1")
        .orderBy("started_at")
    )
    return [row.asDict() for row in found.select("stage", "rows_in", "rows_out", "rows_rejected", "seconds", "note").collect()]


def items_together(market: DataFrame, bought: DataFrame, as_of: date) -> dict[str, Any] | None:
    """How the daily returns of the 20 items purchased most go together, over the sessions of the year to `as_of`; see explain.correlated.

    `market`: gold/market_features; `bought`: purchases with `item_id`. None where fewer than two of the items have returns.
    """
    most = bought.groupBy("item_id").count().orderBy(F.col("count").desc(), "item_id").limit(ITEMS_TOGETHER)
    of_a_session = (F.col("as_of_date") == F.col("last_session_date")) & (F.col("as_of_date") <= F.lit(as_of))
    recent = of_a_session & (F.col("as_of_date") > F.lit(as_of - timedelta(days=365)))
    returns = market.where(recent).join(F.broadcast(most.select("item_id")), "item_id", "left_semi")
    rows = returns.select("item_id", "as_of_date", "return_1d").toPandas()  # at most 20 items on 260 sessions
    return correlated(rows.pivot(index="as_of_date", columns="item_id", values="return_1d"), "pearson")


def quality(quarantine: DataFrame, profiles: DataFrame) -> list[dict[str, Any]]:
    """Rows per table and broken rule: rejected ones that lie in quarantine, and warnings over all validated batches.

    A row that breaks several rules counts under each.
    """
    rejected = (
        quarantine.select(F.col("source_table").alias("table_name"), F.explode("reasons").alias("rule"))
        .groupBy("table_name", "rule")
        .agg(F.count("*").alias("rows"))
        .withColumn("kind", F.lit("rejected"))
    )
    warned = (
        profiles.where(F.col("measure").startswith("warn:") & (F.col("value") > 0))
        .groupBy("table_name", F.substring_index("measure", ":", -1).alias("rule"))
        .agg(F.sum("value").cast("long").alias("rows"))
        .withColumn("kind", F.lit("warning"))
    )
    found = rejected.unionByName(warned).orderBy("kind", "table_name", F.col("rows").desc(), "rule")
    return [row.asDict() for row in found.collect()]


def notes(settings: Settings, found: Mapping[str, Any], strangers: int) -> list[str]:
    """What a reader must know before trusting a number. `strangers`: purchases of users without an event by D."""
    said = []
    for target, sources in settings.sources.items():
        static = [source.name for source in sources if isinstance(source, FileSource) and source.static]
        if static:
            said.append(
                f"Attributes of {target} come from one undated snapshot ({', '.join(static)}): they are not point-in-time, so features "
                "built on them (sectors, say) may know something of the future."
            )
    if settings.grain == "user_item":
        said.append(
            "ROC-AUC, PR-AUC, Brier score, log loss and calibration are over the candidates; recall, gain, F1 and nDCG count purchases "
            "outside the candidates as missed."
        )
    if settings.grain == "user_item" and settings.sampling.user_share < 1:
        said.append(
            f"Trained and tested on {settings.sampling.user_share:.0%} of the users, chosen by a hash of their id (sampling.user_share); "
            "every pair of theirs is in the test slice. The day that is scored has all users."
        )
    if settings.split.by == "users":
        said.append(
            "Validation and calibration are other users of the training dates, not later dates (split.by: users); only test lies later, "
            f"by {settings.label.closing_days} days or more."
        )
    if strangers:
        said.append(
            f"{strangers:,} purchases in the test windows were made by users without any event by the as-of date. They are outside the "
            "population and count nowhere."
        )
    off = [name.replace("_", " ") for name, one in found.get("segments", {}).items() if one.get("calibrated") is False]
    if off:
        said.append(
            "The probabilities are calibrated over all rows together, not inside each segment. The interval of purchases over expected "
            f"purchases leaves 1 out for: {', '.join(off)}."
        )
    if found["purchases"] < FEW_PURCHASES:
        said.append(f"Only {found['purchases']} purchases in the test slice: intervals are wide and themselves uncertain.")
    if found.get("threshold", {}).get("by") != "set":
        said.append("The threshold was chosen on the calibration slice, the test slice was not looked at before this report.")
    return said


def drift(measured: DataFrame, as_of: date) -> list[dict[str, Any]]:
    """The measures of the date, as `ops/drift` holds them; empty before monitor has run for it."""
    found = measured.where(F.col("as_of_date") == F.lit(as_of)).withColumn("as_of_date", F.col("as_of_date").cast("string"))
    shown = ("as_of_date", "subject", "measure", "value", "limit", "breached", "note")
    return [row.asDict() for row in found.select(*shown).orderBy("subject", "measure").collect()]


def rival(reports: Path | None, as_of: date, challenger: str, champion: str | None) -> str | None:
    """The version that the challenger has to beat: the champion.

    Where the challenger is the champion because an earlier run for the same date promoted it, this run repeats that one,
    and the rival is the champion of then. So a run that was killed after the promotion ends as if it had not been.
    """
    numbers = None if reports is None else reports / as_of.isoformat() / "report.json"
    if champion != challenger or numbers is None or not numbers.exists():
        return champion
    before = json.loads(numbers.read_text(encoding="utf-8"))["decision"]
    repeats = before["challenger"] == challenger and before["outcome"] == "promoted"
    found: str | None = before["champion_before"] if repeats else champion
    return found
