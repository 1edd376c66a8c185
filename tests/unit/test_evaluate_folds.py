"""Fits on earlier dates, each judged on the dates that came next."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
import xgboost
from pyspark.sql import SparkSession
from sklearn.metrics import roc_auc_score

from propensity_spark.config import LabelSettings, Settings
from propensity_spark.evaluate.folds import fold_dates, time_folds
from propensity_spark.features.registry import model_features
from propensity_spark.predictor import PropensityModel
from propensity_spark.train.native import FIXED

NAMES = tuple(feature.name for feature in model_features("user", has_market=False))
FRIDAYS = [date(2024, 1, 5) + timedelta(weeks=week) for week in range(16)]
PARAMS = {"max_depth": 2, "nthread": 1}


def settings_of(**evaluate: object) -> Settings:
    """Grain user, windows of seven days."""
    body = {"dataset": "test", "grain": "user", "lake": {"root": "lake"}, "publish": {"uri": "published"}, "sources": {"activity": ()}}
    return Settings.model_validate({**body, "evaluate": evaluate})


def rows_of(turns: date = date(2030, 1, 1)) -> pd.DataFrame:
    """150 users on 16 Fridays: who views much purchases, and from the date on which it `turns`, who views little."""
    rng = np.random.default_rng(3)
    frames = []
    for day in FRIDAYS:
        rows = pd.DataFrame({name: rng.integers(0, 9, 150).astype(float) for name in NAMES})
        views = rows["views_7d"] if day < turns else 8 - rows["views_7d"]
        rows["label"] = (rng.random(150) < 0.05 + 0.8 * (views > 5)).astype(int)
        rows["user_id"], rows["as_of_date"] = [f"u{number}" for number in range(150)], day
        rows["split"], rows["sample_weight"] = "train" if day < FRIDAYS[14] else "validation", np.where(rows["label"] == 1, 1.0, 2.0)
        frames.append(rows)
    return pd.concat(frames, ignore_index=True)


def model_of(rows: pd.DataFrame, rounds: int = 7) -> PropensityModel:
    data = xgboost.DMatrix(rows[list(NAMES)].to_numpy(np.float32), rows["label"])
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 1, "nthread": 1}, data, rounds)
    return PropensityModel(
        *("propensity", "1", "user", NAMES, bytes(booster.save_raw("ubj")), (0.0, 1.0), (0.0, 1.0), 0.5, {}),
        *(FRIDAYS[0], FRIDAYS[13], LabelSettings(), {}),
    )


@pytest.mark.parametrize(
    ("count", "folds", "closing_days", "expected"),
    [
        (16, 3, 7, [(10, 10, 11), (12, 12, 13), (14, 14, 15)]),  # train on so many, tested from and to which
        (16, 3, 8, [(9, 10, 11), (11, 12, 13), (13, 14, 15)]),  # the date whose window closes a day late is purged
        (16, 1, 7, [(8, 8, 15)]),
        (5, 3, 7, []),
        (6, 3, 7, [(3, 3, 3), (4, 4, 4), (5, 5, 5)]),
        (6, 3, 28, [(1, 4, 4), (2, 5, 5)]),  # nothing had closed by the first
    ],
)
def test_dates_of_folds(count: int, folds: int, closing_days: int, expected: list[tuple[int, int, int]]) -> None:
    dates = FRIDAYS[:count]
    found = list(fold_dates(dates, folds, closing_days))
    assert [(len(train), dates.index(test[0]), dates.index(test[-1])) for train, test in found] == expected
    assert all(list(train) == dates[: len(train)] for train, _ in found)


def test_each_fold_is_fitted_on_what_was_over_and_judged_on_what_came_next(spark: SparkSession) -> None:
    rows = rows_of()
    later = rows[rows["split"] == "validation"].assign(split="test", label=1 - rows["label"])  # must not be looked at
    frame = spark.createDataFrame(pd.concat([rows, later]))
    found = time_folds(frame, model_of(rows), PARAMS, settings_of(time_folds=3, bootstrap_rounds=50))
    assert [(fold.train_from, fold.train_to, fold.test_from, fold.test_to) for fold in found] == [
        (FRIDAYS[0], FRIDAYS[9], FRIDAYS[10], FRIDAYS[11]),
        (FRIDAYS[0], FRIDAYS[11], FRIDAYS[12], FRIDAYS[13]),
        (FRIDAYS[0], FRIDAYS[13], FRIDAYS[14], FRIDAYS[15]),
    ]
    for fold in found:
        train = rows[rows["as_of_date"] <= fold.train_to].sort_values(["user_id", "as_of_date"])
        test = rows[(rows["as_of_date"] >= fold.test_from) & (rows["as_of_date"] <= fold.test_to)]
        data = xgboost.QuantileDMatrix(train[list(NAMES)].to_numpy(np.float32), train["label"], weight=train["sample_weight"])
        booster = xgboost.train({**FIXED, "seed": 7, **PARAMS}, data, num_boost_round=7)  # the model's number of trees
        score = booster.inplace_predict(test[list(NAMES)].to_numpy(np.float32))
        assert fold.roc_auc["value"] == pytest.approx(roc_auc_score(test["label"], score, sample_weight=test["sample_weight"]))
        assert fold.roc_auc["low"] < fold.roc_auc["value"] < fold.roc_auc["high"]  # type: ignore[operator]
        assert (fold.train_rows, fold.test_rows, fold.purchases) == (len(train), len(test), test["label"].sum())
        assert fold.roc_auc["value"] > 0.8


def test_a_law_that_turned_shows_in_the_fold_after_it(spark: SparkSession) -> None:
    rows = rows_of(turns=FRIDAYS[14])
    found = time_folds(spark.createDataFrame(rows), model_of(rows), PARAMS, settings_of(bootstrap_rounds=20))
    aucs = [fold.roc_auc["value"] for fold in found]
    assert min(aucs[:2]) > 0.8  # type: ignore[type-var]
    assert aucs[2] < 0.3  # type: ignore[operator]


def test_a_fold_with_one_class_is_left_out_and_any_parameter_of_a_fit_is_taken(spark: SparkSession) -> None:
    rows = rows_of()
    quiet = rows.assign(label=rows["label"].where(rows["as_of_date"] < FRIDAYS[12], 0))
    found = time_folds(spark.createDataFrame(quiet), model_of(rows), PARAMS | {"max_bin": 64}, settings_of(bootstrap_rounds=5))
    assert [fold.test_from for fold in found] == [FRIDAYS[10]]


def test_the_sample_is_of_whole_users_and_always_the_same(spark: SparkSession) -> None:
    rows = rows_of()
    settings = settings_of(fold_rows=1000, bootstrap_rounds=5)
    frame = spark.createDataFrame(rows)
    found = time_folds(frame, model_of(rows), PARAMS, settings)
    assert 300 < found[-1].train_rows + found[-1].test_rows < 1700
    assert found[-1].test_rows % 2 == 0  # both dates of each user
    again = time_folds(frame.repartition(5), model_of(rows), PARAMS, settings)
    assert [asdict(fold) for fold in again] == [asdict(fold) for fold in found]
