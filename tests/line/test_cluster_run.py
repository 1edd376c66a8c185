"""`make cluster-run` beside the local line: the same tables to the last bit, and how far the same model reaches."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from line_support import AS_OF, SMALL, Finished, run, small_settings
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from shop import INTERPRETED, SHORT_LIVED
from wheel_support import ROOT, built_wheel

from propensity_spark.config import Settings
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES, model_features, training_set_table
from propensity_spark.models import load
from propensity_spark.publish import verify
from propensity_spark.schemas import ACTIVITY, BARS, Table, scores_table
from propensity_spark.score import PROBABILITY, with_probability
from propensity_spark.tables import Lake
from propensity_spark.train.challenger import challenger

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("compiled")]

FEWER = (*SMALL, "simulate.users=120", "train.num_workers=2")
TRAINING_SET, SCORES = training_set_table("user_item", True), scores_table("user_item")
INTERPRETING = [word for name, value in INTERPRETED.items() for word in ("--spark-conf", f"{name}={value}")]
"""Every stage has a driver and two executors of its own, which would compile the same classes for a few rows each."""


@dataclass(frozen=True)
class Both:
    """The local line, two XGBoost workers in one JVM, and the same on a cluster of two workers with one core each."""

    local: Finished
    cluster: Settings
    said: str


def arguments(wheel: Path, settings: Settings) -> list[str]:
    places = (f"lake.root={settings.lake.root}", f"publish.uri={settings.publish.uri}")
    what = ["--wheel", str(wheel), "--dataset", "stocks", "--as-of", str(AS_OF), "--settings", shlex.join([*places, *FEWER])]
    return [*what, "--workers", "2", "--memory", "1g", "--driver-memory", "2g", *INTERPRETING]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def both(spark: SparkSession, compiled: None, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("cluster")
    settings = small_settings(folder, *FEWER)
    line, variables = [sys.executable, "-m", "scripts.cluster_run", *arguments(wheel, settings)], os.environ | SHORT_LIVED
    done = subprocess.run(line, env=variables, capture_output=True, text=True, check=False, cwd=ROOT, timeout=2400)
    assert done.returncode == 0, done.stderr[-4000:]
    local = run(spark, small_settings(tmp_path_factory.mktemp("local"), *FEWER), AS_OF)
    return Both(local, settings, done.stdout)


def digest(frame: DataFrame) -> tuple[int, int]:
    """Number of rows, and a hash of every column of every row to the last bit that does not depend on their order."""
    found = frame.agg(F.count("*"), F.sum(F.xxhash64(*sorted(frame.columns)).cast("decimal(38,0)"))).first()
    assert found is not None
    return found[0], int(found[1])


TABLES = [BARS, ACTIVITY, MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES, TRAINING_SET]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.full_name)
def test_silver_features_and_training_set_are_the_same_to_the_last_bit(both: Both, spark: SparkSession, table: Table) -> None:
    there = digest(Lake(spark, both.cluster.lake).read(table))
    assert there == digest(both.local.lake.read(table))
    assert there[0] > 0


def test_the_same_workers_threads_and_row_order_give_the_same_bytes(both: Both) -> None:
    there, here = load(both.cluster, "1"), load(both.local.settings, "1")
    assert there.booster == here.booster
    assert (there.calibration_x, there.calibration_y, there.threshold) == (here.calibration_x, here.calibration_y, here.threshold)


def test_the_scores_are_then_the_same_and_are_published(both: Both, spark: SparkSession) -> None:
    found = Lake(spark, both.cluster.lake).read(SCORES)
    assert digest(found) == digest(both.local.lake.read(SCORES))
    (published,) = verify(both.cluster.publish.uri)
    assert published.rows == found.count()
    assert "champion: " in both.said
    assert "AUC: " in both.said


def test_another_number_of_workers_gives_a_model_within_the_tolerance(both: Both, spark: SparkSession) -> None:
    """One worker, as `make run` trains by default, beside the two of the cluster, on the test slice: AUC within 0.01."""
    settings = both.local.settings
    one_worker = settings.model_copy(update={"train": settings.train.model_copy(update={"num_workers": 1})})
    features = [feature.name for feature in model_features("user_item", True)]
    training_set = both.local.lake.read(TRAINING_SET)
    one, _ = challenger(training_set, features, one_worker, {})
    test = training_set.where(F.col("split") == "test")

    def scored(model: object) -> np.ndarray:
        frame = with_probability(test, model)  # type: ignore[arg-type]
        return frame.orderBy("user_id", "item_id", "as_of_date").select(PROBABILITY, "label").toPandas().to_numpy()

    mine, theirs = scored(one), scored(load(both.cluster, "1"))
    from sklearn.metrics import roc_auc_score

    aucs = [roc_auc_score(found[:, 1], found[:, 0]) for found in (mine, theirs)]
    assert abs(aucs[0] - aucs[1]) < 0.01
    assert np.abs(mine[:, 0] - theirs[:, 0]).mean() < 0.01


def test_ctrl_c_stops_what_was_started(wheel: Path, tmp_path: Path) -> None:
    heeds_ctrl_c = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs ignore it
    script = f"import sys; {heeds_ctrl_c}; from scripts.cluster_run import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments(wheel, small_settings(tmp_path))],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **SHORT_LIVED, "TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None
    while "is up at" not in (line := process.stderr.readline()):
        assert line, "it ended before the cluster was up"
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait() == 130
    assert "interrupted" in said
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(path)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
