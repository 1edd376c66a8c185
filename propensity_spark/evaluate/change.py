"""Why one score is not what it was: the change in log-odds, shared out to the features by their SHAP values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propensity_spark.predictor import PropensityModel


@dataclass(frozen=True)
class Scored:
    """One row as scored on a date: the published probability, and the version of the model that gave it."""

    as_of_date: date
    probability: float
    model_version: str


@dataclass(frozen=True)
class Side:
    """The row of one date as the explaining model sees it: log-odds before calibration, calibrated probability."""

    scored: Scored
    margin: float
    probability: float

    @property
    def raw_probability(self) -> float:
        """Before calibration."""
        return float(1.0 / (1.0 + np.exp(-self.margin)))


@dataclass(frozen=True)
class Moved:
    """One feature: its value (null: None) and its SHAP value (log-odds) on both dates.

    `share` is of the change in log-odds (all features sum to 1; negative: against the change; None when there is no
    change), `points` the same share of the change in probability.
    """

    feature: str
    value_before: float | None
    value_after: float | None
    contribution_before: float
    contribution_after: float
    share: float | None
    points: float | None

    @property
    def difference(self) -> float:
        return self.contribution_after - self.contribution_before

    @property
    def has_moved(self) -> bool:
        return self.value_before != self.value_after or self.difference != 0.0


@dataclass(frozen=True)
class Change:
    """What became of one score between two dates; `moved` with the greatest difference first. `item_id` null: grain user."""

    model_name: str
    model_version: str
    item_id: str | None
    before: Side
    after: Side
    moved: tuple[Moved, ...]
    notes: tuple[str, ...]

    @property
    def margin(self) -> float:
        return self.after.margin - self.before.margin

    @property
    def probability(self) -> float:
        return self.after.probability - self.before.probability


def change(model: PropensityModel, matrix: NDArray[np.float32], before: Scored, after: Scored, item_id: str | None = None) -> Change:
    """Explain the second row of `matrix` (2, features; NaN = null) against the first with one model for both.

    The differences of the SHAP values sum to the change in log-odds, since what all rows start from is the same on both
    dates. A feature that kept its value may still have moved: what it is worth depends on the others.
    """
    contributions, probability = model.contributions(matrix), model.predict(matrix)
    margins = contributions.sum(axis=1)
    total, points = float(margins[1] - margins[0]), float(probability[1] - probability[0])
    sides = [Side(scored, float(margins[i]), float(probability[i])) for i, scored in enumerate((before, after))]
    moved = []
    for i, name in enumerate(model.features):
        values, (first, second) = matrix[:, i], contributions[:, i].tolist()
        share = (second - first) / total if total else None
        moved.append(Moved(name, _shown(values[0]), _shown(values[1]), first, second, share, None if share is None else share * points))
    moved.sort(key=lambda one: (-abs(one.difference), one.feature))
    return Change(model.name, model.version, item_id, sides[0], sides[1], tuple(moved), tuple(_notes(model, sides)))


def as_json(found: Change) -> dict[str, Any]:
    """The change as plain values, every feature that moved included."""
    return {
        "model": {"name": found.model_name, "version": found.model_version},
        "item_id": found.item_id,
        "from": _side_json(found.before),
        "to": _side_json(found.after),
        "change": {"probability": found.probability, "log_odds": found.margin},
        "features": [
            {
                "feature": one.feature,
                "from": one.value_before,
                "to": one.value_after,
                "contribution_from": one.contribution_before,
                "contribution_to": one.contribution_after,
                "difference": one.difference,
                "share": one.share,
                "probability_points": one.points,
            }
            for one in found.moved
            if one.has_moved
        ],
        "notes": list(found.notes),
    }


def _side_json(side: Side) -> dict[str, Any]:
    return {
        "as_of_date": side.scored.as_of_date.isoformat(),
        "probability": side.probability,
        "raw_probability": side.raw_probability,
        "log_odds": side.margin,
        "scored": {"probability": side.scored.probability, "model_version": side.scored.model_version},
    }


def _shown(value: np.float32) -> float | None:
    """The shortest number that is this float32; NaN is null."""
    return None if np.isnan(value) else float(str(value))


def _notes(model: PropensityModel, sides: Iterable[Side]) -> Iterable[str]:
    for side in sides:
        scored, said = side.scored, f"as of {side.scored.as_of_date}"
        if scored.model_version != model.version:
            yield (
                f"The score {said} came from version {scored.model_version}: {scored.probability:.4f}; version {model.version}, which "
                f"explains both dates, gives {side.probability:.4f} there. That difference is between models, and is not explained here."
            )
        elif abs(scored.probability - side.probability) > 1e-9:
            yield (
                f"The score {said} was {scored.probability:.4f}; from today's features of that date it is {side.probability:.4f}: they "
                "were computed anew since, with what came late."
            )
