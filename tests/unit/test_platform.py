"""Where we are, and what that changes: Databricks is a module in `sys.modules` and an environment variable here."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from propensity_spark import cli, platform
from propensity_spark.as_of import as_of_date, days_between
from propensity_spark.config import CONF_DIR, LakeSettings, Settings, load_settings
from propensity_spark.errors import CatalogMissing, ConfigurationError, EnvironmentMissing
from propensity_spark.logs import JsonLines, log_folder, start_logging
from propensity_spark.models import _create_if_missing
from propensity_spark.run import Outcome
from propensity_spark.tables import Lake

NOW = datetime(2025, 3, 9, 12, tzinfo=UTC)


def settings(*overrides: str) -> Settings:
    return load_settings(CONF_DIR / "local.yml", "stocks", overrides)


@pytest.fixture
def databricks(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What tasks left for the next ones; the secret market/feed is there, every other is refused."""
    left: dict[str, Any] = {}

    def get(scope: str, key: str) -> str:
        if (scope, key) != ("market", "feed"):
            raise ValueError("Secret does not exist with scope: x and key: y\nat line 1")
        return " s3cret\n"

    tools = types.SimpleNamespace(
        secrets=types.SimpleNamespace(get=get),
        jobs=types.SimpleNamespace(taskValues=types.SimpleNamespace(set=lambda key, value: left.update({key: value}))),
    )
    module = types.ModuleType("pyspark.dbutils")
    module.DBUtils = lambda spark: tools  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyspark.dbutils", module)
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.0")
    return left


def test_a_secret_is_read_or_named(databricks: dict[str, Any]) -> None:
    assert platform.secret(None, "market", "feed") == "s3cret"
    with pytest.raises(EnvironmentMissing) as caught:
        platform.secret(None, "market", "other")
    assert "secret market/other cannot be read (Secret does not exist with scope: x and key: y)" in str(caught.value)
    assert "databricks secrets put-secret market other" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_go_to_the_next_tasks(databricks: dict[str, Any]) -> None:
    platform.hand_over(None, {"retrain": "yes"})
    assert databricks == {"retrain": "yes"}


def test_elsewhere_they_go_to_a_file_if_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not platform.takes_values()
    platform.hand_over(None, {"lost": 1})
    monkeypatch.setenv(platform.TASK_VALUES, str(tmp_path / "values.json"))
    platform.hand_over(None, {"retrain": "yes"})
    platform.hand_over(None, {"has_champion": "no"})
    assert json.loads((tmp_path / "values.json").read_text()) == {"retrain": "yes", "has_champion": "no"}


def test_the_answers_of_a_stage_are_its_facts_up_to_the_colon(monkeypatch: pytest.MonkeyPatch, databricks: dict[str, Any]) -> None:
    monkeypatch.setattr("propensity_spark.models.champion_version", lambda settings: None)
    outcome = Outcome(1, 1, facts={"retrain": "no: 0 of 40 features drifted", "ROC AUC": "0.8"})
    assert cli._answers(settings(), outcome) == {"retrain": "no", "has_champion": "no"}
    assert cli._answers(settings(), None) == {"has_champion": "no"}


def test_the_dates_of_a_backfill(databricks: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dates", "--from", "2024-12-30", "--to", "2025-01-01"]) == 0
    assert databricks["dates"] == ["2024-12-30", "2024-12-31", "2025-01-01"] == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("", "2024-12-30", "--from '': expected a date"),
        ("2024-12-30", "soon", "--to 'soon': expected a date"),
        ("2024-12-30", "2024-12-29", "expected the earlier date first"),
        ("2025-03-09", "2025-03-10", "none after 2025-03-09"),
    ],
)
def test_a_range_that_is_none(start: str, end: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        days_between(start, end, NOW)


# --- an instant as the as-of date --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["2025-03-01T03:00:00", "2025-03-01T03:00Z", "2025-03-01T03:00:00.000+00:00", "2025-02-28 22:00-05:00"])
def test_an_instant_stands_for_the_clock(text: str) -> None:
    assert as_of_date(settings("as_of=null"), text, NOW) == date(2025, 2, 27)
    assert as_of_date(settings("as_of=null", "time_zone=Asia/Tokyo"), text, NOW) == date(2025, 2, 28)


def test_a_date_that_the_data_set_fixes_is_stronger_than_the_clock() -> None:
    assert as_of_date(settings(), "2025-03-01T03:00:00", NOW) == date(2024, 12, 31)


def test_an_instant_that_has_not_come() -> None:
    with pytest.raises(ConfigurationError, match=r"2025-03-09T13:00: lies in the future; .* now is 2025-03-09T12:00"):
        as_of_date(settings(), "2025-03-09T13:00", NOW)


@pytest.mark.parametrize("text", ["{{job.trigger.time.iso_datetime}}", "2025-03-01Tnoon", "T"])
def test_an_instant_that_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a date such as 2024-12-31"):
        as_of_date(settings(), text, NOW)


# --- settings, versions, logs, catalog ---------------------------------------------------------------------------


def test_an_environment_by_its_name_comes_with_the_wheel() -> None:
    found = load_settings("databricks", "stocks", ["lake.root=/Volumes/a/b/c", "publish.uri=s3://bucket/scores"])
    assert found.spark.master is None
    assert (found.evaluate.refused, found.train.num_workers) == ("fail", None)
    with pytest.raises(ConfigurationError, match="datbricks: cannot be read"):
        load_settings("datbricks", "stocks")


def test_a_catalog_without_a_schema_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"expected lake\.catalog and lake\.schema_name together"):
        settings("lake.catalog=main")


def test_what_is_told_to_whom_changes_no_result() -> None:
    assert settings().config_hash() == settings("secret_scope=market", "evaluate.refused=fail").config_hash()
    assert settings().config_hash() != settings("evaluate.bins=100").config_hash()


def test_a_stale_wheel_stops_before_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", "--expect-version", "9.9.9"]) == 2
    assert "--expect-version 9.9.9: the installed propensity-spark is 0." in capsys.readouterr().err


def test_logs_on_databricks_go_to_the_drivers_disk_and_to_stderr(databricks: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = log_folder(settings("lake.root=/Volumes/main/propensity/landing/stocks"))
    assert folder.parts[-3:] == ("propensity", "logs", "stocks")
    taken: list[Any] = []
    monkeypatch.setattr("logging.basicConfig", lambda **given: taken.extend(given["handlers"]))
    start_logging(folder, verbose=False)
    taken[0].close()
    assert [isinstance(handler.formatter, JsonLines) for handler in taken] == [True, True]


class Catalog:
    """`spark.catalog` of Unity Catalog, which fails for a catalog that is not there."""

    def databaseExists(self, name: str) -> bool:
        if name.startswith("gone."):
            from pyspark.errors import AnalysisException

            raise AnalysisException("[NO_SUCH_CATALOG_EXCEPTION] Catalog 'gone' was not found.\nmore")
        return name == "`my-team`.propensity"


@pytest.mark.parametrize(
    ("catalog", "found"),
    [("gone", "NO_SUCH_CATALOG_EXCEPTION"), ("main", "it does not exist, or USE CATALOG and USE SCHEMA are not granted")],
)
def test_a_catalog_that_does_not_exist(catalog: str, found: str) -> None:
    spark: Any = types.SimpleNamespace(catalog=Catalog())
    Lake(spark, LakeSettings(root="x")).require_schema()
    Lake(spark, LakeSettings(root="x", catalog="my-team", schema_name="propensity")).require_schema()
    with pytest.raises(CatalogMissing, match=rf"{catalog}\.propensity \(lake\.catalog, lake\.schema_name\).*{found}") as caught:
        Lake(spark, LakeSettings(root="x", catalog=catalog, schema_name="propensity")).require_schema()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


# --- Spark Connect and slots -------------------------------------------------------------------------------------


def frame(module: str, kept: list[str]) -> Any:
    session = type("SparkSession", (), {"__module__": module})()
    made = types.SimpleNamespace(sparkSession=session, unpersist=lambda: kept.append("released"))
    made.persist = lambda *level: kept.append(f"kept{level}") or made
    return made


def test_frames_are_kept_except_over_connect() -> None:
    kept: list[str] = []
    classic, remote = frame("pyspark.sql.session", kept), frame("pyspark.sql.connect.session", kept)
    assert platform.keep(classic) is classic
    platform.release(platform.keep(classic, "disk"))  # type: ignore[arg-type]
    assert kept == ["kept()", "kept('disk',)", "released"]
    platform.release(platform.keep(remote))
    assert len(kept) == 3


@pytest.mark.parametrize(("conf", "slots"), [({}, 16), ({"spark.task.cpus": "4"}, 4)])
def test_slots_are_cores_over_the_cores_of_a_task(conf: dict[str, str], slots: int) -> None:
    context = types.SimpleNamespace(defaultParallelism=16, getConf=lambda: types.SimpleNamespace(get=conf.get))
    assert platform.task_slots(types.SimpleNamespace(sparkContext=context)) == slots  # type: ignore[arg-type]


def test_workers_follow_the_cluster_where_no_number_is_set() -> None:
    from propensity_spark.train.fit import workers_of

    context = types.SimpleNamespace(defaultParallelism=16, getConf=lambda: {"spark.task.cpus": "4"})
    spark: Any = types.SimpleNamespace(sparkContext=context)
    train = settings().train
    assert workers_of(train.model_copy(update={"num_workers": None}), spark) == 4
    assert workers_of(train.model_copy(update={"num_workers": 3}), spark) == 3
    with pytest.raises(ConfigurationError, match="5 workers must run at once, Spark has 4 task slots"):
        workers_of(train.model_copy(update={"num_workers": 5}), spark)


def test_a_model_is_created_only_when_the_registry_says_that_there_is_none() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST

    made: list[str] = []

    def client(code: int | None) -> Any:
        def get_registered_model(name: str) -> None:
            if code is not None:
                raise MlflowException(name, error_code=code)

        return types.SimpleNamespace(get_registered_model=get_registered_model, create_registered_model=made.append)

    _create_if_missing(client(None), "there")
    _create_if_missing(client(RESOURCE_DOES_NOT_EXIST), "new")
    with pytest.raises(MlflowException):
        _create_if_missing(client(PERMISSION_DENIED), "not ours")
    assert made == ["new"]


def test_mlflow_tells_nobody_how_it_is_used() -> None:
    pytest.importorskip("mlflow.telemetry", reason="this MLflow has nothing to tell with")
    asked = "import mlflow.telemetry; print(mlflow.telemetry.get_telemetry_client())"
    bare = {"PATH": "/usr/bin:/bin"}  # MLflow is silent of itself where it sees CI or pytest in the environment

    def client(code: str) -> str:
        return subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True).stdout.strip()

    assert client(asked) != "None"
    assert client("import propensity_spark; " + asked) == "None"
