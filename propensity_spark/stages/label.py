"""label: features and future purchases → gold/training_set."""

from __future__ import annotations

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
from propensity_spark.train.split import slice_of, split_dates


def _execute(run: Run) -> Outcome:
    settings, lake = run.settings, run.lake
    first_event = _first_event(run)
    slices = split_dates(settings, training_dates(settings, first_event, run.as_of), first_event, run.as_of)
    dates = sorted({day for days in slices.values() for day in days})
    # Cached and counted: Spark then knows how few they are, and joins them without shuffling every candidate.
    bought = keep(purchases(lake.read(ACTIVITY), dates, settings.label, grain=settings.grain, as_of=run.as_of))
    bought.count()
    table = training_set_table(settings.grain, settings.has_market, settings.has_crowd)
    try:
        lake.overwrite(_training_set(run, slices, dates, bought), table)
    finally:
        release(bought)
    counts = require_both_classes(lake.read(table))
    rows_in = _rows(run, dates).count()
    note = ", ".join(f"{name} {counts[name]:,} rows ({days[0]} to {days[-1]})" for name, days in slices.items())
    return Outcome(rows_in=rows_in, rows_out=sum(counts.values()), note=note)


def _training_set(run: Run, slices: dict[str, list[date]], dates: list[date], bought: DataFrame) -> DataFrame:
    settings, on_dates = run.settings, F.col("as_of_date").isin(dates)
    slice_ = slice_of(slices, settings.split, settings.sampling.seed)
    chosen = sampled(labels(_rows(run, dates), bought, settings.grain), slice_, settings.sampling, settings.grain)
    carry = ("label", "sample_weight", "split")
    if settings.grain == "user":
        return assemble(chosen, carry=carry)
    market = run.lake.read(MARKET_FEATURES).where(on_dates) if settings.has_market else None
    return assemble(run.lake.read(USER_FEATURES).where(on_dates), chosen, market, carry)


def _rows(run: Run, dates: list[date]) -> DataFrame:
    """One row per candidate of the users looked at (grain user: per user) on the dates."""
    on_dates = F.col("as_of_date").isin(dates)
    if run.settings.grain == "user":
        return run.lake.read(USER_FEATURES).where(on_dates)
    return run.lake.read(user_item_table(run.settings.has_crowd)).where(on_dates & looked_at(run.settings.sampling))


def _first_event(run: Run) -> date:
    row = run.lake.read(ACTIVITY).where(F.col("visible_date") <= F.lit(run.as_of)).agg(F.min("event_date")).first()
    if row is None or row[0] is None:
        raise NotEnoughHistory(f"silver/activity: no event is visible as of {run.as_of}; load earlier events or choose a later as-of date")
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
