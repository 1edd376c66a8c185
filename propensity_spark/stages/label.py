"""label: features and future purchases → gold/training_set."""

from __future__ import annotations

from datetime import date

from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.errors import NotEnoughHistory
from propensity_spark.features.matrix import assemble
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES, training_set_table
from propensity_spark.label import labels, require_both_classes, sampled
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schedule import training_dates
from propensity_spark.schemas import ACTIVITY, Table
from propensity_spark.train.split import split_dates


def _execute(run: Run) -> Outcome:
    settings, lake, grain = run.settings, run.lake, run.settings.grain
    activity = lake.read(ACTIVITY)
    first_event = _first_event(run)
    slices = split_dates(settings, training_dates(settings, first_event, run.as_of), first_event, run.as_of)
    dates = [day for days in slices.values() for day in days]
    rows = lake.read(USER_ITEM_FEATURES if grain == "user_item" else USER_FEATURES)
    labelled = labels(rows, activity, dates, settings.label, grain=grain, as_of=run.as_of)
    chosen = sampled(labelled, slices, settings.sampling, grain)
    carry = ("label", "sample_weight", "split")
    if grain == "user":
        training_set = assemble(chosen, carry=carry)
    else:
        market = lake.read(MARKET_FEATURES) if settings.has_market else None
        training_set = assemble(lake.read(USER_FEATURES), chosen, market, carry)
    table = training_set_table(grain, settings.has_market)
    lake.overwrite(training_set, table)
    counts = require_both_classes(lake.read(table))
    found = rows.where(F.col("as_of_date").isin(dates)).count()
    note = ", ".join(f"{name} {counts[name]:,} rows ({days[0]} to {days[-1]})" for name, days in slices.items())
    return Outcome(rows_in=found, rows_out=sum(counts.values()), note=note)


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
    return (USER_FEATURES, USER_ITEM_FEATURES, *((MARKET_FEATURES,) if settings.has_market else ()))


STAGE = Stage(
    name="label",
    promise="point-in-time join of features and future purchases, with the horizon purged between splits",
    execute=_execute,
    reads=lambda settings: (ACTIVITY, *reads(settings)),
    writes=lambda settings: (training_set_table(settings.grain, settings.has_market),),
)
