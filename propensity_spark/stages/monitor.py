"""monitor: the scoring day against the model's training baseline, earlier days against their labels → ops tables, alerts, a page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.errors import TableMissing
from propensity_spark.features.matrix import assemble
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, user_item_table
from propensity_spark.models import load
from propensity_spark.monitor.alerts import Seen, seen_drift, seen_performance
from propensity_spark.monitor.drift import HISTOGRAM, Measure, counts, drift, freshness, verdict, volume
from propensity_spark.monitor.page import add_to_report, summary, write
from propensity_spark.monitor.performance import Performance, estimates, fallen
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import ACTIVITY, ALERTS, BARS, DRIFT, PERFORMANCE, Table, grain_key, scores_table
from propensity_spark.score import PROBABILITY
from propensity_spark.stages import alerting, matured
from propensity_spark.stages.label import reads as feature_tables
from propensity_spark.tables import local_frame

log = logging.getLogger(__name__)

HISTORY_DAYS = 60
RECENT_DAYS = 60
"""In which the newest event is looked for first."""


def _execute(run: Run) -> Outcome:
    limits = run.settings.monitor
    name, version = _model_that_scored(run)
    model = load(run.settings, version)
    baseline = model.baseline
    counted = dict(counts(_scored_matrix(run), baseline)[run.as_of])
    expected = estimates(counted.pop(HISTOGRAM))
    before = matured.known_before(run)
    today = [Performance(run.as_of, run.as_of, version, measure, value) for measure, value in expected.items()]
    today += matured.judge(run, before)
    history = _history(run)
    measures = drift(baseline, counted, limits)
    measures += [*volume(sum(counted[PROBABILITY]), _earlier_volume(history)), *freshness(newest(run), run.as_of, limits)]
    measures += verdict(measures, model.gain(), limits, fallen([*before, *today], version, limits))
    for m in measures:
        if m.breached:
            log.warning("%s: %s is %s, above its limit %s", m.subject, m.measure, m.value, m.limit)
    run.lake.replace(_drift_rows(run, measures, name, version), DRIFT, f"as_of_date = DATE'{run.as_of}'")
    matured.write(run, today, name)
    shown = [*(seen for seen, _ in history), *seen_drift(measures, run.as_of)]
    of_this_model = [seen for seen, of in history if of == version]
    told = alerting.tell(run, [*of_this_model, *seen_drift(measures, run.as_of), *seen_performance([*before, *today])])
    found = summary(measures, run.as_of, name, version, baseline=baseline, counted=counted)
    if run.lake.folder:  # elsewhere ops/ alone holds the measures
        reports = run.lake.folder / "reports"
        write(found, reports / run.as_of.isoformat(), history=shown, performance=[*before, *today], alerts=alerting.recorded(run))
        add_to_report(measures, run.as_of, reports)
    note = f"retrain? {found['retrain']}{alerting.sentence(told)}"
    return Outcome(int(sum(counted[PROBABILITY])), len(measures), note=note, facts={"retrain": found["retrain"]})


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
    # Sorted by user, millions of pairs are a file of a few megabytes, by whose size Spark would send them to every worker whole.
    pairs = _of_day(run, user_item_table(run.settings.has_crowd)).join(scores.hint("merge"), key, "inner")
    market = _of_day(run, MARKET_FEATURES) if run.settings.has_market else None
    return assemble(_of_day(run, USER_FEATURES), pairs, market, carry)


def newest(run: Run) -> dict[str, date | None]:
    """Table → its newest business date that is visible as of D. Only of a feed that was silent for long is the whole history read."""
    dates = {ACTIVITY: "event_date"} | ({BARS: "session_date"} if run.settings.has_market else {})
    found: dict[str, date | None] = {}
    for table, column in dates.items():
        visible = run.lake.read(table).where((F.col("visible_date") <= F.lit(run.as_of)) & ~F.col("is_deleted"))
        lately = visible.where(F.col(column) > F.lit(run.as_of - timedelta(days=RECENT_DAYS)))
        found[table.full_name] = _latest(lately, column) or _latest(visible, column)
    return found


def _latest(rows: DataFrame, column: str) -> date | None:
    found: date | None = rows.agg(F.max(column)).collect()[0][0]
    return found


def _history(run: Run) -> list[tuple[Seen, str]]:
    """The measures of the last days before D, oldest first, each with the version of the model that scored: a few hundred a day."""
    day = F.col("as_of_date")
    near = (day < F.lit(run.as_of)) & (day >= F.lit(run.as_of - timedelta(days=HISTORY_DAYS)))
    columns = ("as_of_date", "as_of_date", "subject", "measure", "value", "breached", "note")
    rows = run.lake.read_or_empty(DRIFT).where(near).collect()
    return [(Seen(*(row[name] for name in columns)), row["model_version"]) for row in sorted(rows, key=lambda row: str(row["as_of_date"]))]


def _earlier_volume(history: Sequence[tuple[Seen, str]]) -> tuple[date, float] | None:
    rows = [seen for seen, _ in history if (seen.subject, seen.measure) == ("gold/scores", "rows")]
    return (rows[-1].day, rows[-1].value) if rows and rows[-1].value else None


def _drift_rows(run: Run, measures: Sequence[Measure], name: str, version: str) -> DataFrame:
    rows = [(run.as_of, run.run_id, name, version, m.subject, m.measure, m.value, m.limit, m.breached, m.note) for m in measures]
    return local_frame(run.spark, rows, DRIFT.schema)


def _reads(settings: Settings) -> tuple[Table, ...]:
    return (scores_table(settings.grain), *feature_tables(settings), ACTIVITY)


STAGE = Stage(
    name="monitor",
    promise="drift, volume, freshness; realised performance once labels matured; alerts; retrain yes or no, with the reason",
    execute=_execute,
    reads=_reads,
    writes=lambda settings: (DRIFT, PERFORMANCE, ALERTS),
    depends_on=lambda run: {"undelivered alerts": str(alerting.undelivered(run))},
)
