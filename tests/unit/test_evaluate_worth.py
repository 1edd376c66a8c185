"""Profit, ROI and lift from counts, against sums one can do by hand and against a slow count over rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from propensity_spark.config import ScoreSettings
from propensity_spark.evaluate import metrics as M
from propensity_spark.evaluate.worth import cuts, worth

MONEY = ScoreSettings(conversion_value=10.0, contact_cost=1.0)


def tally_of(scores: list[float], labels: list[int], edges: list[float]) -> M.Tally:
    """One user a row, counted as they are and, as round 1, twice."""
    bins = np.searchsorted(edges, scores, side="right")
    counts = [np.bincount(bins, weights, len(edges) + 1) for weights in (np.ones(len(scores)), np.array(labels), np.array(scores))]
    rows, positives, expected = (np.stack([count, 2 * count], axis=1) for count in counts)
    nothing = np.zeros(2)
    return M.Tally(M.Edges(np.array(edges), np.empty(0)), rows, positives, expected, nothing, nothing, nothing)


def values(found: dict[str, Any]) -> dict[str, float | None]:
    return {name: one["value"] for name, one in found.items()}


def test_segments_hold_what_gold_scores_would_call_so() -> None:
    """High is above 0.5 and Low below 0.1; what equals a limit is Medium."""
    scores, labels = [0.05, 0.1, 0.3, 0.5, 0.7, 0.9], [0, 0, 1, 0, 1, 1]
    edges = sorted({*scores, *cuts(0.3, MONEY)})
    found = worth(tally_of(scores, labels, edges), 0.3, MONEY)
    high, medium, low = (values(found["segments"][name]) for name in ("High", "Medium", "Low"))
    assert (high["contacts"], high["purchases"], high["profit"], high["roi"]) == (2, 2, 18, 9)
    assert high["expected"] == pytest.approx(1.6)
    assert high["lift"] == pytest.approx(2)
    assert (medium["contacts"], medium["purchases"], medium["profit"]) == (3, 1, 7)
    assert (low["contacts"], low["purchases"], low["profit"], low["roi"]) == (1, 0, -1, -1)
    at = values(found["threshold"])
    assert (at["contacts"], at["purchases"], at["profit"]) == (4, 3, 26)
    assert found["contacted_share"] == pytest.approx(4 / 6)
    assert found["threshold"]["profit"]["low"] == pytest.approx(52)  # the one round has every row twice


def test_tenths_sum_up_to_all_and_the_curve_ends_there() -> None:
    rng = np.random.default_rng(4)
    scores = rng.permutation(np.arange(1, 101) / 101)
    labels = (rng.random(100) < scores).astype(int)
    found = worth(tally_of(scores.tolist(), labels.tolist(), sorted({*sorted(scores.tolist())[1:], *cuts(0.5, MONEY)})), 0.5, MONEY)
    best_first = np.argsort(-scores)
    for number, tenth in enumerate(found["tenths"]):
        chosen = best_first[10 * number : 10 * number + 10]
        assert values(tenth)["contacts"] == pytest.approx(10)
        assert values(tenth)["purchases"] == pytest.approx(labels[chosen].sum())
        assert values(tenth)["expected"] == pytest.approx(scores[chosen].sum())
        assert values(tenth)["profit"] == pytest.approx(10 * labels[chosen].sum() - 10)
    assert found["curve"][0]["profit"]["value"] == 0
    assert found["curve"][-1]["profit"]["value"] == pytest.approx(10 * labels.sum() - 100)
    assert max(point["profit"]["value"] for point in found["curve"]) > found["curve"][-1]["profit"]["value"]


def test_without_money_there_is_no_profit() -> None:
    found = worth(tally_of([0.2, 0.8], [0, 1], [0.1, 0.5, 0.8]), 0.9, ScoreSettings())
    assert "curve" not in found
    assert set(found["segments"]["High"]) == {"contacts", "expected", "purchases", "rate", "lift"}
    assert values(found["segments"]["Low"]) == {"contacts": 0, "expected": 0, "purchases": 0, "rate": None, "lift": None}
