"""Exchange sessions from exchange-calendars: half days, holidays and daylight saving are the library's."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache

import exchange_calendars
import pandas as pd
from pyspark.sql import DataFrame, SparkSession

from propensity_spark.errors import ConfigurationError
from propensity_spark.tables import local_frame

_SCHEMA = "session_date date, open_ts timestamp, close_ts timestamp"


@lru_cache(maxsize=8)
def _calendar(name: str, first_year: int, last_year: int) -> exchange_calendars.ExchangeCalendar:
    try:
        return exchange_calendars.get_calendar(name, start=pd.Timestamp(first_year, 1, 1), end=pd.Timestamp(last_year, 12, 31))
    except exchange_calendars.errors.InvalidCalendarName as error:
        known = ", ".join(exchange_calendars.get_calendar_names(include_aliases=False)[:8])
        raise ConfigurationError(f"calendar: unknown exchange calendar {name!r}; expected a name such as {known}") from error


def _covering(name: str, start: date, end: date) -> exchange_calendars.ExchangeCalendar:
    """The calendar over whole years around [start, end]: building one takes 0.1 s, so near dates share it."""
    return _calendar(name, (start - timedelta(days=14)).year, (end + timedelta(days=14)).year)


def sessions(name: str, start: date, end: date) -> list[date]:
    """Session dates of the exchange in [start, end]."""
    padded = _covering(name, start, end)
    return [stamp.date() for stamp in padded.sessions_in_range(pd.Timestamp(start), pd.Timestamp(end))]


def exchange_zone(name: str) -> str:
    """IANA time zone of the exchange."""
    return str(exchange_calendars.get_calendar(name).tz)


def previous_session(name: str, day: date) -> date:
    """The last session on or before `day`."""
    return sessions(name, day - timedelta(days=14), day)[-1]


def session_times(name: str, start: date, end: date) -> list[tuple[date, datetime, datetime]]:
    """(session date, open, close) of each session in [start, end]; open and close are UTC instants."""
    padded = _covering(name, start, end)
    return [
        (stamp.date(), padded.session_open(stamp).to_pydatetime(), padded.session_close(stamp).to_pydatetime())
        for stamp in padded.sessions_in_range(pd.Timestamp(start), pd.Timestamp(end))
    ]


def session_frame(spark: SparkSession, name: str, start: date, end: date) -> DataFrame:
    """One row per session in [start, end]: session_date, open_ts and close_ts (UTC instants)."""
    return local_frame(spark, session_times(name, start, end), _SCHEMA)
