"""Isotonic calibration and the decision threshold, both from one bounded histogram of raw scores on the calibration slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from sklearn.isotonic import IsotonicRegression

from propensity_spark.score import PROBABILITY

BINS = 10_000
LOGIT_LIMIT = 12.0
_END_SLOPE = 0.01
_TINY = 1e-9

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """Raw scores in at most `BINS` bins of equal width in log-odds: lower edges and centres (as probabilities), rows, positives."""

    lower: Floats
    centre: Floats
    rows: Floats
    positives: Floats


def histogram(scored: DataFrame) -> Histogram:
    """Count `purchase_probability` and `label` into bins, in one Spark pass; at most `BINS` rows come to the driver.

    Log-odds beyond ±12 (6e-6) fall into the outer bins. Bin centres, not means, stand for the scores, so that the
    result does not depend on the order in which Spark adds.
    """
    width = 2 * LOGIT_LIMIT / BINS
    score = F.least(F.greatest(F.col(PROBABILITY), F.lit(_TINY)), F.lit(1 - _TINY))
    log_odds = F.ln(score / (1.0 - score))
    bin_of = F.least(F.greatest(F.floor((log_odds + LOGIT_LIMIT) / width), F.lit(0)), F.lit(BINS - 1))
    counted = scored.groupBy(bin_of.alias("bin")).agg(F.count("*").alias("n"), F.sum("label").alias("ones")).orderBy("bin").collect()
    bins = np.array([row["bin"] for row in counted], dtype=float)
    return Histogram(
        lower=_sigmoid(bins * width - LOGIT_LIMIT),
        centre=_sigmoid((bins + 0.5) * width - LOGIT_LIMIT),
        rows=np.array([row["n"] for row in counted], dtype=float),
        positives=np.array([row["ones"] for row in counted], dtype=float),
    )


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
    y = np.concatenate([[level[0] * (1 - _END_SLOPE)], level, [level[-1] + _END_SLOPE * (1 - level[-1])]])
    return np.concatenate([[0.0], centre, [1.0]]), y


def best_threshold(scores: Histogram, x: Floats, y: Floats) -> float:
    """The calibrated probability at or above which predicting a purchase gives the best F1 on the histogram's rows.

    Candidates are the lower edges of the bins; equal F1: the higher threshold.
    """
    true_positives = np.cumsum(scores.positives[::-1])
    predicted = np.cumsum(scores.rows[::-1])
    f1 = 2 * true_positives / (predicted + scores.positives.sum())
    return float(np.interp(scores.lower[::-1][int(np.argmax(f1))], x, y))


def _sigmoid(log_odds: Floats) -> Floats:
    result: Floats = 1.0 / (1.0 + np.exp(-log_odds))
    return result
