"""The line dies after every fifth of its writes, one after the other; the same command again ends where a run without deaths ends.

Here a death is an exception, after which no further write of the run succeeds: quick enough for `make test`. Among the faults,
`test_kills.py` does it after each of the writes, with processes that are killed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from deaths import left_behind, watched
from line_support import run
from pyspark.sql import SparkSession
from shop import AS_OF, settings, write_orders

from propensity_spark.config import Settings
from propensity_spark.line import STAGES
from propensity_spark.tables import Lake

EVERY = 5


class Death(BaseException):
    """What no `except Exception` stops."""


@pytest.mark.usefixtures("interpreted")
def test_a_line_that_dies_again_and_again_ends_like_one_that_does_not(spark: SparkSession, tmp_path: Path) -> None:
    write_orders(tmp_path / "data" / "orders")
    whole, broken = (settings(tmp_path / name, tmp_path / "data") for name in ("whole", "broken"))
    expected = left_behind(run(spark, whole, AS_OF).lake, whole)
    survived: list[str] = []
    while (lake := one_life(spark, broken, survived)) is None:
        pass
    assert len(survived) > 25
    assert {name.partition(":")[0] for name in survived} >= {stage.name for stage in STAGES}
    assert left_behind(lake, broken) == expected


def one_life(spark: SparkSession, broken: Settings, survived: list[str]) -> Lake | None:
    """Run the line; it dies after the `EVERY`th write that is not in `survived`, which then holds it (None), else it comes to its end."""
    dead = False

    def before() -> None:
        if dead:
            raise Death

    def after(name: str) -> None:
        nonlocal dead
        if name not in survived:
            survived.append(name)
            if len(survived) % EVERY == 0:
                dead = True
                raise Death

    try:
        with watched(before, after):
            return run(spark, broken, AS_OF).lake
    except Death:
        return None
