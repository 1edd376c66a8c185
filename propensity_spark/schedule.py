"""Which as-of dates a run needs. Pure date arithmetic; the clock is not read here."""

from __future__ import annotations

from datetime import date, timedelta

from propensity_spark.calendars import previous_session
from propensity_spark.config import Settings


def training_dates(settings: Settings, first_event: date, as_of: date) -> list[date]:
    """The last `schedule.dates` as-of dates D, oldest first, whose label window (D, D + H] has closed by `as_of`.

    Every `every_weeks` weeks on `weekday`, counted from a fixed Monday so that the dates stay the same from day to
    day; moved back to the previous session where the data set has an exchange calendar. None before `first_event`.
    """
    schedule = settings.schedule
    anchor = date(2000, 1, 3) + timedelta(days=schedule.weekday - 1)
    step = 7 * schedule.every_weeks
    latest = as_of - timedelta(days=settings.label.horizon_days)
    day = anchor + timedelta(days=(latest - anchor).days // step * step)
    dates: list[date] = []
    while day >= first_event and len(dates) < schedule.dates:
        moved = previous_session(settings.calendar, day) if settings.calendar else day
        if moved >= first_event and moved not in dates:
            dates.append(moved)
        day -= timedelta(days=step)
    return sorted(dates)


def feature_dates(settings: Settings, first_event: date, as_of: date) -> list[date]:
    """Every as-of date whose features a run as of `as_of` needs: the training dates and `as_of` itself."""
    return sorted({*training_dates(settings, first_event, as_of), as_of})
