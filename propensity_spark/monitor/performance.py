"""What the scores of a day were worth: estimated from the calibrated probabilities, and realised once the labels have matured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import EvaluateSettings, MonitorSettings
from propensity_spark.evaluate import metrics as M
from propensity_spark.evaluate.bootstrap import Floats, bootstrap_totals
from propensity_spark.evaluate.ranking import outside_candidates
from propensity_spark.label import labels
from propensity_spark.schemas import grain_key
from propensity_spark.score import PROBABILITY

_LOG_ODDS = np.linspace(-12.0, 12.0, 2001)
FINE_EDGES: tuple[float, ...] = tuple((1 / (1 + np.exp(-_LOG_ODDS))).tolist())
_CENTRES = 1 / (1 + np.exp(-np.concatenate([_LOG_ODDS[:1], (_LOG_ODDS[1:] + _LOG_ODDS[:-1]) / 2, _LOG_ODDS[-1:]])))
AT_ONCE = 10
"""So that a run after a long pause stays bounded; the next run takes the next ones."""
Estimate = Mapping[str, float | None]


@dataclass(frozen=True)
class Performance:
    """One measure of the scores of one day. See schemas.PERFORMANCE."""

    as_of: date
    scored: date
    model_version: str
    measure: str
    estimated: float | None
    realised: float | None = None
    low: float | None = None
    high: float | None = None
    breached: bool = False

    @property
    def error(self) -> float | None:
        return None if self.estimated is None or self.realised is None else self.estimated - self.realised


def estimates(histogram: Sequence[float]) -> dict[str, float | None]:
    """ROC-AUC, purchases and lift of the best tenth to be expected when the probabilities are right.

    `histogram`: candidates per bin of `FINE_EDGES` (equal steps of 0.012 in log-odds, whose middle stands for a bin) and,
    last, nulls. Each candidate counts as p of a purchase and 1 − p of none. Null when every candidate is as good as sure.
    """
    rows = np.asarray(histogram[:-1], dtype=float)[:, None]
    none = np.zeros(1)
    edges = M.Edges(np.asarray(FINE_EDGES), np.empty(0))
    expected = rows * _CENTRES[:, None]
    tally = M.Tally(edges, rows, expected, expected, none, none, none)
    found = {"roc_auc": M.roc_auc(tally)[0], "purchases": tally.hits[0], "lift_top_tenth": M.deciles(tally)["lift"][0, 0]}
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}


def realised(scores: DataFrame, bought: DataFrame, grain: str, settings: EvaluateSettings) -> dict[str, Estimate]:
    """What came of the scores of one day: each measure as {value, low, high}, low and high the 95% interval over users.

    `scores`: rows of gold/scores of the day; `bought`: all purchases of its population in the label window, candidates or
    not. AUC, lift and calibration are over the candidates; `candidate_recall` is the share of the purchases that were among
    them. A measure that one class leaves undefined is null. Read twice, so cached by the caller.
    """
    key = grain_key(grain)
    labelled = labels(scores.select(*key, F.col(PROBABILITY)), bought, grain)
    rounds, seed = settings.bootstrap_rounds, settings.seed
    missing = outside_candidates(scores, bought, key).withColumn("missed", F.lit(1.0))
    missed = bootstrap_totals(missing, ["missed"], rounds, seed)[0]
    edges = M.find_edges(labelled, [PROBABILITY], settings.bins)
    tally = M.tally(labelled, edges, rounds, seed, missed)[PROBABILITY]
    with np.errstate(divide="ignore", invalid="ignore"):
        found: dict[str, Floats] = {
            "roc_auc": M.roc_auc(tally),
            "purchases": tally.hits,
            "lift_top_tenth": M.deciles(tally)["lift"][0],
            "observed_over_expected": M.observed_over_expected(tally),
            "calibration_error": M.calibration_error(tally),
            "candidate_recall": M.candidate_recall(tally),
        }
    return {name: M.estimate(values) for name, values in found.items()}


def judged(
    days: tuple[date, date], version: str, found: Mapping[str, Estimate], before: Estimate, settings: MonitorSettings
) -> list[Performance]:
    """The realised measures of a scored day beside what was estimated on it (`before`, by measure), each with whether it is off.

    `days`: the day on which it became known, and the scored day.

    ROC-AUC: more than `max_auc_shortfall` below the estimate, which its interval excludes. Purchases over expected purchases:
    the whole interval above `max_calibration_ratio` or below its inverse. Nothing else has a limit, and without an interval
    nothing is judged.
    """
    rows = []
    for measure, estimate in found.items():
        value, low, high = estimate["value"], estimate["low"], estimate["high"]
        expected = 1.0 if measure == "observed_over_expected" else before.get(measure)
        breached = False
        if value is not None and low is not None and high is not None and expected is not None:
            if measure == "roc_auc":
                breached = expected - value > settings.max_auc_shortfall and high < expected
            elif measure == "observed_over_expected":
                breached = low > settings.max_calibration_ratio or high < 1 / settings.max_calibration_ratio
        rows.append(Performance(*days, version, measure, expected, value, low, high, breached))
    return rows


def matured(scored: Iterable[date], done: Iterable[date], as_of: date, waiting_days: int) -> list[date]:
    """The oldest `AT_ONCE` scored days that are `waiting_days` (the horizon and the delay after it) back as of D and not `done`."""
    return sorted(day for day in set(scored) - set(done) if (as_of - day).days >= waiting_days)[:AT_ONCE]


def fallen(rows: Sequence[Performance], version: str, settings: MonitorSettings) -> list[str]:
    """Reasons to train again: measures beyond their limit on `performance_days` of the last `performance_of` judged days.

    Only days scored by `version` count: what an earlier model was worth says nothing about this one.
    """
    reasons = []
    for measure, words in (("roc_auc", "AUC"), ("observed_over_expected", "purchases over expected")):
        own = [row for row in rows if row.measure == measure and row.model_version == version and row.realised is not None]
        last = sorted(own, key=lambda row: row.scored)[-settings.performance_of :]
        off = [row for row in last if row.breached]
        if len(off) >= settings.performance_days:
            said = ", ".join(f"{row.realised:.3f} for {row.estimated:.3f} on {row.scored}" for row in off)
            reasons.append(f"realised {words} off on {len(off)} of the last {len(last)} judged days ({said})")
    return reasons
