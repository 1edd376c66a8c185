"""The only module that builds a SparkSession."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from py4j.java_gateway import java_import
from pyspark.sql import SparkSession

from propensity_spark.config import SparkSettings
from propensity_spark.errors import EnvironmentMissing
from propensity_spark.java import require_java
from propensity_spark.platform import on_databricks

JARS_DIR = Path(__file__).resolve().parent.parent / ".jars"
CLASS_ARCHIVES = "spark-classes-{size}.jsa"
"""Spark's classes as `make setup` leaves them in sys.prefix (scripts/class_archive.py); {size} is the file's own, in bytes."""

_ROOM_FROM_THE_START = "-XX:InitialRAMPercentage=5 -XX:MetaspaceSize=256m"
"""A heap that starts small grows by one full collection after the other, which was a seventh of a short line."""

_CODE_THAT_IS_SOON_THERE = "-XX:ReservedCodeCacheSize=512m -XX:MaxInlineLevel=9 -XX:FreqInlineSize=120"
"""Two fifths of a short line's CPU compiled bytecode. With less of it inlined that is a quarter less, and hot loops are as fast."""

ASKED_FOR_BY_EVERY_COLUMN = ("org.apache.spark.api.python.PythonUtils", "org.apache.spark.sql.api.python.PythonSQLUtils")
"""Classes that pyspark calls by their short names whenever it makes a column. Imported by name they are found at once, else they are looked
for in one package after the other, jar by jar: half of the time that a column takes."""


def get_session(settings: SparkSettings, app_name: str = "propensity") -> SparkSession:
    """The session this process uses: the active one where `master` is null, else a local one with Delta and S3A jars.

    Nothing is asked of the network: jars come from `.jars` (see `make setup`).
    """
    if settings.master is None:
        # Serverless refuses every setting but a few; the time zone is one of those it takes, the application's name is not.
        builder = SparkSession.builder if on_databricks() else SparkSession.builder.appName(app_name)
        session = builder.getOrCreate()
        session.conf.set("spark.sql.session.timeZone", "UTC")
        return session
    builder = SparkSession.builder.appName(app_name)
    require_java()
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    jars_dir = Path(settings.jars_dir) if settings.jars_dir else JARS_DIR
    jars = sorted(str(path.resolve()) for path in jars_dir.glob("*.jar"))
    if not jars:
        raise EnvironmentMissing(f"no JVM jars in {jars_dir}: run `make setup` once (it resolves and checks them)")
    conf = spark_conf(settings)
    for key, value in {**conf, **(own_jvm(jars, conf) if _starts_jvm(settings.master) else {"spark.jars": ",".join(jars)})}.items():
        builder = builder.config(key, value)
    session = builder.master(settings.master).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    for name in ASKED_FOR_BY_EVERY_COLUMN:
        java_import(session._jvm, name)
    return session


def _starts_jvm(master: str) -> bool:
    """Whether Spark is all in one JVM that this process starts, so that its class path and its options are ours to say."""
    return re.fullmatch(r"local(\[.*\])?", master) is not None and "PYSPARK_GATEWAY_PORT" not in os.environ


def own_jvm(jars: Sequence[str], conf: Mapping[str, str], role: str = "driver") -> dict[str, str]:
    """Settings of a driver, or an executor, on a machine that has `jars` and the archive.

    Jars on the class path itself, where the archive can hold their classes too; as `spark.jars` they would be copied at each start.
    """
    options, path = f"spark.{role}.extraJavaOptions", f"spark.{role}.extraClassPath"
    archive = class_archive()
    shared = f" -XX:SharedArchiveFile={archive} -XX:+VerifySharedSpaces -Xlog:cds=off -Xlog:cds+dynamic=off" if archive else ""
    return {path: os.pathsep.join([*jars, *filter(None, [conf.get(path)])]), options: conf[options] + shared}


def class_archive() -> Path | None:
    """The archive of classes, if it is there and whole: of a shortened one a JVM dies, one that is damaged or another's it does without."""
    found = Path(sys.prefix).glob(CLASS_ARCHIVES.format(size="*"))
    return next((path for path in found if path.name == CLASS_ARCHIVES.format(size=path.stat().st_size)), None)


def spark_conf(settings: SparkSettings) -> dict[str, str]:
    """What Spark is told wherever it is ours to tell, by `settings.conf` in the end: a local session, a cluster of our own."""
    defaults = {
        "spark.driver.memory": settings.driver_memory,
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",
        # The search for each column's best encoding took longer than all else done with a kept frame. Without, it is twice as large.
        "spark.sql.inMemoryColumnarStorage.compressed": "false",
        "spark.sql.codegen.cache.maxEntries": "2000",  # the line compiles more classes than the default of 100 keeps
        "spark.python.sql.dataFrameDebugging.enabled": "false",  # a call site per expression doubles the time to build a frame
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "32",  # VACUUM lists with as many tasks; the default is 10,000
        # A version whose files are there may be read, however old it is: a model is made again from it.
        "spark.databricks.delta.vacuum.enforceTimeTravelWithinDeletedFileRetentionDuration": "false",
        "spark.databricks.delta.vacuum.logging.enabled": "false",  # a vacuum changes no row, so it makes no version either
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.driver.extraJavaOptions": "-Duser.timezone=UTC -Dfile.encoding=UTF-8 -XX:+UseParallelGC "
        + f"{_ROOM_FROM_THE_START} {_CODE_THAT_IS_SOON_THERE}",
    }
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):  # an S3 that is not Amazon's: boto3 reads this variable, S3A does not
        defaults |= {"spark.hadoop.fs.s3a.endpoint": endpoint, "spark.hadoop.fs.s3a.path.style.access": "true"}
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        defaults["spark.hadoop.fs.s3a.endpoint.region"] = region
    if settings.shuffle_partitions:
        defaults["spark.sql.shuffle.partitions"] = str(settings.shuffle_partitions)
    return {**defaults, **settings.conf}
