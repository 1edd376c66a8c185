"""From the training set to a calibrated model: the whole of training as one reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.predictor import PropensityModel
from propensity_spark.schemas import grain_key
from propensity_spark.score import PROBABILITY, with_probability
from propensity_spark.train.calibrate import calibrated, histograms, together
from propensity_spark.train.fit import Fitted
from propensity_spark.train.reference import feature_bins, score_bins
from propensity_spark.train.threshold import allowed_contacts, best_threshold
from propensity_spark.train.tune import tune


def challenger(
    training_set: DataFrame,
    features: Sequence[str],
    settings: Settings,
    inputs: Mapping[str, int],
    feature_types: Sequence[str] | None = None,
) -> tuple[PropensityModel, list[Fitted]]:
    """The model of gold/training_set, not yet registered (its version is empty), and the trials it was chosen from.

    Fitted on train, stopped and chosen on validation, calibrated (with its threshold) on the unsampled calibration
    slice; test is not looked at. `inputs` is table → Delta version,
    `feature_types` as `fit` takes them.
    """
    trials = tune(training_set, features, grain_key(settings.grain), settings.train, feature_types)
    train_rows = training_set.where(F.col("split") == "train")
    dates = train_rows.agg(F.min("as_of_date").alias("first"), F.max("as_of_date").alias("last")).first()
    assert dates is not None  # an aggregate without keys has one row
    raw = PropensityModel(
        name=settings.mlflow.model_name,
        version="",
        grain=settings.grain,
        features=tuple(features),
        booster=trials[0].booster,
        calibration_x=(0.0, 1.0),
        calibration_y=(0.0, 1.0),
        threshold=0.5,
        baseline={},
        train_from=dates["first"],
        train_to=dates["last"],
        label=settings.label,
        inputs=dict(inputs),
    )
    by_day = histograms(with_probability(training_set.where(F.col("split") == "calibration"), raw))
    x, y, calibration = calibrated(by_day, settings.train.calibration)
    scores = together(list(by_day.values()))
    contacts = allowed_contacts(settings, scores.rows.sum(), len(by_day))
    bins = settings.monitor.bins
    baseline = feature_bins(train_rows, features, bins) | {PROBABILITY: score_bins(scores, x, y, bins)}
    model = replace(
        raw,
        calibration_x=tuple(x.tolist()),
        calibration_y=tuple(y.tolist()),
        calibration=calibration,
        threshold=best_threshold(scores, x, y, settings.score, contacts),
        threshold_by=settings.score.threshold_by,
        baseline=baseline,
    )
    return model, trials
