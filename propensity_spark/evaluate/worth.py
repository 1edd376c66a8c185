"""What the scores are worth to whoever acts on them: purchases, lift, profit and ROI by tenth, by segment and at the threshold."""

from __future__ import annotations

from typing import Any

import numpy as np

from propensity_spark.config import ScoreSettings
from propensity_spark.evaluate import metrics as M
from propensity_spark.evaluate.bootstrap import Floats

CURVE_POINTS = 60


def cuts(threshold: float, score: ScoreSettings) -> list[float]:
    """Where the tally has to be cut for `worth` to be exact: the threshold and the limits of the segments."""
    return [threshold, score.low, _above(score.high)]


def worth(t: M.Tally, threshold: float, score: ScoreSettings) -> dict[str, Any]:
    """Numbers of the test slice when candidates are contacted best score first, each as {value, low, high}.

    `tenths`: of the candidates, best first; `segments`: High, Medium and Low as in gold/scores; `threshold`: those at or above
    it. Each has `contacts`, `expected` (sum of the probabilities), `purchases`, `rate` and `lift` (rate over that of all
    candidates), and where the settings know value and cost `profit` = value · purchases − cost · contacts and `roi` = profit
    over cost. `curve`: profit by share of the candidates contacted. A purchase counts whether or not a contact made it.
    """
    sums = np.stack([t.rows, t.expected, t.positives])[:, ::-1]
    held = np.concatenate([np.zeros_like(sums[:, :1]), np.cumsum(sums, axis=1)], axis=1)  # of the best 0, 1, 2 … bins
    low, high, at = (held[:, len(t.edges.bins) + 1 - M.first_bin(t, cut)] for cut in (score.low, _above(score.high), threshold))
    tenths = np.diff(_of_best(held, np.arange(11) / 10), axis=1)
    found = {
        "tenths": [_numbers(tenths[:, number], t, score) for number in range(10)],
        "segments": {name: _numbers(part, t, score) for name, part in (("High", high), ("Medium", low - high), ("Low", held[:, -1] - low))},
        "threshold": _numbers(at, t, score),
        "conversion_value": score.conversion_value,
        "contact_cost": score.contact_cost,
    }
    if score.conversion_value is not None:
        shares = np.linspace(0, 1, CURVE_POINTS + 1) ** 2  # closer among the best, where decisions are made
        profits = _profit(_of_best(held, shares), score)
        found["curve"] = [{"share": float(share), "profit": M.estimate(row)} for share, row in zip(shares, profits, strict=True)]
        found["contacted_share"] = float(at[0, 0] / t.total[0])
    return found


def _of_best(held: Floats, shares: Floats) -> Floats:
    """Rows, expected and purchases, (3, shares, 1 + rounds), of these shares of the rows, best scores first.

    A bin that straddles is shared out.
    """
    rows = held[0]
    columns = range(rows.shape[1])
    return np.array([np.stack([np.interp(shares * rows[-1, k], rows[:, k], sums[:, k]) for k in columns], axis=1) for sums in held])


def _numbers(part: Floats, t: M.Tally, score: ScoreSettings) -> dict[str, Any]:
    contacts, expected, purchases = part
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = purchases / contacts
        values = {
            "contacts": contacts,
            "expected": expected,
            "purchases": purchases,
            "rate": rate,
            "lift": rate / (t.hits / t.total),
        }
        if score.conversion_value is not None and score.contact_cost is not None:
            profit = _profit(part, score)
            values |= {"profit": profit, "roi": profit / (score.contact_cost * contacts)}
    return {name: M.estimate(found) for name, found in values.items()}


def _profit(part: Floats, score: ScoreSettings) -> Floats:
    contacts, _, purchases = part
    return np.asarray((score.conversion_value or 0.0) * purchases - (score.contact_cost or 0.0) * contacts)


def _above(limit: float) -> float:
    """The least score above a limit: what equals it is not High."""
    return float(np.nextafter(limit, 2.0))
