"""One Spark session for all tests of a process; every test writes under its own temporary folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
from hypothesis import Phase
from line_support import AS_OF, SMALL, Finished, run, small_settings
from pyspark.sql import SparkSession
from shop import INTERPRETED
from xdist.scheduler import LoadScopeScheduling

from propensity_spark.config import LakeSettings, SparkSettings
from propensity_spark.session import get_session, spark_conf
from propensity_spark.tables import Lake

hypothesis.settings.register_profile("first failure", phases=[phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)])
"""For `make protections`: what a test says without a protection need not be the smallest example."""

_LATER = {"InvocationThreshold": 20_000, "MinInvocationThreshold": 4_000, "CompileThreshold": 60_000, "BackEdgeThreshold": 160_000}
SECOND_COMPILER_LATER = " ".join(f"-XX:Tier4{name}={calls}" for name, calls in _LATER.items())
"""Four times as late as the JVM would: little of what tests run goes on for long, and two processes have two cores for everything."""

os.environ["TZ"] = "UTC"
time.tzset()

LONGEST = ("test_kills.py", "test_cluster_run.py", "test_lost_executor.py")
"""They start first, each a process, so that the processes end together; two files go to each at once, so a short one comes third."""

LOOKS_AT_THE_LINE = {"tests/notebooks/test_notebooks.py": "tests/line/test_line.py"}


class OneProcessAFile(LoadScopeScheduling):
    """The tests of a file run in one process, and so do those of files that look at the same finished line."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return LOOKS_AT_THE_LINE.get(file, file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneProcessAFile:
    return OneProcessAFile(config, log)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Expressions are interpreted, see `compiled`."""
    conf = {
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
        "spark.sql.adaptive.enabled": "false",
        "spark.driver.extraJavaOptions": f"{spark_conf(SparkSettings())['spark.driver.extraJavaOptions']} {SECOND_COMPILER_LATER}",
        **INTERPRETED,
    }
    session = get_session(SparkSettings(master="local[2]", driver_memory="5g", shuffle_partitions=2, conf=conf), "tests")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def finished(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The whole line, once, on a small simulated lake; the tests look at what it left behind."""
    with _compiled(spark):
        return run(spark, small_settings(tmp_path_factory.mktemp("stocks"), *SMALL), AS_OF)


@pytest.fixture(scope="module", autouse=True)
def _forget_lakes() -> Iterator[None]:
    """Delta keeps the state of every table it has seen in the JVM: hundreds of small lakes would fill its heap."""
    yield
    if session := SparkSession.getActiveSession():
        session._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def compiled(spark: SparkSession) -> Iterator[None]:
    """Expressions are compiled, as they are for users: for whole lines, real data and oracles.

    For the few rows of all other tests the classes are more work, for Spark and the JVM's compilers, than what they compute: a sixth.
    """
    with _compiled(spark):
        yield


@contextmanager
def _compiled(spark: SparkSession) -> Iterator[None]:
    before = {name: spark.conf.get(name) for name in INTERPRETED}
    for name in INTERPRETED:
        spark.conf.unset(name)
    try:
        yield
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, LakeSettings(root=str(tmp_path / "lake")))
