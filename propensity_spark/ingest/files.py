"""Delivered files, dropped or downloaded: which there are, which are due, and how workers open them."""

from __future__ import annotations

import fnmatch
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import IO, Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from propensity_spark.config import FileSource, MassiveSource
from propensity_spark.errors import SourceMissing
from propensity_spark.ingest.deliveries import Delivery
from propensity_spark.ingest.records import Form
from propensity_spark.tables import local_frame

_GLOB_CHARACTERS = re.compile(r"[*?\[\]{}\\]")


def form_of(source: FileSource | MassiveSource) -> Form:
    """How the deliveries of a source are written."""
    return Form("page") if isinstance(source, MassiveSource) else Form(source.format, source.delimiter, source.encoding)


def list_files(spark: SparkSession, folder: str, pattern: str, source: str) -> list[tuple[str, int, int]]:
    """(path, bytes, microseconds since 1970 of the last change) of the files under a folder or prefix, unread.

    `pattern` (with * ? [ ]) is for the file's own name. Sub-folders count; names that begin with `_` or `.` are not seen.
    A folder without a scheme is one of this machine. Raises SourceMissing when there is no such folder.
    """
    if "{data}" in folder:
        raise SourceMissing(f"{source}: expected files {pattern} in {folder}; say where the data is with --data FOLDER (make: DATA=FOLDER)")
    place = folder_uri(folder)
    mounted = local_path(place)
    found = _mounted_files(mounted) if mounted else _remote_files(spark, place)
    if found is None:
        raise SourceMissing(f"{source}: {folder} does not exist; expected a folder with files {pattern}")
    inner = ((path, path.removeprefix(place).split("/"), size, modified) for path, size, modified in found)
    return [
        (path, size, modified)
        for path, parts, size, modified in inner
        if fnmatch.fnmatchcase(parts[-1], pattern) and not any(part.startswith(("_", ".")) for part in parts)
    ]


def folder_uri(folder: str) -> str:
    """The one spelling of a place that is used in paths: `file:/x`, `dbfs:/Volumes/x` or `s3a://bucket/x`."""
    if folder.startswith("/Volumes/"):
        return f"dbfs:{folder.rstrip('/')}"
    plain = re.sub("^file:/+", "/", folder)
    return folder.rstrip("/") if re.match("[a-z0-9]+:/", plain) else f"file:{os.path.abspath(plain)}"


def _mounted_files(folder: str) -> Iterable[tuple[str, int, int]] | None:
    if not os.path.isdir(folder):
        return None
    names = (os.path.join(parent, name) for parent, _, files in os.walk(folder) for name in files)
    scheme = folder_uri(folder).partition(":")[0]
    return [(f"{scheme}:{name}", stat.st_size, _milliseconds(stat)) for name in names for stat in [os.stat(name)]]


def _remote_files(spark: SparkSession, folder: str) -> Iterable[tuple[str, int, int]] | None:
    system, path = _file_system(spark, folder)
    if not system.exists(path):
        return None
    found = system.listFiles(path, True)
    statuses = []
    while found.hasNext():
        statuses.append(found.next())
    return [(plain_path(s.getPath().toString()), s.getLen(), s.getModificationTime() * 1000) for s in statuses]


def modification_times(spark: SparkSession, paths: Iterable[str]) -> dict[str, int]:
    """Microseconds since 1970 of the last change, by path; a path that is no longer there is left out."""
    times = {}
    for path in paths:
        mounted = local_path(path)
        if mounted:
            if os.path.exists(mounted):
                times[path] = _milliseconds(os.stat(mounted))
        else:
            system, remote = _file_system(spark, path)
            if system.exists(remote):
                times[path] = system.getFileStatus(remote).getModificationTime() * 1000
    return times


def _milliseconds(stat: os.stat_result) -> int:
    # In microseconds, but no finer than Spark tells the same instant.
    return stat.st_mtime_ns // 1_000_000 * 1000


def _file_system(spark: SparkSession, path: str) -> tuple[Any, Any]:
    """Hadoop's file system of a path, and the path as it wants it."""
    jvm: Any = spark._jvm
    hadoop_path = jvm.org.apache.hadoop.fs.Path(path)
    return hadoop_path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf()), hadoop_path


def plain_path(path: str) -> str:
    """`file:///x` as `file:/x`: Spark says the one here and the other there."""
    return re.sub("^file:/+", "file:/", path)


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


def plain_path_column(column: str | Column) -> Column:
    """As `plain_path`, for a column."""
    return F.regexp_replace(column, "^file:/+", "file:/")


def each_file(
    spark: SparkSession,
    deliveries: list[Delivery],
    tasks: int,
    schema: str,
    read: Callable[[str, str, Callable[[], IO[bytes]]], Iterator[list[pa.Array]]],
) -> DataFrame:
    """`read(source, path, open)` of every delivery on the workers, its column chunks as rows of `schema`.

    Files of a mounted file system are streamed by Python; others come whole through Spark.
    """
    # Spark does not show files without a byte, so those are not asked for.
    here = [(d.source, d.path, None if d.bytes else b"") for d in deliveries if local_path(d.path) is not None or not d.bytes]
    there = [(d.source, d.path) for d in deliveries if local_path(d.path) is None and d.bytes]
    frame = local_frame(spark, here, "source string, path string, content binary").repartition(tasks)
    if there:
        remote = spark.read.format("binaryFile").load(sorted({path for _, path in there}))
        contents = remote.select(plain_path_column("path").alias("path"), "content")
        names = F.broadcast(local_frame(spark, there, "source string, path string"))
        frame = frame.unionByName(contents.join(names, "path", "inner"))
    columns = [part.split()[0] for part in schema.split(",")]

    def opener(path: str, content: bytes | None) -> Callable[[], IO[bytes]]:
        return lambda: io.BytesIO(content) if content is not None else open(str(local_path(path)), "rb")

    def read_batches(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for batch in batches:
            for source, path, content in zip(*(batch[name] for name in ("source", "path", "content")), strict=True):
                for arrays in read(source.as_py(), path.as_py(), opener(path.as_py(), content.as_py())):
                    yield pa.RecordBatch.from_arrays(arrays, names=columns)

    return frame.mapInArrow(read_batches, schema)
