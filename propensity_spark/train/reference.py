"""The distributions that monitoring holds later days against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.predictor import ReferenceBins
from propensity_spark.train.calibrate import Floats, Histogram

_SAMPLE_ROWS = 100_000
_COUNTED = "as_of_date date, subject int, bin int, weight double"
SHARE_FLOOR = 1e-4


def psi(expected: Sequence[float], found: Sequence[float]) -> float:
    """Population stability index Σ (f − e) · ln(f / e) over bins with expected shares e and found shares f.

    0 when they are equal; by custom below 0.1 is small, above 0.2 is a shift. Shares below 1e-4 count as 1e-4, so that
    an empty bin is a large but finite difference.
    Source: Siddiqi, "Credit Risk Scorecards", 2006, chapter 8 (there without a floor).

    >>> psi([0.5, 0.5], [0.5, 0.5])
    0.0
    >>> round(psi([0.5, 0.5], [0.75, 0.25]), 4)
    0.2747
    """
    e = np.maximum(np.asarray(expected, dtype=float), SHARE_FLOOR)
    f = np.maximum(np.asarray(found, dtype=float), SHARE_FLOOR)
    return float(np.sum((f - e) * np.log(f / e)))


def feature_bins(rows: DataFrame, features: Sequence[str], bins: int) -> dict[str, ReferenceBins]:
    """Bins of every feature over `rows` (which have `sample_weight`), cut at quantiles of an even sample of them.

    Shares count every row by its weight, so that sampled negatives stand for all. Values that many rows share make fewer
    bins. Two Spark passes, whatever the number of features; what comes to the driver is features × bins numbers.
    """
    edges = _edges(rows, features, bins)
    counted = list(bin_weights(rows, edges).values())
    return {name: _reference(edges[name], [day[name] for day in counted]) for name in features}


def score_bins(scores: Histogram, x: Floats, y: Floats, bins: int) -> ReferenceBins:
    """Bins of the calibrated probability over the rows of the calibration histogram (no pass over data)."""
    cumulative = np.cumsum(scores.rows) / scores.rows.sum()
    cuts = np.unique(np.searchsorted(cumulative, np.arange(1, bins) / bins) + 1)
    cuts = cuts[cuts < len(scores.rows)]
    shares = [part.sum() / scores.rows.sum() for part in np.split(scores.rows, cuts)]
    return ReferenceBins(tuple(np.interp(scores.lower[cuts], x, y).tolist()), tuple(float(share) for share in shares), 0.0)


def bin_weights(rows: DataFrame, edges: Mapping[str, Sequence[float]]) -> dict[date, dict[str, list[float]]]:
    """As-of date → column → weight in each of its bins (as `ReferenceBins` counts them) and, last, of its nulls.

    `rows` has the columns, `as_of_date` and `sample_weight`. One Spark pass; to the driver come dates × columns × bins.
    """
    names = list(edges)
    cuts = [np.asarray(edges[name], dtype=float) for name in names]

    def count(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for batch in batches:
            matrix = batch.column(0).flatten().to_numpy(zero_copy_only=False).reshape(-1, len(names))
            bins = [np.where(np.isnan(x), len(cut) + 1, np.searchsorted(cut, x)) for x, cut in zip(matrix.T, cuts, strict=True)]
            weight = batch.column(1).to_numpy(zero_copy_only=False)
            days = batch.column(2).to_numpy(zero_copy_only=False)
            for day in np.unique(days):
                of_day = days == day
                totals = [np.bincount(b[of_day], weight[of_day], len(cut) + 2).astype(float) for b, cut in zip(bins, cuts, strict=True)]
                yield _counted(day, totals)

    packed = rows.select(
        F.array(*(F.col(name).cast("double") for name in names)).alias("values"), F.col("sample_weight").cast("double"), "as_of_date"
    )
    summed = packed.mapInArrow(count, _COUNTED).groupBy("as_of_date", "subject", "bin").agg(F.sum("weight").alias("weight")).collect()
    result = {row["as_of_date"]: {name: [0.0] * (len(edges[name]) + 2) for name in names} for row in summed}
    for row in summed:
        result[row["as_of_date"]][names[row["subject"]]][row["bin"]] = row["weight"]
    return result


def _counted(day: np.datetime64, totals: list[Floats]) -> pa.RecordBatch:
    subject = np.concatenate([np.full(len(total), position) for position, total in enumerate(totals)])
    columns = [
        pa.array(np.full(len(subject), day), pa.date32()),
        pa.array(subject, pa.int32()),
        pa.array(np.concatenate([np.arange(len(total)) for total in totals]), pa.int32()),
        pa.array(np.concatenate(totals)),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["as_of_date", "subject", "bin", "weight"])


def _edges(rows: DataFrame, features: Sequence[str], bins: int) -> dict[str, tuple[float, ...]]:
    """Distinct inner quantiles per feature, from about `_SAMPLE_ROWS` rows chosen by hash."""
    keep_one_in = max(1, rows.count() // _SAMPLE_ROWS)
    values = [F.col(name).cast("double") for name in features]
    sample = rows.where(F.pmod(F.xxhash64(*values), F.lit(keep_one_in)) == 0)
    cuts = F.array(*(F.lit(i / bins) for i in range(1, bins)))
    row = sample.agg(*(F.percentile_approx(value, cuts, 1000).alias(name) for value, name in zip(values, features, strict=True))).first()
    assert row is not None  # an aggregate without keys has one row
    return {name: tuple(sorted(set(row[name] or ()))) for name in features}


def _reference(edges: tuple[float, ...], by_day: list[list[float]]) -> ReferenceBins:
    *present, null = np.sum(by_day, axis=0).tolist()
    total, all_rows = sum(present), sum(present) + null
    shares = tuple(weight / total if total else 0.0 for weight in present)
    bins = ReferenceBins(edges, shares, null / all_rows if all_rows else 0.0)
    usual = max(psi(bins.expected, [weight / sum(day) for weight in day]) for day in by_day)
    return replace(bins, usual_psi=usual)
