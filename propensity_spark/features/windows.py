"""The only place that builds window frames, or entries and exits.

A version of an event counts in a window of N days as of D for exactly the D with
visible_date ≤ D < min(event_date + N, visible_date of the version that replaces it). Here every date is first turned into
a *position*: the index of the first requested as-of date on or after it (`Grid`). A version then lives on positions
[enters, leaves); its value is added at the first and taken away at the second, and one running sum per key gives every
as-of date at once. Cost depends neither on N nor on dates × events, and late data and corrections are no special case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def position(self, day: Column) -> Column:
        """Position of the first as-of date on or after `day`; `size` when there is none or `day` is null (open end)."""
        first, last = self.dates[0], self.dates[-1]
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


def version_intervals(versions: DataFrame, key: Sequence[str], grid: Grid) -> DataFrame:
    """One row per version that is visible on at least one as-of date, with its positions [enters, leaves).

    In: every version, with `known_at`, `visible_date` and `is_deleted`, `known_at` unique per key. As of D the version
    with the greatest `known_at` among those with `visible_date` ≤ D is seen; where that is a deletion, none is.
    """
    later = Window.partitionBy(*key).orderBy(F.desc("known_at")).rowsBetween(Window.unboundedPreceding, -1)
    return (
        versions.where(F.col("visible_date") <= F.lit(grid.dates[-1]))
        .withColumn("replaced_on", F.min("visible_date").over(later))
        .where(~F.col("is_deleted"))
        .withColumn("enters", grid.position(F.col("visible_date")))
        .withColumn("leaves", grid.position(F.col("replaced_on")))
        .where(F.col("enters") < F.col("leaves"))
        .drop("known_at", "visible_date", "is_deleted", "replaced_on")
    )


def with_window_ends(lives: DataFrame, days: Sequence[int], grid: Grid) -> DataFrame:
    """Add `leaves_<N>`: the position at which a row with this `event_date` leaves a window of N days, or its own end."""
    return lives.withColumns({f"leaves_{n}": F.least("leaves", grid.position(F.date_add("event_date", n))) for n in sorted(set(days))})


def union_intervals(lives: DataFrame, key: Sequence[str], leaves: Sequence[str]) -> DataFrame:
    """Add `first_<leaves>` for each end column: [first_…, …) are disjoint and cover what [enters, …) cover per key.

    So a distinct count is a sum: the part of an interval that an earlier one covers already is cut off in front (an
    interval that is covered wholly becomes empty).
    """
    before = Window.partitionBy(*key).orderBy("enters").rowsBetween(Window.unboundedPreceding, -1)
    return lives.withColumns({f"first_{end}": F.greatest("enters", F.max(end).over(before)) for end in leaves})


def first_date_intervals(lives: DataFrame, key: Sequence[str]) -> DataFrame:
    """Per key, disjoint [enters, leaves) with `event_date` = the earliest date among the rows that live there.

    In: rows with `event_date`, `enters` and `leaves`. An order thus has, on every as-of date, the date of its first
    event that is visible then, and none where no event is.
    """
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
        .select(*key, "piece.*")
    )


def entries_and_exits(lives: DataFrame, key: Sequence[str], measures: Sequence[Measure], grid: Grid) -> DataFrame:
    """Rows (key, position, one column per measure): what enters (+) and what leaves (−) there; null adds nothing."""
    points = list(dict.fromkeys([*(m.enters for m in measures), *(m.leaves for m in measures)]))

    def change(point: str) -> Column:
        columns = [F.col(point).cast("int").alias("position")]
        for m in measures:
            value = F.when((F.col(m.enters) < F.col(m.leaves)) & (F.col(m.value) != 0), F.col(m.value))
            nothing = F.when(F.lit(False), F.col(m.value))
            columns.append((value if point == m.enters else -value if point == m.leaves else nothing).alias(m.name))
        return F.struct(*columns)

    changes = lives.select(*key, F.explode(F.array(*(change(point) for point in points))).alias("change")).select(*key, "change.*")
    changed = reduce(or_, (F.col(m.name).isNotNull() for m in measures))
    return changes.where((F.col("position") < grid.size) & changed)


def extremes(lives: DataFrame, key: Sequence[str], values: Sequence[str], grid: Grid) -> DataFrame:
    """Rows (key, position, `<value>_from`, `<value>_at`) from which `running_state` makes latest and earliest values.

    A value that never leaves holds from its entry on; one that leaves (its version is replaced) is repeated on just the
    positions it lives on, with an empty row behind it.
    """
    for_good = F.col("leaves") == grid.size
    return (
        lives.where(F.coalesce(*values).isNotNull())
        .withColumn("position", F.explode(F.when(for_good, F.array("enters")).otherwise(F.sequence("enters", "leaves"))))
        .select(
            *key,
            "position",
            *(F.when(for_good, F.col(value)).alias(f"{value}_from") for value in values),
            *(F.when(~for_good & (F.col("position") < F.col("leaves")), F.col(value)).alias(f"{value}_at") for value in values),
        )
    )


def running_state(
    changes: DataFrame, key: Sequence[str], grid: Grid, sums: Sequence[str], *, latest: Sequence[str] = (), earliest: Sequence[str] = ()
) -> DataFrame:
    """The state of each key on positions [position, until), from its changes. Sums start at 0, extremes at null."""
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


def each_position(state: DataFrame) -> DataFrame:
    """One row per position of [position, until)."""
    return state.withColumn("position", F.explode(F.sequence("position", F.col("until") - 1))).drop("until")


def attributes_as_of(versions: DataFrame, entity: str, columns: Sequence[str], grid: Grid) -> DataFrame:
    """(entity, position, columns) on every position where a version is visible and valid_from ≤ D < valid_to.

    In: versions of (entity, valid_from) with `valid_to` (null: open). Where several hold, the latest `valid_from` wins.
    """
    lives = version_intervals(versions, [entity, "valid_from"], grid)
    valid = lives.withColumns(
        {
            "position": F.greatest("enters", grid.position(F.col("valid_from"))),
            "until": F.least("leaves", grid.position(F.col("valid_to"))),
        }
    ).where(F.col("position") < F.col("until"))
    newest = F.max_by(F.struct(*columns), "valid_from").alias("newest")
    return each_position(valid).groupBy(entity, "position").agg(newest).select(entity, "position", "newest.*")


@dataclass(frozen=True)
class Rolling:
    """Aggregates by name over the last `size` rows; `row` numbers the rows of a key from 1."""

    row: str
    size: int
    aggregates: Mapping[str, Column]


def with_rolling(rows: DataFrame, key: Sequence[str], windows: Sequence[Rolling]) -> DataFrame:
    """Add `<name>_head` and `<name>_tail` per aggregate: together they are the last `size` rows, each row once.

    Rows are cut into blocks of `size`; the head aggregates from the start of the row's block, the tail from the first
    row of the window to the end of the block before (null where the head is all). Each is one growing frame, so the cost
    per row does not depend on `size`, and nothing is subtracted (van Herk 1992). Meaningless where `row` < `size`.
    """
    upto = (Window.unboundedPreceding, Window.currentRow)
    for window in windows:
        rows = rows.withColumn("block", F.floor((F.col(window.row) - 1) / window.size))
        block = Window.partitionBy(*key, "block")
        down, up = block.orderBy(F.desc(window.row)).rowsBetween(*upto), block.orderBy(window.row).rowsBetween(*upto)
        rows = rows.withColumns({f"{name}_tail": value.over(down) for name, value in window.aggregates.items()})
        rows = rows.withColumns({f"{name}_head": value.over(up) for name, value in window.aggregates.items()})
    tails = {}
    for window in windows:
        order = Window.partitionBy(*key).orderBy(windows[0].row)
        for name in window.aggregates:
            tails[f"{name}_tail"] = F.when(F.col(window.row) % window.size != 0, F.lag(f"{name}_tail", window.size - 1).over(order))
    return rows.withColumns(tails).drop("block")
