"""Which as-of dates a run needs. Pure date arithmetic; the clock is not read here."""

from __future__ import annotations

from datetime import date, timedelta

from propensity_spark.calendars import previous_session
from propensity_spark.config import Settings
from propensity_spark.train.split import slice_dates


def training_dates(settings: Settings, first_event: date, as_of: date) -> list[date]:
    """The last `schedule.dates` as-of dates D, oldest first, whose label window (D, D + H] has closed by `as_of`.

    The `listed_dates`, or every `every_weeks` weeks on `weekday`, counted from a fixed Monday so that the dates stay the same
    from day to day, moved back to the previous session where the data set has an exchange calendar. None before
    `first_event`. A window closes `label.delay_days` after its end.
    """
    schedule = settings.schedule
    latest = as_of - timedelta(days=settings.label.closing_days)
    if schedule.listed_dates is not None:
        return sorted({day for day in schedule.listed_dates if first_event <= day <= latest})[-schedule.dates :]
    anchor = date(2000, 1, 3) + timedelta(days=schedule.weekday - 1)
    step = 7 * schedule.every_weeks
    day = anchor + timedelta(days=(latest - anchor).days // step * step)
    dates: list[date] = []
    while day >= first_event and len(dates) < schedule.dates:
        moved = previous_session(settings.calendar, day) if settings.calendar else day
        if moved >= first_event and moved not in dates:
            dates.append(moved)
        day -= timedelta(days=step)
    return sorted(dates)


def feature_dates(settings: Settings, first_event: date, as_of: date) -> list[date]:
    """Every as-of date whose features a run as of `as_of` needs: the training dates and `as_of` itself.

    Of listed dates those between the slices, which are purged, are left out: where the horizon is long they are most.
    """
    dates = training_dates(settings, first_event, as_of)
    if settings.schedule.listed_dates is not None and (slices := slice_dates(settings, dates)):
        dates = [day for days in slices.values() for day in days]
    return sorted({*dates, as_of})
