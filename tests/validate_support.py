"""Literal bronze rows and settings for the tests of validate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from pyspark.sql import functions as F

from propensity_spark.config import FileSource, LakeSettings, Settings
from propensity_spark.run import Run
from propensity_spark.schemas import BRONZE, DELIVERIES, QUARANTINE, Table
from propensity_spark.tables import Lake, local_frame
from propensity_spark.validate.batch import Batch, new_batches, next_batch
from propensity_spark.validate.profile import Profile
from propensity_spark.validate.table import validate_tables

INGESTED = datetime(2024, 6, 1, tzinfo=UTC)
EVENT_COLUMNS = ("event_id", "user_id", "item_id", "event_type", "event_ts", "quantity", "price", "known_at", "is_deleted")
BAR_COLUMNS = ("item_id", "bar_size", "ts", "open", "high", "low", "close", "volume", "known_at", "is_deleted")
LENIENT = {"max_rejected_share": 1.0, "min_session_completeness": 0.0, "min_rows_against_earlier": 0.0}


def source(name: str, columns: Iterable[str] | Mapping[str, str], **options: Any) -> FileSource:
    """A JSON lines source that maps columns to fields of the same name unless told otherwise."""
    mapping = dict(columns) if isinstance(columns, Mapping) else {column: column for column in columns}
    options.setdefault("format", "jsonl")
    if "known_at" in mapping:
        options.setdefault("known_at", {"kind": "column"})
    return FileSource(kind="files", name=name, path="unused", columns=mapping, **options)


def settings(lake: Lake, sources: Mapping[str, Any], **options: Any) -> Settings:
    return Settings.model_validate(
        {
            "dataset": "tests",
            "lake": LakeSettings(root=lake.root),
            "publish": {"uri": "unused"},
            "sources": {target: (found,) for target, found in sources.items()},
            "validation": {"gate": LENIENT},
            **options,
        }
    )


def run(lake: Lake, chosen: Settings, run_id: str = "r1", as_of: date = date(2024, 5, 31)) -> Run:
    return Run(lake.spark, chosen, lake, as_of, run_id, INGESTED)


def batch_of(run: Run, table: Table) -> Batch:
    """What one table has to judge."""
    return next_batch(run, table, new_batches(run, [table]).get(table.name, {}))


def validate_table(run: Run, table: Table) -> Profile | None:
    """What is new for one table, judged and written; None when there was nothing to judge."""
    return validate_tables(run, [table]).get(table.name)


def text(row: Mapping[str, Any] | str) -> str:
    return row if isinstance(row, str) else json.dumps(row)


def deliver(lake: Lake, target: str, rows: Iterable[Mapping[str, Any] | str], *how: Any, **more: Any) -> None:
    """Append one delivery to bronze, described as for `delivery`."""
    deliver_all(lake, target, [delivery(target, rows, *how, **more)])


def deliver_all(lake: Lake, target: str, deliveries: Iterable[list[tuple[Any, ...]]]) -> None:
    """Append deliveries to bronze in one commit, and to the log as ingested."""
    found = [rows for rows in deliveries if rows]
    lake.append(local_frame(lake.spark, [row for rows in found for row in rows], BRONZE[target].schema), BRONZE[target])
    log = []
    for rows in found:
        name, uri, content, *_, context, ingested_at, batch = rows[0]
        log.append((name, target, uri, content, len(rows), ingested_at, len(rows), context, "ingested", None, batch, ingested_at, "ingest"))
    lake.append(local_frame(lake.spark, log, DELIVERIES.schema), DELIVERIES)


def delivery(
    target: str,
    rows: Iterable[Mapping[str, Any] | str],
    batch: str = "b1",
    name: str | None = None,
    context: Mapping[str, str] | None = None,
    uri: str | None = None,
    ingested_at: datetime = INGESTED,
) -> list[tuple[Any, ...]]:
    """The rows of bronze of one delivery. `batch` names its batch and, where `uri` is not given, its file."""
    payloads = [text(row) for row in rows]
    content = hashlib.sha256("\n".join(payloads).encode()).hexdigest()
    return [
        (
            name or target,
            uri or f"{batch}.file",
            content,
            line,
            payload,
            hashlib.sha256(payload.encode()).hexdigest(),
            dict(context or {}),
            ingested_at,
            batch,
        )
        for line, payload in enumerate(payloads)
    ]


def rows_of(lake: Lake, table: Table, *columns: str) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in lake.read_or_empty(table).select(*(columns or table.column_names)).collect()), key=str)


def quarantined(lake: Lake, target: str) -> list[tuple[str, list[str]]]:
    """(payload, reasons) of every quarantined row of a table."""
    held = lake.read_or_empty(QUARANTINE).where(F.col("source_table") == target)
    return sorted((row["payload"], row["reasons"]) for row in held.collect())


def reasons(lake: Lake, target: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for _, names in quarantined(lake, target):
        for name in names:
            found[name] = found.get(name, 0) + 1
    return found
