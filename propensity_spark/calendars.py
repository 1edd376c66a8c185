"""Exchange sessions from exchange-calendars: half days, holidays and daylight saving are the library's."""

from __future__ import annotations

from datetime import date, timedelta
from functools import lru_cache

import exchange_calendars
import pandas as pd
from pyspark.sql import DataFrame, SparkSession

from propensity_spark.errors import ConfigurationError

_SCHEMA = "session_date date, open_ts timestamp, close_ts timestamp"


@lru_cache(maxsize=8)
def _calendar(name: str, start: date, end: date) -> exchange_calendars.ExchangeCalendar:
    try:
        return exchange_calendars.get_calendar(name, start=pd.Timestamp(start), end=pd.Timestamp(end))
    except exchange_calendars.errors.InvalidCalendarName as error:
        known = ", ".join(exchange_calendars.get_calendar_names(include_aliases=False)[:8])
        raise ConfigurationError(f"calendar: unknown exchange calendar {name!r}; expected a name such as {known}") from error


def sessions(name: str, start: date, end: date) -> list[date]:
    """Session dates of the exchange in [start, end]."""
    padded = _calendar(name, start - timedelta(days=14), end + timedelta(days=14))
    return [stamp.date() for stamp in padded.sessions_in_range(pd.Timestamp(start), pd.Timestamp(end))]


def exchange_zone(name: str) -> str:
    """IANA time zone of the exchange."""
    return str(exchange_calendars.get_calendar(name).tz)


def previous_session(name: str, day: date) -> date:
    """The last session on or before `day`."""
    return sessions(name, day - timedelta(days=14), day)[-1]


def session_frame(spark: SparkSession, name: str, start: date, end: date) -> DataFrame:
    """One row per session in [start, end]: session_date, open_ts and close_ts (UTC instants)."""
    padded = _calendar(name, start - timedelta(days=14), end + timedelta(days=14))
    rows = [
        (stamp.date(), padded.session_open(stamp).to_pydatetime(), padded.session_close(stamp).to_pydatetime())
        for stamp in padded.sessions_in_range(pd.Timestamp(start), pd.Timestamp(end))
    ]
    return spark.createDataFrame(rows, _SCHEMA)
