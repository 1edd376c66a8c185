"""The whole line with file drops, lake, model files and published scores on a real S3 server, beside the same on this machine's disk."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from line_support import run
from pyspark.sql import SparkSession
from s3_server import S3Server
from shop import AS_OF, FEW, settings, write_orders

from propensity_spark.config import Settings, load_settings
from propensity_spark.features.registry import USER_FEATURES, training_set_table
from propensity_spark.line import STAGES, run_line, stage_named
from propensity_spark.models import logged_document
from propensity_spark.publish import Verified, read_published, verify
from propensity_spark.schemas import ACTIVITY, BRONZE, DRIFT, QUARANTINE, RUNS, scores_table

DAILY = ("ingest", "validate", "features", "score", "publish", "monitor")
NEXT_DAY = AS_OF + timedelta(days=1)
ALERT = "monitor.alerts=[{name: always, measure: age_days, above: -1}]"  # so that there is something to log


def _on_s3(place: str, tracking: Path, data: Path) -> Settings:
    overrides = [
        f"lake.root={place}/lake",
        f"publish.uri={place}/published",
        f"mlflow.tracking_uri=sqlite:///{tracking}",
        f"mlflow.artifact_location={place.replace('s3a://', 's3://')}/models",
        ALERT,
    ]
    return load_settings(data / "conf" / "local.yml", "shop", [*FEW, *overrides], f"{place}/drops", data / "conf")


def _drop(server: S3Server, bucket: str, file: Path) -> None:
    server.client.put_object(Bucket=bucket, Key=f"drops/orders/{file.name}", Body=file.read_bytes())


@pytest.mark.faults
def test_the_line_on_s3_gives_what_it_gives_on_disk(
    spark: SparkSession, server: S3Server, s3a: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # whatever is written beside the lake would be found here
    data = tmp_path / "data"
    write_orders(data / "orders")
    later = sorted((data / "orders").glob("*.csv"))[-1]  # of the month after the as-of date
    held_back = later.rename(data / later.name)
    here, there = settings(tmp_path / "here", data, ALERT), _on_s3(s3a, tmp_path / "mlflow.db", data)
    for file in (data / "orders").glob("*.csv"):
        _drop(server, bucket, file)
    local, remote = run(spark, here, AS_OF), run(spark, there, AS_OF)
    assert set(remote.outcomes) == {stage.name for stage in STAGES}

    for table in (ACTIVITY, QUARANTINE, USER_FEATURES, training_set_table("user", False), scores_table("user")):
        assert _rows(remote.lake.read(table)) == _rows(local.lake.read(table)), table.full_name
    (published,), (expected,) = verify(there.publish.uri), verify(here.publish.uri)
    assert _content(published) == _content(expected)
    assert _rows(read_published(there.publish.uri, AS_OF)) == _rows(read_published(here.publish.uri, AS_OF))
    assert remote.lake.read(DRIFT).count() == local.lake.read(DRIFT).count() > 0
    assert logged_document(there, "1", "evaluation/report.json")["head"]

    before = _objects(server, bucket)
    again = run(spark, there, AS_OF)
    assert {name for name, outcome in again.outcomes.items() if outcome is not None} == {"ingest", "publish"}
    changed = {key for key, etag in _objects(server, bucket).items() if before.get(key) != etag}
    assert {key for key in changed if "/ops/runs/" not in key} == set(), "a second run wrote something"

    _drop(server, bucket, held_back)
    taken = {stage.name: outcome for stage, outcome, _ in run_line(spark, there, NEXT_DAY, [stage_named(name) for name in DAILY])}
    assert taken["ingest"] is not None
    assert taken["ingest"].rows_out == len(held_back.read_text().splitlines()) - 1
    assert [run.as_of_date for run in verify(there.publish.uri)] == [str(AS_OF), str(NEXT_DAY)]
    assert remote.lake.read(BRONZE["activity"]).select("source_uri").distinct().count() == len(list((data / "orders").glob("*"))) + 1
    assert {row[0] for row in remote.lake.read(RUNS).select("status").distinct().collect()} == {"succeeded"}
    assert sorted(os.listdir(tmp_path)) == ["data", "here", "logs", "mlflow.db"]
    assert [path.name for path in (tmp_path / "logs").rglob("*") if path.is_file()] == ["alerts.jsonl"], "logs stay on this machine"


def _rows(frame) -> list[str]:  # type: ignore[no-untyped-def]
    """Every row but what differs from run to run by its meaning."""
    return sorted(repr(row) for row in frame.drop("ingested_at", "run_id", "batch_id", "source_uri").collect())


def _content(run: Verified) -> tuple[object, ...]:
    return run.as_of_date, run.run_id, run.model_name, run.model_version, run.rows, run.files


def _objects(server: S3Server, bucket: str) -> dict[str, str]:
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", []) if not entry["Key"].endswith("/")}
