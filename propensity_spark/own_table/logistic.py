"""What a model of trees must beat on a table: logistic regression on the same columns, as a spreadsheet's user would make it."""

from __future__ import annotations

from typing import Any

from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import OneHotEncoder, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.own_table.columns import Columns

_PENALTY = 1e-4
_INPUT = "logistic "
_PROBABILITY = f"{_INPUT}probability"


class Logistic:
    """A fitted regression: numbers standardised, null as their mean beside a column that says so, categories as one column each."""

    def __init__(self, train: DataFrame, columns: Columns) -> None:
        """Fit on `train` (features, `label`). One pass for means and spreads, then Spark ML's own; a small ridge penalty."""
        self._codes = [one.name for one in columns.features if one.kind == "category"]
        numbers = [name for name in columns.names if name not in self._codes]
        stats = (
            train.agg(
                *(part for name in numbers for part in (F.avg(name).alias(f"m {name}"), F.stddev_pop(name).alias(f"s {name}")))
            ).first()
            if numbers
            else None
        )
        self._scales = {name: (float(stats[f"m {name}"] or 0), float(stats[f"s {name}"] or 1)) for name in numbers} if stats else {}
        sizes = {one.name: len(one.categories) + 1 for one in columns.features if one.kind == "category"}
        self._unknown = {name: float(size) for name, size in sizes.items()}
        inputs = [name for name in self._inputs() if not name.startswith(f"{_INPUT}code ")]
        stages: list[Any] = []
        if self._codes:
            encoded = [f"{_INPUT}hot {name}" for name in self._codes]
            stages.append(
                OneHotEncoder(inputCols=[f"{_INPUT}code {name}" for name in self._codes], outputCols=encoded, handleInvalid="keep")
            )
            inputs += encoded
        stages.append(VectorAssembler(inputCols=inputs, outputCol=f"{_INPUT}vector"))
        stages.append(
            LogisticRegression(
                featuresCol=f"{_INPUT}vector",
                labelCol="label",
                regParam=_PENALTY,
                probabilityCol=_PROBABILITY,
                rawPredictionCol=f"{_INPUT}raw",
                predictionCol=f"{_INPUT}class",
                standardization=False,
                maxIter=100,
            )
        )
        self._model: PipelineModel = Pipeline(stages=stages).fit(train.select("label", *self._columns()))

    def with_probability(self, rows: DataFrame, name: str) -> DataFrame:
        """`rows` (with the features) and the probability as column `name`."""
        found = self._model.transform(rows.select("*", *self._columns()))
        return found.select(*rows.columns, vector_to_array(F.col(_PROBABILITY))[1].alias(name))

    def _inputs(self) -> dict[str, Column]:
        found: dict[str, Column] = {}
        for name, (mean, spread) in self._scales.items():
            found[f"{_INPUT}{name}"] = F.coalesce((F.col(name).cast("double") - mean) / (spread or 1.0), F.lit(0.0))
            found[f"{_INPUT}no {name}"] = F.col(name).isNull().cast("double")
        for name in self._codes:
            found[f"{_INPUT}code {name}"] = F.coalesce(F.col(name).cast("double"), F.lit(self._unknown[name]))
        return found

    def _columns(self) -> list[Column]:
        return [value.alias(name) for name, value in self._inputs().items()]
