"""backfill: new features for the dates that gold has, without computing the others again. Not a stage of the line: asked for by hand.

A feature that a new version of the code knows is not in the tables of older lakes. This adds it to every stored date, in one commit
a table; the champion, which was trained without it, goes on scoring, and the next training sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import ConfigurationError, NotUpToDate
from propensity_spark.features.registry import FEATURES, MARKET_FEATURES
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import ACTIVITY, Table
from propensity_spark.stages import features

_MADE = "_made"


def backfill_stage(names: Sequence[str]) -> Stage:
    """Computes these features for every stored date. Raises ConfigurationError for a name that the registry does not have."""
    known = [feature.name for feature in FEATURES]
    if unknown := [name for name in names if name not in known]:
        raise ConfigurationError(f"--feature {unknown[0]}: no such feature in features/registry.py; expected some of {', '.join(known)}")

    def execute(run: Run) -> Outcome:
        return _backfill(run, list(dict.fromkeys(names)))

    promise = "new features for every stored date; what is stored stays as it is"
    return Stage("backfill", promise, execute, features.STAGE.reads, features.STAGE.writes, always=True)


def _backfill(run: Run, names: Sequence[str]) -> Outcome:
    tables = [table for table in features.STAGE.writes(run.settings) if set(names) & set(table.column_names)]
    if homeless := [name for name in names if not any(name in table.column_names for table in tables)]:
        raise ConfigurationError(f"--feature {homeless[0]}: data set {run.settings.dataset} has no table with it (a market or pairs?)")
    dates = _stored_dates(run, names, tables)
    rows = 0
    for table, made in _made_again(run, tables, dates):
        new = [name for name in names if name in table.column_names]
        _widen(run, table, made, new, dates[table.full_name])
        rows += run.lake.read(table).count()
        run.say(f"{table.full_name}: {', '.join(new)} for {len(dates[table.full_name])} dates")
    return Outcome(rows, rows, note=f"{', '.join(names)} in {', '.join(table.full_name for table in tables)}")


def _stored_dates(run: Run, names: Sequence[str], tables: Sequence[Table]) -> dict[str, list[date]]:
    """The dates of each table, all of which must be up to date: a date that has to be computed anew is not worth one column."""
    days = features.days_of(run, names)
    stored = {table.full_name: sorted(days.get(table.full_name, {})) for table in tables}
    every = [day for found in stored.values() for day in found]
    if not every:
        raise NotUpToDate(f"{' and '.join(stored)}: nothing is stored yet; `propensity features` computes all features")
    if max(every) > run.as_of:
        raise ConfigurationError(f"--as-of {run.as_of}: expected {max(every)} or later, up to which dates are stored")
    if late := features.pending(run, days, tables, []):
        raise NotUpToDate(
            f"{len(late)} stored dates ({late[0]} to {late[-1]}) are out of date for these settings: they have to be computed again whole, "
            "which `propensity features` of the code they were made with does; with the present code it computes everything anew"
        )
    return stored


def _made_again(run: Run, tables: Sequence[Table], dates: Mapping[str, Sequence[date]]) -> Iterator[tuple[Table, DataFrame]]:
    """The rows of each table, each valid until the next is asked for. Spark leaves out the columns that nobody selects."""
    of_users = [table for table in tables if table is not MARKET_FEATURES]
    if of_users:
        days = sorted({day for table in of_users for day in dates[table.full_name]})
        made = features.user_tables_of(run, days, run.lake.read(ACTIVITY), everyone=True)
        yield from ((table, rows) for table, rows in made if table in of_users)
    if MARKET_FEATURES in tables:
        yield MARKET_FEATURES, features.market_table_of(run, dates[MARKET_FEATURES.full_name])


def _widen(run: Run, table: Table, made: DataFrame, new: Sequence[str], dates: Sequence[date]) -> None:
    """Replace the dates by their rows as stored with the new columns beside them. A stored row that is not made again is an error."""
    stored = run.lake.read(table, new)
    rows = stored.join(made.select(*table.key, *new, F.lit(True).alias(_MADE)), list(table.key), "left")
    lost = F.raise_error(F.lit(f"{table.full_name}: a stored row is not made again from silver, so it is out of date: run features"))
    whole = rows.withColumns({name: F.when(F.col(_MADE), F.col(name)).otherwise(lost.cast(table.schema[name].dataType)) for name in new})
    run.lake.replace(features.laid_out(whole.drop(_MADE)), table, features.on_dates(dates), widen=True)
