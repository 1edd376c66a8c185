"""The registry: versions, aliases, and that what is loaded predicts what was registered."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import xgboost

from propensity_spark import models
from propensity_spark.config import LabelSettings, Settings
from propensity_spark.errors import ConfigurationError, NoChampion, NoEarlierChampion
from propensity_spark.predictor import Calibration, PropensityModel, ReferenceBins, read

MATRIX = np.array([[0.0, 1.0], [np.nan, 0.5], [1.0, 0.0]], dtype=np.float32)


def settings(root: str) -> Settings:
    return Settings.model_validate({"dataset": "t", "lake": {"root": root}, "publish": {"uri": "out"}, "sources": {}})


def small_model() -> PropensityModel:
    random = np.random.default_rng(2)
    matrix = random.random((200, 2))
    booster = xgboost.train({"max_depth": 2, "objective": "binary:logistic"}, xgboost.DMatrix(matrix, matrix[:, 0] > 0.5), 3)
    return PropensityModel(
        name="propensity",
        version="",
        grain="user",
        features=("recency_days", "frequency_30d"),
        booster=bytes(booster.save_raw("ubj")),
        calibration_x=(0.0, 0.3, 1.0),
        calibration_y=(0.01, 0.2, 0.9),
        threshold=0.25,
        baseline={"recency_days": ReferenceBins((1.0, 2.0), (0.5, 0.25, 0.25), 0.1)},
        train_from=date(2024, 1, 5),
        train_to=date(2024, 2, 2),
        label=LabelSettings(horizon_days=30),
        inputs={"gold/training_set": 4},
        calibration=Calibration("beta", "smallest log loss", {"beta": 0.1, "isotonic": 0.2}),
        threshold_by="profit",
    )


@pytest.mark.parametrize("names", [None, ["recency_days", "frequency_30d"], ["a", "b"]])
def test_gain_is_the_share_of_each_feature_that_is_asked_largest_first(names: list[str] | None) -> None:
    random = np.random.default_rng(2)
    matrix = random.random((400, 2))
    rows = xgboost.DMatrix(matrix, matrix[:, 1] + matrix[:, 0] / 3 > 0.6, feature_names=names)
    booster = xgboost.train({"max_depth": 3, "objective": "binary:logistic"}, rows, 5)
    found = replace(small_model(), booster=bytes(booster.save_raw("ubj"))).gain()
    told = booster.get_score(importance_type="total_gain")
    first, second = (told[name] for name in names or ["f0", "f1"])
    assert list(found) == ["frequency_30d", "recency_days"]
    assert list(found.values()) == pytest.approx([second / (first + second), first / (first + second)])
    assert list(small_model().gain()) == ["recency_days"]


def test_a_model_from_before_methods_were_compared_is_read(tmp_path: Path) -> None:
    small_model().save(tmp_path)
    body = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({name: body[name] for name in body if name not in ("calibration", "threshold_by")}))
    assert read(tmp_path) == replace(small_model(), calibration=None, threshold_by="f1")


def register(configured: Settings, fingerprint: str) -> str:
    return models.register(
        configured,
        small_model(),
        fingerprint=fingerprint,
        params={"max_depth": 2},
        metrics={"loss": 0.5},
        documents={"features.json": {"n": 2}},
    )


def test_from_the_first_version_to_a_new_champion(tmp_path: Path) -> None:
    configured = settings(str(tmp_path / "lake"))
    assert models.champion_version(configured) is None
    assert not (tmp_path / "lake").exists()
    with pytest.raises(NoChampion, match="has no champion yet"):
        models.load(configured, models.CHAMPION)

    assert models.registered(configured, "one") is None
    assert register(configured, "one") == "1"
    assert models.load(configured, models.CHALLENGER) == replace(small_model(), version="1")
    assert models.champion_version(configured) is None

    models.promote(configured, "1")
    assert register(configured, "two") == "2"
    assert (models.champion_version(configured), models.version_of(configured, models.CHALLENGER)) == ("1", "2")
    assert models.registered(configured, "one") == "1"
    assert models.version_of(configured, models.CHALLENGER) == "1"

    report = tmp_path / "report.json"
    report.write_text("{}", encoding="utf-8")
    models.log_evaluation(configured, "2", {"roc_auc": 0.75}, [report])
    assert models.logged(configured, "2") == ({"max_depth": "2"}, {"loss": 0.5, "roc_auc": 0.75})
    assert models.logged(configured, "1") == ({"max_depth": "2"}, {"loss": 0.5})
    assert models.logged_document(configured, "2", "features.json") == {"n": 2}
    client = mlflow.MlflowClient()
    run = client.get_run(client.get_model_version("propensity", "2").run_id)
    assert run.data.metrics == {"loss": 0.5, "roc_auc": 0.75}
    assert run.data.params == {"max_depth": "2"}
    assert run.data.tags["input.gold/training_set"] == "4"
    assert [found.path for found in client.list_artifacts(run.info.run_id, "evaluation")] == ["evaluation/report.json"]

    served = mlflow.pyfunc.load_model("models:/propensity/2")
    frame = pd.DataFrame(MATRIX.astype(float), columns=["recency_days", "frequency_30d"])
    assert served.predict(frame).tolist() == small_model().predict(MATRIX).tolist()
    assert served.metadata.get_input_schema().input_names() == ["recency_days", "frequency_30d"]


def test_an_earlier_champion_is_champion_again(tmp_path: Path) -> None:
    configured = settings(str(tmp_path / "lake"))
    with pytest.raises(NoEarlierChampion, match="has no champion"):
        models.roll_back(configured)
    for version in ("1", "2", "3", "4"):
        assert register(configured, version) == version
    models.promote(configured, "1")
    with pytest.raises(NoEarlierChampion, match=r"version 1 was promoted over none; others that were champion once, for --to: none"):
        models.roll_back(configured)
    models.promote(configured, "3")
    models.promote(configured, "3")  # a run that died after it had promoted does so again
    for no_champion in ("2", "9", "3"):
        with pytest.raises(NoEarlierChampion, match=f"found '{no_champion}'; others that were champion once, for --to: 1$"):
            models.roll_back(configured, no_champion)

    assert models.roll_back(configured) == ("3", "1")
    assert models.champion_version(configured) == "1"
    assert [models.is_rolled_back(configured, version) for version in ("1", "2", "3")] == [False, False, True]

    models.promote(configured, "4")  # trained since, better than version 1
    assert models.roll_back(configured, "3") == ("4", "3")
    assert [models.is_rolled_back(configured, version) for version in ("1", "3", "4")] == [False, False, True]
    assert models.roll_back(configured) == ("3", "1")


def test_an_embedded_store_needs_a_local_lake() -> None:
    with pytest.raises(ConfigurationError, match=r"mlflow.tracking_uri: is null"):
        models.champion_version(settings("s3a://bucket/lake"))


def test_calibration_is_applied(tmp_path: Path) -> None:
    model = small_model()
    raw = replace(model, calibration_x=(0.0, 1.0), calibration_y=(0.0, 1.0)).predict(MATRIX)
    assert model.predict(MATRIX).tolist() == np.interp(raw, [0.0, 0.3, 1.0], [0.01, 0.2, 0.9]).tolist()
