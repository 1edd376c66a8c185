"""label: features and future purchases → gold/training_set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.errors import NotEnoughHistory
from propensity_spark.features.matrix import assemble
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, training_set_table, user_item_table
from propensity_spark.label import labels, looked_at, purchases, require_both_classes, sampled
from propensity_spark.platform import keep, release
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schedule import training_dates
from propensity_spark.schemas import ACTIVITY, Table
from propensity_spark.tables import Lake
from propensity_spark.train.split import slice_of, split_dates


def _execute(run: Run) -> Outcome:
    settings, lake = run.settings, run.lake
    slices = slices_of(lake, settings, run.as_of)
    table = training_set_table(settings.grain, settings.has_market, settings.has_crowd)
    with training_set(lake, settings, run.as_of, slices) as rows:
        lake.overwrite(rows, table)
    counts = require_both_classes(lake.read(table))
    rows_in = _rows(lake, settings, days_of(slices)).count()
    note = ", ".join(f"{name} {counts[name]:,} rows ({days[0]} to {days[-1]})" for name, days in slices.items())
    return Outcome(rows_in=rows_in, rows_out=sum(counts.values()), note=note)


def slices_of(lake: Lake, settings: Settings, as_of: date) -> dict[str, list[date]]:
    """The as-of dates of each slice, as far as events and matured labels go by `as_of`."""
    first_event = _first_event(lake, as_of)
    return split_dates(settings, training_dates(settings, first_event, as_of), first_event, as_of)


def days_of(slices: Mapping[str, Sequence[date]]) -> list[date]:
    return sorted({day for days in slices.values() for day in days})


@contextmanager
def training_set(lake: Lake, settings: Settings, as_of: date, slices: Mapping[str, Sequence[date]]) -> Iterator[DataFrame]:
    """The rows of gold/training_set, made of gold's features and of the purchases that were visible as of `as_of`."""
    dates = days_of(slices)
    # Cached and counted: Spark then knows how few they are, and joins them without shuffling every candidate.
    bought = keep(purchases(lake.read(ACTIVITY), dates, settings.label, grain=settings.grain, as_of=as_of))
    bought.count()
    try:
        on_dates = F.col("as_of_date").isin(dates)
        slice_ = slice_of(slices, settings.split, settings.sampling.seed)
        chosen = sampled(labels(_rows(lake, settings, dates), bought, settings.grain), slice_, settings.sampling, settings.grain)
        carry = ("label", "sample_weight", "split")
        if settings.grain == "user":
            yield assemble(chosen, carry=carry)
        else:
            market = lake.read(MARKET_FEATURES).where(on_dates) if settings.has_market else None
            yield assemble(lake.read(USER_FEATURES).where(on_dates), chosen, market, carry)
    finally:
        release(bought)


def _rows(lake: Lake, settings: Settings, dates: Sequence[date]) -> DataFrame:
    """One row per candidate of the users looked at (grain user: per user) on the dates."""
    on_dates = F.col("as_of_date").isin(list(dates))
    if settings.grain == "user":
        return lake.read(USER_FEATURES).where(on_dates)
    return lake.read(user_item_table(settings.has_crowd)).where(on_dates & looked_at(settings.sampling))


def _first_event(lake: Lake, as_of: date) -> date:
    row = lake.read(ACTIVITY).where(F.col("visible_date") <= F.lit(as_of)).agg(F.min("event_date")).first()
    if row is None or row[0] is None:
        raise NotEnoughHistory(f"silver/activity: no event is visible as of {as_of}; load earlier events or choose a later as-of date")
    first: date = row[0]
    return first


def reads(settings: Settings) -> tuple[Table, ...]:
    """The gold tables that the grain's matrix is made of."""
    if settings.grain == "user":
        return (USER_FEATURES,)
    return (USER_FEATURES, user_item_table(settings.has_crowd), *((MARKET_FEATURES,) if settings.has_market else ()))


STAGE = Stage(
    name="label",
    promise="point-in-time join of features and future purchases, with the horizon purged between splits",
    execute=_execute,
    reads=lambda settings: (ACTIVITY, *reads(settings)),
    writes=lambda settings: (training_set_table(settings.grain, settings.has_market, settings.has_crowd),),
)
