"""Settled rows → quarantine and silver. Every step can be repeated, so a run killed between two of them is simply run again."""

from __future__ import annotations

from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.run import Run
from propensity_spark.schemas import BRONZE, CHANGES, QUARANTINE, VALIDATED, Table
from propensity_spark.validate.batch import Batch
from propensity_spark.validate.parse import PROVENANCE

_SAME_ROW = "t.source = s.source AND t.source_uri = s.source_uri AND t.delivery_id = s.delivery_id AND t.line = s.line"


def announce(run: Run, table: Table, changed_from: date | None) -> None:
    """Say in `ops/changes`, before silver is touched, from which visible date on it changes; nothing when it does not."""
    if changed_from is not None:
        rows = [(run.run_id, table.name, changed_from, run.started_at)]
        run.lake.append(run.spark.createDataFrame(rows, CHANGES.schema), CHANGES)


def quarantine(run: Run, settled: DataFrame, table: Table, displaced: bool) -> None:
    """Upsert every rejected row with its reasons. `displaced`: silver rows are among them; bronze has their payload."""
    judged_anew = (F.col("origin") == "new") | ((F.col("origin") == "quarantine") & (F.col("reasons") != F.col("earlier_reasons")))
    rejected = settled.where((F.col("outcome") == "rejected") & judged_anew).select(*PROVENANCE, "reasons")
    if displaced:
        lost = settled.where((F.col("outcome") == "rejected") & (F.col("origin") == "silver")).select("payload_hash", "reasons").distinct()
        found = run.lake.read(BRONZE[table.name]).join(F.broadcast(lost), "payload_hash", "inner").select(*PROVENANCE, "reasons")
        rejected = rejected.unionByName(found).dropDuplicates(["source", "source_uri", "delivery_id", "line"])
    rows = rejected.withColumns({"source_table": F.lit(table.name), "severity": F.lit("reject"), "run_id": F.lit(run.run_id)})
    if _holds_any(run, table):
        run.lake.merge(rows, QUARANTINE, f"t.source_table = '{table.name}' AND {_SAME_ROW}", update_when="true")
    else:
        run.lake.append(rows, QUARANTINE)


def write_silver(run: Run, settled: DataFrame, table: Table, only_inserts: bool) -> None:
    """Insert, update and remove rows of silver in one commit."""
    changes = settled.where(F.col("change").isNotNull())
    if table.cluster_by:
        changes = changes.sortWithinPartitions(*table.cluster_by)
    if only_inserts or not run.lake.exists(table):
        run.lake.append(changes.select(*table.column_names), table)
        return
    same_key = " AND ".join(f"t.{name} = s.{name}" for name in table.key)
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
        rows = fine.select("source", "source_uri", "delivery_id", "line")
        run.lake.merge(rows, QUARANTINE, f"{in_table} AND {_SAME_ROW}", delete_when="true", insert=False)
    if batch.ids and _holds_any(run, table):
        deliveries = batch.delivered.select("source", "source_uri", "delivery_id").distinct()
        held = run.lake.read(QUARANTINE).where((F.col("source_table") == table.name) & (F.col("run_id") != run.run_id))
        left_over = held.join(F.broadcast(deliveries), ["source", "source_uri", "delivery_id"], "left_semi")
        rows = left_over.select("source", "source_uri", "delivery_id", "line")
        if not rows.isEmpty():
            run.lake.merge(rows, QUARANTINE, f"{in_table} AND t.run_id <> '{run.run_id}' AND {_SAME_ROW}", delete_when="true", insert=False)


def mark_validated(run: Run, batch: Batch) -> None:
    """Record the batches as done. The last write: without it the batch is judged again."""
    if batch.ids:
        rows = [(batch.table.name, batch_id, run.run_id, run.started_at) for batch_id in batch.ids]
        run.lake.append(run.spark.createDataFrame(rows, VALIDATED.schema), VALIDATED)


def _holds_any(run: Run, table: Table) -> bool:
    return run.lake.exists(QUARANTINE) and not run.lake.read(QUARANTINE).where(F.col("source_table") == table.name).isEmpty()
