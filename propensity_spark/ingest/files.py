"""Delivered files, dropped or downloaded: which there are, which are due, and how workers open them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import IO

import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from propensity_spark.config import FileSource, MassiveSource
from propensity_spark.errors import SourceMissing
from propensity_spark.ingest.deliveries import Delivery
from propensity_spark.ingest.records import Form

LISTED = "source string, target string, path string, bytes bigint, modified_at timestamp"
_GLOB_CHARACTERS = re.compile(r"[*?\[\]{}\\]")


def form_of(source: FileSource | MassiveSource) -> Form:
    """How the deliveries of a source are written."""
    return Form("page") if isinstance(source, MassiveSource) else Form(source.format, source.delimiter, source.encoding)


def list_files(spark: SparkSession, folder: str, pattern: str, source: str, target: str) -> DataFrame:
    """Files under a folder or prefix, unread: source, target, path, bytes, modified_at.

    Sub-folders count; names that begin with `_` or `.` are not seen. Raises SourceMissing when there is no such folder.
    """
    if "{data}" in folder:
        raise SourceMissing(f"{source}: expected files {pattern} in {folder}; say where the data is with --data FOLDER (make: DATA=FOLDER)")
    reader = spark.read.format("binaryFile").option("pathGlobFilter", pattern).option("recursiveFileLookup", "true")
    try:
        found = reader.load(folder)
    except AnalysisException as error:
        if error.getCondition() != "PATH_NOT_FOUND":
            raise
        raise SourceMissing(f"{source}: {folder} does not exist; expected a folder with files {pattern} (sources.{target})") from None
    return found.select(
        F.lit(source).alias("source"),
        F.lit(target).alias("target"),
        plain_path("path").alias("path"),
        F.col("length").alias("bytes"),
        F.col("modificationTime").alias("modified_at"),
    )


def modification_times(spark: SparkSession, paths: list[str]) -> dict[str, int]:
    """Microseconds since 1970 of the last change of existing files, by path."""
    if not paths:
        return {}
    found = (
        spark.read.format("binaryFile")
        .load(paths)
        .select(plain_path("path").alias("path"), F.unix_micros("modificationTime").alias("modified"))
    )
    return {row["path"]: row["modified"] for row in found.collect()}


def plain_path(column: str | Column) -> Column:
    """One spelling of a URI: Spark says `file:/x` here and `file:///x` there."""
    return F.regexp_replace(column, "^(file|dbfs):/+", "$1:/")


def due(delivery: Delivery, source: FileSource | MassiveSource, as_of: date) -> Delivery | None:
    """The delivery, refused when its name cannot be used; None when it is dated after the as-of date."""
    if _GLOB_CHARACTERS.search(delivery.path):
        return delivery.refused("its name holds one of * ? [ ] { } \\, which Spark reads as a pattern; rename it")
    if isinstance(source, MassiveSource) or source.file_date is None:
        return delivery
    name = delivery.path.rpartition("/")[2]
    found = re.search(source.file_date, name) or re.search(source.file_date, delivery.path)
    if found is None or not found.groups():
        return delivery.refused(f"no date in its name by the pattern {source.file_date!r} (file_date)")
    try:
        return delivery if date.fromisoformat(found.group(1)) <= as_of else None
    except ValueError:
        return delivery.refused(f"{found.group(1)!r} in its name is no date such as 2024-12-31 or 20241231 (file_date)")


def local_path(path: str) -> str | None:
    """Where Python opens the file itself; None: only Spark can read it."""
    if path.startswith("file:/"):
        return path.removeprefix("file:")
    return path.removeprefix("dbfs:") if path.startswith("dbfs:/Volumes/") else None


def each_file(
    spark: SparkSession,
    deliveries: list[Delivery],
    tasks: int,
    schema: str,
    read: Callable[[str, Callable[[], IO[bytes]]], Iterator[list[pa.Array]]],
) -> DataFrame:
    """`read(path, open)` of every file on the workers, its column chunks as rows of `schema`.

    Files of a mounted file system are streamed by Python; others come whole through Spark.
    """
    here = [d.path for d in deliveries if local_path(d.path) is not None]
    there = [d.path for d in deliveries if local_path(d.path) is None]
    frame = spark.createDataFrame([(path, None) for path in here], "path string, content binary").repartition(tasks)
    if there:
        frame = frame.unionByName(spark.read.format("binaryFile").load(there).select("path", "content"))
    names = [part.split()[0] for part in schema.split(",")]

    def opener(path: str, content: bytes | None) -> Callable[[], IO[bytes]]:
        return lambda: io.BytesIO(content) if content is not None else open(str(local_path(path)), "rb")

    def read_batches(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for batch in batches:
            for path, content in zip(batch["path"], batch["content"], strict=True):
                for arrays in read(path.as_py(), opener(path.as_py(), content.as_py())):
                    yield pa.RecordBatch.from_arrays(arrays, names=names)

    return frame.mapInArrow(read_batches, schema)
