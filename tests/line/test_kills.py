"""The line in processes that are really killed, once after each of its writes; the same command again ends like an undisturbed run.

A victim is the leader of a session of its own, so one SIGKILL ends Python and its JVM at once. It runs one stage, on a copy of the lake as
it was before that stage, and kills itself after a named write. Two places take turns: in one a victim runs, in the other what the last one
left is finished and looked at.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from deaths import left_behind, watched
from line_support import run
from mlflow.tracking._model_registry.registry import ModelRegistryStoreRegistry
from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry
from pyspark.sql import SparkSession
from shop import AS_OF, INTERPRETED, settings, write_orders
from sqlalchemy import Engine

from propensity_spark.config import Settings, SparkSettings
from propensity_spark.line import STAGES, run_line, stage_named
from propensity_spark.session import get_session

ROOT = Path(__file__).resolve().parents[2]
SPARK = SparkSettings(
    master="local[2]", driver_memory="1g", shuffle_partitions=2, conf={"spark.sql.adaptive.enabled": "false", **INTERPRETED}
)
"""As the session of the tests: models are equal to the last bit only for the same partitions."""


@dataclass(frozen=True)
class Place:
    """A lake and its published runs, with copies of both as they were before each stage."""

    folder: Path

    @property
    def settings(self) -> Settings:
        return settings(self.folder / "now", self.folder.parent / "data")

    def keep(self, stage: str) -> None:
        shutil.copytree(self.folder / "now", self.folder / stage)

    def put_back(self, stage: str) -> None:
        shutil.rmtree(self.folder / "now")
        shutil.copytree(self.folder / stage, self.folder / "now")


def undisturbed(spark: SparkSession, place: Place) -> tuple[list[str], dict[str, object]]:
    """Run the line, keeping a copy before each stage. Out: the names of its writes in order, what it leaves."""
    names: list[str] = []
    (place.folder / "now").mkdir(parents=True)
    with watched(lambda: None, names.append):
        for stage in STAGES:
            place.keep(stage.name)
            lake = run(spark, place.settings, AS_OF, stages=[stage]).lake
    return names, left_behind(lake, place.settings)


def start_victim(place: Place, name: str) -> subprocess.Popen[bytes]:
    place.put_back(name.partition(":")[0])
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    command = [sys.executable, __file__, str(place.folder), name]
    with (place.folder / "victim.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": path}, start_new_session=True)


def bury(victim: subprocess.Popen[bytes], place: Place) -> None:
    """Wait for the end of the victim and of every process of its session; it must have been the kill."""
    code = victim.wait(timeout=300)
    assert code == -signal.SIGKILL, (place.folder / "victim.log").read_text()
    while left := [process for process in Path("/proc").glob("[0-9]*") if session_of(process) == victim.pid]:
        for process in left:  # workers of Spark lead a group of their own
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(int(process.name), signal.SIGKILL)


def session_of(process: Path) -> int:
    """The session of a process that is not a zombie; -1 for others."""
    try:
        state, _, _, session = (process / "stat").read_text().rpartition(")")[2].split()[:4]
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(session) if state != "Z" else -1


def finish(spark: SparkSession, place: Place) -> dict[str, object]:
    """The same command again, all of it; what it leaves."""
    for engine in [one for one in gc.get_objects() if isinstance(one, Engine)]:
        engine.dispose()  # MLflow keeps connections to the file that was replaced, and believes that its tables are in it
    for registry in (TrackingStoreRegistry, ModelRegistryStoreRegistry):
        registry._get_store_with_resolved_uri.cache_clear()
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]
    return left_behind(run(spark, place.settings, AS_OF).lake, place.settings)


def kill_after_each(spark: SparkSession, folder: Path, every: int) -> list[str]:
    """Kill after the first write of each stage and after each `every`-th of all; the names of those writes."""
    write_orders(folder / "data" / "orders")
    places = [Place(folder / name) for name in ("left", "right")]
    (names, expected), (same_names, also_expected) = [undisturbed(spark, place) for place in places]
    assert (names, expected) == (same_names, also_expected)
    first = {name.partition(":")[0]: name for name in reversed(names)}.values()
    chosen = [name for number, name in enumerate(names) if number % every == 0 or name in first]
    victims = [(name, places[number % 2]) for number, name in enumerate(chosen)]
    running = start_victim(victims[0][1], victims[0][0])
    for number, (name, place) in enumerate(victims):
        bury(running, place)
        if number + 1 < len(victims):
            running = start_victim(victims[number + 1][1], victims[number + 1][0])
        try:
            assert finish(spark, place) == expected, f"killed after {name}"
        except BaseException:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
            raise
    return chosen


@pytest.mark.faults
@pytest.mark.usefixtures("interpreted")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc for processes")
def test_a_line_that_is_killed_after_a_write_ends_like_one_that_is_not(spark: SparkSession, tmp_path: Path) -> None:
    killed = kill_after_each(spark, tmp_path, int(os.environ.get("PROPENSITY_KILL_EVERY", "4")))
    assert {name.partition(":")[0] for name in killed} == {stage.name for stage in STAGES}


def _victim(folder: Path, name: str) -> None:
    def die(written: str) -> None:
        if written == name:
            os.killpg(0, signal.SIGKILL)

    chosen = Place(folder).settings
    with watched(lambda: None, die):
        list(run_line(get_session(SPARK), chosen, AS_OF, [stage_named(name.partition(":")[0])]))


if __name__ == "__main__":
    _victim(Path(sys.argv[1]), sys.argv[2])
