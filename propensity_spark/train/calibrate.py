"""From raw scores to probabilities: isotonic, beta or Platt calibration, from one bounded histogram a day of the calibration slice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

from propensity_spark.predictor import Calibration
from propensity_spark.score import PROBABILITY

BINS = 10_000
LOGIT_LIMIT = 12.0
_WIDTH = 2 * LOGIT_LIMIT / BINS
_END_SLOPE = 0.01
_KNOTS = 481  # 0.05 in log-odds apart
_TINY = 1e-9

Floats = npt.NDArray[np.float64]
Term = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Histogram:
    """Raw scores in at most `BINS` bins of equal width in log-odds: lower edges and centres (as probabilities), rows, positives."""

    lower: Floats
    centre: Floats
    rows: Floats
    positives: Floats


def histograms(scored: DataFrame) -> dict[date, Histogram]:
    """As-of date → histogram of `purchase_probability` and `label`, in one Spark pass; at most dates × `BINS` rows come to the driver.

    Log-odds beyond ±12 (6e-6) fall into the outer bins. Bin centres, not means, stand for the scores, so that the
    result does not depend on the order in which Spark adds.
    """
    score = F.least(F.greatest(F.col(PROBABILITY), F.lit(_TINY)), F.lit(1 - _TINY))
    log_odds = F.ln(score / (1.0 - score))
    bin_of = F.least(F.greatest(F.floor((log_odds + LOGIT_LIMIT) / _WIDTH), F.lit(0)), F.lit(BINS - 1))
    counted = scored.groupBy("as_of_date", bin_of.alias("bin")).agg(F.count("*").alias("n"), F.sum("label").alias("ones")).collect()
    by_day: dict[date, list[tuple[int, int, int]]] = {}
    for row in counted:
        by_day.setdefault(row["as_of_date"], []).append((row["bin"], row["n"], row["ones"]))
    return {day: _histogram(np.array(sorted(by_day[day]), dtype=float).T) for day in sorted(by_day)}


def together(parts: Sequence[Histogram]) -> Histogram:
    """One histogram of all their rows."""
    lower, place = np.unique(np.concatenate([part.lower for part in parts]), return_inverse=True)
    centre = np.empty_like(lower)
    centre[place] = np.concatenate([part.centre for part in parts])
    rows, positives = np.zeros_like(lower), np.zeros_like(lower)
    np.add.at(rows, place, np.concatenate([part.rows for part in parts]))
    np.add.at(positives, place, np.concatenate([part.positives for part in parts]))
    return Histogram(lower, centre, rows, positives)


def isotonic(scores: Histogram) -> tuple[Floats, Floats]:
    """Knots (x raw, y calibrated) of a strictly rising line through the blocks of the isotonic (PAV) fit.

    Each block stands at the mean score of its rows with its share of positives, kept within [1/(n+2), (n+1)/(n+2)] for
    n rows in all; between blocks it is interpolated, so that two scores that differ stay different (plain isotonic
    steps would tie them and lose the ranking). Beyond the outer blocks the line rises by a hundredth only.
    Source: Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", 2002.
    """
    fitted = IsotonicRegression().fit_transform(scores.centre, scores.positives / scores.rows, sample_weight=scores.rows)
    total = scores.rows.sum()
    level, block = np.unique(np.clip(fitted, 1 / (total + 2), (total + 1) / (total + 2)), return_inverse=True)
    weight = np.bincount(block, weights=scores.rows)
    centre = np.bincount(block, weights=scores.rows * scores.centre) / weight
    return _with_ends(centre, level)


def platt(scores: Histogram) -> tuple[Floats, Floats] | None:
    """Knots of logit(y) = a · logit(s) + c; None where the fitted line does not rise.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999, here on log-odds.
    """
    slope, shift = _logistic(scores, [_logit])
    return _tabulated(lambda s: slope * _logit(s) + shift) if slope > 0 else None


def beta(scores: Histogram) -> tuple[Floats, Floats] | None:
    """Knots of logit(y) = a · ln(s) − b · ln(1 − s) + c with a, b ≥ 0; None where the fitted curve does not rise.

    Where one of a and b is fitted below 0 it is set to 0 and the other fitted again, as the authors do.
    Source: Kull, Silva Filho and Flach, "Beta calibration", 2017.
    """
    terms: list[Term] = [_log, _minus_log_of_rest]
    *slopes, shift = _logistic(scores, terms)
    if min(slopes) < 0:
        terms = [terms[int(np.argmax(slopes))]]
        *slopes, shift = _logistic(scores, terms)
    if min(slopes) < 0 or max(slopes) == 0:
        return None
    return _tabulated(lambda s: np.asarray(sum(slope * term(s) for slope, term in zip(slopes, terms, strict=True)) + shift))


METHODS: dict[str, Callable[[Histogram], tuple[Floats, Floats] | None]] = {"isotonic": isotonic, "beta": beta, "platt": platt}


def calibrated(by_day: Mapping[date, Histogram], method: str = "auto") -> tuple[Floats, Floats, Calibration]:
    """Knots from raw to calibrated probability, fitted on all days, and by which method and why.

    `auto`: each method is fitted on all days but the last and held against the last; the smallest log loss there wins. With
    one day, or where a side of that has one class only, nothing can be held against anything: isotonic.
    """
    *earlier, last = by_day
    scores = together(list(by_day.values()))
    if method != "auto":
        return _fitted(scores, Calibration(method, "set in train.calibration", {}))
    if not earlier:
        return _fitted(scores, Calibration("isotonic", f"the calibration slice has one date, {last}, and none later to choose on", {}))
    before = together([by_day[day] for day in earlier])
    if any(part.positives.sum() in (0, part.rows.sum()) for part in (before, by_day[last])):
        return _fitted(scores, Calibration("isotonic", f"before {last} or on it there is one class only", {}))
    losses = {name: _log_loss(by_day[last], *knots) for name, fit in METHODS.items() if (knots := fit(before)) is not None}
    best = min(losses, key=lambda name: losses[name])
    reason = f"smallest log loss on {last}, of methods fitted on the calibration slice before it ({earlier[0]} to {earlier[-1]})"
    return _fitted(scores, Calibration(best, reason, losses))


def _fitted(scores: Histogram, chosen: Calibration) -> tuple[Floats, Floats, Calibration]:
    knots = METHODS[chosen.method](scores)
    if knots is None:
        why = f"{chosen.method} calibration does not rise on the calibration slice"
        return *isotonic(scores), Calibration("isotonic", why, chosen.log_loss)
    return *knots, chosen


def _logistic(scores: Histogram, terms: Sequence[Term]) -> list[float]:
    """Coefficients of logit(P(positive)) in the terms and, last, the constant, by maximum likelihood; started from the identity."""
    features = np.stack([*(term(scores.centre) for term in terms), np.ones_like(scores.centre)])
    total = scores.rows.sum()

    def loss(weights: Floats) -> tuple[float, Floats]:
        z = (weights[:, None] * features).sum(axis=0)
        likelihood = (scores.rows * np.logaddexp(0, z) - scores.positives * z).sum() / total
        return likelihood, (features * (scores.rows * expit(z) - scores.positives)).sum(axis=1) / total

    found = minimize(loss, np.array([1.0] * len(terms) + [0.0]), jac=True, method="BFGS", options={"gtol": _TINY})
    return [float(weight) for weight in found.x]


def _tabulated(curve: Callable[[Floats], Floats]) -> tuple[Floats, Floats]:
    """A curve in log-odds as knots of a strictly rising line, close enough that interpolation moves nothing by a thousandth."""
    x = expit(np.linspace(-LOGIT_LIMIT, LOGIT_LIMIT, _KNOTS))
    y = np.clip(expit(curve(x)), _TINY, 1 - _TINY)
    rising = np.concatenate([[True], np.diff(y) > 0])
    return _with_ends(x[rising], y[rising])


def _with_ends(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """From 0 to 1, beyond the outer knots rising by a hundredth only."""
    ends = [y[0] * (1 - _END_SLOPE)], [y[-1] + _END_SLOPE * (1 - y[-1])]
    return np.concatenate([[0.0], x, [1.0]]), np.concatenate([ends[0], y, ends[1]])


def _log_loss(scores: Histogram, x: Floats, y: Floats) -> float:
    p = np.interp(scores.centre, x, y)
    return float(-(scores.positives * np.log(p) + (scores.rows - scores.positives) * np.log(1 - p)).sum() / scores.rows.sum())


def _histogram(counted: Floats) -> Histogram:
    bins, rows, positives = counted
    return Histogram(expit(bins * _WIDTH - LOGIT_LIMIT), expit((bins + 0.5) * _WIDTH - LOGIT_LIMIT), rows, positives)


def _logit(s: Floats) -> Floats:
    return np.asarray(np.log(s) - np.log1p(-s))


def _log(s: Floats) -> Floats:
    return np.asarray(np.log(s))


def _minus_log_of_rest(s: Floats) -> Floats:
    return np.asarray(-np.log1p(-s))
