"""`propensity vacuum`: what no recent version needs goes, and what a registered model was made from stays."""

from __future__ import annotations

import os
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import mlflow
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession
from silver_data import event, frame

from propensity_spark.config import Settings
from propensity_spark.run import Run
from propensity_spark.schemas import ACTIVITY
from propensity_spark.stages import vacuum
from propensity_spark.tables import Lake

DAY = date(2024, 3, 1)
AGES = (100, 90, 80, 20)


@pytest.fixture
def run(spark: SparkSession, tmp_path: Path) -> Run:
    """silver/activity in four versions, each in place of the one before: 0 was written 100 days ago, 1 90, 2 80, and 3 20 days ago."""
    body = {"dataset": "t", "grain": "user", "lake": {"root": str(tmp_path)}, "publish": {"uri": "out"}, "sources": {}}
    settings = Settings.model_validate(body)
    lake = Lake(spark, settings.lake)
    for name in ("zero", "one", "two", "three"):
        lake.overwrite(frame(spark, [event(name, "u", "i", "buy", DAY)], ACTIVITY), ACTIVITY)
    table = Path(lake.location(ACTIVITY))
    for path in table.rglob("*"):
        if path.suffix == ".crc":
            path.unlink()
        elif path.suffix == ".parquet":
            os.utime(path, (0, 0))
        elif path.suffix == ".json":
            written = (datetime.now(UTC) - timedelta(days=AGES[int(path.stem)], minutes=5)).timestamp()
            moments = r'"(deletionTimestamp|timestamp)":\d{13}'
            path.write_text(re.sub(moments, rf'"\1":{int(written * 1000)}', path.read_text()))
            os.utime(path, (written, written))
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]
    return Run(spark, settings, lake, DAY, "r", datetime.now(UTC))


def version(run: Run, number: int) -> list[str]:
    pinned = Lake(run.spark, run.settings.lake, {ACTIVITY.full_name: number})
    return [row["event_id"] for row in pinned.read(ACTIVITY).collect()]


def kept(run: Run) -> tuple[str, str]:
    """How long the table keeps files and remembers versions."""
    rows = run.spark.sql(f"SHOW TBLPROPERTIES delta.`{run.lake.location(ACTIVITY)}`").collect()
    properties = {row["key"]: row["value"] for row in rows}
    return properties["delta.deletedFileRetentionDuration"], properties["delta.logRetentionDuration"]


def test_what_no_recent_version_needs_goes(run: Run) -> None:
    assert [version(run, number) for number in range(4)] == [["zero"], ["one"], ["two"], ["three"]]
    assert vacuum.STAGE.execute(run).note == "1 tables keep the files of every version of the last 30 days"
    assert [version(run, number) for number in (2, 3)] == [["two"], ["three"]]  # 2 was in use until 20 days ago
    for number in (0, 1):
        with pytest.raises(Py4JJavaError, match="FAILED_READ_FILE"):
            version(run, number)


def test_what_a_registered_model_was_made_from_stays_until_the_model_goes(run: Run) -> None:
    store = Path(run.settings.lake.root) / "mlflow"
    store.mkdir()
    address = f"sqlite:///{store}/mlflow.db"
    client = mlflow.MlflowClient(address, address)
    experiment = client.create_experiment("e", artifact_location=str(store))
    client.create_registered_model(run.settings.mlflow.model_name)
    for number in ("2", "1"):
        made = client.create_run(experiment, tags={"input.silver/activity": number, "input.gold/gone": "7"}).info.run_id
        client.create_model_version(run.settings.mlflow.model_name, f"runs:/{made}/model", made)
    note = vacuum.STAGE.execute(run).note
    assert note.endswith("of the last 30 days; for registered models silver/activity of the last 81")
    assert version(run, 1) == ["one"]
    with pytest.raises(Py4JJavaError, match="FAILED_READ_FILE"):
        version(run, 0)
    client.delete_model_version(run.settings.mlflow.model_name, "2")
    assert "registered" not in vacuum.STAGE.execute(run).note
    with pytest.raises(Py4JJavaError, match="FAILED_READ_FILE"):
        version(run, 1)


def test_a_new_table_remembers_its_versions_for_as_long_as_is_configured(run: Run) -> None:
    assert run.lake.days_since_replaced(ACTIVITY, 1) == 81
    assert run.lake.days_since_replaced(ACTIVITY, 3) == 0
    assert run.lake.days_since_replaced(ACTIVITY, 99) == 0
    assert kept(run) == ("interval 30 days", "interval 400 days")
    assert run.lake.version(ACTIVITY) == 3
    run.lake.vacuum(ACTIVITY, 30)
    assert run.lake.version(ACTIVITY) == 3
    run.lake.vacuum(ACTIVITY, 7)
    assert (kept(run), run.lake.version(ACTIVITY)) == (("interval 7 days", "interval 400 days"), 4)
    run.lake.vacuum(ACTIVITY, 500)
    assert kept(run) == ("interval 500 days", "interval 500 days")
