"""How far a scoring day is from what its model was trained on, and whether that is a reason to train again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import MonitorSettings
from propensity_spark.monitor.performance import FINE_EDGES
from propensity_spark.predictor import ReferenceBins
from propensity_spark.score import PROBABILITY
from propensity_spark.train.reference import bin_weights, jensen_shannon, psi, with_codes, with_subjects

RETRAIN = "retrain"
HISTOGRAM = "score_histogram"


@dataclass(frozen=True)
class Measure:
    """One measure of one subject: a feature, `purchase_probability`, a table or the model. See schemas.DRIFT."""

    subject: str
    measure: str
    value: float | None
    limit: float | None = None
    note: str | None = None

    @property
    def breached(self) -> bool:
        """A measure that has a limit breaches it when it is above it, or could not be had at all."""
        return self.limit is not None and (self.value is None or self.value > self.limit)


def counts(matrix: DataFrame, baseline: Mapping[str, ReferenceBins]) -> dict[date, dict[str, list[float]]]:
    """As-of date → subject of the baseline → rows in each of its bins and, last, its nulls; and `score_histogram`: rows per bin of
    `FINE_EDGES` of the probability.

    `matrix`: one row per scored candidate: key, features, `purchase_probability`, `sample_weight` 1. One Spark pass.
    """
    rows = with_subjects(matrix).withColumn(HISTOGRAM, F.col(PROBABILITY))
    rows = with_codes(rows, {subject: bins.categories for subject, bins in baseline.items() if bins.categories})
    return bin_weights(rows, {subject: bins.edges for subject, bins in baseline.items()} | {HISTOGRAM: FINE_EDGES})


def drift(baseline: Mapping[str, ReferenceBins], counted: Mapping[str, Sequence[float]], settings: MonitorSettings) -> list[Measure]:
    """PSI, Jensen–Shannon divergence and null shares of every subject of the baseline, in its order; of a categorical one also
    the share of rows with a value never seen in training.

    `counted`: rows of the scoring day in each bin of the subject and, last, its nulls (at least one row). Null is a bin
    of its own, so that a feature that goes missing drifts. The limit of a feature is `psi_limit`, or `usual_psi_factor` times the
    largest PSI that a single training date showed, where that is more: what a whole market shares on one day differs from months
    of it by nature, and wanders on after them.
    """
    measures = []
    for subject, reference in baseline.items():
        found = shares(counted[subject])
        usual = settings.usual_psi_factor * reference.usual_psi
        limit = settings.score_psi_limit if subject == PROBABILITY else max(settings.psi_limit, usual)
        measures += [
            Measure(subject, "psi", psi(reference.expected, found), limit),
            Measure(subject, "jensen_shannon", jensen_shannon(reference.expected, found)),
            Measure(subject, "null_share", found[-1]),
            Measure(subject, "baseline_null_share", reference.null_share),
            Measure(subject, "null_increase", found[-1] - reference.null_share),
        ]
        if reference.categories:
            measures.append(Measure(subject, "unseen_share", found[-2], settings.max_unseen_share))
    return measures


def shares(counts: Sequence[float]) -> list[float]:
    """Counts over their sum."""
    found: list[float] = (np.asarray(counts, dtype=float) / sum(counts)).tolist()
    return found


def freshness(newest: Mapping[str, date | None], as_of: date, settings: MonitorSettings) -> list[Measure]:
    """Days from each table's newest date visible as of D to D; null, and a breach, when it has no visible row."""
    return [
        Measure(
            subject=table,
            measure="age_days",
            value=None if day is None else float((as_of - day).days),
            limit=float(settings.max_age_days),
            note="no row is visible" if day is None else f"newest: {day}",
        )
        for table, day in newest.items()
    ]


def volume(rows: float, earlier: tuple[date, float] | None) -> list[Measure]:
    """Rows scored and, where a day was monitored before, their relative change against the last of those."""
    if earlier is None:
        return [Measure("gold/scores", "rows", rows)]
    change = rows / earlier[1] - 1
    note = f"{change:+.1%} against {earlier[1]:,.0f} as of {earlier[0]}"
    return [Measure("gold/scores", "rows", rows, note=note), Measure("gold/scores", "rows_change", change, note=note)]


def verdict(measures: Sequence[Measure], gain: Mapping[str, float], settings: MonitorSettings, fallen: Sequence[str] = ()) -> list[Measure]:
    """How many features drifted, what share of `gain` (`PropensityModel.gain`) they made, and retrain (1, a breach) or not (0) with the
    reason in the note.

    Yes when the score's PSI is above its limit, the features above theirs made more than `max_drifted_gain` of what the trees gained, or
    the realised performance has fallen, for the reasons `fallen`. What the model hardly looks at is no reason, whatever it does. Nor is
    old data: a new model would learn from the same old data.
    """
    score = next(m for m in measures if m.subject == PROBABILITY and m.measure == "psi")
    features = [m for m in measures if m.measure == "psi" and m.subject != PROBABILITY]
    drifted = sorted((m for m in features if m.breached), key=lambda m: -(m.value or 0.0))
    worst = ", ".join(f"{m.subject} {m.value:.2f}" for m in drifted[:5]) + (", …" if len(drifted) > 5 else "")
    reason = f"{len(drifted)} of {len(features)} features drifted" + (f" ({worst})" if worst else "")
    many = Measure("model", "drifted_features", float(len(drifted)), float(settings.max_drifted_features), reason)
    weight = Measure("model", "drifted_gain", sum(gain.get(m.subject, 0.0) for m in drifted), settings.max_drifted_gain, reason)
    said = reason + (f", which made {weight.value:.0%} of what the trees gained" if drifted else "")
    said += f", score PSI {score.value:.3f}" + (" is above its limit" if score.breached else "")
    retrain = score.breached or weight.breached or bool(fallen)
    return [many, weight, Measure("model", RETRAIN, float(retrain), limit=0.0, note="; ".join([said, *fallen]))]
