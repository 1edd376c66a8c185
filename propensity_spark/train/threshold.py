"""The decision threshold: at or above which calibrated probability a candidate is worth a contact."""

from __future__ import annotations

import numpy as np

from propensity_spark.config import ScoreSettings, Settings
from propensity_spark.train.calibrate import Floats, Histogram

NOBODY = 1.0  # calibrated probabilities stay below it


def best_threshold(scores: Histogram, x: Floats, y: Floats, settings: ScoreSettings, contacts: float = np.inf) -> float:
    """The calibrated probability at or above which predicting a purchase is best on the histogram's rows, by `score.threshold_by`.

    f1: 2 TP / (predicted + purchases). youden: J = TP rate − FP rate (Youden, "Index for rating diagnostic tests", 1950).
    profit: `conversion_value` · TP − `contact_cost` · predicted; when nobody is worth the contact, 1. With calibrated
    probabilities that is where p · value = cost (Elkan, "The foundations of cost-sensitive learning", 2001). budget: as many
    as possible, at most `contacts` of the rows. Candidates are the lower edges of the bins; where equal, the higher threshold.
    """
    hits = np.cumsum(scores.positives[::-1])
    predicted = np.cumsum(scores.rows[::-1])
    purchases, others = hits[-1], predicted[-1] - hits[-1]
    if settings.threshold_by == "f1":
        worth = 2 * hits / (predicted + purchases)
    elif settings.threshold_by == "youden":
        worth = hits / max(purchases, 1) - (predicted - hits) / max(others, 1)
    elif settings.threshold_by == "profit":
        worth = (settings.conversion_value or 0) * hits - (settings.contact_cost or 0) * predicted
    else:
        worth = np.where(predicted <= contacts, predicted, 0.0)
    best = int(np.argmax(worth))
    if settings.threshold_by in ("profit", "budget") and worth[best] <= 0:
        return NOBODY
    return float(np.interp(scores.lower[::-1][best], x, y))


def allowed_contacts(settings: Settings, rows: float, days: int) -> float:
    """How many of the `rows` of the calibration slice, which has `days` as-of dates, the budget allows; infinite without one.

    `budget_contacts` is of a whole day, of whose users the slice may hold a share only.
    """
    score = settings.score
    if score.budget_share is not None:
        return score.budget_share * rows
    if score.budget_contacts is None:
        return np.inf
    of_users = settings.sampling.user_share if settings.grain == "user_item" else 1.0
    of_slice = settings.split.calibration_users if settings.split.by == "users" else 1.0
    return score.budget_contacts * days * of_users * of_slice
