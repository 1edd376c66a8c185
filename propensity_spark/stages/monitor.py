"""monitor: the scoring day against the model's training baseline → ops/drift and a page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.errors import TableMissing
from propensity_spark.features.matrix import assemble
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES
from propensity_spark.models import load
from propensity_spark.monitor.drift import Measure, drift, freshness, verdict, volume
from propensity_spark.monitor.page import add_to_report, summary, write
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import ACTIVITY, BARS, DRIFT, Table, grain_key, scores_table
from propensity_spark.score import PROBABILITY
from propensity_spark.stages.label import reads as feature_tables
from propensity_spark.tables import local_frame
from propensity_spark.train.reference import bin_weights

log = logging.getLogger(__name__)


def _execute(run: Run) -> Outcome:
    limits = run.settings.monitor
    name, version = _model_that_scored(run)
    baseline = load(run.settings, version).baseline
    counted = bin_weights(_scored_matrix(run), {subject: bins.edges for subject, bins in baseline.items()})[run.as_of]
    rows = sum(counted[PROBABILITY])
    measures = drift(baseline, counted, limits)
    measures += [volume(rows, _earlier_volume(run)), *freshness(_newest(run), run.as_of, limits)]
    measures.append(verdict(measures, limits))
    for m in measures:
        if m.breached:
            log.warning("%s: %s is %s, above its limit %s", m.subject, m.measure, m.value, m.limit)
    run.lake.replace(_drift_rows(run, measures, name, version), DRIFT, f"as_of_date = DATE'{run.as_of}'")
    found = summary(measures, run.as_of, name, version)
    if run.lake.folder:  # elsewhere ops/drift alone holds the measures
        reports = run.lake.folder / "reports"
        write(found, reports / run.as_of.isoformat())
        add_to_report(measures, run.as_of, reports)
    return Outcome(int(rows), len(measures), note=f"retrain? {found['retrain']}", facts={"retrain": found["retrain"]})


def _of_day(run: Run, table: Table) -> DataFrame:
    return run.lake.read(table).where(F.col("as_of_date") == F.lit(run.as_of))


def _model_that_scored(run: Run) -> tuple[str, str]:
    row = _of_day(run, scores_table(run.settings.grain)).select("model_name", "model_version").first()
    if row is None:
        raise TableMissing(f"gold/scores: expected rows for as_of_date={run.as_of}, found none. Run the score stage for this date first")
    return row["model_name"], row["model_version"]


def _scored_matrix(run: Run) -> DataFrame:
    """One row per scored candidate of the day: features, purchase_probability and a weight of 1."""
    grain = run.settings.grain
    key = list(grain_key(grain))
    scores = _of_day(run, scores_table(grain)).select(*key, PROBABILITY, F.lit(1.0).alias("sample_weight"))
    carry = (PROBABILITY, "sample_weight")
    if grain == "user":
        return assemble(_of_day(run, USER_FEATURES).join(scores, key, "inner"), carry=carry)
    pairs = _of_day(run, USER_ITEM_FEATURES).join(scores, key, "inner")
    market = _of_day(run, MARKET_FEATURES) if run.settings.has_market else None
    return assemble(_of_day(run, USER_FEATURES), pairs, market, carry)


def _newest(run: Run) -> dict[str, date | None]:
    """Table → its newest business date that is visible as of D."""
    dates = {ACTIVITY: "event_date"} | ({BARS: "session_date"} if run.settings.has_market else {})
    newest: dict[str, date | None] = {}
    for table, column in dates.items():
        visible = run.lake.read(table).where((F.col("visible_date") <= F.lit(run.as_of)) & ~F.col("is_deleted"))
        newest[table.full_name] = visible.agg(F.max(column)).collect()[0][0]
    return newest


def _earlier_volume(run: Run) -> tuple[date, float] | None:
    measured = (F.col("subject") == "gold/scores") & (F.col("measure") == "rows") & (F.col("as_of_date") < F.lit(run.as_of))
    row = run.lake.read_or_empty(DRIFT).where(measured).orderBy(F.col("as_of_date").desc()).first()
    return None if row is None else (row["as_of_date"], row["value"])


def _drift_rows(run: Run, measures: Sequence[Measure], name: str, version: str) -> DataFrame:
    rows = [(run.as_of, run.run_id, name, version, m.subject, m.measure, m.value, m.limit, m.breached, m.note) for m in measures]
    return local_frame(run.spark, rows, DRIFT.schema)


def _reads(settings: Settings) -> tuple[Table, ...]:
    return (scores_table(settings.grain), *feature_tables(settings), ACTIVITY)


STAGE = Stage(
    name="monitor",
    promise="feature and score drift, volume and freshness; retrain yes or no, with the reason",
    execute=_execute,
    reads=_reads,
    writes=lambda settings: (DRIFT,),
)
