"""Which as-of dates train, validate, calibrate and test: by time, with the label horizon purged between slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F

from propensity_spark.config import Settings, SplitSettings
from propensity_spark.errors import NotEnoughHistory

MOST_DATES = 2000
_BUCKETS = 1_000_000


def split_dates(settings: Settings, dates: Sequence[date], first_event: date, as_of: date) -> dict[str, list[date]]:
    """Slice name → its as-of dates, for train, validation, calibration and test, oldest slice first.

    The latest `split.test_dates` go to test, then calibration and validation, the rest trains. The window of the last date
    of a slice has closed by the first date of the next, so no label reaches into a later slice; dates in between get no
    slice (are purged). Windows inside a slice may overlap. Where users divide them (`split.by`), train, validation and
    calibration have the same dates.
    Raises NotEnoughHistory that says from which date on events would be needed.
    """
    slices = slice_dates(settings, dates)
    if slices is None:
        raise NotEnoughHistory(_what_is_missing(settings, sorted(dates), first_event, as_of))
    return slices


def slice_dates(settings: Settings, dates: Sequence[date]) -> dict[str, list[date]] | None:
    """As `split_dates`; None when the dates do not suffice."""
    return _assign(sorted(dates), settings.split, settings.label.closing_days)


def slice_of(slices: Mapping[str, Sequence[date]], split: SplitSettings, seed: int) -> Column:
    """Name of the slice of a row (user_id, as_of_date); null on dates in no slice."""
    on = {name: F.col("as_of_date").isin(list(days)) for name, days in slices.items()}
    if split.by == "dates":
        return F.coalesce(*(F.when(is_on, F.lit(name)) for name, is_on in on.items()))
    share = F.pmod(F.xxhash64("user_id", F.lit("slice"), F.lit(seed)), F.lit(_BUCKETS)) / _BUCKETS
    calibration, validation = share < split.calibration_users, share < split.calibration_users + split.validation_users
    of_user = F.when(calibration, "calibration").when(validation, "validation").otherwise("train")
    return F.when(on["test"], "test").when(on["train"], of_user)


def _assign(dates: Sequence[date], split: SplitSettings, closing_days: int) -> dict[str, list[date]] | None:
    """The slices, or None when the dates do not suffice."""
    left = list(dates)
    slices: dict[str, list[date]] = {}
    sizes = {"test": split.test_dates}
    if split.by == "dates":
        sizes |= {"calibration": split.calibration_dates, "validation": split.validation_dates}
    for name, size in sizes.items():
        if len(left) < size:
            return None
        slices[name] = left[-size:]
        left = [day for day in left[:-size] if day + timedelta(days=closing_days) <= slices[name][0]]
    if len(left) < split.min_train_dates:
        return None
    return {
        "train": left,
        "validation": slices.get("validation", left),
        "calibration": slices.get("calibration", left),
        "test": slices["test"],
    }


def _what_is_missing(settings: Settings, dates: Sequence[date], first_event: date, as_of: date) -> str:
    """The message: how many dates there are, how many are needed, and from when on events would have to reach."""
    split, horizon, step = settings.split, settings.label.closing_days, timedelta(weeks=settings.schedule.every_weeks)
    if settings.schedule.listed_dates is not None:
        return _listed_missing(settings, dates, as_of)
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


def _listed_missing(settings: Settings, dates: Sequence[date], as_of: date) -> str:
    """The message for listed dates, of which there are no earlier ones to count back to."""
    split, closing = settings.split, settings.label.closing_days
    between = f"the windows of one slice closed ({closing} days after its last date) by the first date of the next"
    slices = f"{split.min_train_dates} to train"
    if split.by == "dates":
        slices += f", {split.validation_dates} to validate, {split.calibration_dates} to calibrate"
    found = f"{len(dates)} of the schedule.listed_dates have a closed label window" + (f" ({dates[0]} to {dates[-1]})" if dates else "")
    return (
        f"not enough history as of {as_of}: {found}; the split needs {slices} and {split.test_dates} to test, {between}. "
        "Choose a later as-of date, list earlier dates, or ask for fewer in split.*"
    )
