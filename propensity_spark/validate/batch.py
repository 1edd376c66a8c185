"""What one validate run has to judge: new batches of bronze, quarantined rows that may be fine by now, silver rows nearby."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.privacy import NOBODY, Identities, identities
from propensity_spark.run import Run
from propensity_spark.schemas import (
    ACTIVITY,
    BARS,
    BRONZE,
    CORPORATE_ACTIONS,
    DELIVERIES,
    ITEMS,
    QUARANTINE,
    TOUCHED,
    USERS,
    VALIDATED,
    Table,
)
from propensity_spark.tables import local_frame
from propensity_spark.validate.nearby import Reach, reach, with_silver
from propensity_spark.validate.parse import DELIVERY, PROVENANCE, Clock, extra_columns, parse
from propensity_spark.validate.rules import broken, check_columns, rejudged, rules_for
from propensity_spark.validate.settle import ERASED, settle

ORDER: tuple[Table, ...] = (ITEMS, USERS, CORPORATE_ACTIONS, BARS, ACTIVITY)  # who is known is decided before who acts
SETTLED = ("origin", "outcome", "change", "reasons", "earlier_reasons", "warnings")


@dataclass(frozen=True)
class Batch:
    """Rows of one table to judge. `ids`: the batches of bronze not validated yet; `delivered`: their rows, `rows` of them.

    `again`: quarantined rows of earlier batches; null: none. `since`: when the first of the batches was ingested; null: they have no rows.
    `is_begun`: a run that broke off has quarantined rows of these very batches.
    """

    table: Table
    ids: tuple[str, ...]
    rows: int
    delivered: DataFrame
    again: DataFrame | None
    since: datetime | None = None
    is_begun: bool = False
    who: Identities = NOBODY

    @property
    def is_empty(self) -> bool:
        return not self.ids and self.again is None

    @property
    def is_without_rows(self) -> bool:
        return not self.rows and self.again is None


@dataclass(frozen=True)
class Ingested:
    """A batch that is not validated yet: its rows in bronze and when they were ingested. No rows: a batch such as an empty page."""

    rows: int = 0
    at: datetime | None = None


def new_batches(run: Run, tables: Sequence[Table]) -> dict[str, dict[str, Ingested]]:
    """Table → batch → what is known of it, of the batches that are ingested and not validated yet.

    The logs say which batches there are, and bronze is read for those alone. A batch whose ingestion broke off is none yet: the next
    ingest writes it whole.
    """
    ingested = (F.col("status") == "ingested") & (F.col("batch_id") != TOUCHED) & F.col("target").isin([table.name for table in tables])
    log = run.lake.read_or_empty(DELIVERIES).where(ingested).select(F.col("target").alias("table_name"), "batch_id").distinct()
    done = run.lake.read_or_empty(VALIDATED).select("table_name", "batch_id")
    batches: dict[str, dict[str, Ingested]] = {}
    for name, batch_id in sorted(log.join(done, ["table_name", "batch_id"], "left_anti").collect()):
        batches.setdefault(name, {})[batch_id] = Ingested()
    for name, batch_id, rows, at in _in_bronze(run, batches):
        batches[name][batch_id] = Ingested(rows, at)
    return batches


def _in_bronze(run: Run, batches: Mapping[str, Collection[str]]) -> list[Row]:
    """(table, batch, rows, ingested at) of those batches that have rows; fewer than were delivered where a person's were erased since."""
    parts = [
        run.lake.read_or_empty(BRONZE[name])
        .where(F.col("batch_id").isin(list(ids)))
        .select(F.lit(name).alias("table_name"), "batch_id", "ingested_at")
        for name, ids in batches.items()
    ]
    if not parts:
        return []
    return reduce(DataFrame.unionByName, parts).groupBy("table_name", "batch_id").agg(F.count("*"), F.min("ingested_at")).collect()


def next_batch(run: Run, table: Table, new: Mapping[str, Ingested]) -> Batch:
    """The `new` batches of a table, and the quarantined rows that only rules about other rows have rejected, to judge again.

    What a broken-off run has quarantined of a batch that is still new is judged with the batch, once.
    """
    who = who_is_in(run, table)
    delivered = who.delivered(run.lake.read_or_empty(BRONZE[table.name])).where(F.col("batch_id").isin(list(new)) if new else F.lit(False))
    since = min((batch.at for batch in new.values() if batch.at), default=None)
    batch = Batch(table, tuple(new), sum(batch.rows for batch in new.values()), delivered, None, since, who=who)
    held = _held(run, table, F.forall("reasons", lambda name: name.isin(rejudged())))
    if held is None:
        return batch
    is_begun = since is not None and not left_over(run, batch).isEmpty()
    if is_begun:
        held = held.join(F.broadcast(deliveries_of(batch)), list(DELIVERY), "left_anti")
    return replace(batch, again=_unless_empty(held), is_begun=is_begun)


def left_over(run: Run, batch: Batch) -> DataFrame:
    """Rows in quarantine of the batch's own deliveries; what was quarantined before they were ingested is not looked at."""
    held = run.lake.read(QUARANTINE).where((F.col("source_table") == batch.table.name) & (F.col("ingested_at") >= F.lit(batch.since)))
    return held.join(F.broadcast(deliveries_of(batch)), list(DELIVERY), "left_semi")


def deliveries_of(batch: Batch) -> DataFrame:
    return batch.delivered.select(*DELIVERY).distinct()


def held_batch(run: Run, table: Table, reason: str | None) -> Batch:
    """The quarantined rows of a table, all or those with `reason`, to judge again; no new batch."""
    held = _held(run, table, F.array_contains("reasons", reason) if reason else F.lit(True))
    return Batch(table, (), 0, local_frame(run.spark, [], BRONZE[table.name].schema), _unless_empty(held), who=who_is_in(run, table))


def who_is_in(run: Run, table: Table) -> Identities:
    """How the table calls users and whom it must not take in again."""
    return identities(run.settings, run.lake, run.started_at) if "user_id" in table.column_names else NOBODY


def _held(run: Run, table: Table, wanted: Column) -> DataFrame | None:
    """Quarantined rows of the table's configured sources; None when nothing was ever quarantined."""
    if not run.lake.exists(QUARANTINE):
        return None
    sources = [source.name for source in run.settings.sources.get(table.name, ())]  # type: ignore[call-overload]
    return run.lake.read(QUARANTINE).where((F.col("source_table") == table.name) & wanted & F.col("source").isin(sources))


def _unless_empty(held: DataFrame | None) -> DataFrame | None:
    return None if held is None or held.isEmpty() else held


def judge(run: Run, batch: Batch) -> tuple[DataFrame, Reach]:
    """Every row of the batch, and the silver rows it touches, settled (see settle.settle), lazily; and where in silver those lie.

    The latter is one small job (see nearby.reach).
    """
    table, limits = batch.table, run.settings.validation.rules
    rows = _candidates(run, batch)
    near = reach(run, rows, table)
    settled = settle(with_silver(run, rows, table, near), table, rules_for(table, limits), limits, _splits(run, table))
    return settled.select(*dict.fromkeys([*table.column_names, *PROVENANCE, *SETTLED, *extra_columns(table)])), near


def _candidates(run: Run, batch: Batch) -> DataFrame:
    """Every row of the batch, typed, with the `reasons` and `warnings` that it gives by itself."""
    table, limits = batch.table, run.settings.validation.rules
    rules = rules_for(table, limits)
    clock = Clock.of(run.settings, run.as_of)
    rows = parse(_rows_to_judge(batch), table, run.settings.sources[table.name], clock, batch.who)  # type: ignore[index]
    rows = _with_known(run, rows, table)
    check_columns(rows, rules, "row")
    rows = batch.who.is_erased(rows) if "user_id" in table.column_names else rows.withColumn("erased", F.lit(False))
    malformed = F.array_contains("problems", "malformed_record")
    own = [rule for rule in rules if not rule.depends_on_other_rows]
    # Reasons of the row's own come alone: what other rows say would depend on when it was asked.
    reasons = F.when(malformed, F.col("problems")).otherwise(F.concat("problems", broken(own, "reject", "row", limits)))
    rows = rows.withColumn("own_reasons", F.when(F.col("erased"), F.array(F.lit(ERASED))).otherwise(reasons))
    others = broken([rule for rule in rules if rule.depends_on_other_rows], "reject", "row", limits)
    reasons = F.when(F.size("own_reasons") > 0, F.col("own_reasons")).otherwise(others)
    rows = rows.withColumns({"reasons": reasons, "warnings": broken(rules, "warn", "row", limits)})
    # Payloads of rows that are fine so far stay in bronze: they need not be shuffled and cached with the rest.
    return rows.withColumn("payload", F.when(F.size("reasons") > 0, F.col("payload")))


def _rows_to_judge(batch: Batch) -> DataFrame:
    nothing = F.lit(None).cast("array<string>")
    rows = batch.delivered.select(*PROVENANCE, F.lit("new").alias("origin"), nothing.alias("earlier_reasons"))
    if batch.again is None:
        return rows
    again = batch.again.select(*PROVENANCE, F.lit("quarantine").alias("origin"), F.col("reasons").alias("earlier_reasons"))
    return rows.unionByName(again) if batch.ids else again


def _with_known(run: Run, rows: DataFrame, table: Table) -> DataFrame:
    """Add user_is_known and item_is_known: true where the data set has no such source, and for events without an item."""
    sources = run.settings.sources
    if table.name == "activity":
        users = run.lake.read_or_empty(USERS).select("user_id") if sources.get("users") else None
        rows = _mark(rows, users, "user_id", "user_is_known")
    if table.name in ("activity", "bars"):
        items = run.lake.read_or_empty(ITEMS).select("item_id") if sources.get("items") else None
        if items is not None and table.name == "activity" and sources.get("bars"):
            items = items.union(run.lake.read_or_empty(BARS).select("item_id"))
        rows = _mark(rows, items, "item_id", "item_is_known")
    return rows


def _mark(rows: DataFrame, known: DataFrame | None, name: str, flag: str) -> DataFrame:
    if known is None:
        return rows.withColumn(flag, F.lit(True))
    marked = rows.join(known.distinct().withColumn(flag, F.lit(True)), name, "left")
    return marked.withColumn(flag, F.coalesce(flag, F.lit(False)))


def _splits(run: Run, table: Table) -> DataFrame | None:
    if table.name != "bars" or not run.lake.exists(CORPORATE_ACTIONS):
        return None
    return run.lake.read(CORPORATE_ACTIONS).where(F.col("action") == "split").select("item_id", "ex_date")


def configured(settings: Settings) -> list[Table]:
    """Silver tables that have a source, in the order in which they are judged."""
    return [table for table in ORDER if settings.sources.get(table.name)]  # type: ignore[call-overload]
