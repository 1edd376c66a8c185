"""Would the model have held before? Its parameters fitted again on earlier dates, each time judged on the dates that came next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.evaluate.bootstrap import Floats, user_weights
from propensity_spark.evaluate.metrics import binned_auc, estimate
from propensity_spark.predictor import PropensityModel
from propensity_spark.schemas import grain_key
from propensity_spark.train.fit import as_float, monotone_constraints
from propensity_spark.train.native import FIXED, bins_of
from propensity_spark.train.sample import sampled


@dataclass(frozen=True)
class Fold:
    """One fit of earlier times. `roc_auc`: value, low and high, on its test dates, of rows weighted as they were sampled."""

    train_from: date
    train_to: date
    test_from: date
    test_to: date
    train_rows: int
    test_rows: int
    purchases: int
    roc_auc: Mapping[str, float | None]


@dataclass(frozen=True)
class _Rows:
    """The sample, one entry a row; `user`: a hash of the user."""

    matrix: NDArray[np.float32]
    label: Floats
    weight: Floats
    day: NDArray[Any]
    user: NDArray[np.int64]

    def on(self, days: Sequence[date]) -> _Rows:
        there = np.isin(self.day, np.array(days, dtype=object))
        return _Rows(self.matrix[there], self.label[there], self.weight[there], self.day[there], self.user[there])

    @property
    def has_both_classes(self) -> bool:
        return bool(0 < self.label.sum() < len(self.label))


def fold_dates(dates: Sequence[date], folds: int, closing_days: int) -> Iterator[tuple[Sequence[date], Sequence[date]]]:
    """(train, test) dates of each fold, oldest first: the later half of the ascending `dates` in so many equal blocks, each tested after
    the dates whose label windows had closed by its first day. A fold without any such date is left out, and with too few dates all are.

    >>> days = [date(2024, 1, 5) + timedelta(weeks=week) for week in range(8)]
    >>> [(len(train), [str(day) for day in test]) for train, test in fold_dates(days, 2, 14)]
    [(3, ['2024-02-02', '2024-02-09']), (5, ['2024-02-16', '2024-02-23'])]
    """
    size = len(dates) // (2 * folds)
    for back in range(folds, 0, -1):
        start = len(dates) - back * size
        test = dates[start : start + size]
        train = [day for day in dates[:start] if size and day + timedelta(days=closing_days) <= test[0]]
        if train:
            yield train, test


def time_folds(training_set: DataFrame, model: PropensityModel, params: Mapping[str, Any], settings: Settings) -> list[Fold]:
    """`evaluate.time_folds` fits, oldest first, with `params` and as many trees as `model`, seed and `train.monotone` of the settings.

    In: gold/training_set, of which the train and validation dates are divided, on about `evaluate.fold_rows` rows of whole users, always
    the same ones. Calibration and test dates are not looked at. The interval draws users. Left out are folds with one class only in
    either part.
    """
    options = settings.evaluate
    rows = _here(sampled(training_set, options.fold_rows, settings.train.seed), model, settings)
    fitted = {**FIXED, "seed": settings.train.seed, **params, **monotone_constraints(model.features, settings.train)}
    found = []
    for train_dates, test_dates in fold_dates(sorted(set(rows.day)), options.time_folds, settings.label.closing_days):
        train, test = rows.on(train_dates), rows.on(test_dates)
        if not (train.has_both_classes and test.has_both_classes):
            continue
        matrix = xgboost.QuantileDMatrix(train.matrix, train.label, weight=train.weight, missing=np.nan, **bins_of(params))
        booster = xgboost.train(fitted, matrix, num_boost_round=model.rounds)
        auc = estimate(_auc(booster.inplace_predict(test.matrix, missing=np.nan), test, options.bootstrap_rounds, options.seed))
        span = (train_dates[0], train_dates[-1], test_dates[0], test_dates[-1])
        found.append(Fold(*span, len(train.label), len(test.label), int(test.label.sum()), auc))
    return found


def _here(sample: DataFrame, model: PropensityModel, settings: Settings) -> _Rows:
    features = list(model.features)
    columns = [*(as_float(name) for name in features), F.col("label").cast("double"), F.col("sample_weight").cast("double")]
    found = sample.sort(*grain_key(settings.grain)).select(*columns, "as_of_date", F.xxhash64("user_id").alias("_user")).toPandas()
    label, weight, day, user = (found[name].to_numpy() for name in ("label", "sample_weight", "as_of_date", "_user"))
    return _Rows(found[features].to_numpy(np.float32), label, weight, day, user)


def _auc(score: NDArray[np.float32], rows: _Rows, rounds: int, seed: int) -> Floats:
    """ROC-AUC as observed and in every round of the bootstrap: (1 + rounds)."""
    order = np.argsort(score, kind="stable")
    _, starts = np.unique(score[order], return_index=True)
    users, of_row = np.unique(rows.user[order], return_inverse=True)
    weight = user_weights(users, rounds, seed)[of_row] * rows.weight[order, None]
    bought = rows.label[order, None] > 0
    positives, others = (np.add.reduceat(np.where(which, weight, 0.0), starts, axis=0) for which in (bought, ~bought))
    return binned_auc(positives, others)
