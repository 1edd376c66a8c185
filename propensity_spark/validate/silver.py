"""Settled rows → quarantine and silver. Every step can be repeated, so a run killed between two of them is simply run again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.run import Run
from propensity_spark.schemas import BRONZE, CHANGES, QUARANTINE, VALIDATED, Table
from propensity_spark.tables import local_frame
from propensity_spark.validate.batch import Batch, left_over, who_is_in
from propensity_spark.validate.nearby import Reach
from propensity_spark.validate.parse import PROVENANCE, ROW, SAME_ROW, Clock, parse
from propensity_spark.validate.settle import ERASED

ROWS_PER_FILE = 250_000


def announce(run: Run, table: Table, changed_from: date | None) -> None:
    """Say in `ops/changes`, before silver is touched, from which visible date on it changes; nothing when it does not."""
    if changed_from is not None:
        rows = [(run.run_id, table.name, changed_from, run.started_at)]
        run.lake.append(local_frame(run.spark, rows, CHANGES.schema), CHANGES)


def quarantine(run: Run, settled: DataFrame, batch: Batch, *, displaced: bool, rejected_again: bool) -> None:
    """Keep every rejected row with its reasons: an append, unless some may be there already.

    `displaced`: silver rows are among them, whose source only bronze knows. `rejected_again`: quarantined rows are, with other reasons.
    """
    table = batch.table
    judged_anew = (F.col("origin") == "new") | ((F.col("origin") == "quarantine") & (F.col("reasons") != F.col("earlier_reasons")))
    rejected = _with_payload(run, settled.where((F.col("outcome") == "rejected") & judged_anew), batch)
    if displaced:
        lost = settled.where((F.col("outcome") == "rejected") & (F.col("origin") == "silver"))
        found = source_rows(run, lost, table)
        rejected = rejected.unionByName(found).dropDuplicates(list(ROW))
    rows = rejected.withColumns({"source_table": F.lit(table.name), "severity": F.lit("reject"), "run_id": F.lit(run.run_id)})
    if displaced or rejected_again or batch.is_begun:
        run.lake.merge(rows, QUARANTINE, f"t.source_table = '{table.name}' AND {SAME_ROW}", update_when="true")
    else:
        run.lake.append(rows, QUARANTINE)


def _with_payload(run: Run, rejected: DataFrame, batch: Batch) -> DataFrame:
    """Rows that only other rows have rejected come without their payload: bronze has it, of new ones in the new batches."""
    bare, wanted = rejected.where(F.col("payload").isNull()), [*PROVENANCE, "reasons"]
    origins = {row["origin"] for row in bare.select("origin").distinct().collect()}
    rejected = rejected.select(*wanted)
    if not origins:
        return rejected
    bronze = run.lake.read(BRONZE[batch.table.name])
    if origins == {"new"}:
        bronze = bronze.where(F.col("batch_id").isin(list(batch.ids)))
    payloads = bronze.select(*ROW, F.col("payload"))
    found = payloads.join(F.broadcast(bare.select(*wanted).drop("payload")), list(ROW), "inner").select(*wanted)
    return rejected.where(F.col("payload").isNotNull()).unionByName(found)


def source_rows(run: Run, lost: DataFrame, table: Table) -> DataFrame:
    """Silver rows that are rejected now → the rows of bronze they came from (all copies), with their reasons.

    A payload alone does not tell the row (a page of the feed names its ticker once), so what it leads to is parsed
    again and held against the key.
    """
    wanted = F.broadcast(lost.select("payload_hash", "reasons", *[F.col(name).alias(f"lost_{name}") for name in table.key]))
    who = who_is_in(run, table)
    bronze = who.delivered(run.lake.read(BRONZE[table.name]).select(*PROVENANCE))
    alike = bronze.join(F.broadcast(lost.select("payload_hash").distinct()), "payload_hash", "left_semi").select(*PROVENANCE)
    parsed = parse(alike, table, run.settings.sources[table.name], Clock.of(run.settings, run.as_of), who)  # type: ignore[index]
    same = [F.col(name) == F.col(f"lost_{name}") for name in table.key]
    return parsed.join(wanted, "payload_hash", "inner").where(reduce(Column.__and__, same)).select(*PROVENANCE, "reasons")


def write_silver(run: Run, settled: DataFrame, near: Reach, counts: Mapping[str, int]) -> None:
    """Insert, update and remove rows of silver in one commit, so many of each, all of dates in `near`.

    Only inserts are an append, which need not look for keys; a MERGE looks in files of those dates alone. A large write is split by
    ranges of what the table is clustered by, so that who asks for a year does not read the files of others.
    """
    table = near.table
    changes, only_inserts = settled.where(F.col("change").isin("insert", "update", "remove")), not (counts["update"] or counts["remove"])
    if table.cluster_by and (files := sum(counts.values()) // ROWS_PER_FILE) > 1:
        changes = changes.repartitionByRange(files, *table.cluster_by)
    if table.cluster_by:
        changes = changes.sortWithinPartitions(*table.cluster_by)
    if only_inserts or not run.lake.exists(table):
        run.lake.append(changes.select(*table.column_names), table)
        return
    same_key = " AND ".join([near.condition("t"), *(f"t.{name} = s.{name}" for name in table.key)])
    run.lake.merge(
        changes.select(*table.column_names, "change"),
        table,
        same_key,
        delete_when="s.change = 'remove'",
        update_when="s.change = 'update'",
    )


def release(run: Run, settled: DataFrame, batch: Batch, again: bool) -> None:
    """Take out of quarantine what is no longer rejected: rows judged again (`again`), and what a broken-off run left of this batch.

    The latter are the rows of the batch's deliveries that this run has not written.
    """
    table = batch.table
    in_table = f"t.source_table = '{table.name}'"
    if again:
        fine = settled.where((F.col("origin") == "quarantine") & (F.col("outcome") != "rejected"))
        rows = fine.select(*ROW)
        run.lake.merge(rows, QUARANTINE, f"{in_table} AND {SAME_ROW}", delete_when="true", insert=False)
    if batch.is_begun:
        rows = left_over(run, batch).where(F.col("run_id") != run.run_id).select(*ROW)
        if not rows.isEmpty():
            run.lake.merge(rows, QUARANTINE, f"{in_table} AND t.run_id <> '{run.run_id}' AND {SAME_ROW}", delete_when="true", insert=False)


def drop_erased(run: Run, settled: DataFrame, batch: Batch) -> None:
    """Take the rows of erased persons, which came again, out of bronze. Only then is the batch marked as done."""
    ids = ", ".join(f"'{batch_id}'" for batch_id in batch.ids)
    again = settled.where((F.col("outcome") == ERASED) & (F.col("origin") == "new")).select(*ROW)
    run.lake.merge(again, BRONZE[batch.table.name], f"t.batch_id IN ({ids}) AND {SAME_ROW}", delete_when="true", insert=False)


def mark_validated(run: Run, batches: Iterable[Batch]) -> None:
    """Record the batches as done, in one commit. The last write: without it they are judged again."""
    rows = [(batch.table.name, batch_id, run.run_id, run.started_at) for batch in batches for batch_id in batch.ids]
    if rows:
        run.lake.append(local_frame(run.spark, rows, VALIDATED.schema), VALIDATED)
