"""The rows of a batch, as bronze keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from itertools import islice
from typing import IO

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from propensity_spark.ingest.deliveries import Batch, Delivery
from propensity_spark.ingest.files import each_file, plain_path_column
from propensity_spark.ingest.records import Form, read_records
from propensity_spark.tables import local_frame

_BYTES_PER_TASK = 16 * 1024 * 1024
_RECORDS_PER_CHUNK = 20_000
# Microseconds: Spark's own default would cut them to milliseconds.
_EXACT_TIMES = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX", "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS"}


def bronze_rows(spark: SparkSession, batch: Batch, forms: Mapping[str, Form]) -> DataFrame:
    """One row per record of the batch's deliveries. Fails when a file is no longer the one that was examined."""
    parquet: dict[tuple[str, str], list[Delivery]] = {}
    text: list[Delivery] = []
    for delivery in batch.deliveries:
        if forms[delivery.source].format == "parquet":
            parquet.setdefault((delivery.source, delivery.context["schema"]), []).append(delivery)
        else:
            text.append(delivery)
    parts = [_parquet_rows(spark, source, members, schema) for (source, schema), members in parquet.items()]
    parts += [_text_rows(spark, text, forms)] if text else []
    plan = local_frame(
        spark,
        [(d.path, d.source, d.uri, d.delivery_id, dict(d.context), d.bytes, d.modified) for d in batch.deliveries],
        "path string, source string, source_uri string, delivery_id string, context map<string,string>, bytes bigint, modified bigint",
    )
    joined = reduce(DataFrame.unionByName, parts).join(F.broadcast(plan), ["source", "path"], "inner")
    is_same = F.col("found_bytes").isNull() | ((F.col("found_bytes") == F.col("bytes")) & (F.col("found_modified") == F.col("modified")))
    changed = F.raise_error(F.concat("path", F.lit(" changed while it was being ingested; run again")))
    return joined.select(
        "source",
        "source_uri",
        "delivery_id",
        "line",
        F.when(is_same, F.col("payload")).otherwise(changed).alias("payload"),
        F.sha2("payload", 256).alias("payload_hash"),
        "context",
        F.lit(batch.planned_at).cast("timestamp").alias("ingested_at"),
        F.lit(batch.batch_id).alias("batch_id"),
    )


def _text_rows(spark: SparkSession, deliveries: list[Delivery], forms: Mapping[str, Form]) -> DataFrame:
    expected = {(d.source, d.path): d.delivery_id for d in deliveries}
    tasks = max(min(4, len(deliveries)), sum(d.bytes for d in deliveries) // _BYTES_PER_TASK)

    def rows_of(source: str, path: str, open_file: Callable[[], IO[bytes]]) -> Iterator[list[pa.Array]]:
        with open_file() as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != expected[source, path]:  # type: ignore[arg-type]
                raise RuntimeError(f"{path} changed while it was being ingested; run again")
            stream.seek(0)
            _, records = read_records(stream, forms[source], path)
            first = 0
            while chunk := list(islice(records, _RECORDS_PER_CHUNK)):
                lines = range(first, first + len(chunk))
                names = (pa.array([name] * len(chunk), pa.string()) for name in (source, path))
                yield [*names, pa.array(lines, pa.int64()), pa.array(chunk, pa.string())]
                first += len(chunk)

    rows = each_file(spark, deliveries, int(tasks), "source string, path string, line bigint, payload string", rows_of)
    return rows.select("*", F.lit(None).cast("bigint").alias("found_bytes"), F.lit(None).cast("bigint").alias("found_modified"))


def _parquet_rows(spark: SparkSession, source: str, deliveries: list[Delivery], schema: str) -> DataFrame:
    """Read natively; `line` is the row's position in its file, the payload its JSON form (null fields are left out)."""
    files = spark.read.schema(schema).option("recursiveFileLookup", "true").parquet(*[d.path for d in deliveries])
    encoded = F.regexp_replace("_metadata.file_path", r"\+", "%2B")
    return files.select(
        F.lit(source).alias("source"),
        plain_path_column(F.url_decode(encoded)).alias("path"),
        F.col("_metadata.row_index").alias("line"),
        F.to_json(F.struct(*[F.col(f"`{name}`") for name in files.columns]), _EXACT_TIMES).alias("payload"),
        F.col("_metadata.file_size").alias("found_bytes"),
        F.unix_micros("_metadata.file_modification_time").alias("found_modified"),
    )
