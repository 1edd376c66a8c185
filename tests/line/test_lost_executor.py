"""An executor is killed in the middle of a distributed fit: the application fits again, and the model is the one of an undisturbed fit."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shop import SHORT_LIVED
from xgboost.callback import TrainingCallback

from scripts.cluster import standalone_cluster


class KillExecutor(TrainingCallback):
    """At round 5, in the worker that comes first, once: SIGKILL to the executor's JVM, which is the parent of the parent."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        import os
        import signal

        if epoch == 5:
            try:
                os.close(os.open(self.place, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return False
            with open(f"/proc/{os.getppid()}/stat", encoding="utf-8") as stat:
                executor = int(stat.read().rpartition(")")[2].split()[1])
            os.kill(executor, signal.SIGKILL)
        return False


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc for processes")
def test_an_executor_killed_in_a_fit_is_survived_with_the_same_model(tmp_path: Path) -> None:
    with standalone_cluster(workers=2, cores=1, memory="1g") as address:
        command = [sys.executable, __file__, address, str(tmp_path)]
        environment = os.environ | SHORT_LIVED | {"SPARK_LOCAL_IP": "127.0.0.1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    undisturbed, disturbed = json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "killed").exists()
    assert disturbed == undisturbed
    assert "attempt 1 of 3 to fit failed" in done.stderr


def _driver(address: str, place: Path) -> None:
    """Fit twice on the cluster, the second time with the kill; the loss and the bytes of both models."""
    import logging

    from pyspark import cloudpickle
    from pyspark.sql import functions as F
    from xgboost.spark import SparkXGBClassifier

    from propensity_spark.config import SparkSettings, TrainSettings
    from propensity_spark.session import get_session
    from propensity_spark.train import fit as fitting

    logging.basicConfig(level=logging.WARNING)
    cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    conf = {"spark.executor.memory": "512m", "spark.cores.max": "2", "spark.executor.cores": "1"}
    spark = get_session(SparkSettings(master=address, driver_memory="1g", shuffle_partitions=2, conf=conf))
    x = (F.hash("id") % 1000).cast("float")
    known = spark.range(20_000).select("id", x.alias("x"), (F.hash(F.col("id") + 1) % 100).cast("float").alias("y"))
    label = F.col("x") + F.col("y") > 100
    split = F.when(F.col("id") % 4 == 0, "validation").otherwise("train")
    training_set = known.withColumns({"label": label.cast("int"), "sample_weight": F.lit(1.0), "split": split})
    rows = fitting.arranged(training_set, ["x", "y"], ["id"], 2).persist()
    train = TrainSettings(rounds=20, num_workers=2, deadline_seconds=240)
    results = [fitting.fit(rows, ["x", "y"], train)]
    killer = KillExecutor(place / "killed")
    fitting.SparkXGBClassifier = lambda **options: SparkXGBClassifier(**options, callbacks=[killer])
    results.append(fitting.fit(rows, ["x", "y"], train))
    said = [(one.rounds, one.validation_log_loss, hashlib.sha256(one.booster).hexdigest()) for one in results]
    (place / "result.json").write_text(json.dumps(said))
    spark.stop()


if __name__ == "__main__":
    _driver(sys.argv[1], Path(sys.argv[2]))
