"""Families of models on the same rows: who is fitted, how they are judged, and what a person sees."""

from __future__ import annotations

import json
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn.metrics import roc_auc_score

from propensity_spark.compare import page
from propensity_spark.compare.compare import compare
from propensity_spark.compare.contenders import CONTENDERS, fit_xgboost
from propensity_spark.config import Settings
from propensity_spark.errors import ConfigurationError, OneClassOnly
from propensity_spark.train.challenger import challenger
from propensity_spark.train.sample import here, sampled

FRIDAY = date(2024, 1, 5)
FEATURES = ["signal", "bent", "noise", "sparse"]
SETTINGS = Settings.model_validate(
    {
        "dataset": "t",
        "grain": "user",
        "lake": {"root": "lake"},
        "publish": {"uri": "out"},
        "sources": {},
        "train": {"rounds": 60, "early_stopping_rounds": 10, "params": {"max_depth": 3, "learning_rate": 0.2}},
        "evaluate": {"bootstrap_rounds": 40, "bins": 400},
    }
)


@pytest.fixture(scope="module")
def training_set(spark: SparkSession) -> DataFrame:
    """3,000 users on four dates; log-odds rise with `signal` and fall away from 0.5 in `bent`, which no straight line sees."""
    random = np.random.default_rng(3)
    parts = []
    for number, split in enumerate(("train", "validation", "calibration", "test")):
        n = 3000
        part = pd.DataFrame(random.random((n, 4)), columns=FEATURES)
        part.loc[random.random(n) < 0.3, "sparse"] = np.nan
        log_odds = 2 * part["signal"] - 12 * (part["bent"] - 0.5).abs()
        part["label"] = (random.random(n) < 1 / (1 + np.exp(-log_odds))).astype("int32")
        part["user_id"] = [f"u{i:05d}" for i in range(n)]
        parts.append(part.assign(as_of_date=FRIDAY + timedelta(weeks=4 * number), split=split, sample_weight=1.0))
    return spark.createDataFrame(pd.concat(parts)).replace(float("nan"), None, subset=["sparse"]).cache()


def test_models_are_judged_on_the_same_rows_with_paired_intervals(training_set: DataFrame, tmp_path: Path) -> None:
    registered, _ = challenger(training_set, FEATURES, SETTINGS, {})
    said = list[str]()
    found = compare(training_set, FEATURES, SETTINGS, rows=100_000, registered=registered, say=said.append)
    by_name = {one["name"]: one for one in found["models"]}
    assert set(by_name) == {*CONTENDERS, "ensemble", "registered"}
    assert [line.split(":")[0] for line in said] == list(CONTENDERS)
    assert (found["train_rows"], found["validation_rows"], found["test_rows"]) == (3000, 3000, 3000)
    assert found["test_purchases"] == training_set.where("split = 'test' AND label = 1").count()

    auc = {name: one["metrics"]["roc_auc"]["value"] for name, one in by_name.items()}
    assert list(auc) == sorted(auc, key=lambda name: -auc[name])
    assert auc["logistic"] < auc["xgboost"] - 0.1  # a straight line does not see `bent`
    assert auc["ensemble"] > auc["xgboost"] - 0.02
    against = by_name["logistic"]["against_xgboost"]["roc_auc"]
    assert against["value"] == pytest.approx(auc["logistic"] - auc["xgboost"])
    assert against["high"] < 0
    narrow = by_name["ensemble"]["against_xgboost"]["roc_auc"]
    alone = by_name["ensemble"]["metrics"]["roc_auc"]
    assert narrow["high"] - narrow["low"] < (alone["high"] - alone["low"]) / 2  # the same users are drawn for both
    assert by_name["xgboost"]["against_xgboost"] is None
    assert max(one["metrics"]["calibration_error"]["value"] for one in by_name.values()) < 0.06
    assert min(auc[name] for name in auc if name != "logistic") > auc["logistic"] + 0.1  # all others do
    assert next(iter(by_name["logistic"]["about"]["coefficients"])) == "signal"
    assert len(by_name["ensemble"]["about"]["of"]) == 3

    train, validation = here(sampled(training_set, 100_000, SETTINGS.train.seed), FEATURES, ["user_id", "as_of_date"], "--rows")
    test = training_set.where("split = 'test'").toPandas()
    raw = fit_xgboost(train, validation, FEATURES, SETTINGS.train).score(test[FEATURES].to_numpy(np.float32))
    assert auc["xgboost"] == pytest.approx(roc_auc_score(test["label"], raw), abs=2e-3)

    shown = page.lines(found)
    assert shown[0].split()[0] == "model"
    assert len(shown) == 1 + len(by_name)
    assert any(line.startswith("Logistic regression") and "may be chance" not in line for line in shown)
    text = page.write(found, tmp_path).read_text()
    assert text.count("data:image/svg+xml") == 4
    assert "The registered model, on all rows" in text
    assert json.loads((tmp_path / "compare.json").read_text()) == found


def test_some_models_some_users_and_what_cannot_be_imported(training_set: DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    other = compare(training_set, FEATURES, SETTINGS, rows=2000, names=["lightgbm", "logistic"])
    assert {one["name"] for one in other["models"]} == {"xgboost", "logistic"}
    assert "cannot be imported" in other["left_out"]["lightgbm"]
    assert 800 < other["train_rows"] < 1200
    again = compare(training_set.repartition(3), FEATURES, SETTINGS, rows=2000, names=["logistic"])
    for one, same in zip(again["models"], other["models"], strict=True):
        for name, estimate in one["metrics"].items():
            assert estimate == pytest.approx(same["metrics"][name], rel=1e-9)  # Spark adds the rounds in another order


def test_what_cannot_be_compared_is_said(training_set: DataFrame) -> None:
    with pytest.raises(ConfigurationError, match="--models: unknown svm; expected some of xgboost, lightgbm, logistic"):
        compare(training_set, FEATURES, SETTINGS, rows=2000, names=["svm"])
    with pytest.raises(OneClassOnly, match="--rows: expected both labels among the validation rows"):
        compare(training_set.where("split <> 'validation' OR label = 0"), FEATURES, SETTINGS, rows=2000)
