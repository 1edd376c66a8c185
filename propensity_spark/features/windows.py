"""The only place that builds entries and exits.

A version of an event counts in a window of N days as of D for exactly the D with
visible_date ≤ D < min(event_date + N, visible_date of the version that replaces it). Here every date is first turned into
a *position*: the index of the first requested as-of date on or after it (`Grid`). A version then lives on positions
[enters, leaves); its value is added at the first and taken away at the second, and one running sum per key gives every
as-of date at once. Cost depends neither on N nor on dates × events, and late data and corrections are no special case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F


@dataclass(frozen=True)
class Grid:
    """The requested as-of dates, ascending and distinct. Position i is dates[i]; `size` stands for "after the last"."""

    dates: tuple[date, ...]

    def __post_init__(self) -> None:
        if not self.dates or list(self.dates) != sorted(set(self.dates)):
            raise ValueError(f"as-of dates: expected at least one, ascending and distinct; found {self.dates}")

    @property
    def size(self) -> int:
        return len(self.dates)

    @property
    def is_one(self) -> bool:
        """One date alone: every interval that is left begins at 0 and ends at 1."""
        return self.size == 1

    def position(self, day: Column) -> Column:
        """Position of the first as-of date on or after `day`; `size` when there is none or `day` is null (open end)."""
        first, last = self.dates[0], self.dates[-1]
        if self.is_one:
            return F.when(day <= F.lit(first), 0).otherwise(1)
        days = (last - first).days
        known = {(when - first).days: index for index, when in enumerate(self.dates)}
        table, upcoming = [0] * (days + 1), self.size - 1
        for offset in range(days, -1, -1):
            upcoming = table[offset] = known.get(offset, upcoming)
        lookup = _array("int", table)
        offset_of = F.date_diff(day, F.lit(first))
        return F.when(day.isNull() | (offset_of > days), self.size).when(offset_of <= 0, 0).otherwise(F.get(lookup, offset_of))

    def day(self, position: Column) -> Column:
        """The as-of date at a position below `size`."""
        return F.get(_array("date", self.dates), position)


def _array(kind: str, values: Sequence[object]) -> Column:
    """An array literal made of one text, which the optimizer folds once: thousands of literals would be planned one by one."""
    return F.split(F.lit(",".join(map(str, values))), ",").cast(f"array<{kind}>")


@dataclass(frozen=True)
class Measure:
    """What a row adds to the running sum `name`: `value` on the positions [enters, leaves), given as column names."""

    name: str
    value: str
    leaves: str
    enters: str = "enters"


def version_intervals(versions: DataFrame, key: Sequence[str], grid: Grid, corrections: DataFrame | None = None) -> DataFrame:
    """One row per version that is visible on at least one as-of date, with its positions [enters, leaves).

    In: every version, with `known_at`, `visible_date` and `is_deleted`, `known_at` unique per key. As of D the version
    with the greatest `known_at` among those with `visible_date` ≤ D is seen; where that is a deletion, none is.
    `corrections`: those of the versions that have an earlier one (key, known_at, visible_date; others may be among them), few enough to go
    to every task. Then no version need be shuffled to find the one that replaces it.
    """
    seen = versions.where(F.col("visible_date") <= F.lit(grid.dates[-1]))
    if corrections is None:
        later = Window.partitionBy(*key).orderBy(F.desc("known_at")).rowsBetween(Window.unboundedPreceding, -1)
        dated = seen.withColumn("replaced_on", F.min("visible_date").over(later))
    else:
        dated = _replaced_by(seen, key, corrections.where(F.col("visible_date") <= F.lit(grid.dates[-1])))
    return (
        dated.where(~F.col("is_deleted"))
        .withColumn("enters", grid.position(F.col("visible_date")))
        .withColumn("leaves", grid.position(F.col("replaced_on")))
        .where(F.col("enters") < F.col("leaves"))
        .drop("known_at", "visible_date", "is_deleted", "replaced_on")
    )


def _replaced_by(versions: DataFrame, key: Sequence[str], corrections: DataFrame) -> DataFrame:
    """Add `replaced_on`, the first `visible_date` of a correction with a greater `known_at`; null: none.

    Looked up by a hash of the key, a number, which is found in half the time; what has the same hash and another key is told apart then.
    """
    correction = F.struct(F.struct(*key).alias("key"), "known_at", "visible_date")
    by_hash = corrections.groupBy(F.xxhash64(*key).alias("hash")).agg(F.collect_list(correction).alias("corrections"))

    def replaces(one: Column) -> Column:
        return (one["key"] == F.struct(*key)) & (one["known_at"] > F.col("known_at"))

    found = F.transform(F.filter("corrections", replaces), lambda one: one["visible_date"])
    joined = versions.withColumn("hash", F.xxhash64(*key)).join(F.broadcast(by_hash), "hash", "left")
    replaced_on = F.when(F.col("corrections").isNotNull(), F.array_min(found))
    return joined.withColumn("replaced_on", replaced_on).drop("hash", "corrections")


def with_window_ends(lives: DataFrame, days: Sequence[int], grid: Grid) -> DataFrame:
    """Add `leaves_<N>`: the position at which a row with this `event_date` leaves a window of N days, or its own end."""
    return lives.withColumns({f"leaves_{n}": F.least("leaves", grid.position(F.date_add("event_date", n))) for n in sorted(set(days))})


def by_day(rows: DataFrame, key: Sequence[str], grid: Grid, sums: Sequence[str], latest: Sequence[str] = ()) -> DataFrame:
    """Rows of a key and day that live and die together, added up: fewer to enter and leave. For one date they stay as they are."""
    if grid.is_one:
        return rows
    added = [*(F.sum(name).alias(name) for name in sums), *(F.max(name).alias(name) for name in latest)]
    return rows.groupBy(*key, "event_date", "enters", "leaves").agg(*added)


def union_intervals(lives: DataFrame, key: Sequence[str], leaves: Sequence[str], grid: Grid) -> DataFrame:
    """One row per key and `enters` with, for each end column, `first_<leaves>`, `<leaves>`; and `one`, to be added up.

    The [first_…, …) of a key are disjoint and cover what its [enters, …) cover, so a distinct count is a sum: the part of an
    interval that an earlier one covers already is cut off in front (one that is covered wholly becomes empty).
    """
    living = lives.where(reduce(or_, (F.col("enters") < F.col(end) for end in leaves)))
    longest = living.groupBy(*key, "enters").agg(*(F.max(end).alias(end) for end in leaves), F.lit(1).cast("long").alias("one"))
    before = Window.partitionBy(*key).orderBy("enters").rowsBetween(Window.unboundedPreceding, -1)
    firsts = {end: F.col("enters") if grid.is_one else F.greatest("enters", F.max(end).over(before)) for end in leaves}
    return longest.withColumns({f"first_{end}": first for end, first in firsts.items()})


def first_date_intervals(lives: DataFrame, key: Sequence[str], grid: Grid) -> DataFrame:
    """Per key, disjoint [enters, leaves) with `event_date` = the earliest date among the rows that live there.

    In: rows with `event_date`, `enters` and `leaves`. An order thus has, on every as-of date, the date of its first
    event that is visible then, and none where no event is. `one` is there to be added up.
    """
    one = F.lit(1).cast("long").alias("one")
    if grid.is_one:
        return lives.groupBy(*key, "enters", "leaves").agg(F.min("event_date").alias("event_date"), one)
    point = F.sort_array(F.array_distinct(F.concat("lives.enters", "lives.leaves")))

    def piece(start: Column, index: Column) -> Column:
        living = F.filter("lives", lambda life: (life["enters"] <= start) & (start < life["leaves"]))
        earliest = F.array_min(F.transform(living, lambda life: life["event_date"]))
        return F.struct(earliest.alias("event_date"), start.alias("enters"), F.get(F.col("points"), index + 1).alias("leaves"))

    pieces = F.filter(F.transform("points", piece), lambda item: item["event_date"].isNotNull() & item["leaves"].isNotNull())
    return (
        lives.groupBy(*key)
        .agg(F.collect_set(F.struct("event_date", "enters", "leaves")).alias("lives"))
        .withColumn("points", F.when(F.size("lives") > 1, point))
        .withColumn("piece", F.explode(F.when(F.size("lives") == 1, F.col("lives")).otherwise(pieces)))
        .select(*key, "piece.*", one)
    )


def changes(
    lives: DataFrame,
    key: Sequence[str],
    grid: Grid,
    sums: Sequence[Measure] = (),
    *,
    latest: Sequence[str] = (),
    earliest: Sequence[str] = (),
) -> DataFrame:
    """Rows (key, position, …) of which `running_state` makes sums, latest and earliest values; nulls add nothing.

    Of one date nothing enters before it and nothing leaves after it: what lives there is added up per key, and that is all.
    """
    if grid.is_one:
        return _totals(lives, key, sums, latest, earliest)
    found = entries_and_exits(lives, key, sums, grid, [*latest, *earliest])
    extremes = [*latest, *earliest]
    return found.unionByName(passing(lives, key, extremes, grid), allowMissingColumns=True) if extremes else found


def _totals(lives: DataFrame, key: Sequence[str], sums: Sequence[Measure], latest: Sequence[str], earliest: Sequence[str]) -> DataFrame:
    counts = [F.col(m.enters) < F.col(m.leaves) for m in sums] + [F.col(value).isNotNull() for value in (*latest, *earliest)]
    return (
        lives.where(reduce(or_, counts))
        .groupBy(*key)
        .agg(
            *(F.sum(F.when(F.col(m.enters) < F.col(m.leaves), F.col(m.value))).alias(m.name) for m in sums),
            *(F.max(value).alias(f"{value}_from") for value in latest),
            *(F.min(value).alias(f"{value}_from") for value in earliest),
        )
        .withColumn("position", F.lit(0))
    )


def entries_and_exits(lives: DataFrame, key: Sequence[str], sums: Sequence[Measure], grid: Grid, values: Sequence[str] = ()) -> DataFrame:
    """Rows (key, position, a column per measure, `<value>_from`): what enters (+) and leaves (−) there; null adds nothing.

    A value that never leaves holds from its entry on; for one that does there is `passing`.
    """
    points = list(dict.fromkeys([*(["enters"] if values else []), *(m.enters for m in sums), *(m.leaves for m in sums)]))
    each_point = F.posexplode(F.array(*(F.col(point).cast("int") for point in points))).alias("point", "position")
    is_at = {point: F.col("point") == index for index, point in enumerate(points)}

    def change(m: Measure) -> Column:
        counts = (F.col(m.enters) < F.col(m.leaves)) & (F.col(m.value) != 0)
        return F.when(counts & is_at[m.enters], F.col(m.value)).when(counts & is_at[m.leaves], -F.col(m.value)).alias(m.name)

    moves = lives.select("*", each_point).select(
        *key,
        "position",
        *(change(m) for m in sums),
        *(F.when(is_at["enters"] & (F.col("leaves") == grid.size), F.col(value)).alias(f"{value}_from") for value in values),
    )
    moved = reduce(or_, (F.col(name).isNotNull() for name in moves.columns if name not in (*key, "position")))
    return moves.where((F.col("position") < grid.size) & moved)


def passing(lives: DataFrame, key: Sequence[str], values: Sequence[str], grid: Grid) -> DataFrame:
    """Rows (key, position, `<value>_at`): values whose version is replaced, on just the positions it lives on, an empty row behind."""
    leaving = lives.where((F.col("leaves") < grid.size) & F.coalesce(*values).isNotNull())
    return leaving.withColumn("position", F.explode(F.sequence("enters", "leaves"))).select(
        *key, "position", *(F.when(F.col("position") < F.col("leaves"), F.col(value)).alias(f"{value}_at") for value in values)
    )


def running_state(
    changes: DataFrame, key: Sequence[str], grid: Grid, sums: Sequence[str], *, latest: Sequence[str] = (), earliest: Sequence[str] = ()
) -> DataFrame:
    """The state of each key on positions [position, until), from its changes. Sums start at 0, extremes at null."""
    if grid.is_one:
        return changes.groupBy(*key).agg(
            F.lit(0).alias("position"),
            F.lit(1).alias("until"),
            *(F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in sums),
            *(F.max(f"{name}_from").alias(name) for name in latest),
            *(F.min(f"{name}_from").alias(name) for name in earliest),
        )
    order = Window.partitionBy(*key).orderBy("position")
    upto = order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    together = changes.groupBy(*key, "position").agg(
        *(F.sum(name).alias(name) for name in sums),
        *(F.max(f"{name}_{part}").alias(f"{name}_{part}") for name in latest for part in ("from", "at")),
        *(F.min(f"{name}_{part}").alias(f"{name}_{part}") for name in earliest for part in ("from", "at")),
    )
    return together.select(
        *key,
        "position",
        F.lead("position", 1, grid.size).over(order).alias("until"),
        *(F.coalesce(F.sum(name).over(upto), F.lit(0)).alias(name) for name in sums),
        *(F.greatest(F.max(f"{name}_from").over(upto), f"{name}_at").alias(name) for name in latest),
        *(F.least(F.min(f"{name}_from").over(upto), f"{name}_at").alias(name) for name in earliest),
    )


def each_position(state: DataFrame, grid: Grid) -> DataFrame:
    """One row per position of [position, until)."""
    every = F.lit(0) if grid.is_one else F.explode(F.sequence("position", F.col("until") - 1))
    return state.withColumn("position", every).drop("until")


def attributes_as_of(versions: DataFrame, entity: str, columns: Sequence[str], grid: Grid) -> DataFrame:
    """(entity, position, columns) on every position where a version is visible and valid_from ≤ D < valid_to.

    In: versions of (entity, valid_from) with `valid_to` (null: open). Where several hold, the latest `valid_from` wins.
    """
    lives = version_intervals(versions.repartition(entity), [entity, "valid_from"], grid)  # one shuffle for both groupings
    valid = lives.withColumns(
        {
            "position": F.greatest("enters", grid.position(F.col("valid_from"))),
            "until": F.least("leaves", grid.position(F.col("valid_to"))),
        }
    ).where(F.col("position") < F.col("until"))
    newest = F.max_by(F.struct(*columns), "valid_from").alias("newest")
    return each_position(valid, grid).groupBy(entity, "position").agg(newest).select(entity, "position", "newest.*")
