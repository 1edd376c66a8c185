"""The distributions that monitoring holds later days against, and how far a later one is from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.features.registry import FEATURES
from propensity_spark.features.rfm import rfm_segment
from propensity_spark.predictor import ReferenceBins
from propensity_spark.train.calibrate import Floats, Histogram

_SAMPLE_ROWS = 100_000
_CATEGORICAL = frozenset(feature.name for feature in FEATURES if feature.categorical)
_FEW_EDGES = 32  # up to here counting what is above each edge is faster than searching among them
Values = npt.NDArray[np.float32]
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


def jensen_shannon(expected: Sequence[float], found: Sequence[float]) -> float:
    """Jensen–Shannon divergence in bits: ½ Σ e · log2(e / m) + ½ Σ f · log2(f / m) with m = (e + f) / 2, and 0 · log 0 = 0.

    0 when the shares are equal, 1 when no bin is filled in both. It needs no floor, so an empty bin weighs what it holds.
    Source: Lin, "Divergence measures based on the Shannon entropy", 1991.

    >>> jensen_shannon([1.0, 0.0], [0.0, 1.0])
    1.0
    """
    e, f = np.asarray(expected, dtype=float), np.asarray(found, dtype=float)
    middle = (e + f) / 2
    halves = [np.sum(p[p > 0] * np.log2(p[p > 0] / middle[p > 0])) for p in (e, f)]
    return max(0.0, float(sum(halves) / 2))


def with_subjects(rows: DataFrame) -> DataFrame:
    """`rows` of a matrix and `rfm_segment`, which the model does not see but people read, where the three grades are there."""
    grades = ("rfm_r", "rfm_f", "rfm_m")
    if not set(grades) <= set(rows.columns):
        return rows
    return rows.withColumn("rfm_segment", rfm_segment(*(F.col(grade) for grade in grades)))


def feature_bins(rows: DataFrame, features: Sequence[str], bins: int) -> dict[str, ReferenceBins]:
    """Bins of every feature over `rows` (which have `sample_weight`): numbers cut at quantiles of an even sample of them,
    a bin for each value of a categorical one, and `rfm_segment` besides.

    Shares count every row by its weight, so that sampled negatives stand for all. Values that many rows share make fewer
    bins. Three Spark passes, whatever the number of features; what comes to the driver is features × bins numbers.
    """
    rows = with_subjects(rows)
    subjects = [*features, *(name for name in ("rfm_segment",) if name in rows.columns and name not in features)]
    categories = _categories(rows, [name for name in subjects if name in _CATEGORICAL])
    edges = _edges(rows, [name for name in subjects if name not in categories], bins)
    edges |= {name: code_edges(values) for name, values in categories.items()}
    counted = list(bin_weights(with_codes(rows, categories), {name: edges[name] for name in subjects}).values())
    found = {name: _reference(edges[name], [day[name] for day in counted]) for name in subjects}
    return {name: replace(one, categories=categories.get(name, ())) for name, one in found.items()}


def score_bins(scores: Histogram, x: Floats, y: Floats, bins: int) -> ReferenceBins:
    """Bins of the calibrated probability over the rows of the calibration histogram (no pass over data)."""
    cumulative = np.cumsum(scores.rows) / scores.rows.sum()
    cuts = np.unique(np.searchsorted(cumulative, np.arange(1, bins) / bins) + 1)
    cuts = cuts[cuts < len(scores.rows)]
    shares = [part.sum() / scores.rows.sum() for part in np.split(scores.rows, cuts)]
    return ReferenceBins(tuple(np.interp(scores.lower[cuts], x, y).tolist()), tuple(float(share) for share in shares), 0.0)


def code_edges(categories: Sequence[str]) -> tuple[float, ...]:
    """Edges that put the codes 1 … k of `with_codes` into a bin each, and k + 1, a value never seen, into the one after them."""
    return tuple(float(code) for code in range(1, len(categories) + 1))


def with_codes(rows: DataFrame, categories: Mapping[str, Sequence[str]]) -> DataFrame:
    """`rows` with each of these columns replaced by the position (1 … k) of its value among its categories; another value: k + 1.

    Null stays null.
    """

    def code(name: str, values: Sequence[str]) -> Column:
        text = F.col(name).cast("string")
        place = F.array_position(F.array(*(F.lit(value) for value in values)).cast("array<string>"), text)
        return F.when(text.isNull(), None).when(place == 0, len(values) + 1).otherwise(place)

    return rows.withColumns({name: code(name, values) for name, values in categories.items()})


def bin_weights(rows: DataFrame, edges: Mapping[str, Sequence[float]], by: str = "as_of_date") -> dict[Any, dict[str, list[float]]]:
    """Value of `by` (as-of dates, or another column with few values and no null) → column → weight in each of its bins (as
    `ReferenceBins` counts them) and, last, of its nulls.

    `rows` has the columns, `by` and `sample_weight`. Values and edges are held against each other as float32, as the model sees
    them. One Spark pass; to the driver come values × columns × bins.
    """
    names = list(edges)
    cuts = [np.asarray(edges[name], dtype=np.float32) for name in names]

    def count(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        totals: dict[Any, list[Floats]] = {}
        for batch in batches:
            matrix = np.ascontiguousarray(batch.column(0).flatten().to_numpy(zero_copy_only=False).reshape(-1, len(names)).T)
            weight = batch.column(1).to_numpy(zero_copy_only=False)
            is_plain = bool((weight == 1).all())
            values = batch.column(2).to_numpy(zero_copy_only=False)
            for value in np.unique(values):
                chosen = slice(None) if (values == value).all() else values == value
                total = totals.setdefault(value, [np.zeros(len(cut) + 2) for cut in cuts])
                for column, cut in enumerate(cuts):
                    total[column] += _weights(matrix[column, chosen], None if is_plain else weight[chosen], cut)
        for value, total in totals.items():
            yield _counted(value, total)

    matrix = F.array(*(F.col(name).cast("float") for name in names))
    packed = rows.select(matrix.alias("values"), F.col("sample_weight").cast("double"), F.col(by).alias("by"))
    schema = f"by {packed.schema['by'].dataType.simpleString()}, subject int, bin int, weight double"
    summed = packed.mapInArrow(count, schema).groupBy("by", "subject", "bin").agg(F.sum("weight").alias("weight")).collect()
    result = {row["by"]: {name: [0.0] * (len(edges[name]) + 2) for name in names} for row in summed}
    for row in summed:
        result[row["by"]][names[row["subject"]]][row["bin"]] = row["weight"]
    return result


def _weights(x: Values, weight: Floats | None, cut: Values) -> Floats:
    """Weight in each bin of `x` and, last, of its nulls (NaN); None: every row weighs 1."""
    missing = np.isnan(x)
    if weight is None and len(cut) <= _FEW_EDGES:
        nulls = np.count_nonzero(missing)
        above = np.array([len(x) - nulls, *(np.count_nonzero(x > edge) for edge in cut), 0], dtype=float)
        return np.append(above[:-1] - above[1:], nulls)
    bins = np.searchsorted(cut, x)
    bins[missing] = len(cut) + 1
    return np.bincount(bins, weight, len(cut) + 2).astype(float)


def _counted(value: Any, totals: list[Floats]) -> pa.RecordBatch:
    subject = np.concatenate([np.full(len(total), position) for position, total in enumerate(totals)])
    columns = [
        pa.array(np.full(len(subject), value)),
        pa.array(subject, pa.int32()),
        pa.array(np.concatenate([np.arange(len(total)) for total in totals]), pa.int32()),
        pa.array(np.concatenate(totals)),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["by", "subject", "bin", "weight"])


def _categories(rows: DataFrame, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The distinct values of each column as text, sorted: grades and names, so few."""
    if not names:
        return {}
    row = rows.agg(*(F.sort_array(F.collect_set(F.col(name).cast("string"))).alias(name) for name in names)).first()
    assert row is not None  # an aggregate without keys has one row
    return {name: tuple(row[name]) for name in names}


def _edges(rows: DataFrame, features: Sequence[str], bins: int) -> dict[str, tuple[float, ...]]:
    """Distinct inner quantiles per feature, from about `_SAMPLE_ROWS` rows chosen by hash."""
    if not features:
        return {}
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
