"""Which deliveries are taken and which refused: every file is read to its last byte before any of it goes into bronze."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from propensity_spark.config import FileSource, MassiveSource
from propensity_spark.errors import ConfigurationError
from propensity_spark.ingest.deliveries import Delivery
from propensity_spark.ingest.files import each_file, local_path
from propensity_spark.ingest.records import Finding, Form, column_names, examine
from propensity_spark.validate.payload import identifiers

MAX_REMOTE_BYTES = 512 * 1024 * 1024
_TEXT = pa.string()
_FINDING = (_TEXT, _TEXT, _TEXT, pa.int64(), _TEXT, _TEXT)
_UNRESOLVED = ("UNRESOLVED_COLUMN", "FIELD_NOT_FOUND", "AMBIGUOUS_REFERENCE")


Findings = Mapping[tuple[str, str], Finding]


def examine_files(spark: SparkSession, deliveries: list[Delivery], forms: Mapping[str, Form]) -> Findings:
    """Read every file once, in one Spark job. Out: the finding of each, by source and path. A bad file never fails the job."""
    too_big = {
        (d.source, d.path): Finding(reason=f"is larger than {MAX_REMOTE_BYTES >> 20} MiB, too large to be read whole: split it")
        for d in deliveries
        if local_path(d.path) is None and d.bytes > MAX_REMOTE_BYTES
    }
    readable = [d for d in deliveries if (d.source, d.path) not in too_big]
    if not readable:
        return too_big

    def finding_of(source: str, path: str, open_file: Callable[[], IO[bytes]]) -> Iterator[list[pa.Array]]:
        try:
            with open_file() as stream:
                found = examine(stream, forms[source], path)
        except OSError as error:
            found = Finding(reason=f"cannot be read: {error.strerror or error}")
        values = (source, path, found.delivery_id, found.rows, found.columns, found.reason)
        yield [pa.array([value], kind) for value, kind in zip(values, _FINDING, strict=True)]

    schema = "source string, path string, delivery_id string, rows bigint, columns string, reason string"
    rows = each_file(spark, readable, min(len(readable), 16), schema, finding_of).collect()
    found = {(row["source"], row["path"]): Finding(row["delivery_id"], row["rows"], row["columns"], row["reason"]) for row in rows}
    return {**too_big, **found}


def judge(
    spark: SparkSession,
    source: FileSource | MassiveSource,
    deliveries: list[Delivery],
    findings: Findings,
    first_context: Mapping[str, str] | None,
) -> list[Delivery]:
    """The deliveries of one source with id, rows and context, or with the reason why they are refused.

    A CSV or Parquet file must hold every column that the mapping uses, and no other columns than those of the setting
    `header`, else of the source's first delivery (`first_context`), else of most files of this first batch.
    """
    judged = [d if d.reason else _found(d, findings[d.source, d.path]) for d in deliveries]
    if isinstance(source, MassiveSource):
        return [d if d.reason else replace(d, context=_page_context(d.path)) for d in judged]
    if source.format == "jsonl":
        return judged
    verdicts: dict[str | None, tuple[Mapping[str, str], str | None]] = {}
    for delivery in judged:
        columns = findings[delivery.source, delivery.path].columns if not delivery.reason else None
        if columns is not None and columns not in verdicts:
            verdicts[columns] = _verdict(spark, source, columns, delivery.path)
    judged = [d if d.reason else _with_verdict(d, verdicts[findings[d.source, d.path].columns]) for d in judged]
    expected = _expected_columns(source, judged, first_context)
    return [
        d if d.reason or _names(source, d.context) == expected else d.refused(_other(_names(source, d.context), expected)) for d in judged
    ]


def _found(delivery: Delivery, finding: Finding) -> Delivery:
    found = replace(delivery, delivery_id=finding.delivery_id, rows=finding.rows)
    return found.refused(finding.reason) if finding.reason else found


def _with_verdict(delivery: Delivery, verdict: tuple[Mapping[str, str], str | None]) -> Delivery:
    context, reason = verdict
    return delivery.refused(reason) if reason else replace(delivery, context=context)


def _page_context(path: str) -> Mapping[str, str]:
    request = json.loads((Path(str(local_path(path))).parent / "_request.json").read_text())
    context: dict[str, str] = request["context"]
    return context


def _verdict(spark: SparkSession, source: FileSource, columns: str, path: str) -> tuple[Mapping[str, str], str | None]:
    """What rows of a file with these columns get as context, and why such a file is refused."""
    if source.format == "csv":
        context = {"header": columns}
        schema = T.StructType([T.StructField(name, T.StringType()) for name in column_names(columns, source.delimiter)])
    else:
        try:
            schema = spark.read.option("recursiveFileLookup", "true").parquet(path).schema
        except AnalysisException as error:
            return {}, f"has a type that Spark cannot read: {str(error).splitlines()[0]}"
        context = {"schema": ", ".join(f"`{field.name.replace('`', '``')}` {field.dataType.simpleString()}" for field in schema)}
    missing = _missing_columns(spark, source, schema)
    used = {name.lower() for name in identifiers((*source.columns.values(), source.where or ""))}
    if missing and source.format == "csv" and not used & {name.lower() for name in schema.names}:
        # Then its first line may be a row, with a person in it: it is not shown.
        return context, f"lacks {', '.join(missing)}, which the mapping uses, and every other name of it: is there a header line?"
    return context, f"lacks {', '.join(missing)}, which the mapping uses; its columns are {', '.join(schema.names)}" if missing else None


def _missing_columns(spark: SparkSession, source: FileSource, schema: T.StructType) -> list[str]:
    """Columns that the source's expressions name and a file of this schema does not have, as Spark resolves names."""
    empty = spark.createDataFrame([], schema)
    missing = []
    for name, expression in {**source.columns, **({"where": source.where} if source.where else {})}.items():
        try:
            empty.selectExpr(expression)
        except AnalysisException as error:
            condition = error.getCondition() or ""
            if isinstance(error, ParseException) or not condition.startswith(_UNRESOLVED):
                reason = str(error).splitlines()[0]
                raise ConfigurationError(
                    f"source {source.name}: {name}: {expression!r} is no valid Spark SQL expression: {reason}"
                ) from error
            missing.append((error.getMessageParameters() or {}).get("objectName", expression))
    return sorted(set(missing))


def _expected_columns(source: FileSource, judged: list[Delivery], first_context: Mapping[str, str] | None) -> frozenset[str]:
    if source.header:
        return frozenset(source.header)
    if first_context:
        return _names(source, first_context)
    counted = Counter(_names(source, d.context) for d in judged if not d.reason)
    return counted.most_common(1)[0][0] if counted else frozenset()


def _names(source: FileSource, context: Mapping[str, str]) -> frozenset[str]:
    if source.format == "csv":
        return frozenset(column_names(context["header"], source.delimiter))
    return frozenset(field.name for field in cast(T.StructType, T.StructType.fromDDL(context["schema"])))


def _other(found: frozenset[str], expected: frozenset[str]) -> str:
    lacks, adds = ", ".join(sorted(expected - found)) or "none", ", ".join(sorted(found - expected)) or "none"
    return f"has other columns than this source's files: missing {lacks}; extra {adds}. If they are meant, list the columns under `header`"
