"""One distributed XGBoost fit, repeatable bit for bit for the same rows, parameters and number of workers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from xgboost.spark import SparkXGBClassifier

from propensity_spark.config import TrainSettings
from propensity_spark.errors import ConfigurationError
from propensity_spark.platform import task_slots

VALIDATION = "is_validation"


@dataclass(frozen=True)
class Fitted:
    """A fitted booster, cut at its best round: bytes (UBJSON), parameters, rounds kept, log loss on the validation slice."""

    booster: bytes
    params: Mapping[str, Any]
    rounds: int
    validation_log_loss: float


def as_float(name: str) -> Column:
    """A feature as the model sees it: float32, null as NaN (missing); a real zero stays zero."""
    return F.coalesce(F.col(name).cast("float"), F.lit(float("nan")).cast("float")).alias(name)


def arranged(training_set: DataFrame, features: Sequence[str], key: Sequence[str], workers: int) -> DataFrame:
    """The train and validation rows as XGBoost wants them: one partition a worker, in a fixed order.

    In: gold/training_set. Out: the features as float32, `label`, `sample_weight` and the validation indicator.
    Bitwise repeatability needs the same rows in the same partitions in the same order, hence hash and sort by the key.
    """
    return (
        training_set.where(F.col("split").isin("train", "validation"))
        .select(*key, *(as_float(name) for name in features), "label", "sample_weight", (F.col("split") == "validation").alias(VALIDATION))
        .repartition(workers, *key)
        .sortWithinPartitions(*key)
        .drop(*key)
    )


def workers_of(train: TrainSettings, spark: SparkSession) -> int:
    """How many XGBoost workers to train with. Raises ConfigurationError when Spark could never run that many at once."""
    slots = task_slots(spark)
    if train.num_workers is not None and train.num_workers > slots:
        raise ConfigurationError(
            f"train.num_workers: {train.num_workers} workers must run at once, Spark has {slots} task slots; set at most that, "
            "or null for as many as there are"
        )
    return train.num_workers or slots


def fit(rows: DataFrame, features: Sequence[str], train: TrainSettings, overrides: Mapping[str, Any] | None = None) -> Fitted:
    """Fit on `arranged` rows (cached by the caller: XGBoost reads them more than once), stopping early on validation log loss.

    Each worker has `spark.task.cpus` threads, so several workers are what uses several cores.
    """
    workers = workers_of(train, rows.sparkSession)
    params = {"tree_method": "hist", **train.params, **(overrides or {})}
    logging.getLogger("XGBoost-PySpark").setLevel(logging.WARNING)
    estimator = SparkXGBClassifier(
        features_col=list(features),
        label_col="label",
        weight_col="sample_weight",
        validation_indicator_col=VALIDATION,
        num_workers=workers,
        n_estimators=train.rounds,
        early_stopping_rounds=train.early_stopping_rounds,
        eval_metric="logloss",
        missing=float("nan"),
        random_state=train.seed,
        verbosity=0,
        verbose=False,
        **params,
        **monotone_constraints(features, train),
    )
    booster = estimator.fit(rows).get_booster()
    best = booster[: booster.best_iteration + 1]
    return Fitted(bytes(best.save_raw("ubj")), params, booster.best_iteration + 1, float(booster.best_score))


def monotone_constraints(features: Sequence[str], train: TrainSettings) -> dict[str, str]:
    """`train.monotone` as XGBoost's parameter, by position; nothing when there are none.

    >>> monotone_constraints(["views_7d", "recency_days"], TrainSettings(monotone={"recency_days": -1}))
    {'monotone_constraints': '(0,-1)'}

    Raises ConfigurationError for a name that is no feature of the model.
    """
    if unknown := sorted(set(train.monotone) - set(features)):
        raise ConfigurationError(f"train.monotone: {', '.join(unknown)}: no feature of this model; expected some of {list(features)}")
    return {"monotone_constraints": f"({','.join(str(train.monotone.get(name, 0)) for name in features)})"} if train.monotone else {}
