"""Where we are: Databricks or not, and what that changes. Stages do not know; they are given what they need from here."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from propensity_spark.errors import EnvironmentMissing

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.storagelevel import StorageLevel

TASK_VALUES = "PROPENSITY_TASK_VALUES"


def on_databricks() -> bool:
    """True on every Databricks cluster and on serverless compute."""
    return "DATABRICKS_RUNTIME_VERSION" in os.environ


def is_connect(spark: SparkSession) -> bool:
    """True for a Spark Connect session (serverless, standard access mode): no `sparkContext`, plans resolved when they run."""
    return type(spark).__module__.startswith("pyspark.sql.connect")


def keep(frame: DataFrame, level: StorageLevel | None = None) -> DataFrame:
    """`frame.persist()`, except where serverless compute refuses it: there Spark computes the frame again for each use."""
    if is_connect(frame.sparkSession):
        return frame
    return frame.persist() if level is None else frame.persist(level)


def release(frame: DataFrame) -> None:
    """Give back what `keep` took."""
    if not is_connect(frame.sparkSession):
        frame.unpersist()


@contextmanager
def setting(spark: SparkSession, name: str, value: str) -> Iterator[None]:
    """A session setting within the block; afterwards it is what it was.

    With Spark Connect, whose plans are resolved when they run, it stays for the rest of the process, which on Databricks is one stage's.
    """
    before = spark.conf.get(name)
    spark.conf.set(name, value)
    try:
        yield
    finally:
        if not is_connect(spark):
            spark.conf.set(name, str(before))


def task_slots(spark: SparkSession) -> int:
    """How many tasks of this application can run at the same time: cores over `spark.task.cpus`."""
    context = spark.sparkContext
    return context.defaultParallelism // int(context.getConf().get("spark.task.cpus", "1") or 1)


def secret(spark: SparkSession | None, scope: str, key: str) -> str:
    """The value of a secret. Raises EnvironmentMissing, which names scope and key, when there is none or we may not read it."""
    try:
        secrets = _dbutils(spark).secrets
    except ImportError as error:
        raise EnvironmentMissing(f"secret {scope}/{key} needs Databricks; elsewhere leave secret_scope out") from error
    try:
        return str(secrets.get(scope, key)).strip()
    except Exception as error:  # dbutils has no exception of its own: it raises what the JVM or the REST call did
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise EnvironmentMissing(
            f"secret {scope}/{key} cannot be read ({said}): create it with `databricks secrets put-secret {scope} {key}` and give "
            "the identity that the job runs as READ on the scope"
        ) from error


def credential(spark: SparkSession | None, scope: str | None, key: str | None, variable: str) -> str:
    """The secret `key` of the scope where both are named, else the environment variable. Raises EnvironmentMissing when it is not set."""
    if scope and key:
        return secret(spark, scope, key)
    found = os.environ.get(variable, "").strip()
    if not found:
        raise EnvironmentMissing(f"environment variable {variable} is not set; set it, or name secret_scope and secret_key")
    return found


def takes_values() -> bool:
    """True where `hand_over` leaves values anywhere."""
    return on_databricks() or TASK_VALUES in os.environ


def hand_over(spark: SparkSession | None, values: Mapping[str, Any]) -> None:
    """Leave values for the tasks that follow: on Databricks `{{tasks.<task>.values.<name>}}` of the job.

    Elsewhere they are added to the JSON object in the file that the environment variable PROPENSITY_TASK_VALUES names, if any.
    """
    if on_databricks():
        task_values = _dbutils(spark).jobs.taskValues
        for name, value in values.items():
            task_values.set(key=name, value=value)
    elif place := os.environ.get(TASK_VALUES):
        file = Path(place)
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        file.write_text(json.dumps({**before, **values}), encoding="utf-8")


def widgets(spark: SparkSession | None, defaults: Mapping[str, str]) -> dict[str, str]:
    """What the notebook's widgets say now; a widget that is not there yet is made, with its default. Databricks only."""
    shown = _dbutils(spark).widgets
    for name, default in defaults.items():
        shown.text(name, default)  # one that is there keeps its value
    return {name: str(shown.get(name)).strip() for name in defaults}


def _dbutils(spark: SparkSession | None) -> Any:
    return importlib.import_module("pyspark.dbutils").DBUtils(spark)
