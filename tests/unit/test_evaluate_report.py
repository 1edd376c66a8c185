"""The page: every section with full numbers, the fewest sections with the fewest numbers, nothing from outside."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from propensity_spark.evaluate import report
from propensity_spark.evaluate.canvas import as_count, as_percent


def estimate(value: float, spread: float = 0.01) -> dict[str, float | None]:
    return {"value": value, "low": value - spread, "high": value + spread}


def minimal(*scores: str, ranked: bool = False) -> dict[str, Any]:
    """The numbers of a user-grain report: no ceiling, no importance, no drift, no new user who purchased."""
    names = [*report.METRIC_NAMES, *(["precision@1", "recall@1", "ndcg@10"] if ranked else [])]
    shares = np.linspace(0, 1, 11)
    curve = {
        "threshold": (1 - shares).tolist(),
        "false_positive_rate": (shares**2).tolist(),
        "true_positive_rate": shares.tolist(),
        "precision": (1 - shares / 2).tolist(),
        "recall": shares.tolist(),
        "f1": shares.tolist(),
    }
    return {
        "head": {
            "dataset": "retail",
            "grain": "user",
            "as_of": "2024-03-01",
            "model_name": "propensity-retail",
            "model_version": "2",
            "event_types": ["buy"],
            "horizon_days": 30,
            "new_user_days": 30,
            "input_versions": {"gold/training_set": 1},
            "config_hash": "abc",
            "code_version": "0.1.0",
            "currency": "USD",
            "segments": {"high": 0.5, "low": 0.1},
            "calibration": None,
        },
        "decision": {
            "outcome": "kept",
            "challenger": "2",
            "champion_before": None,
            "sentence": "no champion yet: version 2 not promoted, AUC does not beat the baseline",
            "gates": [
                {
                    "name": "auc_over_baseline",
                    "passed": False,
                    "found": 0.0,
                    "limit": 0.01,
                    "low": None,
                    "high": None,
                    "reason": "AUC <low>",
                }
            ],
        },
        "evaluation": {
            "rows": 1000,
            "purchases": 100,
            "users": 900,
            "lists": 0,
            "base_rate": 0.1,
            "metrics": {score: {name: estimate(0.7) for name in names} for score in scores}
            | {"constant": {name: estimate(0.5) for name in report.METRIC_NAMES}},
            "differences": {score: {name: estimate(0.0) for name in names} for score in scores if score != "challenger"},
            "candidates": {"purchases": 100, "missed": 0, "recall": estimate(1.0, 0.0)},
            "segments": {"new": {"note": "new users: found 0 purchases in 9 rows"}, "returning": segment()},
            "threshold": {"value": 0.2, "by": "set"}
            | {name: estimate(9.0) for name in ("true_positive", "false_positive", "false_negative", "true_negative")}
            | {name: estimate(0.5) for name in ("precision", "recall", "f1")},
            "deciles": {"gain": [estimate(share) for share in shares[1:]], "lift": [estimate(2 - share) for share in shares[1:]]},
            "curves": dict.fromkeys(scores, curve),
            "worth": worth(money=False),
            "reliability": [
                {"rows": 500, "mean_probability": 0.01, "rate": {"value": 0.0, "low": None, "high": None}},
                {"rows": 500, "mean_probability": 0.2, "rate": estimate(0.19)},
            ],
            "histogram": [
                {"from_log_odds": -3.0, "rows": 600, "purchases": 10},
                {"from_log_odds": -1.0, "rows": 400, "purchases": 90},
            ],
        },
    }


def segment() -> dict[str, Any]:
    found = {name: estimate(0.7) for name in report.METRIC_NAMES}
    right = {"observed_over_expected": estimate(1.0), "calibrated": True}
    return {"rows": 991, "purchases": 100, "challenger": found, "baseline": found} | right


def worth(*, money: bool) -> dict[str, Any]:
    names = ("contacts", "expected", "purchases", "rate", "lift", *(("profit", "roi") if money else ()))
    part = {name: estimate(0.5) for name in names}
    found = {"tenths": [part] * 10, "segments": dict.fromkeys(("High", "Medium", "Low"), part), "threshold": part}
    if not money:
        return found | {"conversion_value": None, "contact_cost": None}
    curve = [{"share": share, "profit": estimate(1234.5 * share)} for share in (0.0, 0.5, 1.0)]
    return found | {"conversion_value": 20.0, "contact_cost": 0.5, "curve": curve, "contacted_share": 0.2}


def full() -> dict[str, Any]:
    numbers = minimal("challenger", "baseline", "champion", ranked=True)
    reason = "smallest log loss on 2024-01-19"
    numbers["head"] |= {"grain": "user_item", "dataset": "stocks"}
    numbers["head"]["calibration"] = {"method": "beta", "reason": reason, "log_loss": {"beta": 0.123456, "isotonic": 0.2}}
    numbers["evaluation"]["worth"] = worth(money=True)
    numbers["evaluation"]["threshold"]["by"] = "profit"
    numbers["decision"] |= {"outcome": "promoted", "champion_before": "1", "sentence": "version 2 promoted"}
    numbers["evaluation"] |= {"lists": 88, "candidates": {"purchases": 120, "missed": 20, "recall": estimate(0.83)}}
    truth = {name: estimate(0.8) for name in report.METRIC_NAMES}
    private = {"observed_over_expected": estimate(1.3), "calibrated": False, "challenger": truth, "rows": 77, "purchases": 51}
    numbers["evaluation"]["segments"]["user_segment: private"] = private
    drift = {"as_of_date": "2024-03-01", "limit": 0.2, "note": None}
    return numbers | {
        "explain": {
            "rows": 50,
            "gain": [["recency_days", 0.8], ["views_7d", 0.2]],
            "shap": [["recency_days", 0.5], ["views_7d", 0.1]],
            "points": {"recency_days": [[0.1, 0.2], [0.3, None], [-0.2, 0.9]], "views_7d": [[0.0, None], [0.0, None]]},
            "dependence": {
                "recency_days": {"values": [1.0, 9.0], "mean": [0.1, 0.05], "low": [0.05, 0.01], "high": [0.2, 0.1], "null": 0.02},
                "views_7d": {"values": [0.0, 1.0], "mean": [0.1, 0.1], "low": [0.1, 0.1], "high": [0.1, 0.1], "null": None},
            },
            "singles": [
                {
                    "which": "Highest",
                    "probability": 0.4,
                    "base": -3.0,
                    "reasons": [["recency_days", 2.0, 1.5], ["views_7d", None, -0.4]],
                    "others": 0.1,
                }
            ],
            "correlations": {"names": ["recency_days", "views_7d"], "matrix": [[1.0, None], [None, 1.0]]},
        },
        "items_together": {"names": ["AAPL", "MSFT"], "matrix": [[1.0, 0.6], [0.6, 1.0]]},
        "ceiling": {
            "rows": 400,
            "users": 20,
            "purchases": 40,
            "mean_standard_error": 0.002,
            "brier_from_standard_error": 4e-6,
            "truth": truth,
            "model": truth,
            "share": {"value": 0.9, "low": None, "high": None},
        },
        "splits": [
            {
                "split": "test",
                "first": "2024-02-02",
                "last": "2024-02-23",
                "dates": 4,
                "users": 9,
                "rows": 1000,
                "purchases": 100,
                "rate": 0.1,
            }
        ],
        "stages": [{"stage": "ingest", "rows_in": 1_234_567, "rows_out": 5, "rows_rejected": 2, "seconds": 1.5, "note": None}],
        "quality": [{"table_name": "activity", "rule": "user_missing", "kind": "rejected", "rows": 7}],
        "drift": [
            drift | {"subject": "views_7d", "measure": "psi", "value": 0.31, "breached": True},
            drift | {"subject": "model", "measure": "retrain", "value": 1.0, "breached": True, "note": "too many features drifted"},
            drift | {"subject": "silver/activity", "measure": "age_days", "value": 9.0, "limit": None, "breached": True},
        ],
        "notes": ["Read <this>."],
        "leaks": [{"feature": "saw_checkout", "auc": 0.931, "decided_share": 0.625}],
        "folds": [
            {
                "train_from": "2023-01-06",
                "train_to": "2023-06-02",
                "test_from": "2023-06-16",
                "test_to": "2023-07-28",
                "train_rows": 31_234,
                "test_rows": 9_876,
                "purchases": 321,
                "roc_auc": {"value": 0.7654, "low": 0.75, "high": 0.78},
            }
        ],
    }


def test_the_full_page_has_every_section(tmp_path: Path) -> None:
    report.render(full(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for words in (
        "Promoted: this model scores from now on",
        "It takes the place of version 1",
        "nDCG@10",
        "Champion before",
        "Candidate recall",
        "20 of 120 purchases",
        "Share of the ceiling reached",
        "What does the model look at?",
        "How much could be known at all?",
        "<b>Retrain? Yes.</b> too many features drifted",
        "Population stability index",
        "1,234,567",
        "user missing",
        "Read &lt;this&gt;.",
        "user segment: private",
        "saw_checkout",
        "Calibrated by the <b>beta</b> method: smallest log loss on 2024-01-19. Log loss there: beta 0.123456, isotonic 0.200000.",
        "Chosen for the greatest profit on the calibration slice",
        "20 for each purchase less 0.5 for each contact",
        "Profit by share contacted",
        "62.5%",
        "Three rows, one by one",
        "rank correlation of the 2 features",
        "Items that move together",
        "AUC &lt;low&gt;",
        "2023-06-16 to 2023-07-28",
        "0.765",
    ):
        assert words in page, words
    assert page.count("<img ") == 16
    assert page.count("alt=") == page.count("<img ")


def test_the_smallest_page_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    report.render(minimal("challenger", "baseline"), tmp_path / "deep" / "report.html")
    page = (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    assert "Not promoted: everything stays as it was" in page
    assert "There is no champion yet" in page
    assert "new users: found 0 purchases in 9 rows" in page
    for words in (
        "nDCG",
        "Candidate recall",
        "ceiling",
        "SHAP",
        "Drift",
        "Rows per stage",
        "Data quality",
        "Earlier times",
        "Read this with care",
    ):
        assert words not in page, words
    assert page.count("<img ") == 7


def test_the_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    report.render(full(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<link" not in page
    assert "@import" not in page
    assert not re.search(r"url\(", page)
    for target in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert target.startswith(("data:image/svg+xml;base64,", "#")), target


def test_the_same_numbers_give_the_same_page(tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        report.render(full(), tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_write_keeps_page_numbers_and_the_latest_copy(tmp_path: Path) -> None:
    page, numbers = report.write(full(), tmp_path, date(2024, 3, 1))
    assert page == tmp_path / "2024-03-01" / "report.html"
    again = json.loads(numbers.read_text(encoding="utf-8"))
    assert again == full()
    assert (tmp_path / "latest.html").read_bytes() == page.read_bytes()
    report.render(again, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_a_number_that_is_none_is_no_json(tmp_path: Path) -> None:
    numbers = full()
    numbers["evaluation"]["base_rate"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        report.write(numbers, tmp_path, date(2024, 3, 1))


def test_facts_and_metrics_for_other_readers() -> None:
    facts = report.facts(full())
    assert facts["AUC"] == "0.700 [0.690, 0.710]"
    assert facts["ceiling"] == "0.800 [0.790, 0.810], 90.0% of it above chance reached by the model's 0.800 [0.790, 0.810]"
    assert set(report.facts(minimal("challenger", "baseline"))) == {"AUC", "baseline"}
    flat = report.flat_metrics(full())
    assert flat["test.roc_auc"] == 0.7
    assert flat["test.ndcg_at_10.low"] == pytest.approx(0.69)
    assert flat["test.share_of_ceiling"] == 0.9
    assert "test.share_of_ceiling.low" not in flat
    assert report.estimate_text({"value": None, "low": None, "high": None}) == "–"
    assert report.estimate_text({"value": 0.5, "low": None, "high": None}) == "0.500"


def test_shares_and_counts_are_short() -> None:
    assert [as_percent(value) for value in (0.0, 0.0025, 0.05, 0.0996, 0.4)] == ["0%", "0.25%", "5%", "10%", "40%"]
    assert [as_count(value) for value in (5, 20_000, 3e6)] == ["5", "20k", "3M"]
