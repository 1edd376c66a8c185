"""Would the model have held before? Its parameters fitted again on earlier dates, each time judged on the dates that came next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import xgboost
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.evaluate.bootstrap import user_weights
from propensity_spark.evaluate.metrics import auc_of_rows, estimate
from propensity_spark.predictor import PropensityModel
from propensity_spark.schemas import grain_key
from propensity_spark.train.fit import monotone_constraints
from propensity_spark.train.native import FIXED, bins_of
from propensity_spark.train.sample import brought, rows_of, sampled


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
    sample, features = sampled(training_set, options.fold_rows, settings.train.seed), model.features
    rows = brought(sample, features, grain_key(settings.grain), F.col("as_of_date"), F.xxhash64("user_id").alias("_user"))
    fitted = {**FIXED, "seed": settings.train.seed, **params, **monotone_constraints(features, settings.train)}
    found = []
    for train_dates, test_dates in fold_dates(sorted(set(rows["as_of_date"])), options.time_folds, settings.label.closing_days):
        earlier, later = (rows[rows["as_of_date"].isin(days)] for days in (train_dates, test_dates))
        if min(earlier["label"].nunique(), later["label"].nunique()) < 2:
            continue
        train, test = rows_of(earlier, features), rows_of(later, features)
        matrix = xgboost.QuantileDMatrix(train.matrix, train.label, weight=train.weight, missing=np.nan, **bins_of(params))
        score = xgboost.train(fitted, matrix, num_boost_round=model.rounds).inplace_predict(test.matrix, missing=np.nan)
        users, of_row = np.unique(later["_user"].to_numpy(), return_inverse=True)
        weights = user_weights(users, options.bootstrap_rounds, options.seed)[of_row] * test.weight[:, None]
        span = (train_dates[0], train_dates[-1], test_dates[0], test_dates[-1])
        auc = estimate(auc_of_rows(score, test.label, weights))
        found.append(Fold(*span, len(train.label), len(test.label), int(test.label.sum()), auc))
    return found
