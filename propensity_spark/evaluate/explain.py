"""What the model looks at: gain per feature, exact SHAP values and partial dependence on a bounded sample of the test rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.cluster.hierarchy import leaves_list, linkage

from propensity_spark.predictor import PropensityModel
from propensity_spark.schemas import grain_key
from propensity_spark.score import matrix_of, packed

POINTS = 300
SHOWN = 15
REASONS, CORRELATED, BOTH_THERE = 8, 20, 50
DEPENDENCE_FEATURES, DEPENDENCE_ROWS, DEPENDENCE_VALUES = 6, 500, 25


def explain(test: DataFrame, model: PropensityModel, rows: int) -> dict[str, Any]:
    """`gain`: share of the total gain per feature; `shap`: mean |SHAP value| (log-odds) per feature, both largest first;
    `points`: for the first 15 features up to 300 rows each as [SHAP value, rank of the feature's value in 0–1 or null];
    `dependence`: of the first 6 features that are quantities, see `dependence`; `singles`: three rows, see `singles`;
    `correlations`: of the first 20 features that are quantities, see `correlated`.

    The sample is the `rows` test rows with the smallest hash of their key: the same rows whatever the partitions.
    SHAP values are those of the trees, before calibration, which keeps their order.
    Source: Lundberg et al., "From local explanations to global understanding with explainable AI for trees", 2020.
    """
    sample = _sample(test, model, rows)
    with_base = model.contributions_of_many(sample)
    contributions = with_base[:, :-1]
    mean = np.abs(contributions).mean(axis=0)
    order = np.argsort(-mean, kind="stable")
    is_quantity = _is_quantity(model)
    quantities = [i for i in order if is_quantity[i]]
    return {
        "rows": len(sample),
        "gain": [[name, share] for name, share in model.gain().items()],
        "shap": [[model.features[i], float(mean[i])] for i in order],
        "points": {model.features[i]: _points(contributions[:, i], sample[:, i]) for i in order[:SHOWN]},
        "dependence": dependence(model, sample[:DEPENDENCE_ROWS], quantities),
        "singles": singles(model, sample, with_base),
        "correlations": correlated(pd.DataFrame({model.features[i]: sample[:, i] for i in quantities[:CORRELATED]}), "spearman"),
    }


def dependence(model: PropensityModel, sample: NDArray[np.float32], features: Iterable[int]) -> dict[str, dict[str, Any]]:
    """Partial dependence of the calibrated probability on the first 6 of `features` (places in the model's) that have two values or more.

    For each feature up to 25 of its `values` in the sample, evenly spread over its rows from the 2nd percentile to the 98th, and for
    each the `mean` over the sample's rows with the feature set to it and all else as it is, with the 10th (`low`) and 90th (`high`)
    percentile of the rows; `null`: that mean with the feature null, None where the sample has no null. Source: Friedman, "Greedy
    function approximation", 2001; the rows' spread: Goldstein et al., "Peeking inside the black box", 2015.
    """
    found: dict[str, dict[str, Any]] = {}
    for place in features:
        present = sample[~np.isnan(sample[:, place]), place]
        values = np.unique(np.quantile(present, np.linspace(0.02, 0.98, DEPENDENCE_VALUES), method="nearest")) if len(present) else present
        if len(values) < 2:
            continue
        asked = [*values, np.float32(np.nan)]
        rows = np.tile(sample, (len(asked), 1))
        rows[:, place] = np.repeat(asked, len(sample))
        by_value = model.predict(rows).reshape(len(asked), len(sample))
        mean, (low, high) = by_value.mean(axis=1), np.quantile(by_value, (0.1, 0.9), axis=1)
        found[model.features[place]] = {
            "values": values.astype(float).tolist(),
            "mean": mean[:-1].tolist(),
            "low": low[:-1].tolist(),
            "high": high[:-1].tolist(),
            "null": float(mean[-1]) if len(present) < len(sample) else None,
        }
        if len(found) == DEPENDENCE_FEATURES:
            break
    return found


def singles(model: PropensityModel, sample: NDArray[np.float32], contributions: NDArray[np.float64]) -> list[dict[str, Any]]:
    """The rows of the sample with the highest, the median and the lowest probability, each explained; empty for an empty sample.

    `contributions`: SHAP values of the sample, the base last. Out, for each row: `probability`, calibrated; `base`, the log-odds that all
    rows share; `reasons`, the 8 features that move it most as [name, value or null, SHAP value], and `others`, the sum of the rest.
    Base, reasons and others add up to the row's log-odds before calibration.
    """
    probability = model.predict(sample)
    order = np.argsort(probability, kind="stable")
    found = []
    for which, place in (("Highest", -1), ("Median", len(order) // 2), ("Lowest", 0)) if len(order) else ():
        row = order[place]
        effects, values = contributions[row, :-1], sample[row]
        first = np.argsort(-np.abs(effects), kind="stable")[:REASONS]
        reasons = [[model.features[i], None if np.isnan(values[i]) else float(values[i]), float(effects[i])] for i in first]
        others = float(effects.sum() - effects[first].sum())
        base = float(contributions[row, -1])
        found.append({"which": which, "probability": float(probability[row]), "base": base, "reasons": reasons, "others": others})
    return found


def correlated(columns: pd.DataFrame, method: Literal["spearman", "pearson"]) -> dict[str, Any] | None:
    """Correlations of the columns that vary, over the rows where both are there; like beside like. None for fewer than two columns.

    Out: `names` in their order, `matrix` of rows of correlations; null where fewer than 50 rows have both, or one is constant in them.
    """
    varied = columns.loc[:, [columns[name].nunique() > 1 for name in columns]].astype(float)
    if varied.shape[1] < 2:
        return None
    matrix = varied.corr(method=method, min_periods=BOTH_THERE)
    distances = 1 - matrix.abs().fillna(0.0).to_numpy()[np.triu_indices(len(matrix), 1)]
    order = leaves_list(linkage(distances, "average"))
    ordered = matrix.iloc[order, order]
    return {
        "names": list(ordered.columns),
        "matrix": [[None if np.isnan(value) else round(value, 3) for value in row] for row in ordered.to_numpy().tolist()],
    }


def _is_quantity(model: PropensityModel) -> list[bool]:
    """Whether a feature, by its place in the model's, is a number and no category."""
    import xgboost

    types = xgboost.Booster(model_file=bytearray(model.booster)).feature_types
    return [kind != "c" for kind in types] if types else [True] * len(model.features)


def _sample(test: DataFrame, model: PropensityModel, rows: int) -> NDArray[np.float32]:
    drawn = (
        test.select(packed(model.features).alias("features"), F.xxhash64(*grain_key(model.grain)).alias("drawn"))
        .orderBy("drawn")
        .limit(rows)
    )
    table = drawn.select("features").toArrow()
    return matrix_of(table["features"].combine_chunks(), len(model.features))


def _points(contributions: NDArray[np.float64], values: NDArray[np.float32]) -> list[list[float | None]]:
    shown = slice(0, POINTS)
    present = np.sort(values[~np.isnan(values)])
    middle = (np.searchsorted(present, values, "left") + np.searchsorted(present, values, "right")) / 2
    ranks = middle / max(len(present), 1)
    pairs = zip(contributions[shown], ranks[shown], values[shown], strict=True)
    return [[round(float(c), 4), None if np.isnan(v) else round(float(r), 3)] for c, r, v in pairs]
