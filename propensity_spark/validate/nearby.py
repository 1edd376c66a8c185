"""The silver rows that a batch can touch, and the dates they lie on, so that a day's batch does not read the whole history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.run import Run
from propensity_spark.schemas import Table
from propensity_spark.validate.mapping import expressions
from propensity_spark.validate.settle import NEIGHBOUR_DAYS, entity_of

DATES = {"bars": "session_date", "activity": "event_date"}
"""The column that says on which date a row of a table lies."""
_AROUND_BARS = 2 * NEIGHBOUR_DAYS  # bars that near ones decide about, and the neighbours of those
MOST_RANGES = 30  # each is a condition that every file is held against


@dataclass(frozen=True)
class Reach:
    """Ranges of dates (first and last, both inside) of a table's rows; `ranges` is null where rows may lie on any date."""

    table: Table
    ranges: tuple[tuple[date, date], ...] | None = None

    def condition(self, alias: str = "") -> str:
        """SQL that holds for the rows inside."""
        if self.ranges is None:
            return "true"
        name = f"{alias}.{DATES[self.table.name]}" if alias else DATES[self.table.name]
        inside = [f"{name} BETWEEN DATE '{first}' AND DATE '{last}'" for first, last in self.ranges]
        return f"({' OR '.join(inside) or 'false'})"

    def without(self, days: int) -> str:
        """SQL that holds for the rows inside, but for so many days at both ends of each range."""
        around = timedelta(days=days)
        ranges = None if self.ranges is None else tuple((first + around, last - around) for first, last in self.ranges)
        return Reach(self.table, ranges).condition()


def reach(run: Run, candidates: DataFrame, table: Table) -> Reach:
    """Where silver can hold rows that the candidates touch: one small job where dates tell, none otherwise.

    An event whose id is a hash of its line has its moment in it, so other versions have its date; a day more on both sides is for a time
    zone that conf/ has changed since. For ids of a source's own `validation.rules.versions_within_days` says how far to look.
    """
    days = _days_around(run, table)
    if days is None or not run.lake.exists(table):
        return Reach(table)
    name = DATES[table.name]
    # Dates are few, however many rows there are. Who is known need not be asked for them, so the rows' own reasons do.
    found = candidates.where((F.size("own_reasons") == 0) & ~F.col("excluded")).select(name).distinct().collect()
    # Between an item's first and last bar of the batch all bars are judged again, so bars have one range.
    return Reach(table, ranges_around([row[name] for row in found], days, 1 if table.name == "bars" else MOST_RANGES))


def with_silver(run: Run, candidates: DataFrame, table: Table, near: Reach) -> DataFrame:
    """The candidates and the silver rows, of the dates in `near`, that they may replace or change the verdict of.

    Rejected candidates are asked for as well: what silver holds beside them stays as it is, and to leave them out the plan would work out
    every rule twice, and be six times as large.
    """
    if near.ranges == () or not run.lake.exists(table):
        return candidates
    entity, empty = list(entity_of(table)), F.array().cast("array<string>")
    silver = run.lake.read(table).where(near.condition()).withColumns({"reasons": empty, "warnings": empty, "excluded": F.lit(False)})
    if table.name != "bars":
        touched = silver.join(candidates.select(*entity).distinct(), entity, "left_semi").withColumn("origin", F.lit("silver"))
        return candidates.unionByName(touched, allowMissingColumns=True)
    here, start, end = F.col("session_date"), F.col("first_date"), F.col("last_date")
    spans = (
        candidates.where(near.without(_AROUND_BARS)).groupBy(*entity).agg(F.min(here).alias("first_date"), F.max(here).alias("last_date"))
    )
    found = silver.join(spans, entity, "inner")
    found = found.where(here.between(F.date_sub(start, _AROUND_BARS), F.date_add(end, _AROUND_BARS)))
    affected = here.between(F.date_sub(start, NEIGHBOUR_DAYS), F.date_add(end, NEIGHBOUR_DAYS))
    found = found.withColumn("origin", F.when(affected, "silver").otherwise("context")).drop("first_date", "last_date")
    return candidates.unionByName(found, allowMissingColumns=True)


def ranges_around(dates: Sequence[date], days: int, most: int) -> tuple[tuple[date, date], ...]:
    """`days` around each of the dates, joined where they overlap; one range over all where they would be more than `most`."""
    around, ranges = timedelta(days=days), list[tuple[date, date]]()
    for day in sorted(dates):
        first, last = max(day, date.min + around) - around, min(day, date.max - around) + around  # some systems write year 1 for "unknown"
        if ranges and first <= ranges[-1][1] + timedelta(days=1):
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
    return tuple(ranges) if len(ranges) <= most else ((ranges[0][0], ranges[-1][1]),)


def _days_around(run: Run, table: Table) -> int | None:
    if table.name == "bars":
        return _AROUND_BARS
    if table.name != "activity":
        return None
    own_ids = any("event_id" in expressions(source) for source in run.settings.sources.get("activity", ()))
    return run.settings.validation.rules.versions_within_days if own_ids else 1
