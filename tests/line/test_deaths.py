"""The line dies after each of its writes, one after the other; the same command again ends where a run without deaths ends.

Here a death is an exception, after which no further write of the run succeeds. `make deaths` does the same to processes
that are really killed (SIGKILL), one a write.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import mlflow
from line_support import run
from pyspark.sql import SparkSession
from shop import AS_OF, settings, write_orders

from propensity_spark.config import Settings
from propensity_spark.features.registry import USER_FEATURES, training_set_table
from propensity_spark.line import STAGES
from propensity_spark.logs import current_fields
from propensity_spark.publish import verify
from propensity_spark.schemas import ACTIVITY, BRONZE, QUARANTINE, Table, scores_table
from propensity_spark.session import get_session
from propensity_spark.tables import Lake

OF_A_RUN = {"ingested_at", "run_id", "batch_id"}  # differ from run to run by their meaning
TABLES = (BRONZE["activity"], ACTIVITY, QUARANTINE, USER_FEATURES, training_set_table("user", False), scores_table("user"))
WRITES = {
    Lake: ("_save", "merge"),
    os: ("replace", "rename"),
    mlflow.MlflowClient: ("create_registered_model", "create_model_version", "set_registered_model_alias", "log_artifact"),
}


class Death(BaseException):
    """What no `except Exception` stops."""


@contextmanager
def dying(survived: Path, die: Callable[[], NoReturn]) -> Iterator[None]:
    """`die` after the first write that is not in the file `survived`, which then names it, and before any write after that."""
    names = set(survived.read_text().splitlines()) if survived.exists() else set()
    counted: Counter[str] = Counter()
    dead = False

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **options: Any) -> Any:
            nonlocal dead
            if dead:
                die()
            result = original(*args, **options)
            subject = next((part.full_name for part in args if isinstance(part, Table)), "")
            place = f"{current_fields().get('stage')}: {original.__name__} {subject}"
            counted[place] += 1
            name = f"{place} #{counted[place]}"
            if name not in names:
                with survived.open("a") as file:
                    file.write(f"{name}\n")
                dead = True
                die()
            return result

        return write

    with ExitStack() as patches:
        for owner, methods in WRITES.items():
            for method in methods:
                patches.enter_context(patch.object(owner, method, watched(getattr(owner, method))))
        yield


def left_behind(lake: Lake, chosen: Settings) -> dict[str, object]:
    """What the line is for: every row of its tables, and the published run."""
    rows = {
        table.full_name: sorted(repr(row) for row in lake.read(table).drop(*OF_A_RUN).collect()) for table in TABLES
    }  # a lake of a test is small
    (published,) = verify(chosen.publish.uri)
    return {**rows, "published": (published.run_id, published.rows)}


def test_a_line_that_dies_after_every_write_ends_like_one_that_does_not(spark: SparkSession, tmp_path: Path) -> None:
    write_orders(tmp_path / "data" / "orders")
    whole, broken = (settings(tmp_path / name, tmp_path / "data") for name in ("whole", "broken"))
    expected = left_behind(run(spark, whole, AS_OF).lake, whole)
    survived = tmp_path / "survived"

    def die() -> NoReturn:
        raise Death

    deaths = 0
    while True:
        try:
            with dying(survived, die):
                lake = run(spark, broken, AS_OF).lake
            break
        except Death:
            deaths += 1
    assert deaths == len(survived.read_text().splitlines()) > 25
    assert {name.partition(":")[0] for name in survived.read_text().splitlines()} >= {stage.name for stage in STAGES}
    assert left_behind(lake, broken) == expected


def _kill() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def _victim(folder: Path) -> None:
    broken = settings(folder / "broken", folder / "data")
    with dying(folder / "survived", _kill):
        run(get_session(broken.spark), broken, AS_OF)


def _main(folder: Path) -> None:
    write_orders(folder / "data" / "orders")
    survived = folder / "survived"
    while (code := subprocess.run([sys.executable, __file__, str(folder)], check=False, capture_output=True).returncode) != 0:
        assert code == -signal.SIGKILL, f"the line stopped with {code} instead of being killed"
        sys.stderr.write(f"killed after {survived.read_text().splitlines()[-1]}\n")
    whole, broken = (settings(folder / name, folder / "data") for name in ("whole", "broken"))
    spark = get_session(broken.spark)
    expected = left_behind(run(spark, whole, AS_OF).lake, whole)
    assert left_behind(Lake(spark, broken.lake), broken) == expected
    sys.stderr.write(f"{len(survived.read_text().splitlines())} processes were killed; the end is that of a run without a kill\n")


if __name__ == "__main__":
    if sys.argv[1:]:
        _victim(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as parent:
            _main(Path(parent))
