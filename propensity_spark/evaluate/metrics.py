"""Metrics of scored test rows with 95% intervals, from counts per score bin.

One distributed pass counts rows and purchases per bin of the score, as they are and in every bootstrap round; every
metric is then a few lines of numpy over a matrix of (bins, 1 + rounds). Two scores of one bin count as tied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import OneClassOnly
from propensity_spark.evaluate.bootstrap import Floats, Sums, bootstrap_sums

RELIABILITY_BINS = 15
EDGE_SAMPLE_ROWS = 200_000
_TINY = 1e-15


@dataclass(frozen=True)
class Edges:
    """Cut points of one score: bin i holds edges[i−1] ≤ score < edges[i]. `groups` are cut points for calibration."""

    bins: Floats
    groups: Floats


@dataclass(frozen=True)
class Tally:
    """Weighted sums of one score; column 0 as observed, column 1… one bootstrap round each.

    rows, positives, expected (sum of the score): (bins, 1 + rounds), bins from the lowest score to the highest;
    squared_error, log_loss, missed: (1 + rounds), missed = purchases outside the candidates.
    """

    edges: Edges
    rows: Floats
    positives: Floats
    expected: Floats
    squared_error: Floats
    log_loss: Floats
    missed: Floats

    @property
    def total(self) -> Floats:
        return np.asarray(self.rows.sum(axis=0))

    @property
    def hits(self) -> Floats:
        return np.asarray(self.positives.sum(axis=0))

    def by_group(self, cells: Floats) -> Floats:
        """Bins summed to calibration groups."""
        lower = np.concatenate([[-np.inf], self.edges.bins])
        group = np.searchsorted(self.edges.groups, lower, side="right")
        result = np.zeros((len(self.edges.groups) + 1, cells.shape[1]))
        np.add.at(result, group, cells)
        return result


def find_edges(frame: DataFrame, scores: Sequence[str], bins: int, cuts: Mapping[str, Sequence[float]] | None = None) -> dict[str, Edges]:
    """About `bins` cut points per score, half by equal numbers of rows and half by equal numbers of purchases.

    Taken from at most about 200,000 rows chosen by a hash of their user and date, so the same rows give the same edges. With fewer
    distinct scores than bins each is a bin of its own and nothing is rounded. `cuts` adds cut points per score.
    """
    total = frame.count()
    share = min(1.0, EDGE_SAMPLE_ROWS / max(total, 1))
    drawn = F.pmod(F.xxhash64(*[name for name in ("user_id", "as_of_date", "item_id") if name in frame.columns]), F.lit(1_000_000))
    sample = frame.where(drawn < F.lit(round(share * 1_000_000))).select("label", *scores).toPandas()
    label = sample["label"].to_numpy()
    return {score: _edges(sample[score].to_numpy(np.float64), label, bins, (cuts or {}).get(score, ())) for score in scores}


def _edges(values: Floats, label: NDArray[Any], bins: int, cuts: Sequence[float]) -> Edges:
    groups = _quantiles(values, RELIABILITY_BINS)
    distinct = np.unique(values)
    if len(distinct) <= bins:
        fine = distinct[1:]
    else:  # a purchase that starts a bin would always lie below the bin's other rows: it gets a bin of its own
        bought = _quantiles(values[label > 0], bins // 4)
        above = distinct[np.minimum(np.searchsorted(distinct, bought, side="right"), len(distinct) - 1)]
        fine = np.concatenate([_quantiles(values, bins // 2), bought, above])
    return Edges(np.unique(np.concatenate([fine, groups, cuts])), groups)


def _quantiles(values: Floats, parts: int) -> Floats:
    """Inner cut points of `parts` equally large parts, each a value that occurs; the smallest value cuts nothing."""
    if len(values) == 0:
        return np.empty(0)
    cuts = np.unique(np.quantile(values, np.arange(1, parts) / parts, method="inverted_cdf"))
    return np.asarray(cuts[cuts > values.min()])


def tally(frame: DataFrame, edges: Mapping[str, Edges], rounds: int, seed: int, missed: Floats | None = None) -> dict[str, Tally]:
    """Count `frame` (user_id, label 0/1, one column of probabilities per score in `edges`) in one pass.

    A row whose score is null is left out of that score's tally. `missed`: weighted purchases outside the candidates.
    """
    starts, cells = {}, 0
    for score, edge in edges.items():
        starts[score] = cells
        cells += 3 * (len(edge.bins) + 1) + 2
    sums = bootstrap_sums(frame, ["label", *edges], _spread(edges, starts), cells=cells, rounds=rounds, seed=seed)
    nothing = np.zeros(1 + rounds) if missed is None else missed
    return {score: _read(sums[starts[score] :], edge, nothing) for score, edge in edges.items()}


def require_both_classes(tally: Tally, rows: str) -> None:
    """Raises OneClassOnly, naming the `rows`, when none or all of them were purchased."""
    if tally.hits[0] in (0, tally.total[0]):
        found = f"{tally.hits[0]:.0f} purchases in {tally.total[0]:.0f} rows"
        raise OneClassOnly(f"{rows}: expected rows with and without a purchase, found {found}; use more dates or more history")


def _spread(edges: Mapping[str, Edges], starts: Mapping[str, int]) -> Sums:
    def spread(chunk: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        label = chunk["label"].to_numpy()
        cells, rows, values = [], [], []
        for score, edge in edges.items():
            probability = chunk[score].to_numpy()  # null becomes NaN
            there = np.flatnonzero(~np.isnan(probability))
            bought = there[label[there] > 0]
            probability, y = probability[there], label[there]
            likelihood = np.clip(np.where(y > 0, probability, 1 - probability), _TINY, 1.0)
            bins, start = len(edge.bins) + 1, starts[score]
            bin_of_row = start + np.searchsorted(edge.bins, probability, side="right")
            last = np.full(len(there), start + 3 * bins)
            cells += [bin_of_row, bin_of_row[y > 0] + bins, bin_of_row + 2 * bins, last, last + 1]
            rows += [there, bought, there, there, there]
            values += [np.ones(len(there)), np.ones(len(bought)), probability, (probability - y) ** 2, -np.log(likelihood)]
        return np.concatenate(cells), np.concatenate(rows), np.concatenate(values)

    return spread


def _read(sums: Floats, edge: Edges, missed: Floats) -> Tally:
    bins = len(edge.bins) + 1
    rows, positives, expected, rest = np.split(sums, [bins, 2 * bins, 3 * bins])
    return Tally(edge, rows, positives, expected, rest[0], rest[1], missed)


def thinned(edges: Edges, keep_one_in: int) -> Edges:
    """Fewer cut points; the calibration groups stay."""
    return Edges(np.unique(np.concatenate([edges.bins[::keep_one_in], edges.groups])), edges.groups)


def united(tallies: Sequence[Tally], missed: Floats) -> Tally:
    """The tally of all rows from those of groups of them, which were cut at the same edges and share no row."""
    sums = {
        name: np.sum([getattr(t, name) for t in tallies], axis=0) for name in ("rows", "positives", "expected", "squared_error", "log_loss")
    }
    return Tally(edges=tallies[0].edges, missed=missed, **sums)


def constant(like: Tally, rate: float) -> Tally:
    """The tally of one and the same probability `rate` for every row of `like`."""
    hits, total = like.hits, like.total
    none = np.empty(0)
    squared = hits * (1 - rate) ** 2 + (total - hits) * rate**2
    loss = -hits * np.log(max(rate, _TINY)) - (total - hits) * np.log(max(1 - rate, _TINY))
    return replace(
        like,
        edges=Edges(none, none),
        rows=total[None],
        positives=hits[None],
        expected=rate * total[None],
        squared_error=squared,
        log_loss=loss,
    )


# --- metrics: Tally -> (1 + rounds,) --------------------------------------------------------------------------------


def roc_auc(t: Tally) -> Floats:
    """P(a purchase scores above a non-purchase), ties count half."""
    return binned_auc(t.positives, t.rows - t.positives)


def binned_auc(positives: Floats, others: Floats) -> Floats:
    """ROC-AUC of rows in bins of rising score (along the first axis), by their positives and others; rows of one bin count half."""
    below = np.cumsum(others, axis=0) - others
    return _ratio((positives * (below + others / 2)).sum(axis=0), positives.sum(axis=0) * others.sum(axis=0))


def auc_of_rows(score: NDArray[Any], label: NDArray[Any], weights: Floats) -> Floats:
    """ROC-AUC of rows under each column of `weights`, (rows, columns) → (columns); equal scores count half."""
    order = np.argsort(score, kind="stable")
    _, starts = np.unique(score[order], return_index=True)
    weights, label = weights[order], label[order, None]
    positives, others = (np.add.reduceat(weights * share, starts, axis=0) for share in (label, 1 - label))
    return binned_auc(positives, others)


def pr_auc(t: Tally) -> Floats:
    """Average precision over the candidates: Σ (recall[i] − recall[i−1]) · precision[i], from the highest score down."""
    found = np.cumsum(t.positives[::-1], axis=0)
    precision = _ratio(found, np.cumsum(t.rows[::-1], axis=0))
    return _ratio((t.positives[::-1] * np.nan_to_num(precision)).sum(axis=0), t.hits)


def brier(t: Tally) -> Floats:
    """Mean squared difference of probability and label."""
    return _ratio(t.squared_error, t.total)


def log_loss(t: Tally) -> Floats:
    """Mean −ln(probability given to what happened), in nats; probabilities within 1e-15 of 0 and 1 are moved there."""
    return _ratio(t.log_loss, t.total)


def calibration_error(t: Tally) -> Floats:
    """Expected calibration error: mean |purchase rate − mean probability| over up to 15 groups of equally many rows."""
    return _ratio(np.abs(t.by_group(t.positives - t.expected)).sum(axis=0), t.total)


def observed_over_expected(t: Tally) -> Floats:
    """Purchases over the sum of the probabilities; 1 where they are right on average."""
    return _ratio(t.hits, t.expected.sum(axis=0))


def candidate_recall(t: Tally) -> Floats:
    """Share of the purchases that were among the candidates at all."""
    return _ratio(t.hits, t.hits + t.missed)


METRICS: dict[str, Callable[[Tally], Floats]] = {
    "roc_auc": roc_auc,
    "pr_auc": pr_auc,
    "brier": brier,
    "log_loss": log_loss,
    "calibration_error": calibration_error,
}


def first_bin(t: Tally, cut: float) -> int:
    """The lowest bin of the scores at or above `cut`, exactly when that is one of the edges."""
    return int(np.searchsorted(t.edges.bins, cut, side="left")) + 1 if cut > 0 else 0


def at_threshold(t: Tally, threshold: float) -> dict[str, Floats]:
    """Confusion counts and precision, recall, F1 when rows at or above `threshold` are predicted to purchase.

    Recall counts purchases outside the candidates as missed. Exact when the threshold is one of the edges.
    """
    chosen = slice(first_bin(t, threshold), None)
    true, predicted = t.positives[chosen].sum(axis=0), t.rows[chosen].sum(axis=0)
    purchases = t.hits + t.missed
    return {
        "true_positive": true,
        "false_positive": predicted - true,
        "false_negative": purchases - true,
        "true_negative": t.total - predicted - (t.hits - true),
        "precision": _ratio(true, predicted),
        "recall": _ratio(true, purchases),
        "f1": _ratio(2 * true, predicted + purchases),
    }


def deciles(t: Tally) -> dict[str, Floats]:
    """Of the best 10%, 20% … 100% of the rows by score: gain = share of all purchases they hold (missed ones count),
    lift = purchase rate of each tenth over the overall rate. (10, 1 + rounds); rows of a bin that straddles are shared out.
    """
    rows = np.cumsum(t.rows[::-1], axis=0)
    found = np.cumsum(t.positives[::-1], axis=0)
    shares = np.arange(1, 11) / 10
    held = np.stack([np.interp(shares * r[-1], np.append(0, r), np.append(0, f)) for r, f in zip(rows.T, found.T, strict=True)], axis=1)
    each = np.diff(held, axis=0, prepend=0.0)
    return {"gain": _ratio(held, t.hits + t.missed), "lift": _ratio(each * 10, t.hits)}


def estimate(values: Floats) -> dict[str, float | None]:
    """Value and 95% interval (percentiles of the rounds; rounds in which it is undefined are left out)."""
    rounds = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(rounds, [0.025, 0.975]) if len(rounds) else (np.nan, np.nan)
    return {name: float(x) if np.isfinite(x) else None for name, x in (("value", values[0]), ("low", low), ("high", high))}


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom == 0, np.nan, top / np.where(bottom == 0, 1, bottom))
