"""Publishing in processes that are really killed (SIGKILL) at several points, while a reader keeps looking."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

import propensity_spark
from propensity_spark.publish import Provenance, publish_scores, read_published, verify
from propensity_spark.publish.manifest import check_files, current_manifest
from propensity_spark.publish.store import LocalStore, open_store
from propensity_spark.schemas import scores_table
from propensity_spark.tables import local_frame

DAY = date(2024, 12, 31)
KILL_POINTS = ("inside_spark_write", "before_manifest", "before_pointer_is_renamed")
PROVENANCE = Provenance("stocks", {}, {}, "c0ffee", "0.1.0", "2025-01-01T00:00:00.000000Z")


def _scores(spark: SparkSession, probability: float) -> DataFrame:
    rows = [(f"u{n}", DAY, probability, False, "Low", "m", "1") for n in range(200)]
    return local_frame(spark, rows, scores_table("user").schema)


def _publish(spark: SparkSession, uri: Path, probability: float) -> str:
    frame = _scores(spark, probability)
    return publish_scores(frame, str(uri), DAY, grain="user", provenance=PROVENANCE, files=2).run_id


def _die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _victim(uri: Path, kill_at: str) -> None:
    """What a killed process runs: it publishes the new scores and dies at one point."""
    spark = (
        SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1").getOrCreate()
    )
    original = LocalStore.write

    def write(store: LocalStore, key: str, body: bytes, expected: str | None) -> None:
        if kill_at == "before_manifest":
            _die()
        if kill_at == "before_pointer_is_renamed" and key.endswith("_CURRENT"):
            Path.replace = _die  # type: ignore[method-assign, assignment]
        original(store, key, body, expected)

    LocalStore.write = write  # type: ignore[method-assign]
    if kill_at == "inside_spark_write":
        threading.Thread(target=_die_when_spark_writes, args=[uri], daemon=True).start()
    _publish(spark, uri, 0.2)


def _die_when_spark_writes(uri: Path) -> None:
    while not any(uri.rglob("_temporary")):
        pass
    _die()


def _watch(process: subprocess.Popen[bytes], uris: Sequence[Path]) -> set[str]:
    """Look at every published folder until the process has ended; whatever is current must be complete. Returns the runs seen."""
    seen = set()
    while True:
        for uri in uris:
            manifest = current_manifest(open_store(str(uri)), f"as_of_date={DAY}")
            check_files(open_store(str(uri)), manifest, hashes=True, extra=True)
            seen.add(manifest.run_id)
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        return seen


def test_a_killed_publisher_leaves_the_old_run_and_the_next_one_finishes(spark: SparkSession, tmp_path: Path) -> None:
    uris = {kill_at: tmp_path / kill_at for kill_at in KILL_POINTS}
    old = _publish(spark, tmp_path / "old", 0.1)
    processes = []
    environment = os.environ | {"PYTHONPATH": str(Path(propensity_spark.__file__).parent.parent)}
    for kill_at, uri in uris.items():
        shutil.copytree(tmp_path / "old", uri)
        command = [sys.executable, __file__, str(uri), kill_at]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment))
    for process, uri in zip(processes, uris.values(), strict=True):
        assert _watch(process, list(uris.values())) == {old}
        output = process.communicate()[0]  # ends when the JVM, which holds the pipe too, has ended
        assert process.returncode == -signal.SIGKILL, output.decode()
        left = [path.name for path in (uri / f"as_of_date={DAY}").rglob("*")]
        assert len([name for name in left if name.startswith(("run_id=", "_attempt="))]) > 1, "it died before it had written anything"
    assert (uris["before_pointer_is_renamed"] / f"as_of_date={DAY}" / "_CURRENT.tmp").exists()
    for uri in uris.values():
        new = _publish(spark, uri, 0.2)
        assert [(run.run_id, run.rows) for run in verify(str(uri))] == [(new, 200)]
        assert {row[0] for row in read_published(str(uri), DAY).select("purchase_probability").collect()} == {0.2}
        assert not (uri / f"as_of_date={DAY}" / "_CURRENT.tmp").exists()


if __name__ == "__main__":
    _victim(Path(sys.argv[1]), sys.argv[2])
