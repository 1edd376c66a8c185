"""Who becomes champion, and why not."""

from __future__ import annotations

from datetime import date

import pytest

from propensity_spark.config import EvaluateSettings
from propensity_spark.evaluate.folds import Fold
from propensity_spark.evaluate.gates import Decision, decide
from propensity_spark.evaluate.leaks import Alone

MARGINS = {"auc_margin_over_baseline": 0.01, "auc_margin_over_champion": 0.002, "max_calibration_error": 0.05}
LIMITS = EvaluateSettings.model_validate(MARGINS | {"champion_margin_by": "found"})
BY_LOWER_BOUND = EvaluateSettings.model_validate(MARGINS)


def estimate(value: float, spread: float = 0.001) -> dict[str, float | None]:
    return {"value": value, "low": value - spread, "high": value + spread}


def decision(
    over_baseline: float, over_champion: float | None, error: float, champion: str | None, settings: EvaluateSettings = LIMITS
) -> Decision:
    return decide(
        settings,
        challenger="4",
        champion=champion,
        over_baseline=estimate(over_baseline),
        over_champion=None if over_champion is None else estimate(over_champion),
        calibration_error=estimate(error),
    )


@pytest.mark.parametrize(
    ("over_baseline", "over_champion", "error", "champion", "outcome", "failed"),
    [
        (0.020, None, 0.01, None, "promoted", []),
        (0.010, None, 0.01, None, "kept", ["auc_over_baseline"]),
        (0.020, 0.003, 0.01, "3", "promoted", []),
        (0.020, 0.002, 0.01, "3", "kept", ["auc_over_champion"]),
        (0.020, -0.01, 0.06, "3", "kept", ["auc_over_champion", "calibration_error"]),
        (0.020, 0.003, 0.05, "3", "promoted", []),
        (0.020, 0.003, 0.0501, "3", "kept", ["calibration_error"]),
        (0.020, None, 0.01, "4", "already champion", []),
        (-0.02, None, 0.01, "4", "already champion", ["auc_over_baseline"]),
    ],
)
def test_gates(
    over_baseline: float, over_champion: float | None, error: float, champion: str | None, outcome: str, failed: list[str]
) -> None:
    decided = decision(over_baseline, over_champion, error, champion)
    assert decided.outcome == outcome
    assert [gate.name for gate in decided.gates if not gate.passed] == failed
    assert decided.promotes == (outcome == "promoted")
    assert decided.as_json()["gates"][0]["found"] == over_baseline


def test_what_was_rolled_back_is_not_promoted_again() -> None:
    known = {"over_baseline": estimate(0.02), "over_champion": estimate(0.02), "calibration_error": estimate(0.01)}
    refused = decide(LIMITS, challenger="4", champion="3", rolled_back=True, **known)
    assert not refused.promotes
    assert refused.sentence == "kept version 3: version 4 not promoted, version 4 was champion and was rolled back"
    assert decide(LIMITS, challenger="4", champion="3", **known).promotes


def test_the_decision_in_words() -> None:
    assert decision(0.02, None, 0.01, None).sentence == "version 4 promoted, the first champion"
    assert decision(0.02, 0.003, 0.01, "3").sentence == "version 4 promoted"
    assert decision(0.02, None, 0.01, "4").sentence == "version 4 is already champion"
    assert decision(0.02, None, 0.09, "4").sentence.startswith("version 4 is already champion, though today calibration error 0.0900")
    kept = decision(0.02, -0.01, 0.01, "3").sentence
    assert kept == (
        "kept version 3: version 4 not promoted, AUC does not beat champion version 3 by more than 0.002 "
        "(found -0.0100 [-0.0110, -0.0090], the interval excludes 0)"
    )
    assert decision(0.0, None, 0.01, None).sentence.startswith("no champion yet: version 4 not promoted, AUC does not beat the baseline")


def test_an_interval_that_is_unknown_is_left_out() -> None:
    unsure: dict[str, float | None] = {"value": 0.02, "low": None, "high": None}
    decided = decide(LIMITS, challenger="4", champion=None, over_baseline=unsure, over_champion=None, calibration_error=unsure)
    assert "(found +0.0200, the interval includes 0)" in decided.gates[0].reason


@pytest.mark.parametrize(("over_champion", "outcome"), [(0.0031, "promoted"), (0.0029, "kept"), (0.003, "kept")])
def test_what_must_beat_the_champion_is_the_lower_end_of_the_interval(over_champion: float, outcome: str) -> None:
    """The interval reaches 0.001 down from what was found, and the margin is 0.002."""
    decided = decision(0.02, over_champion, 0.01, "3", BY_LOWER_BOUND)
    assert decided.outcome == outcome
    assert "the lower end decides)" in decided.gates[1].reason


def test_without_an_interval_there_is_no_lower_end_to_go_by() -> None:
    alone = {"value": 0.5, "low": None, "high": None}
    decided = decide(
        BY_LOWER_BOUND, challenger="4", champion="3", over_baseline=alone, over_champion=alone, calibration_error=estimate(0.01)
    )
    assert [gate.name for gate in decided.gates if not gate.passed] == ["auc_over_champion"]


def segment(auc: float, purchases: int = 50) -> dict[str, object]:
    return {"purchases": purchases, "challenger": {"roc_auc": estimate(auc)}}


def with_more(**more: object) -> Decision:
    usual = {"over_baseline": estimate(0.02), "over_champion": None, "calibration_error": estimate(0.01)}
    return decide(LIMITS, challenger="4", champion=None, **usual, **more)  # type: ignore[arg-type]


def test_the_worst_segment_that_can_be_judged_decides() -> None:
    few = {"new": segment(0.3, purchases=49), "tiny": {"note": "0 purchases"}}
    assert with_more(segments={"returning": segment(0.5), **few}).promotes
    kept = with_more(segments={"returning": segment(0.8), "user_segment: private": segment(0.49), **few})
    assert kept.sentence.endswith("AUC of the worst of 2 segments, user_segment: private, is 0.4900 [0.4890, 0.4910], below 0.5")
    assert with_more(segments=few).promotes
    assert len(with_more(segments=few).gates) == 2


def test_a_model_that_holds_on_some_dates_only_is_kept() -> None:
    steady = {"as of 2025-01-01": segment(0.8), "as of 2025-02-01": segment(0.7), "returning": segment(0.55)}
    assert with_more(segments=steady).promotes
    few = {"as of 2025-03-01": segment(0.51, purchases=49)}
    assert with_more(segments=steady | few).promotes
    kept = with_more(segments=steady | {"as of 2025-03-01": segment(0.51)})
    assert kept.sentence.endswith("AUC as of 2025-03-01, 0.5100, is 0.1600 below the mean of 3 test dates, more than 0.1")
    alone = with_more(segments={"as of 2025-03-01": segment(0.51)})
    assert [gate.name for gate in alone.gates] == ["auc_over_baseline", "calibration_error", "segment_auc"]


def fold(month: int, auc: float, purchases: int = 50) -> Fold:
    day = date(2024, month, 1)
    return Fold(date(2023, 1, 1), day, day, day, 100, 500, purchases, estimate(auc))


def test_a_model_that_held_in_some_earlier_times_only_is_kept() -> None:
    assert with_more(folds=[fold(1, 0.8), fold(2, 0.7), fold(3, 0.75)]).promotes
    assert with_more(folds=[fold(1, 0.8), fold(2, 0.3, purchases=49), fold(3, 0.75)]).promotes
    kept = with_more(folds=[fold(1, 0.8), fold(2, 0.5), fold(3, 0.74)])
    assert kept.sentence.endswith(
        "AUC of the fold tested from 2024-02-01, 0.5000, is 0.1800 below the mean of 3 folds in time, more than 0.1"
    )
    assert [gate.name for gate in with_more(folds=[fold(1, 0.1)]).gates] == ["auc_over_baseline", "calibration_error"]


def test_a_feature_that_knows_or_decides_too_much_is_called_a_leak() -> None:
    honest, knowing, deciding = Alone("recency_days", 0.8, 0.1), Alone("order_page", 0.96, 0.0), Alone("saw_checkout", 0.9, 0.51)
    assert with_more(leaks=[honest]).promotes
    assert (
        "order_page alone reaches AUC 0.9600 on the training slice, a leak? It is above 0.95" in with_more(leaks=[honest, knowing]).sentence
    )
    assert (
        "saw_checkout alone decides the label of 51.0% of the training rows, a leak? It is above 50%"
        in with_more(leaks=[deciding]).sentence
    )


@pytest.mark.parametrize(("speed", "outcome"), [(49_999.0, "kept"), (50_000.0, "promoted"), (None, "promoted")])
def test_a_model_that_scores_too_slowly_is_kept_where_there_is_a_limit(speed: float | None, outcome: str) -> None:
    limited = EvaluateSettings(min_score_rows_per_second=50_000)
    usual = {"over_baseline": estimate(0.02), "over_champion": None, "calibration_error": estimate(0.01)}
    decided = decide(limited, challenger="4", champion=None, rows_per_second=speed, **usual)  # type: ignore[arg-type]
    assert decided.outcome == outcome
    assert with_more(rows_per_second=speed).promotes  # without a limit nothing is judged


def test_what_cannot_be_judged_is_an_error() -> None:
    with pytest.raises(ValueError, match="same rows"):
        decision(0.02, None, 0.01, "3")
    undefined: dict[str, float | None] = {"value": None, "low": None, "high": None}
    with pytest.raises(ValueError, match="defined on the test rows"):
        decide(LIMITS, challenger="4", champion=None, over_baseline=undefined, over_champion=None, calibration_error=estimate(0.1))
