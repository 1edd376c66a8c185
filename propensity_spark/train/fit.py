"""One distributed XGBoost fit, repeatable bit for bit for the same rows, parameters and number of workers."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Timer
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from xgboost.spark import SparkXGBClassifier

from propensity_spark.config import TrainSettings
from propensity_spark.errors import ConfigurationError, FitFailed
from propensity_spark.platform import setting, task_slots

log = logging.getLogger(__name__)

VALIDATION = "is_validation"
ARROW_ROWS = 100_000
"""Rows that travel to a worker at a time. With the 10,000 of Spark, which keep memory small, 1 million took 3 of 14 seconds longer."""


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


def fit(
    rows: DataFrame,
    features: Sequence[str],
    train: TrainSettings,
    overrides: Mapping[str, Any] | None = None,
    feature_types: Sequence[str] | None = None,
) -> Fitted:
    """Fit on `arranged` rows (cached by the caller: XGBoost reads them more than once), stopping early on validation log loss.

    `feature_types`: XGBoost's, one a feature (`c`: a category, as codes from 0); null: all are quantities.
    Each worker has `spark.task.cpus` threads, so several workers are what uses several cores. Raises FitFailed when it fails
    `train.attempts` times or is not done after `train.deadline_seconds`.
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
        **({"feature_types": list(feature_types)} if feature_types else {}),
        **params,
        **monotone_constraints(features, train),
    )
    with setting(rows.sparkSession, "spark.sql.execution.arrow.maxRecordsPerBatch", str(ARROW_ROWS)):
        booster = _fitted(estimator, rows, train).get_booster()
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


def _fitted(estimator: SparkXGBClassifier, rows: DataFrame, train: TrainSettings) -> Any:
    """The fitted estimator. Spark does not run a barrier stage again that lost an executor or a Python worker, so this does.

    The rows lie in the same partitions in the same order again, and XGBoost ranks its workers by partition: the same model comes out.
    """
    context = rows.sparkSession.sparkContext
    group = f"fit-{uuid.uuid4().hex[:12]}"
    cancelled = Event()

    def cancel() -> None:
        cancelled.set()
        context.cancelJobGroup(group)

    context.setJobGroup(group, "distributed fit", interruptOnCancel=True)
    timer = Timer(train.deadline_seconds, cancel)
    timer.daemon = True
    timer.start()
    try:
        for attempt in range(1, train.attempts + 1):
            try:
                return estimator.fit(rows)
            except (PySparkException, Py4JJavaError) as error:
                reason = _reason(error)
                if cancelled.is_set():
                    raise FitFailed(
                        f"train: expected a fit within {train.deadline_seconds} seconds (train.deadline_seconds), it was cancelled in "
                        f"attempt {attempt}; the champion stays. Give it more time or workers; Spark's log tells what they waited for"
                    ) from error
                log.warning("attempt %d of %d to fit failed: %s", attempt, train.attempts, reason)
                if attempt == train.attempts:
                    raise FitFailed(
                        f"train: the fit failed {train.attempts} times (train.attempts), at last with: {reason}; the champion stays. "
                        "Look for lost executors (memory, spot instances) in Spark's log, then run train again"
                    ) from error
    finally:
        timer.cancel()
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
    raise AssertionError("train.attempts is at least 1")


def _reason(error: Exception) -> str:
    """The line of a failed job that tells most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"ExecutorLost|XGBoostError|Error: |barrier task", line)]
    return (telling or lines or [type(error).__name__])[0][:500]
