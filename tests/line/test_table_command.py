"""A table of customers from train to scores: the line's own models, gates, report and calibration."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from propensity_spark.config import CONF_DIR, load_table_settings
from propensity_spark.errors import ConfigurationError, TableRefused
from propensity_spark.models import CHAMPION, load, version_of
from propensity_spark.own_table.evaluate import evaluate
from propensity_spark.own_table.score import Scored, score
from propensity_spark.own_table.train import Trained, train
from propensity_spark.run import Run
from propensity_spark.tables import Lake

pytestmark = pytest.mark.usefixtures("compiled")

NOW = datetime(2026, 6, 30, 12, 0, 5, tzinfo=UTC)
CUSTOMERS = 3000
OVERRIDES = ("train.rounds=40", "train.early_stopping_rounds=10", "evaluate.bootstrap_rounds=20", "evaluate.shap_rows=100", "table.folds=3")
OVERRIDES += ("evaluate.max_calibration_error=0.15",)  # of 40 rows a group the rate is off by 0.07 by chance alone


@dataclass(frozen=True)
class Shop:
    """A folder with customers.csv, of whom those order who like red and see much, or like blue and see little: no sum of effects."""

    folder: Path
    run: Run
    trained: Trained
    facts: dict[str, str]

    @property
    def table(self) -> str:
        return str(self.folder / "customers.csv")

    def score(self, name: str, output: str, *, absent_as_zero: bool = False) -> Scored:
        return score(self.run, str(self.folder / name), str(self.folder / output), absent_as_zero=absent_as_zero)


@pytest.fixture(scope="module")
def shop(spark: SparkSession, compiled: None, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(1)
    rows = [["Customer, No.", "pages seen", "colour", "noise", "ordered"]]
    for number in range(CUSTOMERS):
        pages, colour = int(rng.integers(0, 40)), str(rng.choice(["red", "blue", "none"], p=[0.4, 0.4, 0.2]))
        chance = 0.5 if (colour, pages > 20) in (("red", True), ("blue", False)) else 0.05
        rows.append(
            [f"{number:05}", str(pages) if rng.random() > 0.05 else "", colour, f"{rng.normal():.3f}", str(int(rng.random() < chance))]
        )
    with (folder / "customers.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    settings = load_table_settings(CONF_DIR / "local.yml", "customers", [f"lake.root={folder / 'tables'}", *OVERRIDES])
    run = Run(spark, settings, Lake(spark, settings.lake), date(2026, 6, 30), "table", NOW)
    trained = train(run, str(folder / "customers.csv"), id="Customer, No.", label="ordered")
    return Shop(folder, run, trained, dict(evaluate(run, str(folder / "customers.csv"))))


def written(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_model_finds_what_no_sum_of_effects_has_and_is_promoted(shop: Shop) -> None:
    assert shop.trained.by_slice == pytest.approx({"test": 600, "calibration": 450, "validation": 300, "train": 1650}, abs=4)
    assert [(one.column, one.kind) for one in shop.trained.columns.features] == [
        *[("pages seen", "number"), ("colour", "category"), ("noise", "number")]
    ]
    report = json.loads((shop.folder / "tables" / "reports" / "2026-06-30" / "report.json").read_text())
    metrics = report["evaluation"]["metrics"]
    assert metrics["challenger"]["roc_auc"]["value"] > 0.72
    assert metrics["baseline"]["roc_auc"]["value"] < 0.65
    assert metrics["challenger"]["calibration_error"]["value"] < 0.08
    assert all(one == pytest.approx(metrics["challenger"]["roc_auc"]["value"], abs=0.08) for one in shop.trained.folds)
    assert version_of(shop.run.settings, CHAMPION) == shop.trained.version
    assert shop.facts["champion"] == "version 1 promoted, the first champion"


def test_report_and_card_speak_of_a_table(shop: Shop) -> None:
    folder = shop.folder / "tables" / "reports" / "2026-06-30"
    page, card = (folder / "report.html").read_text(), (folder / "model_card.md").read_text()
    for text in (page, card):
        assert "P(ordered)" in text
        assert "ecency and popularity" not in text
        assert "No time column" in text
        assert "Cross-validation on the rows that do not test, 3 folds" in text
    assert "ROC-AUC on held-out customers" in page
    assert "Ahead of logistic regression" in page
    assert "AUC ahead of logistic regression (above the limit)" in card


def test_the_same_table_is_the_same_version_again(shop: Shop) -> None:
    again = train(shop.run, shop.table, id="Customer, No.", label="ordered")
    assert (again.version, again.is_new) == (shop.trained.version, False)


def test_scores_are_the_models_in_the_files_order(shop: Shop) -> None:
    found = shop.score("customers.csv", "scores.csv")
    rows, customers = written(shop.folder / "scores.csv"), written(Path(shop.table))
    assert list(rows[0]) == ["Customer, No.", "predicted_ordered", "purchase_probability", "prediction_timestamp", "segment"]
    assert [row["Customer, No."] for row in rows] == [row["Customer, No."] for row in customers]
    model = load(shop.run.settings, CHAMPION)
    colours = shop.trained.columns.features[1].categories
    matrix = np.array(
        [[float(row["pages seen"] or "nan"), colours.index(row["colour"]), float(row["noise"])] for row in customers], dtype=np.float32
    )
    probability = np.array([float(row["purchase_probability"]) for row in rows])
    assert probability == pytest.approx(model.predict(matrix), abs=1e-12)
    assert [row["predicted_ordered"] for row in rows] == [str(int(one >= model.threshold)) for one in probability]
    assert {row["prediction_timestamp"] for row in rows} == {"2026-06-30T12:00:05Z"}
    assert [row["segment"] for row in rows] == ["High" if one > 0.5 else "Low" if one < 0.1 else "Medium" for one in probability]
    assert found.rows == CUSTOMERS
    assert found.predicted == sum(row["predicted_ordered"] == "1" for row in rows)
    assert sum(found.by_segment.values()) == CUSTOMERS
    assert found.notes == ()
    assert sorted(path.name for path in shop.folder.iterdir()) == ["customers.csv", "scores.csv", "tables"]  # nothing is left lying


def test_a_file_with_other_columns_is_scored_and_told_of(shop: Shop) -> None:
    (shop.folder / "other.csv").write_text('"Customer, No.",colour,pages seen,weather\n1,red,30,wet\n2,green,many,dry\n')
    found = shop.score("other.csv", "other_scores")
    assert found.notes == (
        "noise: the model knows it and the table has no such column; it counts as missing in every row",
        "left out, for the model does not know them: weather",
        "pages seen: 1 values are not of the type they had in training and count as missing",
    )
    as_zero = shop.score("other.csv", "zero.csv", absent_as_zero=True)
    assert as_zero.notes[0].endswith("it counts as 0")
    model, parquet = load(shop.run.settings, CHAMPION), shop.run.spark.read.parquet(found.path).orderBy("`Customer, No.`").collect()
    colours = shop.trained.columns.features[1].categories
    matrix = np.array([[30, colours.index("red"), np.nan], [np.nan, len(colours), np.nan]], dtype=np.float32)
    assert [row["purchase_probability"] for row in parquet] == pytest.approx(model.predict(matrix).tolist(), abs=1e-12)
    matrix[:, 2] = 0
    assert [float(row["purchase_probability"]) for row in written(shop.folder / "zero.csv")] == pytest.approx(
        model.predict(matrix).tolist()
    )


def test_a_table_of_another_kind_is_refused_and_nothing_written(shop: Shop) -> None:
    (shop.folder / "strange.csv").write_text('"Customer, No.",height\n1,180\n')
    (shop.folder / "nobody.csv").write_text("colour\nred\n")
    (shop.folder / "empty.csv").write_text('"Customer, No.",colour\n')
    for name, says in (
        ("strange", "none of its columns. The model knows pages seen, colour, noise"),
        ("nobody", "no column Customer"),
        ("empty", "no row"),
    ):
        with pytest.raises(TableRefused, match=says):
            shop.score(f"{name}.csv", "refused.csv")
    with pytest.raises(ConfigurationError, match="is the input itself"):
        shop.score("strange.csv", "strange.csv")
    with pytest.raises(ConfigurationError, match="no folder"):
        shop.score("customers.csv", "missing/scores.csv")
    assert not [path for path in shop.folder.iterdir() if "refused" in path.name]


def test_a_column_that_is_the_label_is_called_a_leak(shop: Shop, tmp_path: Path) -> None:
    rows = written(Path(shop.table))
    with (tmp_path / "leak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "basket"])
        writer.writeheader()
        writer.writerows({**row, "basket": row["ordered"]} for row in rows)
    settings = load_table_settings(CONF_DIR / "local.yml", "leak", [f"lake.root={tmp_path / 'tables'}", *OVERRIDES, "table.folds=0"])
    run = Run(shop.run.spark, settings, Lake(shop.run.spark, settings.lake), date(2026, 6, 30), "table", NOW)
    train(run, str(tmp_path / "leak.csv"), id="Customer, No.", label="ordered")
    facts = evaluate(run, str(tmp_path / "leak.csv"))
    assert "not promoted" in facts["champion"]
    assert "basket alone" in facts["champion"]
    assert version_of(settings, CHAMPION) is None
