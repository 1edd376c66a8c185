"""Drift against the training baseline: the formula, the verdict, the page, and the stage on small tables."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from silver_data import event, frame
from validate_support import run
from validate_support import settings as chosen

from propensity_spark.config import CONF_DIR, MonitorSettings, Settings, load_settings
from propensity_spark.errors import TableMissing
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES, model_features
from propensity_spark.monitor import page as page_module
from propensity_spark.monitor.alerts import seen_drift
from propensity_spark.monitor.drift import HISTOGRAM, Measure, counts, drift, freshness, verdict, volume
from propensity_spark.monitor.page import add_to_report, summary, write
from propensity_spark.monitor.performance import Performance
from propensity_spark.predictor import ReferenceBins
from propensity_spark.run import Run
from propensity_spark.schemas import ACTIVITY, ALERTS, DRIFT, PERFORMANCE, scores_table
from propensity_spark.score import PROBABILITY
from propensity_spark.stages import monitor
from propensity_spark.tables import Lake, local_frame
from propensity_spark.train.reference import _reference as train_reference
from propensity_spark.train.reference import bin_weights, feature_bins, jensen_shannon, psi

LIMITS = MonitorSettings()
DAY = date(2011, 12, 9)


def _slow_psi(expected: Sequence[float], found: Sequence[float]) -> float:
    total = 0.0
    for share, other in zip(expected, found, strict=True):
        e, f = max(share, 1e-4), max(other, 1e-4)
        total += (f - e) * math.log(f / e)
    return total


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
def test_psi_is_the_formula_and_never_negative(counts: list[tuple[int, int]]) -> None:
    expected = [e / max(1, sum(pair[0] for pair in counts)) for e, _ in counts]
    found = [f / max(1, sum(pair[1] for pair in counts)) for _, f in counts]
    assert psi(expected, found) == pytest.approx(_slow_psi(expected, found), rel=1e-12, abs=1e-15)
    assert psi(expected, found) >= 0.0
    assert psi(expected, expected) == 0.0


def _slow_jensen_shannon(expected: Sequence[float], found: Sequence[float]) -> float:
    total = 0.0
    for e, f in zip(expected, found, strict=True):
        for share in (e, f):
            if share > 0:
                total += share * math.log2(share / ((e + f) / 2)) / 2
    return total


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
def test_jensen_shannon_is_the_formula_symmetric_and_within_a_bit(counts: list[tuple[int, int]]) -> None:
    expected = [e / max(1, sum(pair[0] for pair in counts)) for e, _ in counts]
    found = [f / max(1, sum(pair[1] for pair in counts)) for _, f in counts]
    value = jensen_shannon(expected, found)
    assert value == pytest.approx(_slow_jensen_shannon(expected, found), rel=1e-9, abs=1e-12)
    assert value == pytest.approx(jensen_shannon(found, expected), abs=1e-12)
    assert 0.0 <= value <= 1.0 + 1e-12
    assert jensen_shannon(expected, expected) == 0.0


def _bins_of(values: np.ndarray, edges: Sequence[float]) -> list[float]:
    """Counted by hand: value in bin i when above edge i − 1 and not above edge i; nulls last."""
    counts = [0.0] * (len(edges) + 2)
    for value in values:
        counts[-1 if np.isnan(value) else sum(value > edge for edge in edges)] += 1
    return counts


def _reference(values: np.ndarray, edges: Sequence[float]) -> ReferenceBins:
    *present, null = _bins_of(values, edges)
    return ReferenceBins(tuple(edges), tuple(n / max(1, sum(present)) for n in present), null / len(values))


TRAINED = np.random.default_rng(1).normal(size=4000)
DECILES = np.quantile(TRAINED, np.arange(1, 10) / 10).tolist()
NOTHING = np.full(4000, np.nan)


@pytest.mark.parametrize(
    ("trained", "edges", "today", "low", "high"),
    [
        (TRAINED, DECILES, np.random.default_rng(2).normal(size=4000), 0.0, 0.02),
        (TRAINED, DECILES, TRAINED + 1.0, 0.5, 3.0),
        (TRAINED, DECILES, TRAINED * 3, 0.2, 3.0),
        (TRAINED, DECILES, np.where(np.arange(4000) % 2, TRAINED, np.nan), 0.3, 6.0),
        (np.where(np.arange(4000) % 2, TRAINED, np.nan), DECILES, np.where(np.arange(4000) % 2, TRAINED, np.nan), 0.0, 0.0),
        (TRAINED, DECILES, NOTHING, 5.0, 20.0),
        (NOTHING, [], NOTHING, 0.0, 0.0),
        (NOTHING, [], TRAINED, 5.0, 20.0),
        (np.full(50, 5.0), [5.0], np.full(50, 5.0), 0.0, 0.0),
        (np.full(50, 5.0), [5.0], np.full(50, 6.0), 5.0, 20.0),
        (TRAINED, DECILES, TRAINED * 1000, 0.5, 20.0),
    ],
    ids=["same", "shift", "spread", "nulls", "same-nulls", "gone", "never", "appeared", "constant", "other-constant", "unseen-range"],
)
def test_drift_of_distributions(trained: np.ndarray, edges: list[float], today: np.ndarray, low: float, high: float) -> None:
    baseline = {"x": _reference(trained, edges)}
    counted = _bins_of(today, edges)
    value, divergence, null_share, baseline_null_share, increase = drift(baseline, {"x": counted}, LIMITS)
    expected = np.array(_bins_of(trained, edges)) / len(trained)
    assert value.value == pytest.approx(_slow_psi(expected.tolist(), [n / len(today) for n in counted]), abs=1e-12)
    assert low <= (value.value or 0.0) <= high
    assert value.breached == (high > 0.2)
    assert null_share.value == pytest.approx(np.isnan(today).mean())
    assert baseline_null_share.value == pytest.approx(np.isnan(trained).mean())
    assert increase.value == pytest.approx(np.isnan(today).mean() - np.isnan(trained).mean())
    assert divergence.value == pytest.approx(_slow_jensen_shannon(expected.tolist(), [n / len(today) for n in counted]), abs=1e-12)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_spark_counts_bins_as_counted_by_hand(spark: SparkSession, weight: float) -> None:
    values = {"x": np.where(np.arange(40) % 7, np.arange(40) / 4, np.nan), "constant": np.full(40, 5.0), "never": np.full(40, np.nan)}
    values["fine"] = values["x"]
    edges = {"x": [1.0, 2.5, 7.0], "constant": [5.0], "never": [], "fine": [n / 8 for n in range(80)]}
    rows = [tuple(None if np.isnan(column[i]) else float(column[i]) for column in values.values()) for i in range(40)]
    frame = local_frame(spark, rows, "x double, constant double, never double, fine double")
    frame = frame.withColumn("sample_weight", F.lit(weight))
    frame = frame.withColumn("as_of_date", F.when(F.coalesce("x", F.lit(9.0)) < 5.0, F.lit(DAY)).otherwise(F.lit(date(2011, 12, 2))))
    early = np.nan_to_num(values["x"], nan=9.0) < 5.0
    assert bin_weights(frame, edges) == {
        day: {name: [weight * rows for rows in _bins_of(values[name][of_day], edges[name])] for name in edges}
        for day, of_day in ((DAY, early), (date(2011, 12, 2), ~early))
    }


def test_categories_are_counted_one_by_one_and_unseen_ones_apart(spark: SparkSession) -> None:
    trained = [(float(n), 1 + n % 2, "low" if n < 4 else "high", DAY, 1.0) for n in range(8)]
    schema = "x double, rfm_r bigint, rfm_segment string, as_of_date date, sample_weight double"
    baseline = feature_bins(local_frame(spark, trained, schema), ["x", "rfm_r", "rfm_segment"], 2)
    assert baseline["rfm_r"] == ReferenceBins((1.0, 2.0), (0.5, 0.5, 0.0), 0.0, 0.0, ("1", "2"))
    assert baseline["rfm_segment"].categories == ("high", "low")
    today = [(1.0, 1, "low"), (1.0, 3, "low"), (9.0, None, "new"), (None, 2, None)]
    rows = local_frame(
        spark,
        [(*row, 0.5, DAY, 1.0) for row in today],
        f"x double, rfm_r bigint, rfm_segment string, {PROBABILITY} double, as_of_date date, sample_weight double",
    )
    found = counts(rows, baseline)[DAY]
    assert found["x"] == [2.0, 1.0, 1.0]
    assert found["rfm_r"] == [1.0, 1.0, 1.0, 1.0]
    assert found["rfm_segment"] == [0.0, 2.0, 1.0, 1.0]
    assert sum(found[HISTOGRAM]) == 4.0
    unseen = {m.subject: (m.value, m.breached) for m in drift(baseline, found, LIMITS) if m.measure == "unseen_share"}
    assert unseen == {"rfm_r": (0.25, True), "rfm_segment": (0.25, True)}


def test_a_day_is_counted_in_one_pass(spark: SparkSession) -> None:
    rows = local_frame(spark, [(0.5, 0.5, DAY, 1.0)], f"x double, {PROBABILITY} double, as_of_date date, sample_weight double")
    baseline = {name: ReferenceBins((0.4,), (0.5, 0.5), 0.0) for name in ("x", PROBABILITY)}
    spark.sparkContext.setJobGroup("one pass", "")
    assert counts(rows, baseline)[DAY]["x"] == [0.0, 1.0, 0.0]
    spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
    assert len(spark.sparkContext.statusTracker().getJobIdsForGroup("one pass")) == 1


def test_a_day_like_a_training_day_is_no_drift() -> None:
    """A feature that all rows of a day share differs from the months it was trained on, by nature."""
    by_day = [[10.0, 0.0, 0.0], [0.0, 10.0, 0.0]]
    weekday = train_reference(edges := (0.5,), by_day)
    assert weekday.usual_psi == pytest.approx(_slow_psi([0.5, 0.5, 0.0], [1.0, 0.0, 0.0]))
    close = MonitorSettings(usual_psi_factor=1.0)
    measure = drift({"x": weekday}, {"x": [7.0, 0.0, 0.0]}, close)[0]
    assert (measure.limit, measure.breached) == (weekday.usual_psi, False)
    assert drift({"x": weekday}, {"x": [0.0, 0.0, 7.0]}, close)[0].breached
    assert drift({"x": weekday}, {"x": [7.0, 0.0, 0.0]}, LIMITS)[0].limit == 3 * weekday.usual_psi
    assert edges == weekday.edges


def _psis(score: float, *features: float) -> list[Measure]:
    named = [Measure(f"f{n}", "psi", value, LIMITS.psi_limit) for n, value in enumerate(features)]
    return [*named, Measure(PROBABILITY, "psi", score, LIMITS.score_psi_limit), Measure("f0", "null_share", 0.5)]


GAIN = {"f0": 0.04, "f1": 0.03, "f2": 0.02, "f3": 0.02}


@pytest.mark.parametrize(
    ("measures", "value", "note"),
    [
        (_psis(0.01, 0.0, 0.1), 0.0, "0 of 2 features drifted, score PSI 0.010"),
        (_psis(0.2, 0.2), 0.0, "0 of 1 features drifted, score PSI 0.200"),
        (_psis(0.3, 0.0), 1.0, "0 of 1 features drifted, score PSI 0.300 is above its limit"),
        (
            _psis(0.0, 0.3, 0.4, 0.5),
            0.0,
            "3 of 3 features drifted (f2 0.50, f1 0.40, f0 0.30), which made 9% of what the trees gained, score PSI 0.000",
        ),
        (
            _psis(0.0, 0.3, 0.4, 0.5, 0.6),
            1.0,
            "4 of 4 features drifted (f3 0.60, f2 0.50, f1 0.40, f0 0.30), which made 11% of what the trees gained, score PSI 0.000",
        ),
        (
            _psis(0.0, *[0.3] * 6),
            1.0,
            "6 of 6 features drifted (f0 0.30, f1 0.30, f2 0.30, f3 0.30, f4 0.30, …), which made 11% of what the trees gained, "
            "score PSI 0.000",
        ),
    ],
)
def test_verdict(measures: list[Measure], value: float, note: str) -> None:
    many, weight, found = verdict(measures, GAIN, LIMITS)
    assert (found.subject, found.measure, found.value, found.note) == ("model", "retrain", value, note)
    assert found.breached == (value == 1.0)
    assert (many.measure, many.value, many.limit) == ("drifted_features", float(note.split(maxsplit=1)[0]), 1.0)
    assert (weight.measure, weight.limit) == ("drifted_gain", 0.1)
    assert weight.value == pytest.approx(sum(list(GAIN.values())[: int(many.value or 0)]))


def test_fallen_performance_is_a_reason_to_retrain() -> None:
    found = verdict(_psis(0.01, 0.0), GAIN, LIMITS, ["realised AUC off on 2 of the last 3 judged days"])[-1]
    assert found.breached
    assert found.note == "0 of 1 features drifted, score PSI 0.010; realised AUC off on 2 of the last 3 judged days"


@pytest.mark.parametrize("silent_days", [3, 400])
def test_the_newest_event_is_found_however_long_ago_and_is_no_deleted_or_future_one(
    spark: SparkSession, lake: Lake, silent_days: int
) -> None:
    last = DAY - timedelta(days=silent_days)
    known = [("last", last, last, False), ("before", last - timedelta(days=1), last, False)]
    not_there = [("deleted", last + timedelta(days=1), last, True), ("tomorrow", DAY + timedelta(days=1), DAY, False)]
    rows = [event(name, "u", "i", "buy", day, known=seen, deleted=gone) for name, day, seen, gone in (*known, *not_there)]
    lake.append(frame(spark, rows, ACTIVITY), ACTIVITY)
    assert monitor.newest(run(lake, chosen(lake, {}), as_of=DAY)) == {"silver/activity": last}


def test_freshness_and_volume() -> None:
    fresh, stale, empty = freshness({"a": date(2011, 12, 2), "b": date(2011, 12, 1), "c": None}, DAY, LIMITS)
    assert (fresh.value, fresh.breached, fresh.note) == (7.0, False, "newest: 2011-12-02")
    assert (stale.value, stale.breached) == (8.0, True)
    assert (empty.value, empty.breached, empty.note) == (None, True, "no row is visible")
    assert volume(90.0, None) == [Measure("gold/scores", "rows", 90.0)]
    rows, change = volume(90.0, (date(2011, 12, 8), 100.0))
    assert (rows.value, rows.note) == (90.0, "-10.0% against 100 as of 2011-12-08")
    assert (change.measure, change.value) == ("rows_change", pytest.approx(-0.1))


def test_page_shows_verdict_drift_alerts_and_performance_and_escapes(tmp_path: Path) -> None:
    baseline = {
        "a": ReferenceBins((0.0,), (0.5, 0.5), 0.0),
        "<b>": ReferenceBins((1.0, 2.0), (0.9, 0.1, 0.0), 0.0, 0.0, ("x", "y")),
        PROBABILITY: ReferenceBins((0.1,), (0.5, 0.5), 0.0),
    }
    counted = {"a": [5.0, 5.0, 0.0], "<b>": [1.0, 6.0, 3.0, 0.0], PROBABILITY: [5.0, 5.0, 0.0]}
    measures = [*drift(baseline, counted, LIMITS), *freshness({"silver/activity": None}, DAY, LIMITS)]
    measures += verdict(measures, {"a": 0.9, "<b>": 0.1}, LIMITS)
    found = summary(measures, DAY, "m & n", "7", baseline=baseline, counted=counted)
    assert [entry["subject"] for entry in found["subjects"]] == ["<b>", "a", PROBABILITY]
    assert found["retrain"].startswith("no: 1 of 2 features drifted (<b> ")
    assert found["subjects"][0]["bins"][-1] == {"label": "unseen", "expected": 0.0, "found": 0.3}
    alert = {
        "as_of_date": DAY,
        "rule": "gone",
        "channel": "log",
        "severity": "critical",
        "status": "delivered",
        "text": "<i>",
        "error": None,
    }
    worth = [("roc_auc", 0.81, 0.7), ("purchases", 40.0, 30.0), ("observed_over_expected", 1.0, 0.75), ("lift_top_tenth", 4.0, 2.0)]
    worth += [("calibration_error", None, 0.01), ("candidate_recall", None, 0.9)]
    judged = [
        Performance(date(2011, 11, 1), date(2011, 11, 1), "7", "roc_auc", 0.81),
        Performance(date(2011, 11, 1), date(2011, 11, 1), "7", "purchases", 40.0),
        *(
            Performance(DAY, date(2011, 11, 1), "7", measure, expected, value, value - 0.01, value + 0.01, measure == "roc_auc")
            for measure, expected, value in worth
        ),
    ]
    write(found, tmp_path, history=seen_drift(measures, DAY), performance=judged, alerts=[alert])
    html = (tmp_path / "monitor.html").read_text()
    assert json.loads((tmp_path / "monitor.json").read_text())["retrain"] == found["retrain"]
    for text in (
        "<strong>Retrain? No</strong>",
        "m &amp; n",
        "1 alert today",
        "&lt;i&gt;",
        "<b>&lt;b&gt;</b>",
        "unseen: expected 0.00%, found 30.00%",
        "no row is visible",
        '<td class="off"><b>0.700</b><small>0.690 to 0.710</small></td>',
        "<td>0.110</td>",
    ):
        assert text in html
    assert "<script" not in html
    assert "http" not in html


def test_an_evaluation_report_of_the_day_gets_the_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[dict[str, object], Path, date]] = []
    monkeypatch.setattr(page_module.report, "write", lambda *arguments: written.append(arguments))
    measures = [Measure("x", "psi", 0.3, 0.2), Measure("model", "retrain", 0.0, 0.0, "1 of 1 features drifted")]
    add_to_report(measures, DAY, tmp_path)
    assert written == []
    (tmp_path / "2011-12-09").mkdir()
    (tmp_path / "2011-12-09" / "report.json").write_text('{"head": 1}')
    add_to_report(measures, DAY, tmp_path)
    ((report, reports, day),) = written
    assert (report["head"], reports, day) == (1, tmp_path, DAY)
    assert report["drift"] == [
        {"as_of_date": "2011-12-09", "subject": "x", "measure": "psi", "value": 0.3, "limit": 0.2, "breached": True, "note": None},
        {"as_of_date": "2011-12-09", "subject": "model", "measure": "retrain", "value": 0.0, "limit": 0.0, "breached": False,
         "note": "1 of 1 features drifted"},
    ]  # fmt: skip


# --- the stage ---------------------------------------------------------------------------------------------------


@pytest.fixture
def retail(tmp_path: Path) -> Settings:
    return load_settings(CONF_DIR / "local.yml", "retail", [f"lake.root={tmp_path / 'lake'}"], data="/nowhere")


def _fill(spark: SparkSession, lake: Lake, day: date, users: int, recency: int) -> None:
    """A scoring day on which every user has the same feature values and a probability by number."""
    values = {"as_of_date": day, "rfm_segment": None} | {f.name: None for f in model_features("user", False)} | {"recency_days": recency}
    rows = [tuple(({"user_id": f"u{n}"} | values)[name] for name in USER_FEATURES.column_names) for n in range(users + 1)]
    lake.replace(local_frame(spark, rows, USER_FEATURES.schema), USER_FEATURES, f"as_of_date = DATE'{day}'")
    table = scores_table("user")
    scored = [(f"u{n}", day, n / users, False, "Low", "m", "3") for n in range(users)]
    lake.replace(local_frame(spark, scored, table.schema), table, f"as_of_date = DATE'{day}'")


def _event(day: date, visible: date, deleted: bool = False) -> tuple[object, ...]:
    stamp = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return (str(day), "u0", "i", "buy", stamp, day, "o", 1.0, None, None, None, False, stamp, deleted, visible, "h")


def _measured(lake: Lake) -> dict[tuple[str, str], tuple[float | None, bool, str | None]]:
    rows = lake.read(DRIFT).where(F.col("as_of_date") == F.lit(DAY)).collect()
    assert len({(row["subject"], row["measure"]) for row in rows}) == len(rows)
    return {(row["subject"], row["measure"]): (row["value"], row["breached"], row["note"]) for row in rows}


def test_stage_writes_drift_page_and_verdict(
    spark: SparkSession, lake: Lake, retail: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    features = [feature.name for feature in model_features("user", False)]
    baseline = {name: ReferenceBins((), (0.0,), 1.0) for name in features}
    baseline |= {"recency_days": ReferenceBins((10.0,), (1.0, 0.0), 0.0), PROBABILITY: ReferenceBins((0.45,), (0.5, 0.5), 0.0)}
    asked: list[str] = []
    model = SimpleNamespace(baseline=baseline, gain=lambda: {"recency_days": 0.05, "tenure_days": 0.95})
    monkeypatch.setattr(monitor, "load", lambda settings, version: asked.append(version) or model)
    lake.append(
        spark.createDataFrame(
            [
                _event(date(2011, 12, 1), date(2011, 12, 1)),
                _event(date(2011, 12, 8), date(2011, 12, 10)),
                _event(date(2011, 12, 7), date(2011, 12, 7), deleted=True),
            ],
            ACTIVITY.schema,
        ),
        ACTIVITY,
    )
    run = Run(spark, retail, lake, DAY, "monitor-2", datetime(2011, 12, 10, tzinfo=UTC))
    with pytest.raises(TableMissing, match="gold/scores"):
        monitor.STAGE.execute(run)
    _fill(spark, lake, date(2011, 12, 8), 20, 5)
    with pytest.raises(TableMissing, match="expected rows for as_of_date=2011-12-09"):
        monitor.STAGE.execute(run)
    monitor.STAGE.execute(Run(spark, retail, lake, date(2011, 12, 8), "monitor-1", datetime(2011, 12, 9, tzinfo=UTC)))
    _fill(spark, lake, DAY, 10, 11)
    outcome = monitor.STAGE.execute(run)
    note = f"1 of {len(features)} features drifted (recency_days 18.42), which made 5% of what the trees gained, score PSI 0.000"
    assert asked == ["3", "3"]
    assert (outcome.rows_in, outcome.facts) == (10, {"retrain": f"no: {note}"})
    assert outcome.note.endswith("; alerts: stale_table")
    measured = _measured(lake)
    assert measured["recency_days", "psi"][:2] == (pytest.approx(_slow_psi([1, 0, 0], [0, 1, 0])), True)
    assert measured["frequency_30d", "psi"][:2] == (0.0, False)
    assert measured["frequency_30d", "null_share"] == (1.0, False, None)
    assert measured["gold/scores", "rows_change"][:2] == (-0.5, False)
    estimated = {row["measure"]: row["estimated"] for row in lake.read(PERFORMANCE).where(F.col("as_of_date") == F.lit(DAY)).collect()}
    assert estimated["purchases"] == pytest.approx(4.5, rel=0.01)
    told = lake.read(ALERTS).where(F.col("as_of_date") == F.lit(DAY)).collect()
    assert {(row["rule"], row["channel"], row["status"]) for row in told} == {
        ("stale_table", channel, "delivered") for channel in ("log", "file")
    }
    assert measured[PROBABILITY, "psi"][:2] == (0.0, False)
    assert measured["gold/scores", "rows"] == (10.0, False, "-50.0% against 20 as of 2011-12-08")
    assert measured["silver/activity", "age_days"] == (8.0, True, "newest: 2011-12-01")
    assert measured["model", "retrain"] == (0.0, False, note)
    assert "recency_days: psi is 18.4" in caplog.text
    folder = Path(lake.root) / "reports" / "2011-12-09"
    assert json.loads((folder / "monitor.json").read_text())["retrain"] == f"no: {note}"
    assert f"<strong>Retrain? No</strong>{note}" in (folder / "monitor.html").read_text()

    monitor.STAGE.execute(run)
    assert _measured(lake) == measured
    assert len((Path(lake.root) / "logs" / "alerts.jsonl").read_text().splitlines()) == 1, "a day that is run again alerts nobody twice"
    assert {row["run_id"] for row in lake.read(DRIFT).collect()} == {"monitor-1", "monitor-2"}


def test_matrix_of_scored_pairs_has_every_feature_of_the_model_and_the_score(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    stocks = load_settings(CONF_DIR / "local.yml", "stocks", [f"lake.root={tmp_path / 'lake'}"])
    for table in (USER_FEATURES, USER_ITEM_FEATURES, MARKET_FEATURES, scores_table("user_item")):
        lake.create(table)
    matrix = monitor._scored_matrix(Run(spark, stocks, lake, DAY, "monitor-1", datetime(2011, 12, 10, tzinfo=UTC)))
    features = [feature.name for feature in model_features("user_item", has_market=True)]
    assert matrix.columns == ["user_id", "item_id", "as_of_date", *features, PROBABILITY, "sample_weight"]
