"""Where a notebook finds its lake: widgets on Databricks, the environment elsewhere."""

from __future__ import annotations

import sys
import types
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from propensity_spark import notebook
from propensity_spark.config import CONF_DIR, LakeSettings, SparkSettings
from propensity_spark.errors import ConfigurationError, TableMissing
from propensity_spark.schemas import CORPORATE_ACTIONS, RUNS
from propensity_spark.tables import Lake, local_frame

NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)


class Widgets:
    """As `dbutils.widgets`: a widget that is there keeps its value when it is asked for again."""

    def __init__(self, **chosen: str) -> None:
        self.values = dict(chosen)

    def text(self, name: str, default: str) -> None:
        self.values.setdefault(name, default)

    def get(self, name: str) -> str:
        return self.values[name]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, spark: SparkSession) -> list[SparkSettings]:
    """The Spark settings that a session was asked for with; it is the tests' own, and no Unity Catalog is asked for."""
    asked: list[SparkSettings] = []

    def get_session(settings: SparkSettings, name: str) -> SparkSession:
        asked.append(settings)
        return spark

    monkeypatch.setattr(notebook, "get_session", get_session)
    monkeypatch.setattr(Lake, "require_schema", lambda self: None)
    return asked


def on_databricks(monkeypatch: pytest.MonkeyPatch, widgets: Widgets) -> None:
    module = types.ModuleType("pyspark.dbutils")
    module.DBUtils = lambda spark: types.SimpleNamespace(widgets=widgets)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyspark.dbutils", module)
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.0")


def test_on_databricks_the_widgets_say_where(monkeypatch: pytest.MonkeyPatch, opened: list[SparkSettings]) -> None:
    chosen = Widgets(catalog="prod", schema="dev_ann_propensity", model="dev_ann_propensity", settings="label.horizon_days=14")
    on_databricks(monkeypatch, chosen)
    found = notebook.open_lake({})
    assert found.lake.location(RUNS) == "prod.dev_ann_propensity.ops_runs"
    assert found.settings.lake.root == "/Volumes/prod/dev_ann_propensity/landing/stocks"
    assert found.settings.publish.uri == "/Volumes/prod/dev_ann_propensity/landing/published/stocks"
    assert found.settings.mlflow.model_name == "prod.dev_ann_propensity.dev_ann_propensity"
    assert found.settings.mlflow.registry_uri == "databricks-uc"
    assert found.settings.label.horizon_days == 14
    assert opened == [SparkSettings(master=None)]
    assert chosen.values["dataset"] == "stocks"


def test_a_publish_uri_of_its_own(monkeypatch: pytest.MonkeyPatch, opened: list[SparkSettings]) -> None:
    on_databricks(monkeypatch, Widgets(publish_uri="s3://bucket/scores"))
    assert notebook.open_lake({}).settings.publish.uri == "s3://bucket/scores/stocks"


def test_elsewhere_it_is_the_lake_of_make_run(monkeypatch: pytest.MonkeyPatch, opened: list[SparkSettings], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = notebook.open_lake({}).settings
    assert found.lake.root == str(CONF_DIR.parent / "lake" / "stocks")
    assert found.publish.uri == str(CONF_DIR.parent / "published" / "stocks")
    assert opened[0].master == "local[*]"


def test_the_environment_says_otherwise(opened: list[SparkSettings]) -> None:
    words = "lake.root=/data/lake publish.uri=s3a://bucket/scores"
    found = notebook.open_lake({"PROPENSITY_DATASET": "retail", "PROPENSITY_SETTINGS": words, "PROPENSITY_DATA": "/data"}).settings
    assert (found.dataset, found.lake.root, found.publish.uri) == ("retail", "/data/lake", "s3a://bucket/scores")
    with pytest.raises(ConfigurationError, match="unknown data set 'none'"):
        notebook.open_lake({"PROPENSITY_DATASET": "none"})


def test_the_last_run_is_the_newest_that_succeeded(lake: Lake, spark: SparkSession) -> None:
    with pytest.raises(TableMissing, match="no run of publish"):
        notebook.last_run(lake, "publish")
    days = [("publish", 2, "succeeded"), ("publish", 4, "succeeded"), ("publish", 5, "failed"), ("score", 9, "succeeded")]
    rows = [
        (f"{stage}-{day}", stage, "d", date(2024, 1, day), "f", [], [], 1, 1, 0, 1.0, "c", "v", status, None, "{}", None, NOON)
        for stage, day, status in days
    ]
    lake.append(local_frame(spark, rows, RUNS.schema), RUNS)
    assert notebook.last_run(lake, "publish") == date(2024, 1, 4)


def test_a_table_as_seen_on_a_day(spark: SparkSession, tmp_path: Path) -> None:
    """One split: announced, corrected a day later, withdrawn after that."""
    lake = Lake(spark, LakeSettings(root=str(tmp_path)))
    versions = [(2.0, 2, False), (3.0, 3, False), (3.0, 4, True)]
    rows = [
        ("A", date(2024, 1, 2), "split", ratio, None, NOON.replace(day=day), gone, date(2024, 1, day), f"h{day}")
        for ratio, day, gone in versions
    ]
    lake.append(local_frame(spark, rows, CORPORATE_ACTIONS.schema), CORPORATE_ACTIONS)
    seen = {day: [row["ratio"] for row in notebook.as_seen(lake, CORPORATE_ACTIONS, date(2024, 1, day)).collect()] for day in range(1, 5)}
    assert seen == {1: [], 2: [2.0], 3: [3.0], 4: []}
