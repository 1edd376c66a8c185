"""Which version of each key silver keeps: a pure function of the rows, so that neither order nor batching shows.

The pool holds new rows, quarantined rows that are judged again, and the silver rows they may touch. Among rows fit
for silver, of each key (known_at included) the content with the greatest payload hash wins; equal content is one row
with the greatest of its payload hashes; the others are in conflict. Then winners are judged beside their neighbours.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from propensity_spark.config import RuleSettings
from propensity_spark.schemas import IS_CORRECTION, Table
from propensity_spark.validate.rules import Rule, broken, check_columns

# Rows of one entity may decide about each other.
ENTITY = {"activity": ("event_id",), "bars": ("item_id", "bar_size"), "corporate_actions": ("item_id", "ex_date", "action")}
ASKED_AGAIN = ("bars", "corporate_actions")  # what a feed is asked for more than once
ERASED = "erased"  # the one reason of a row whose user is erased: not rejected and kept, but dropped and counted
NEIGHBOUR_DAYS = 10  # bars further apart are no neighbours


def entity_of(table: Table) -> tuple[str, ...]:
    """Columns within which rows of the table can decide about each other."""
    return ENTITY.get(table.name, table.key)


def settle(pool: DataFrame, table: Table, rules: list[Rule], limits: RuleSettings, splits: DataFrame | None = None) -> DataFrame:
    """Judged rows → the same rows with `outcome`, `change`, and the reasons and warnings that other rows cause.

    Needs `origin` (new, quarantine, silver or context: a silver row that is only looked at), `reasons`, `warnings` and
    `excluded`. outcome: valid, repeated, rejected, excluded or erased. change, what silver must do: insert; remove;
    update (take the place of the row with the same key; of a silver row: its payload hash grows, or it is a correction now, or none any
    more); replaced, for a silver row whose place another takes; null for nothing. `splits`: item_id and ex_date.
    """
    pool = _versions(pool, table)
    if table.name == "activity":
        earliest = F.min_by("event_date", F.when(F.col("wins"), F.struct("known_at", "payload_hash")))
        pool = pool.withColumn("first_event_date", earliest.over(Window.partitionBy(*_prefix(table))))
    if table.name == "bars":
        pool = _with_splits(_with_neighbours(pool, _prefix(table)), splits)
    check_columns(pool, rules, "set")
    wins, judged = F.col("wins"), F.col("fit") & (F.col("origin") != "context")
    conflict = F.array(F.lit("conflicting_key"))
    beside = broken([rule for rule in rules if rule.name != "conflicting_key"], "reject", "set", limits)
    pool = pool.withColumn("set_reasons", F.when(~judged, F.array().cast("array<string>")).when(wins, beside).otherwise(conflict))
    found = F.when(judged & wins, broken(rules, "warn", "set", limits)).otherwise(F.array().cast("array<string>"))
    pool = pool.withColumn("warnings", F.concat("warnings", found)).withColumn("outcome", _outcome())
    if table.name in ASKED_AGAIN:
        pool = pool.withColumn("outcome", F.when(F.col("said_again"), "repeated").otherwise(F.col("outcome")))
    pool = pool.withColumn(
        "reasons", F.when((F.col("outcome") == "rejected") & F.col("fit"), F.col("set_reasons")).otherwise(F.col("reasons"))
    )
    stale = F.col("payload_hash") != F.col("content_hash")
    if table.name == "activity":
        pool = _told_apart(pool, Window.partitionBy(*_prefix(table)))
        stale = stale | (F.col(IS_CORRECTION) != F.col("was_correction"))
    pool = pool.withColumn("change", _change(Window.partitionBy(*_keys(table)), stale))
    return pool.withColumn("payload_hash", F.when((F.col("change") == "update"), F.col("content_hash")).otherwise(F.col("payload_hash")))


def _versions(pool: DataFrame, table: Table) -> DataFrame:
    """Add `fit`, `content`, `content_hash` (greatest payload hash of equal content), `winning_content`, `wins` and `first`.

    `slot` keeps rows that are not fit apart, each by itself. One shuffle by entity and one sort serve every window.
    """
    if table.name == "bars":
        pool = pool.withColumn("moment", F.unix_micros("ts"))
    business = [name for name in table.column_names if name not in ("payload_hash", IS_CORRECTION)]
    values = [F.to_json(name) if name == "attributes" else F.col(name) for name in business]
    fit = (F.size("reasons") == 0) & ~F.col("excluded")
    pool = pool.withColumns({"fit": fit, "content": F.xxhash64(*values)})
    pool = pool.withColumn("slot", F.when(~F.col("fit"), F.xxhash64("source", "source_uri", "delivery_id", "line")))
    pool = pool.withColumn("entity", F.xxhash64(*entity_of(table), "slot")).repartition("entity")
    if table.name in ASKED_AGAIN:
        pool = _without_said_again(pool, table)
    keys = _keys(table)
    of_content = Window.partitionBy(*keys, "content")
    in_order = of_content.orderBy(F.col("origin").isin("silver", "context").desc(), F.col("payload_hash").desc())
    pool = pool.withColumns({"first": F.row_number().over(in_order) == 1, "content_hash": F.max("payload_hash").over(of_content)})
    winner = F.max(F.struct("payload_hash", "content")).over(Window.partitionBy(*keys))["content"]
    pool = pool.withColumn("winning_content", winner)
    return pool.withColumn("wins", F.col("fit") & (F.col("content") == F.col("winning_content")))


def _without_said_again(pool: DataFrame, table: Table) -> DataFrame:
    """Add `said_again` to rows that a feed gave when it was asked again and that say what was known already: no version begins with them.

    Such a row (`asked_again`) is known from its ingestion on, see parse. It is news when the content known last before it is another, or
    when there is none: a correction, a correction taken back, a bar or a split that was not there at first.
    """
    values = [name for name in table.column_names if name not in ("known_at", "visible_date", "payload_hash")]
    moment = F.unix_micros("known_at")
    by_time = Window.partitionBy(*[name for name in _keys(table) if name != "known_at"]).orderBy(moment)
    said = F.struct("payload_hash", F.xxhash64(*values).alias("says"))
    now = F.max(said).over(by_time.rangeBetween(Window.currentRow, Window.currentRow))["says"]
    before = F.max(F.struct(moment.alias("moment"), said.alias("said"))).over(by_time.rangeBetween(Window.unboundedPreceding, -1))
    again = F.col("fit") & F.coalesce("asked_again", F.lit(False)) & F.coalesce(now == before["said"]["says"], F.lit(False))
    pool = pool.withColumn("said_again", again).withColumn("fit", F.col("fit") & ~F.col("said_again"))
    return pool.withColumn("slot", F.when(~F.col("fit"), F.xxhash64("source", "source_uri", "delivery_id", "line")))


def _prefix(table: Table) -> list[str]:
    """What every window starts with. `entity`, a hash, stands first: one shuffle and one sort by it serve all windows."""
    return ["entity", *entity_of(table), "slot"]


def _keys(table: Table) -> list[str]:
    return _prefix(table) + [{"ts": "moment"}.get(name, name) for name in table.key if name not in entity_of(table)]


def _outcome() -> Column:
    leads = F.col("payload_hash") == F.col("content_hash")
    broken_here = F.size("set_reasons") > 0
    return (
        F.when(F.array_contains("reasons", ERASED), ERASED)
        .when(F.col("excluded"), "excluded")
        .when(~F.col("fit") | (broken_here & leads), "rejected")
        .when(F.col("first") & ~broken_here, "valid")
        .otherwise("repeated")
    )


def _told_apart(pool: DataFrame, same_event: WindowSpec) -> DataFrame:
    """Add `is_correction`, whether another row that is or stays in silver was known before, and `was_correction`, what silver says so far.

    A matter of what silver holds, not of when it came: where an earlier version arrives late, the later one becomes a correction then.
    """
    said = F.col(IS_CORRECTION) if IS_CORRECTION in pool.columns else F.lit(None).cast("boolean")
    first = F.min(F.when(F.col("outcome") == "valid", F.col("known_at"))).over(same_event)
    follows = F.coalesce(F.col("known_at") > first, F.lit(False))
    return pool.withColumns({"was_correction": F.coalesce(said, F.lit(False)), IS_CORRECTION: follows})


def _change(same_key: WindowSpec, stale: Column) -> Column:
    """One row per key at most has something to write: MERGE allows no two. `stale`: what silver says of a row is out of date."""
    silver, valid = F.col("origin") == "silver", F.col("outcome") == "valid"
    comes = valid & F.col("origin").isin("new", "quarantine")
    taken, followed = F.bool_or(silver).over(same_key), F.bool_or(comes).over(same_key)
    return (
        F.when(silver & ~valid & followed, "replaced")
        .when(silver & ~valid, "remove")
        .when((silver & stale) | (comes & taken), "update")
        .when(comes, "insert")
    )


def _with_neighbours(pool: DataFrame, prefix: list[str]) -> DataFrame:
    """Add previous_close, next_close and next_date: the latest known, not deleted version of the item's bars before and after.

    Null where there is none within NEIGHBOUR_DAYS days.
    """
    item = Window.partitionBy(*prefix).orderBy("moment")
    version = F.when(F.col("wins"), F.struct("known_at", "payload_hash"))
    latest = F.max(version).over(Window.partitionBy(*prefix, "moment"))
    counts = F.col("wins") & F.col("first") & (F.struct("known_at", "payload_hash") == latest) & ~F.col("is_deleted")
    pool = pool.withColumn("shown", F.when(counts, F.struct("close", "session_date", "moment")))
    # The nearest bar shown may be another version of the same bar; then the second nearest is the neighbour.
    shifts = {
        f"{side}_{steps}": f"{shift}(shown, {steps}) ignore nulls"
        for side, shift in (("before", "lag"), ("after", "lead"))
        for steps in (1, 2)
    }
    pool = pool.withColumns({name: F.expr(text).over(item) for name, text in shifts.items()})
    for side in ("before", "after"):
        same_bar = F.col(f"{side}_1.moment") == F.col("moment")
        pool = pool.withColumn(side, F.when(same_bar, F.col(f"{side}_2")).otherwise(F.col(f"{side}_1")))
    near_before = F.datediff("session_date", F.col("before.session_date")) <= NEIGHBOUR_DAYS
    near_after = F.datediff(F.col("after.session_date"), "session_date") <= NEIGHBOUR_DAYS
    return pool.withColumns(
        {
            "previous_close": F.when(near_before, F.col("before.close")),
            "next_close": F.when(near_after, F.col("after.close")),
            "next_date": F.when(near_after, F.col("after.session_date")),
        }
    )


def _with_splits(pool: DataFrame, splits: DataFrame | None) -> DataFrame:
    """Add split_here and split_next: whether a split of the item has its ex-date on the bar's date, on the next bar's date."""
    if splits is None:
        return pool.withColumns({"split_here": F.lit(False), "split_next": F.lit(False)})
    here = splits.select("item_id", F.col("ex_date").alias("session_date"), F.lit(True).alias("split_here")).distinct()
    following = here.select("item_id", F.col("session_date").alias("next_date"), F.lit(True).alias("split_next"))
    pool = pool.join(F.broadcast(here), ["item_id", "session_date"], "left").join(F.broadcast(following), ["item_id", "next_date"], "left")
    return pool.withColumns({name: F.coalesce(name, F.lit(False)) for name in ("split_here", "split_next")})
