"""How far a scoring day is from what its model was trained on, and whether that is a reason to train again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from propensity_spark.config import MonitorSettings
from propensity_spark.predictor import ReferenceBins
from propensity_spark.score import PROBABILITY
from propensity_spark.train.reference import psi

RETRAIN = "retrain"


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


def drift(baseline: Mapping[str, ReferenceBins], counted: Mapping[str, Sequence[float]], settings: MonitorSettings) -> list[Measure]:
    """PSI, null share and the baseline's null share of every subject of the baseline, in its order.

    `counted`: rows of the scoring day in each bin of the subject and, last, its nulls (at least one row). Null is a bin
    of its own, so that a feature that goes missing drifts. The limit is the one in conf/, or the largest PSI that a single
    training date showed, where that is more: what a whole market shares on one day differs from months of it by nature.
    """
    measures = []
    for subject, reference in baseline.items():
        found = np.asarray(counted[subject], dtype=float) / sum(counted[subject])
        limit = settings.score_psi_limit if subject == PROBABILITY else settings.psi_limit
        measures += [
            Measure(subject, "psi", psi(reference.expected, found.tolist()), max(limit, reference.usual_psi)),
            Measure(subject, "null_share", float(found[-1])),
            Measure(subject, "baseline_null_share", reference.null_share),
        ]
    return measures


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


def volume(rows: float, earlier: tuple[date, float] | None) -> Measure:
    """Rows scored, with the change against the last monitored day before, if there is one."""
    note = None if earlier is None else f"{rows / earlier[1] - 1:+.1%} against {earlier[1]:,.0f} as of {earlier[0]}"
    return Measure("gold/scores", "rows", rows, note=note)


def verdict(measures: Sequence[Measure], settings: MonitorSettings) -> Measure:
    """Retrain (1, a breach) or not (0), with the reason in the note.

    Yes when the score's PSI is above its limit, or more than `max_drifted_features` features are above theirs. Old data is
    no reason: a new model would learn from the same old data.
    """
    score = next(m for m in measures if m.subject == PROBABILITY and m.measure == "psi")
    features = [m for m in measures if m.measure == "psi" and m.subject != PROBABILITY]
    drifted = sorted((m for m in features if m.breached), key=lambda m: -(m.value or 0.0))
    worst = ", ".join(f"{m.subject} {m.value:.2f}" for m in drifted[:5]) + (", …" if len(drifted) > 5 else "")
    reason = f"{len(drifted)} of {len(features)} features drifted" + (f" ({worst})" if worst else "")
    reason += f", score PSI {score.value:.3f}" + (" is above its limit" if score.breached else "")
    retrain = score.breached or len(drifted) > settings.max_drifted_features
    return Measure("model", RETRAIN, float(retrain), limit=0.0, note=reason)
