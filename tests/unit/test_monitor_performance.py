"""Estimates before the labels and realised performance after, held against computations that are slow and obviously right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from propensity_spark.config import CONF_DIR, EvaluateSettings, MonitorSettings, Settings, load_settings
from propensity_spark.features.registry import USER_FEATURES, model_features
from propensity_spark.monitor.performance import (
    FINE_EDGES,
    Performance,
    estimates,
    fallen,
    judged,
    matured,
    realised,
)
from propensity_spark.predictor import ReferenceBins
from propensity_spark.run import Run
from propensity_spark.schemas import ACTIVITY, PERFORMANCE, scores_table
from propensity_spark.score import PROBABILITY
from propensity_spark.stages import monitor
from propensity_spark.tables import Lake, local_frame

LIMITS = MonitorSettings()
DAY = date(2024, 3, 1)
Row = tuple[str, str, float, int]


def _slow_auc(probabilities: Sequence[float], weight_yes: Sequence[float], weight_no: Sequence[float]) -> float:
    """Share of the pairs (purchase, none) in which the purchase scores higher; ties count half."""
    won = total = 0.0
    for p, yes in zip(probabilities, weight_yes, strict=True):
        for q, no in zip(probabilities, weight_no, strict=True):
            won += yes * no * ((p > q) + (p == q) / 2)
            total += yes * no
    return won / total


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.lists(st.floats(0.0005, 0.9995), min_size=2, max_size=40))
def test_estimates_are_what_the_probabilities_promise(probabilities: list[float]) -> None:
    """Within the width of a bin of the histogram, 0.012 in log-odds."""
    histogram = np.bincount(np.searchsorted(FINE_EDGES, probabilities), minlength=len(FINE_EDGES) + 2).tolist()
    found = estimates(histogram)
    assert found["purchases"] == pytest.approx(sum(probabilities), rel=0.007)
    rounded = [float(np.searchsorted(FINE_EDGES, p)) for p in probabilities]
    assert found["roc_auc"] == pytest.approx(_slow_auc(rounded, probabilities, [1 - p for p in probabilities]), abs=0.005)


def _oracle(rows: list[Row], outside: int) -> dict[str, float]:
    """From the definition, over lists: no bins, no weights."""
    p, y = [row[2] for row in rows], [row[3] for row in rows]
    hits = sum(y)
    best = [label for _, label in sorted(zip(p, y, strict=True), key=lambda pair: -pair[0])][: len(rows) // 10]
    return {
        "roc_auc": _slow_auc(p, [float(label) for label in y], [1.0 - label for label in y]),
        "purchases": float(hits),
        "lift_top_tenth": (sum(best) / len(best)) / (hits / len(rows)),
        "observed_over_expected": hits / sum(p),
        "candidate_recall": hits / (hits + outside),
    }


def _rows(seed: int, users: int = 60, items: int = 5) -> list[Row]:
    draw = random.Random(seed)
    probabilities = [(n + 1) / (users * items + 2) for n in range(users * items)]
    draw.shuffle(probabilities)
    return [(f"u{n // items}", f"i{n % items}", p, int(draw.random() < p)) for n, p in enumerate(probabilities)]


def _calibration_error(rows: list[Row]) -> float:
    """15 groups of equally many rows by score."""
    ordered = sorted(rows, key=lambda row: row[2])
    size = len(ordered) // 15
    groups = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return sum(abs(sum(row[3] for row in group) - sum(row[2] for row in group)) for group in groups) / len(ordered)


def test_realised_performance_is_that_of_the_definition(spark: SparkSession) -> None:
    rows, outside = _rows(3), 7
    scores = local_frame(
        spark, [(u, i, DAY, p) for u, i, p, _ in rows], f"user_id string, item_id string, as_of_date date, {PROBABILITY} double"
    )
    purchases = [(u, i, DAY) for u, i, _, y in rows if y] + [("u1", f"other{n}", DAY) for n in range(outside)]
    bought = local_frame(spark, purchases, "user_id string, item_id string, as_of_date date")
    found = realised(scores, bought, "user_item", EvaluateSettings(bootstrap_rounds=50))
    for measure, expected in _oracle(rows, outside).items():
        assert found[measure]["value"] == pytest.approx(expected, rel=1e-9), measure
    assert found["calibration_error"]["value"] == pytest.approx(_calibration_error(rows), abs=0.01)
    low, high = found["roc_auc"]["low"], found["roc_auc"]["high"]
    assert low is not None
    assert high is not None
    assert low < (found["roc_auc"]["value"] or 0.0) < high
    nobody = realised(scores, bought.where("false"), "user_item", EvaluateSettings(bootstrap_rounds=5))
    assert (nobody["roc_auc"]["value"], nobody["purchases"]["value"], nobody["candidate_recall"]["value"]) == (None, 0.0, None)


def test_a_day_has_matured_when_its_horizon_and_the_delay_have_passed() -> None:
    days = [DAY - timedelta(days=ago) for ago in range(9, 13)]
    assert matured(days, [], DAY, 10) == [DAY - timedelta(days=ago) for ago in (12, 11, 10)]
    assert matured(days, [DAY - timedelta(days=11)], DAY, 10) == [DAY - timedelta(days=ago) for ago in (12, 10)]
    many = [DAY - timedelta(days=ago) for ago in range(20, 60)]
    assert matured(many, [], DAY, 10) == sorted(many)[:10], "a long pause is caught up with in portions"


@pytest.mark.parametrize(
    ("measure", "estimate", "expected", "breached"),
    [
        ("roc_auc", (0.70, 0.66, 0.74), 0.80, True),
        ("roc_auc", (0.70, 0.60, 0.81), 0.80, False),  # chance may explain it
        ("roc_auc", (0.77, 0.76, 0.78), 0.80, False),  # sure, but within the limit
        ("roc_auc", (0.90, 0.88, 0.92), 0.80, False),
        ("roc_auc", (None, None, None), 0.80, False),
        ("roc_auc", (0.70, 0.66, 0.74), None, False),
        ("observed_over_expected", (2.0, 1.6, 2.4), None, True),
        ("observed_over_expected", (2.0, 1.4, 2.4), None, False),
        ("observed_over_expected", (0.5, 0.4, 0.6), None, True),
        ("observed_over_expected", (0.5, 0.4, 0.7), None, False),
        ("purchases", (1.0, 1.0, 1.0), 900.0, False),
    ],
)
def test_what_is_beyond_its_limit(measure: str, estimate: tuple[float | None, ...], expected: float | None, breached: bool) -> None:
    found = {measure: dict(zip(("value", "low", "high"), estimate, strict=True))}
    (row,) = judged((DAY, DAY - timedelta(days=10)), "3", found, {measure: expected}, LIMITS)
    assert row.breached is breached
    if expected is not None and estimate[0] is not None:
        assert row.error == pytest.approx(expected - estimate[0])


def test_realised_performance_asks_to_retrain_on_n_of_m_days_of_the_present_model() -> None:
    def rows(*breached: bool, version: str = "3") -> list[Performance]:
        days = [DAY - timedelta(days=ago) for ago in range(len(breached), 0, -1)]
        return [Performance(DAY, day, version, "roc_auc", 0.8, 0.7, 0.66, 0.74, b) for day, b in zip(days, breached, strict=True)]

    assert fallen(rows(False, True, True), "3", LIMITS) == [
        "realised AUC off on 2 of the last 3 judged days (0.700 for 0.800 on 2024-02-28, 0.700 for 0.800 on 2024-02-29)"
    ]
    for innocent in (rows(True, False, False), rows(True, True, False, False), rows(True), rows(True, True, version="2")):
        assert fallen(innocent, "3", LIMITS) == []


# --- the stage -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Settings:
    overrides = [f"lake.root={tmp_path / 'lake'}", "label.horizon_days=7", "monitor.label_delay_days=3", "evaluate.bootstrap_rounds=40"]
    return load_settings(CONF_DIR / "local.yml", "retail", overrides, data="/nowhere")


def _score(spark: SparkSession, lake: Lake, day: date, users: int = 100) -> None:
    """User n has the probability (n + 1) / (users + 1)."""
    values = {"as_of_date": day, "rfm_segment": None} | {f.name: None for f in model_features("user", False)}
    rows = [tuple(({"user_id": f"u{n}"} | values)[name] for name in USER_FEATURES.column_names) for n in range(users)]
    lake.replace(local_frame(spark, rows, USER_FEATURES.schema), USER_FEATURES, f"as_of_date = DATE'{day}'")
    table = scores_table("user")
    scored = [(f"u{n}", day, (n + 1) / (users + 1), False, "Low", "m", "3") for n in range(users)]
    lake.replace(local_frame(spark, scored, table.schema), table, f"as_of_date = DATE'{day}'")


def _buys(day: date, users: Sequence[str]) -> list[tuple[object, ...]]:
    stamp = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return [(f"{u}-{day}", u, "i", "buy", stamp, day, f"{u}-{day}", 1.0, None, None, None, False, stamp, False, day, "h") for u in users]


def test_stage_judges_a_scored_day_once_its_labels_have_matured(
    spark: SparkSession, lake: Lake, shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = [feature.name for feature in model_features("user", False)]
    baseline = {name: ReferenceBins((), (0.0,), 1.0) for name in features} | {PROBABILITY: ReferenceBins((0.5,), (0.5, 0.5), 0.0)}
    monkeypatch.setattr(monitor, "load", lambda *_: SimpleNamespace(baseline=baseline, gain=dict))
    buyers = [f"u{n}" for n in range(100) if n % 3 == 0 or n > 80]
    window = _buys(DAY + timedelta(days=7), buyers)
    outside = _buys(DAY + timedelta(days=8), ["u1"]) + _buys(DAY, ["u2"]) + _buys(DAY + timedelta(days=1), ["stranger"])
    lake.append(spark.createDataFrame(window + outside, ACTIVITY.schema), ACTIVITY)

    def run(ahead: int) -> dict[str, Performance]:
        day = DAY + timedelta(days=ahead)
        _score(spark, lake, day)
        monitor.STAGE.execute(Run(spark, shop, lake, day, f"monitor-{ahead}", datetime(2024, 4, 1, tzinfo=UTC)))
        rows = lake.read(PERFORMANCE).where(f"as_of_date = DATE'{day}' AND scored_date = DATE'{DAY}'").collect()
        return {row["measure"]: row for row in rows}

    promised = run(0)
    assert promised["purchases"]["realised"] is None
    assert run(9) == {}, "the label window has closed, but late purchases may still come"
    found = run(10)
    rows = [(f"u{n}", "", (n + 1) / 101, int(f"u{n}" in buyers)) for n in range(100)]
    for measure, expected in _oracle(rows, 0).items():
        assert found[measure]["realised"] == pytest.approx(expected, rel=1e-9), measure
    for measure in ("roc_auc", "purchases", "lift_top_tenth"):
        assert found[measure]["estimated"] == promised[measure]["estimated"]
        assert found[measure]["error"] == pytest.approx(found[measure]["estimated"] - found[measure]["realised"])
    assert found["roc_auc"]["breached"], "two thirds of the purchases have nothing to do with the score"
    assert run(10) == found
    assert run(11) == {}, "judged once"
