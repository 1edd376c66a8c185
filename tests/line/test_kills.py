"""The line in processes that are really killed, after each of its writes, one after the other; the same command again ends like an
undisturbed run. The soak kills at any moment instead, also within a write, for half an hour.

A victim is forked from a process that has imported everything and started nothing, and leads a session of its own, so one SIGKILL ends
Python and its JVM at once. It begins with the stage in which the last one died, and kills itself after the first write that no victim
before it has lived to see.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from deaths import left_behind, watched
from line_support import run
from pyspark.sql import SparkSession
from shop import AS_OF, INTERPRETED, SHORT_LIVED, settings, write_orders

from propensity_spark.config import SparkSettings
from propensity_spark.line import STAGES, run_line
from propensity_spark.session import get_session

SPARK = SparkSettings(
    master="local[2]", driver_memory="1g", shuffle_partitions=2, conf={"spark.sql.adaptive.enabled": "false", **INTERPRETED}
)
"""As the session of the tests: models are equal to the last bit only for the same partitions."""
NAMES = [stage.name for stage in STAGES]
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc for processes")


def start_victim(place: Path, *stages: str) -> BaseProcess:
    """Run the line in `place`. With `stages`, those, until a write that `place`/killed does not name; it is the last."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])  # imports are seconds, and victims dozens
    victim = forks.Process(target=_victim, args=(place, stages))
    victim.start()
    return victim


def is_killed(victim: BaseProcess, place: Path) -> bool:
    """Wait for the end of a victim and of every process of its session: was it the kill (or did it end well)?"""
    victim.join(timeout=300)
    assert victim.exitcode in (0, -signal.SIGKILL), (place / "victim.log").read_text()
    while left := [process for process in Path("/proc").glob("[0-9]*") if session_of(process) == victim.pid]:
        for process in left:  # workers of Spark lead a group of their own
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(int(process.name), signal.SIGKILL)
    return victim.exitcode != 0


def session_of(process: Path) -> int:
    """The session of a process that is not a zombie; -1 for others."""
    try:
        state, _, _, session = (process / "stat").read_text().rpartition(")")[2].split()[:4]
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(session) if state != "Z" else -1


def killed_in(place: Path) -> list[str]:
    """The names of the writes after which a victim was killed, in order."""
    path = place / "killed"
    return path.read_text().splitlines() if path.exists() else []


def stages_left(place: Path) -> list[str]:
    """The stage of the last death, and those after it."""
    killed = killed_in(place)
    return NAMES[NAMES.index(killed[-1].partition(":")[0]) :] if killed else NAMES


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_orders(tmp_path / "data" / "orders")
    return tmp_path / "data"


def undisturbed(spark: SparkSession, place: Path, data: Path) -> tuple[list[str], dict[str, object]]:
    """Run the line. Out: the names of its writes in order, what it leaves."""
    names: list[str] = []
    chosen = settings(place, data)
    with watched(lambda: None, names.append):
        lake = run(spark, chosen, AS_OF).lake
    return names, left_behind(lake, chosen)


@pytest.mark.faults
def test_a_line_that_is_killed_after_each_of_its_writes_ends_like_one_that_is_not(spark: SparkSession, tmp_path: Path, data: Path) -> None:
    names, expected = undisturbed(spark, tmp_path / "whole", data)
    place = tmp_path / "broken"
    place.mkdir()
    while is_killed(start_victim(place, *stages_left(place)), place):
        pass
    killed = killed_in(place)
    assert len(killed) == len(set(killed)) > 25
    assert {name.partition("#")[0] for name in killed} >= {name.partition("#")[0] for name in names}
    again = run(spark, settings(place, data), AS_OF)
    assert left_behind(again.lake, again.settings) == expected


@pytest.mark.soak
def test_lines_that_are_killed_at_any_moment_end_like_one_that_is_not(spark: SparkSession, tmp_path: Path, data: Path) -> None:
    _, expected = undisturbed(spark, tmp_path / "whole", data)
    draw, until, kills, lines = random.Random(7), time.monotonic() + 60 * float(os.environ.get("PROPENSITY_SOAK_MINUTES", "30")), 0, 0
    while time.monotonic() < until or not lines:
        place = tmp_path / f"line {lines}"
        place.mkdir()
        while True:
            victim = start_victim(place)
            victim.join(timeout=draw.uniform(5, 90))
            with suppress(ProcessLookupError):  # it came to its end
                os.killpg(victim.pid, signal.SIGKILL)
            if not is_killed(victim, place):
                break
            kills += 1
        again = run(spark, settings(place, data), AS_OF)
        assert left_behind(again.lake, again.settings) == expected, f"after {kills} kills, in line {lines}"
        lines += 1
        sys.stderr.write(f"{kills} kills, {lines} lines ended like an undisturbed one\n")
    assert kills > lines


def _victim(place: Path, stages: tuple[str, ...]) -> None:
    def die(written: str) -> None:
        if stages and written not in survived:
            (place / "killed").write_text("\n".join([*survived, written]) + "\n")
            os.killpg(0, signal.SIGKILL)

    os.setsid()
    os.environ.update(SHORT_LIVED)
    with (place / "victim.log").open("wb") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    survived = killed_in(place)
    chosen = [stage for stage in STAGES if not stages or stage.name in stages]
    with watched(lambda: None, die):
        list(run_line(get_session(SPARK), settings(place, place.parent / "data"), AS_OF, chosen))
