"""Dates as people and schedulers write them. The clock is an argument."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from propensity_spark.config import Settings
from propensity_spark.errors import ConfigurationError


def as_of_date(settings: Settings, given: str | None, now: datetime) -> date:
    """The date `given`, else the setting `as_of`, else yesterday in the data set's time zone.

    An instant `given`, such as the one at which a schedule started a job, stands for the clock: whenever the job comes to run or
    is repaired, its yesterday is the schedule's. Without an offset it is UTC. Raises ConfigurationError for what is neither, for
    a day that has not begun in the data set's zone, and for an instant that has not come.
    """
    zone = ZoneInfo(settings.time_zone)
    found = now if given is None else _date_or_instant(given)
    if isinstance(found, datetime):
        if found > now:
            raise ConfigurationError(f"--as-of {given}: lies in the future; expected an instant that has passed, now is {now:%FT%H:%M%z}")
        found = settings.as_of or found.astimezone(zone).date() - timedelta(days=1)
    today = now.astimezone(zone).date()
    if found > today:
        raise ConfigurationError(f"as-of date {found}: lies in the future; expected at most {today}, today in {settings.time_zone}")
    return found


def days_between(start: str, end: str, now: datetime) -> list[date]:
    """Every date from `start` to `end`, both included, oldest first. Raises ConfigurationError for a range that is none."""
    first, last = _date("--from", start), _date("--to", end)
    if first > last or last > now.date():
        raise ConfigurationError(f"--from {first} --to {last}: expected the earlier date first, and none after {now.date()}, today in UTC")
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _date(word: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"{word} {text!r}: expected a date such as 2024-12-31") from error


def _date_or_instant(text: str) -> date | datetime:
    try:
        instant = datetime.fromisoformat(text) if "T" in text or " " in text else None
    except ValueError:
        instant = None
    if instant is None:
        return _date("--as-of", text)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
