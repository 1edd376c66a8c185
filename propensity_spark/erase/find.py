"""Where a person is: rows of the lake's tables, and lines of the files that its sources deliver."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import FileSource
from propensity_spark.errors import SourceMissing
from propensity_spark.features.registry import gold_tables
from propensity_spark.ingest.accept import examine_files, judge
from propensity_spark.ingest.batches import forms_of, listing, sources_by_name
from propensity_spark.ingest.deliveries import Batch, Delivery, first_contexts
from propensity_spark.ingest.rows import bronze_rows
from propensity_spark.privacy import mentioning
from propensity_spark.run import Run
from propensity_spark.schemas import ACTIVITY, BRONZE, QUARANTINE, SILVER, USERS, Table
from propensity_spark.validate.parse import PROVENANCE, Clock, parse

TARGETS = ("users", "activity")


@dataclass(frozen=True)
class People:
    """The persons asked for, one column `user_id` each: as their sources call them, and as the lake does from silver on."""

    given: DataFrame
    known: DataFrame


@dataclass(frozen=True)
class HoldingFile:
    """A file of a source with rows of the persons. `delivery` as ingest sees it, `lines` their positions in the file."""

    delivery: Delivery
    lines: frozenset[int]


def tables(run: Run) -> list[Table]:
    """The tables that hold rows of persons, in the order in which they are erased: from the source downwards."""
    settings = run.settings
    gold = [table for table in gold_tables(settings.grain, settings.has_market, settings.has_crowd) if table.is_personal]
    found = [*(BRONZE[target] for target in TARGETS), QUARANTINE, USERS, ACTIVITY, *gold]
    return [table for table in found if run.lake.exists(table)]


def rows_in(run: Run, table: Table, people: People, rows: DataFrame | None = None) -> DataFrame:
    """The persons' rows among `rows` (default: the table's own). Lazy."""
    rows = run.lake.read(table) if rows is None else rows
    if "user_id" in table.column_names:
        return rows.join(F.broadcast(people.known), "user_id", "left_semi")
    if table is not QUARANTINE:
        return delivered(run, rows, SILVER[table.name], people.given)
    held = [delivered(run, rows.where(F.col("source_table") == target), SILVER[target], people.given) for target in TARGETS]
    return reduce(DataFrame.unionByName, held)


def delivered(run: Run, rows: DataFrame, table: Table, ids: DataFrame) -> DataFrame:
    """Delivered rows (PROVENANCE) of the persons, told by the very mapping that validate uses.

    Where it gives no user (a broken line, a source that is no longer configured), a row is theirs when the id stands in it as a word.
    """
    sources = run.settings.sources.get(table.name, ())  # type: ignore[call-overload]
    configured = F.col("source").isin([source.name for source in sources])
    rows = rows.select(*PROVENANCE)
    found = mentioning(rows.where(~configured), "payload", ids)
    if sources:
        parsed = parse(rows.where(configured), table, sources, Clock.of(run.settings, run.as_of))
        found = found.unionByName(parsed.join(F.broadcast(ids), "user_id", "left_semi").select(*PROVENANCE))
        unread = parsed.where(F.col("user_id").isNull()).select(*PROVENANCE)
        found = found.unionByName(mentioning(unread, "payload", ids))
    return found


def source_files(run: Run, ids: DataFrame) -> tuple[list[HoldingFile], list[Delivery]]:
    """The sources' files, as they are now, that hold rows of the persons; and those that cannot be read, so that nobody can say.

    Every file of users and activity is read, delivered already or not. (Feeds tell of items alone.)
    """
    every = sources_by_name(run)
    sources = {name: (target, source) for name, (target, source) in every.items() if target in TARGETS and isinstance(source, FileSource)}
    listed: list[Delivery] = []
    for name, source in sources.items():
        with suppress(SourceMissing):  # a folder that is gone holds nobody
            listed += [_delivery(row.asDict()) for row in listing(run, {name: source}).collect()]
    findings = examine_files(run.spark, listed, forms_of(sources))
    first = first_contexts(run.lake)
    judged = [
        one
        for name, (_, source) in sources.items()
        for one in judge(run.spark, source, [d for d in listed if d.source == name], findings, first.get(name))
    ]
    readable, unread = [d for d in judged if not d.reason], [d for d in judged if d.reason]
    lines: dict[tuple[str, str], set[int]] = {}
    for target in TARGETS:
        batch = Batch("forget", target, datetime.now(UTC), tuple(d for d in readable if d.target == target))
        if batch.deliveries:
            rows = delivered(run, bronze_rows(run.spark, batch, forms_of(sources)), SILVER[target], ids)
            for row in rows.select("source", "source_uri", "line").collect():  # one person's rows
                lines.setdefault((row["source"], row["source_uri"]), set()).add(row["line"])
    return [HoldingFile(d, frozenset(lines[d.source, d.uri])) for d in readable if (d.source, d.uri) in lines], unread


def _delivery(row: Mapping[str, object]) -> Delivery:
    return Delivery(**{name: row[name] for name in ("source", "target", "path", "bytes", "modified")}, uri=row["source_uri"])  # type: ignore[arg-type]
