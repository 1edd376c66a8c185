"""Which events the features of a run are computed from, and the events that it carries forward for the next (gold/carried_events)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark import __version__
from propensity_spark.features.carried import Settled, doubts, settled, still_needed, with_carried
from propensity_spark.features.events import FEW, FEW_OF_ONE, corrections
from propensity_spark.platform import keep, release
from propensity_spark.run import Run
from propensity_spark.schemas import ACTIVITY, CARRIED

WORTH = 500_000
"""Old events from which on it takes less to carry few of them forward than to read all of them every day."""
DOUBTFUL = 10_000
"""Rows of `doubts` beyond which everything is read: the events are out of date rather than here and there corrected."""


@dataclass(frozen=True)
class Carried:
    """What is stored: as settled when, made at what moment, and the date of the first event of all."""

    past: Settled
    made_at: datetime
    first_event: date


def stored(run: Run) -> Carried | None:
    """What earlier runs with the same settings and code carried forward; None where nothing is, or it is of later than `run.as_of`."""
    if run.settings.has_crowd or not run.lake.exists(CARRIED):
        return None
    same = (F.col("config_hash") == run.settings.config_hash()) & (F.col("code_version") == __version__)
    found = run.lake.read(CARRIED).where(same).agg(F.max("settled_on"), F.max("before"), F.max("made_at"), F.min("event_date")).first()
    if found is None or found[0] is None or found[0] > run.as_of:
        return None
    return Carried(Settled(found[0], found[1]), found[2], found[3])


def is_true(carried: Carried, changes: Mapping[date, datetime | None]) -> bool:
    """Whether silver has stayed as it was for the date on which the events were settled. `changes`: announced from → the last time."""
    return not any(day <= carried.past.on and at is not None and at >= carried.made_at for day, at in changes.items())


def events_for(run: Run, carried: Carried | None, dates: Sequence[date]) -> DataFrame:
    """The versions of events that features of the dates are computed from: all of silver/activity, or what stands for it."""
    activity = run.lake.read(ACTIVITY)
    if carried is None or not dates or dates[0] < carried.past.on:
        return activity
    rows = run.lake.read(CARRIED)
    found = doubts(activity, rows, carried.past, run.as_of).limit(DOUBTFUL + 1)
    count = found.count()
    if count > DOUBTFUL:
        return activity
    return with_carried(activity, rows, carried.past, found if count else None)


def due(run: Run, carried: Carried | None, dates: Sequence[date], first_event: date | None) -> Settled | None:
    """As what the days from now on shall find the events carried: on the first day's run of a month anew, else None.

    Not after a run of many dates, such as the first: the day after it does it. Not where no event is that old.
    """
    longest_ago = run.settings.label.closing_days + 7 * (run.settings.schedule.every_weeks + 1)  # the newest training date
    past = settled(run.as_of - timedelta(days=longest_ago), run.settings.candidates)
    is_of_a_day = bool(dates) and dates[0] >= past.on
    is_old = first_event is not None and first_event <= past.before
    is_there = carried is not None and carried.past == past
    return past if is_of_a_day and is_old and not is_there and not run.settings.has_crowd else None


def carry_forward(run: Run, carried: Carried | None, past: Settled, events: DataFrame) -> None:
    """Write what later days need of those of the `events` that no window reaches any more."""
    key = ["user_id", "item_id"] if run.settings.grain == "user_item" else ["user_id"]
    told = {"settled_on": F.lit(past.on), "before": F.lit(past.before), "made_at": F.lit(run.started_at)}
    told |= {"config_hash": F.lit(run.settings.config_hash()), "code_version": F.lit(__version__)}
    earlier = None if carried is None else run.lake.read(CARRIED)
    with few_corrections(events) as few:
        run.lake.overwrite(still_needed(events, past, key, earlier, few).withColumns(told), CARRIED)


@contextmanager
def few_corrections(activity: DataFrame) -> Iterator[DataFrame | None]:
    """The corrections among the versions of `activity` where they are few, in all and of each event; else null. One small query."""
    found = keep(corrections(activity).limit(FEW + 1))
    try:
        row = found.groupBy("event_id").count().agg(F.sum("count").alias("all"), F.max("count").alias("of one")).first()
        counted = row.asDict() if row else {}
        yield found if (counted["all"] or 0) <= FEW and (counted["of one"] or 0) <= FEW_OF_ONE else None
    finally:
        release(found)
