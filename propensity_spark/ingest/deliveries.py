"""The log of deliveries, written ahead: a batch is planned, its rows are replaced whole, then it counts as ingested.

A run that dies in between leaves a planned batch; the next run writes exactly that batch again, under the same
`batch_id` and the same `ingested_at`, so bronze ends as it would have without the death.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from propensity_spark.schemas import DELIVERIES
from propensity_spark.tables import Lake, local_frame

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Delivery:
    """One file or page. `uri` is its name in the lake, `path` where Spark reads it, `modified` microseconds since 1970."""

    source: str
    target: str
    uri: str
    path: str
    bytes: int
    modified: int
    delivery_id: str = ""
    rows: int = 0
    context: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    earlier_ids: frozenset[str] = frozenset()
    tolerated: bool = False

    def refused(self, reason: str) -> Delivery:
        return replace(self, reason=reason, rows=0)


@dataclass(frozen=True)
class Batch:
    """Deliveries of one target that go into bronze in one commit."""

    batch_id: str
    target: str
    planned_at: datetime
    deliveries: tuple[Delivery, ...]


def new_batches(deliveries: Iterable[Delivery], planned_at: datetime) -> list[Batch]:
    """One batch per target. The id is a hash of what is delivered, so the same deliveries are the same batch."""
    ordered = sorted(deliveries, key=lambda d: (d.target, d.source, d.uri, d.delivery_id))
    batches = []
    for target, group in groupby(ordered, key=lambda d: d.target):
        members = tuple(group)
        names = "\n".join(f"{d.source}\t{d.uri}\t{d.delivery_id}" for d in members)
        batches.append(Batch(hashlib.sha256(names.encode()).hexdigest()[:32], target, planned_at, members))
    return batches


def unseen(lake: Lake, listed: DataFrame) -> list[Delivery]:
    """The listed files that are not in bronze as they are now: new ones, changed ones, and those refused before.

    `listed`: source, target, source_uri, path, bytes, modified, modified_at. `earlier_ids` are the contents ingested under the same
    name; `tolerated`: refused before, within the allowed share.
    """
    is_ingested = F.col("status") == "ingested"
    is_tolerated = (F.col("status") == "refused") & F.col("batch_id").isNotNull()
    version = F.struct("bytes", "modified_at")
    log = lake.read_or_empty(DELIVERIES).groupBy("source", "source_uri")
    states = log.agg(
        F.collect_set(F.when(is_ingested, version)).alias("ingested"),
        F.collect_set(F.when(is_ingested, F.col("delivery_id"))).alias("earlier_ids"),
        F.collect_set(F.when(is_tolerated, version)).alias("refused"),
    )
    rows = (
        listed.join(states, ["source", "source_uri"], "left")
        .where(~F.coalesce(F.array_contains("ingested", version), F.lit(False)))
        .select("*", F.array_contains("refused", version).alias("tolerated"))
        .collect()
    )
    deliveries = (
        Delivery(
            row["source"],
            row["target"],
            row["source_uri"],
            row["path"],
            row["bytes"],
            row["modified"],
            earlier_ids=frozenset(row["earlier_ids"] or ()),
            tolerated=bool(row["tolerated"]),
        )
        for row in rows
    )
    return sorted(deliveries, key=lambda d: (d.source, d.uri))


def unfinished(lake: Lake, root: str) -> list[Batch]:
    """Batches that were planned and neither ingested nor refused since. `root`: where URIs inside the lake are."""
    log = lake.read_or_empty(DELIVERIES).where(F.col("batch_id").isNotNull()).groupBy("batch_id", "source", "source_uri", "delivery_id")
    details = ["target", "bytes", "modified_at", "rows", "context", "recorded_at"]
    rows = (
        log.agg(*[F.first(name).alias(name) for name in details], F.collect_set("status").alias("states"))
        .where(F.col("states") == F.array(F.lit("planned")))
        .select("*", F.unix_micros("modified_at").alias("modified"), F.unix_micros("recorded_at").alias("planned"))
        .collect()
    )
    rows.sort(key=lambda row: (row["planned"], row["batch_id"], row["source"], row["source_uri"]))
    return [
        Batch(batch_id, target, _EPOCH + timedelta(microseconds=planned), tuple(_from_log(row, root) for row in group))
        for (planned, batch_id, target), group in groupby(rows, key=lambda row: (row["planned"], row["batch_id"], row["target"]))
    ]


def first_contexts(lake: Lake) -> dict[str, Mapping[str, str]]:
    """Every source of which a delivery was ever recorded, with the context of its first one that was ingested, if any."""
    order = F.when(F.col("status") == "ingested", F.struct("recorded_at", "source_uri"))
    first = lake.read_or_empty(DELIVERIES).groupBy("source").agg(F.min_by("context", order).alias("context"))
    return {row["source"]: row["context"] or {} for row in first.collect()}


def record(lake: Lake, changes: Iterable[tuple[Delivery, str, str | None]], at: datetime, run_id: str) -> None:
    """Append changes of state (delivery, status, batch_id), all in one commit."""
    rows = [
        (
            *(d.source, d.target, d.uri, d.delivery_id, d.bytes, _EPOCH + timedelta(microseconds=d.modified), d.rows, dict(d.context)),
            *(status, d.reason, batch_id, at, run_id),
        )
        for d, status, batch_id in changes
    ]
    if rows:
        lake.append(local_frame(lake.spark, rows, DELIVERIES.schema).coalesce(1), DELIVERIES)


def _from_log(row: Row, root: str) -> Delivery:
    uri = row["source_uri"]
    return Delivery(
        row["source"],
        row["target"],
        uri,
        uri if ":/" in uri else f"{root}/{uri}",
        row["bytes"],
        row["modified"],
        row["delivery_id"],
        row["rows"],
        row["context"] or {},
    )
