"""Which as-of dates train, validate, calibrate and test: by time, with the label horizon purged between slices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from propensity_spark.config import Settings, SplitSettings
from propensity_spark.errors import NotEnoughHistory

MOST_DATES = 2000


def split_dates(settings: Settings, dates: Sequence[date], first_event: date, as_of: date) -> dict[str, list[date]]:
    """Slice name → its as-of dates, for train, validation, calibration and test, oldest slice first.

    The latest `split.test_dates` go to test, then calibration and validation, the rest trains. The last date of a slice
    plus the horizon is not after the first date of the next, so no label window reaches into a later slice; dates in
    between get no slice (are purged). Windows inside a slice may overlap.
    Raises NotEnoughHistory that says from which date on events would be needed.
    """
    slices = _assign(sorted(dates), settings.split, settings.label.horizon_days)
    if slices is None:
        raise NotEnoughHistory(_what_is_missing(settings, sorted(dates), first_event, as_of))
    return slices


def _assign(dates: Sequence[date], split: SplitSettings, horizon_days: int) -> dict[str, list[date]] | None:
    """The slices, or None when the dates do not suffice."""
    left = list(dates)
    slices: dict[str, list[date]] = {}
    for name, size in (("test", split.test_dates), ("calibration", split.calibration_dates), ("validation", split.validation_dates)):
        if len(left) < size:
            return None
        slices[name] = left[-size:]
        left = [day for day in left[:-size] if day + timedelta(days=horizon_days) <= slices[name][0]]
    if len(left) < split.min_train_dates:
        return None
    return {"train": left, "validation": slices["validation"], "calibration": slices["calibration"], "test": slices["test"]}


def _what_is_missing(settings: Settings, dates: Sequence[date], first_event: date, as_of: date) -> str:
    """The message: how many dates there are, how many are needed, and from when on events would have to reach."""
    split, horizon, step = settings.split, settings.label.horizon_days, timedelta(weeks=settings.schedule.every_weeks)
    latest = dates[-1] if dates else as_of - timedelta(days=horizon)
    wanted = [latest]
    while len(wanted) < MOST_DATES and _assign(wanted, split, horizon) is None:
        wanted.insert(0, wanted[0] - step)
    found = f"{len(dates)} as-of dates with a closed label window" + (f" ({dates[0]} to {dates[-1]})" if dates else "")
    needed = (
        f"the split needs {len(wanted)} of them, back to {wanted[0]}: {split.min_train_dates} to train, {split.validation_dates} to "
        f"validate, {split.calibration_dates} to calibrate, {split.test_dates} to test, {horizon} days purged between"
    )
    if first_event <= wanted[0]:
        advice = f"set schedule.dates to {len(wanted)} or more (now {settings.schedule.dates})"
    else:
        short = (first_event - wanted[0]).days
        advice = (
            f"load {short} more days of events (the first is of {first_event}), or ask for fewer dates in split.* or a shorter "
            "label.horizon_days"
        )
    return f"not enough history as of {as_of}: {found}; {needed}. {advice[0].upper()}{advice[1:]}"
