"""What became of a score: the shares add up to what the model says, the planted change is found, bad questions get an answer."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from pyspark.sql import functions as F
from rich.console import Console

from propensity_spark import cli, explain_change
from propensity_spark.config import LabelSettings, Settings
from propensity_spark.console import change_lines, change_table
from propensity_spark.errors import ConfigurationError, NotScored, TableMissing
from propensity_spark.evaluate.change import Scored, as_json, change
from propensity_spark.features.registry import USER_FEATURES, USER_ITEM_FEATURES, features_of, model_features
from propensity_spark.predictor import PropensityModel
from propensity_spark.schemas import scores_table
from propensity_spark.tables import Lake, local_frame

FROM, TO = date(2024, 6, 27), date(2024, 6, 28)
FEATURES = tuple(feature.name for feature in model_features("user_item", has_market=False))
RECENCY, VIEWS, PAIR = (FEATURES.index(name) for name in ("recency_days", "views_7d", "item_views_7d"))


@pytest.fixture(scope="module")
def model() -> PropensityModel:
    """Recency and views of the item decide, together; nothing else does."""
    random = np.random.default_rng(3)
    matrix = np.full((4000, len(FEATURES)), 9.0, dtype=np.float32)
    matrix[:, [RECENCY, PAIR]] = random.integers(0, 10, (4000, 2))
    chance = 0.05 + 0.4 * (matrix[:, RECENCY] < 3) + 0.5 * ((matrix[:, RECENCY] < 3) & (matrix[:, PAIR] > 6))
    label = random.random(4000) < chance
    booster = xgboost.train({"max_depth": 4, "objective": "binary:logistic"}, xgboost.DMatrix(matrix, label), 25)
    return PropensityModel(
        name="propensity",
        version="4",
        grain="user_item",
        features=FEATURES,
        booster=bytes(booster.save_raw("ubj")),
        calibration_x=(0.0, 0.3, 1.0),
        calibration_y=(0.01, 0.2, 0.95),
        threshold=0.4,
        baseline={},
        train_from=FROM,
        train_to=FROM,
        label=LabelSettings(),
        inputs={},
    )


def rows(**after: float) -> np.ndarray:
    """A row of nines, and the same with other values."""
    matrix = np.full((2, len(FEATURES)), 9.0, dtype=np.float32)
    for name, value in after.items():
        matrix[1, FEATURES.index(name)] = value
    return matrix


def scored(model: PropensityModel, matrix: np.ndarray) -> tuple[Scored, Scored]:
    before, after = model.predict(matrix).tolist()
    return Scored(FROM, before, model.version), Scored(TO, after, model.version)


def test_the_differences_sum_to_what_the_model_itself_says(model: PropensityModel) -> None:
    matrix = np.random.default_rng(8).integers(0, 10, (2, len(FEATURES))).astype(np.float32)
    matrix[0, RECENCY], matrix[1, RECENCY], matrix[1, VIEWS] = 1, 8, np.nan
    found = change(model, matrix, *scored(model, matrix))
    margins = xgboost.Booster(model_file=bytearray(model.booster)).predict(xgboost.DMatrix(matrix, missing=np.nan), output_margin=True)
    assert [found.before.margin, found.after.margin] == pytest.approx(margins.tolist(), abs=1e-5)
    assert sum(one.difference for one in found.moved) == pytest.approx(float(margins[1] - margins[0]), abs=1e-5)
    assert sum(one.share or 0.0 for one in found.moved) == pytest.approx(1.0, abs=1e-9)
    assert sum(one.points or 0.0 for one in found.moved) == pytest.approx(found.probability, abs=1e-12)
    assert [found.before.probability, found.after.probability] == model.predict(matrix).tolist()
    assert np.interp(found.after.raw_probability, model.calibration_x, model.calibration_y) == pytest.approx(
        found.after.probability, abs=1e-6
    )
    assert {one.feature: one.value_after for one in found.moved}["views_7d"] is None


def test_the_planted_change_is_found(model: PropensityModel) -> None:
    matrix = rows(recency_days=1.0)
    found = change(model, matrix, *scored(model, matrix), "i")
    first = found.moved[0]
    assert (first.feature, first.value_before, first.value_after) == ("recency_days", 9.0, 1.0)
    assert found.probability > 0.3
    assert first.difference == max(one.difference for one in found.moved) > 0.5 * found.margin > 0
    changed = {one.feature for one in found.moved if one.value_before != one.value_after}
    assert changed == {"recency_days"}
    partner = next(one for one in found.moved if one.feature == "item_views_7d")
    assert partner.has_moved, "it kept its value, and is worth more since the user came back"
    assert found.notes == ()


def test_no_change(model: PropensityModel) -> None:
    found = change(model, rows(), *scored(model, rows()))
    assert (found.margin, found.probability, [one for one in found.moved if one.has_moved]) == (0.0, 0.0, [])
    assert {one.share for one in found.moved} == {None}
    assert change_lines(found)[-1] == "No feature moved: the score is the same for the same reasons."
    assert as_json(found)["features"] == []


def test_another_model_and_other_features_are_told_apart_from_a_change(model: PropensityModel) -> None:
    matrix = rows(recency_days=1.0)
    before, after = scored(model, matrix)
    other = change(model, matrix, replace(before, probability=0.5, model_version="3"), after)
    assert other.notes[0].startswith("The score as of 2024-06-27 came from version 3: 0.5000; version 4, which explains both dates, gives ")
    late = change(model, matrix, before, replace(after, probability=after.probability - 0.1))
    assert len(late.notes) == 1
    assert "computed anew since" in late.notes[0]


def test_what_a_person_sees(model: PropensityModel) -> None:
    matrix = rows(recency_days=1.0)
    found = change(model, matrix, *scored(model, matrix), "i")
    lines = change_lines(found)
    assert lines[0] == "propensity version 4, item i"
    assert lines[1].startswith("purchase_probability: 0.")
    assert "as of 2024-06-28 (+0." in lines[1]
    assert "calibration: " in lines[3]
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(change_table(found))
    text = console.export_text().splitlines()
    assert text[1].split()[:3] == ["recency_days", "9", "1"]
    assert text[-1].split()[0] == "together"
    assert "100.0%" in text[-1]
    assert "frequency" not in "\n".join(text), "what did not move is left out"


@pytest.fixture
def settings(lake: Lake, tmp_path: Path) -> Settings:
    return Settings.model_validate({"dataset": "t", "lake": {"root": lake.root}, "publish": {"uri": str(tmp_path / "out")}, "sources": {}})


@pytest.fixture
def gold(lake: Lake, model: PropensityModel, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """User u and item a on three dates (whose features are gone on the first), item b on the last two, where it ranks first."""
    monkeypatch.setattr(explain_change, "load", lambda settings, version: replace(model, version=version))
    spark, first = lake.spark, FROM - timedelta(days=1)
    keys = [("u", "a", day) for day in (first, FROM, TO)] + [("u", "b", FROM), ("u", "b", TO), ("v", "a", FROM)]
    pairs = local_frame(spark, keys, "user_id string, item_id string, as_of_date date")
    values = {feature.name: F.lit(9).cast(feature.type) for feature in features_of("user_item")}
    pairs = pairs.withColumns(values).withColumn("candidate_source", F.lit("all"))
    lake.overwrite(pairs.where(F.col("as_of_date") > F.lit(first)), USER_ITEM_FEATURES)
    users = pairs.select("user_id", "as_of_date").distinct()
    values = {feature.name: F.lit(9).cast(feature.type) for feature in features_of("user")}
    values["recency_days"] = F.when(F.col("as_of_date") == F.lit(TO), 1).otherwise(9).cast("long")
    lake.overwrite(users.withColumns(values), USER_FEATURES)
    before, after = model.predict(rows(recency_days=1.0)).tolist()
    columns = {
        "purchase_probability": F.when(F.col("as_of_date") == F.lit(TO), after).otherwise(before),
        "predicted_purchase": F.lit(False),
        "segment": F.lit("Low"),
        "rank": F.when(F.col("item_id") == "b", 1).otherwise(2),
        "model_name": F.lit("propensity"),
        "model_version": F.lit("4"),
    }
    lake.overwrite(pairs.select("user_id", "item_id", "as_of_date").withColumns(columns), scores_table("user_item"))
    return lake


def test_from_gold(gold: Lake, settings: Settings, model: PropensityModel) -> None:
    matrix = rows(recency_days=1.0)
    assert explain_change.explain_change(gold, settings, "u", "a", (FROM, TO)) == change(model, matrix, *scored(model, matrix), "a")
    top = explain_change.explain_change(gold, settings, "u", None, (FROM, TO))
    assert (top.item_id, top.notes) == ("b", ("No --item was given: b ranked first for this user as of 2024-06-28.",))


def test_questions_without_an_answer_say_what_there_is(gold: Lake, settings: Settings) -> None:
    def ask(user: str, item: str | None, first: date = FROM, last: date = TO) -> str:
        with pytest.raises((NotScored, TableMissing)) as error:
            explain_change.explain_change(gold, settings, user, item, (first, last))
        return str(error.value)

    long_ago = date(2024, 1, 1)
    assert "nobody was scored as of 2024-01-01; there are scores as of 2024-06-26, 2024-06-27, 2024-06-28" in ask("u", "a", long_ago)
    assert "--dataset t --as-of 2024-01-01 --score-only" in ask("u", "a", long_ago)
    assert "the user with item a was not scored as of 2024-06-28; scored as of 2024-06-27" in ask("v", "a")
    assert "the user with item z was not scored as of 2024-06-27; scored as of no date" in ask("u", "z")
    assert "the user was not scored as of 2024-06-28; scored as of no date" in ask("somebody else", None)
    assert "somebody else" not in ask("somebody else", None), "errors are logged, and logs name nobody"
    assert "propensity features --dataset t --as-of 2024-06-26" in ask("u", "a", FROM - timedelta(days=1), TO)


def test_questions_that_cannot_be_asked(gold: Lake, settings: Settings) -> None:
    alone = settings.model_copy(update={"grain": "user"})
    with pytest.raises(ConfigurationError, match="one score per user, for any item; leave --item out"):
        explain_change.explain_change(gold, alone, "u", "a", (FROM, TO))
    renamed = settings.model_copy(update={"mlflow": settings.mlflow.model_copy(update={"model_name": "other"})})
    with pytest.raises(ConfigurationError, match=r"mlflow.model_name: is other, and the score as of 2024-06-28 came from propensity"):
        explain_change.explain_change(gold, renamed, "u", "a", (FROM, TO))


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (("2024-06-28", "2024-06-28"), "expected two dates, the earlier one first"),
        (("2024-06-28", "2024-06-27"), "expected the earlier date first"),
        (("yesterday", "2024-06-28"), "expected a date such as"),
    ],
)
def test_dates_that_are_none(days: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain-change", "--user", "u", "--from", days[0], "--to", days[1]]) == 2
    assert said in capsys.readouterr().err


def test_the_command(
    gold: Lake, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_session", lambda *_: gold.spark)
    monkeypatch.setattr(cli, "start_logging", lambda *_: None)
    asked = ["explain-change", "--user", "u", "--item", "a", "--from", str(FROM), "--to", str(TO)]
    asked += ["--dataset", "funds", "--set", f"lake.root={gold.root}", "--set", "mlflow.model_name=propensity"]
    asked += ["--set", "features.crowd.enabled=false"]
    assert cli.main([*asked, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["model"] == {"name": "propensity", "version": "4"}
    assert answer["features"][0]["feature"] == "recency_days"
    assert sum(one["difference"] for one in answer["features"]) == pytest.approx(answer["change"]["log_odds"], abs=1e-9)
    assert cli.main(asked) == 0
    assert "recency_days" in capsys.readouterr().out
