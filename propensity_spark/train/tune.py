"""Choose among a few parameter sets by log loss on the validation slice."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyspark.sql import DataFrame

from propensity_spark.config import TrainSettings
from propensity_spark.train.fit import Fitted, arranged, fit, workers_of

log = logging.getLogger(__name__)


def tune(
    training_set: DataFrame, features: Sequence[str], key: Sequence[str], train: TrainSettings, feature_types: Sequence[str] | None = None
) -> list[Fitted]:
    """Fit `train.params` with each of `train.candidates` (none configured: as they are), best validation log loss first.

    `feature_types`: as `fit` takes them. The rows are arranged and cached once for all fits. Equal losses: the earlier candidate wins.
    """
    rows = arranged(training_set, features, key, workers_of(train, training_set.sparkSession)).persist()
    try:
        trials = []
        for overrides in train.candidates or ({},):
            trial = fit(rows, features, train, overrides, feature_types)
            log.info("candidate %s: %d rounds, validation log loss %.6f", overrides, trial.rounds, trial.validation_log_loss)
            trials.append(trial)
    finally:
        rows.unpersist()
    return sorted(trials, key=lambda trial: trial.validation_log_loss)
