"""The distributions that monitoring holds later days against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.predictor import ReferenceBins
from propensity_spark.train.calibrate import Floats, Histogram

_SAMPLE_ROWS = 100_000
_COUNTED = "subject int, bin int, weight double"


def feature_bins(rows: DataFrame, features: Sequence[str], bins: int) -> dict[str, ReferenceBins]:
    """Bins of every feature over `rows` (which have `sample_weight`), cut at quantiles of an even sample of them.

    Shares count every row by its weight, so that sampled negatives stand for all. Values that many rows share make fewer
    bins. Two Spark passes, whatever the number of features; what comes to the driver is features × bins numbers.
    """
    edges = _edges(rows, features, bins)
    counted = bin_weights(rows, edges)
    return {name: _reference(edges[name], counted[name]) for name in features}


def score_bins(scores: Histogram, x: Floats, y: Floats, bins: int) -> ReferenceBins:
    """Bins of the calibrated probability over the rows of the calibration histogram (no pass over data)."""
    cumulative = np.cumsum(scores.rows) / scores.rows.sum()
    cuts = np.unique(np.searchsorted(cumulative, np.arange(1, bins) / bins) + 1)
    cuts = cuts[cuts < len(scores.rows)]
    shares = [part.sum() / scores.rows.sum() for part in np.split(scores.rows, cuts)]
    return ReferenceBins(tuple(np.interp(scores.lower[cuts], x, y).tolist()), tuple(float(share) for share in shares), 0.0)


def bin_weights(rows: DataFrame, edges: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Column → weight in each of its bins (as `ReferenceBins` counts them) and, last, of its nulls; one Spark pass.

    `rows` has the columns and `sample_weight`.
    """
    names = list(edges)
    cuts = [np.asarray(edges[name], dtype=float) for name in names]

    def count(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        totals = [np.zeros(len(cut) + 2) for cut in cuts]
        for batch in batches:
            matrix = batch.column(0).flatten().to_numpy(zero_copy_only=False).reshape(-1, len(names))
            weight = batch.column(1).to_numpy()
            for position, (column, cut) in enumerate(zip(matrix.T, cuts, strict=True)):
                bin_of = np.where(np.isnan(column), len(cut) + 1, np.searchsorted(cut, column))
                totals[position] += np.bincount(bin_of, weights=weight, minlength=len(cut) + 2)
        subject = np.concatenate([np.full(len(total), position) for position, total in enumerate(totals)])
        bin_ = np.concatenate([np.arange(len(total)) for total in totals])
        columns = [pa.array(subject, pa.int32()), pa.array(bin_, pa.int32()), pa.array(np.concatenate(totals))]
        yield pa.RecordBatch.from_arrays(columns, names=["subject", "bin", "weight"])

    packed = rows.select(F.array(*(F.col(name).cast("double") for name in names)).alias("values"), F.col("sample_weight").cast("double"))
    summed = packed.mapInArrow(count, _COUNTED).groupBy("subject", "bin").agg(F.sum("weight").alias("weight")).collect()
    result = {name: [0.0] * (len(edges[name]) + 2) for name in names}
    for row in summed:
        result[names[row["subject"]]][row["bin"]] = row["weight"]
    return result


def _edges(rows: DataFrame, features: Sequence[str], bins: int) -> dict[str, tuple[float, ...]]:
    """Distinct inner quantiles per feature, from about `_SAMPLE_ROWS` rows chosen by hash."""
    keep_one_in = max(1, rows.count() // _SAMPLE_ROWS)
    values = [F.col(name).cast("double") for name in features]
    sample = rows.where(F.pmod(F.xxhash64(*values), F.lit(keep_one_in)) == 0)
    cuts = F.array(*(F.lit(i / bins) for i in range(1, bins)))
    row = sample.agg(*(F.percentile_approx(value, cuts, 1000).alias(name) for value, name in zip(values, features, strict=True))).first()
    assert row is not None  # an aggregate without keys has one row
    return {name: tuple(sorted(set(row[name] or ()))) for name in features}


def _reference(edges: tuple[float, ...], weights: list[float]) -> ReferenceBins:
    *present, null = weights
    total, all_rows = sum(present), sum(weights)
    shares = tuple(weight / total if total else 0.0 for weight in present)
    return ReferenceBins(edges, shares, null / all_rows if all_rows else 0.0)
