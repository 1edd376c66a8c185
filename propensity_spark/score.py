"""Candidates to probabilities, decisions, segments and ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from propensity_spark.config import ScoreSettings
from propensity_spark.errors import ConfigurationError, FeatureMismatch
from propensity_spark.features.registry import FEATURES
from propensity_spark.predictor import PropensityModel
from propensity_spark.schemas import grain_key

try:
    from pyspark.sql.pandas.functions import arrow_udf
except ImportError:  # Spark 4.0, Databricks Runtime 17.3
    arrow_udf = None  # type: ignore[assignment]

PROBABILITY = "purchase_probability"


def with_probability(frame: DataFrame, model: PropensityModel) -> DataFrame:
    """`frame` and `purchase_probability` (double, in (0, 1)): the model's calibrated P(label = 1) of every row.

    The features travel to Python as one array of float32 (null: NaN, missing to the model; zero: zero), all other columns
    stay in the JVM. Raises FeatureMismatch when `frame` lacks a feature of the model or has one that the model never saw.
    """
    require_same_features(frame.columns, model)
    return frame.withColumn(
        PROBABILITY, of_matrix(model.features, lambda matrix: pa.array(model.predict(matrix), type=pa.float64()), "double")
    )


def of_matrix(features: Sequence[str], compute: Callable[[np.ndarray], pa.Array], kind: str) -> Column:
    """What `compute` makes of these features, a batch of rows at a time, as a column of the type `kind`."""
    width = len(features)

    def by_way_of_arrow(packed_rows: pa.Array) -> pa.Array:
        return compute(matrix_of(packed_rows, width))

    def by_way_of_pandas(packed_rows: pd.Series) -> pd.Series:
        found: pd.Series = by_way_of_arrow(pa.array(packed_rows, type=pa.list_(pa.float32()))).to_pandas()
        return found

    # The kind of a function is told by the hints of its arguments.
    function = pandas_udf(by_way_of_pandas, kind) if arrow_udf is None else arrow_udf(by_way_of_arrow, kind)  # type: ignore[call-overload]
    column: Column = function(packed(features))
    return column


def with_reasons(frame: DataFrame, model: PropensityModel, count: int) -> DataFrame:
    """`frame` with `base`, `reasons` and `others` as in gold/score_reasons: the `count` features (at most all) that moved each score most.

    Equally strong ones come in the model's order. Raises FeatureMismatch as `with_probability` does.
    """
    require_same_features(frame.columns, model)
    shown = min(count, len(model.features))

    def strongest(matrix: np.ndarray) -> pa.Array:
        found = model.contributions_of_many(matrix)
        moved, base = found[:, :-1], found[:, -1:]
        places = np.argsort(-np.abs(moved), axis=1, kind="stable")[:, :shown]
        chosen = np.take_along_axis(moved, places, axis=1)
        others = moved.sum(axis=1, keepdims=True) - chosen.sum(axis=1, keepdims=True)
        rows = np.hstack([base, others, places, chosen])
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1]).cast(pa.list_(pa.float64()))

    names = F.array(*(F.lit(name) for name in model.features))
    values = F.array(*(F.col(name).cast("double") for name in model.features))

    def reason(index: int) -> Column:
        place = F.col("_numbers")[2 + index].cast("int")
        contribution = F.col("_numbers")[2 + shown + index]
        return F.struct(names[place].alias("feature"), values[place].alias("value"), contribution.alias("contribution"))

    return (
        frame.withColumn("_numbers", of_matrix(model.features, strongest, "array<double>"))
        .withColumns(
            {
                "base": F.col("_numbers")[0],
                "others": F.col("_numbers")[1],
                "reasons": F.array(*(reason(index) for index in range(shown))),
            }
        )
        .drop("_numbers")
    )


def packed(features: Sequence[str]) -> Column:
    """These features of a row as one `array<float>`, in their order; nulls stay null."""
    return F.array(*(F.col(name).cast("float") for name in features))


def matrix_of(arrays: pa.Array, width: int) -> np.ndarray:
    """Rows of `packed` features as a float32 matrix, null as NaN."""
    return np.asarray(arrays.flatten().to_numpy(zero_copy_only=False), dtype=np.float32).reshape(-1, width)


def require_same_features(columns: list[str], model: PropensityModel) -> None:
    """Raises FeatureMismatch that lists both sides."""
    known = {feature.name for feature in FEATURES if feature.in_model}
    missing = [name for name in model.features if name not in columns]
    unknown = [name for name in columns if name in known and name not in model.features]
    if missing or unknown:
        raise FeatureMismatch(
            f"model {model.name} version {model.version} and the feature table differ: the model needs {missing or 'nothing'} that "
            f"the table lacks; the table has {unknown or 'nothing'} that the model does not know. Train again with these features, or "
            "score with a model that was trained on them"
        )


def without_new_features(frame: DataFrame, model: PropensityModel) -> tuple[DataFrame, list[str]]:
    """`frame` without the features that the code knows and the model, trained before, does not; and their names."""
    new = [
        feature.name for feature in FEATURES if feature.in_model and feature.name in frame.columns and feature.name not in model.features
    ]
    return frame.drop(*new), new


def scores(frame: DataFrame, model: PropensityModel, settings: ScoreSettings) -> DataFrame:
    """Rows of gold/scores for the candidates in `frame` (key and purchase_probability), one per key.

    `predicted_purchase`: probability ≥ `score.threshold` (null: the model's own). `segment`: see `segment_of`. `rank` (grain `user_item`):
    1 = most likely item of the user on that date, equal probabilities by item_id.
    """
    key = grain_key(model.grain)
    probability = F.col(PROBABILITY)
    ranked = frame.select(*key, PROBABILITY)
    if model.grain == "user_item":  # before the other columns are there, which would travel to be ranked
        best_first = Window.partitionBy("user_id", "as_of_date").orderBy(probability.desc(), F.col("item_id"))
        ranked = ranked.withColumn("rank", F.row_number().over(best_first))
    return ranked.withColumns(
        {
            "predicted_purchase": probability >= threshold_of(model, settings),
            "segment": segment_of(probability, settings),
            "model_name": F.lit(model.name),
            "model_version": F.lit(model.version),
        }
    )


def threshold_of(model: PropensityModel, settings: ScoreSettings) -> float:
    """From this probability on a purchase is predicted: `score.threshold`, or the one that was chosen with the model."""
    return model.threshold if settings.threshold is None else settings.threshold


def segment_of(probability: Column, settings: ScoreSettings) -> Column:
    """High above `score.high`, Low below `score.low`, Medium between, limits included."""
    return F.when(probability > settings.high, "High").when(probability < settings.low, "Low").otherwise("Medium")


def eligible(frame: DataFrame, settings: ScoreSettings, named: Callable[[DataFrame], DataFrame] = lambda listed: listed) -> DataFrame:
    """`frame` without the users and items on the blocked lists, whose users `named` calls as `frame` does.

    Raises ConfigurationError for a list that cannot be used.
    """
    for column, path in blocked_lists(settings).items():
        if column in frame.columns:
            listed = _blocked(frame.sparkSession, column, path)
            frame = frame.join(F.broadcast(named(listed) if column == "user_id" else listed), column, "left_anti")
    return frame


def blocked_lists(settings: ScoreSettings) -> dict[str, str]:
    """Key column → the configured CSV of values that are never scored."""
    lists = {"user_id": settings.blocked_users, "item_id": settings.blocked_items}
    return {column: path for column, path in lists.items() if path is not None}


def blocked_fingerprints(spark: SparkSession, settings: ScoreSettings) -> dict[str, str]:
    """Key column → SHA-256 of its blocked list as stored, so that a changed list is seen."""
    found = {}
    for column, path in blocked_lists(settings).items():
        try:
            rows = spark.read.format("binaryFile").load(path).select(F.sha2("content", 256)).orderBy("path").collect()
        except AnalysisException as error:
            raise _no_list(column, path) from error
        found[column] = " ".join(row[0] for row in rows)
    return found


def _blocked(spark: SparkSession, column: str, path: str) -> DataFrame:
    try:
        listed = spark.read.csv(path, header=True)
    except AnalysisException as error:
        raise _no_list(column, path) from error
    if column not in listed.columns:
        raise ConfigurationError(
            f"{_setting(column)}: {path} has no column {column} among its {len(listed.columns)}; expected a CSV with a header {column}"
        )
    return listed.select(F.trim(column).alias(column)).where(F.col(column).isNotNull()).distinct()


def _no_list(column: str, path: str) -> ConfigurationError:
    return ConfigurationError(f"{_setting(column)}: no such file {path}; expected a CSV with a header {column}, or null for no list")


def _setting(column: str) -> str:
    return "score.blocked_users" if column == "user_id" else "score.blocked_items"
