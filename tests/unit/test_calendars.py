"""Sessions of an exchange around the days that go wrong: holidays, half days, daylight saving, weekends."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from pyspark.sql import SparkSession

from propensity_spark.calendars import exchange_zone, previous_session, session_frame, sessions
from propensity_spark.errors import ConfigurationError


def test_a_week_with_a_holiday() -> None:
    week = sessions("XNYS", date(2024, 11, 25), date(2024, 12, 1))
    assert week == [date(2024, 11, day) for day in (25, 26, 27, 29)]  # the 28th was Thanksgiving


def test_both_ends_are_included() -> None:
    assert sessions("XNYS", date(2024, 11, 27), date(2024, 11, 27)) == [date(2024, 11, 27)]
    assert sessions("XNYS", date(2024, 11, 30), date(2024, 12, 1)) == []


def test_the_previous_session_is_the_day_itself_when_it_is_one() -> None:
    assert previous_session("XNYS", date(2024, 11, 29)) == date(2024, 11, 29)
    assert previous_session("XNYS", date(2024, 11, 28)) == date(2024, 11, 27)
    assert previous_session("XNYS", date(2024, 12, 1)) == date(2024, 11, 29)


def test_exchanges_have_their_own_holidays_and_zones() -> None:
    boxing_day = date(2024, 12, 26)
    assert sessions("XNYS", boxing_day, boxing_day) == [boxing_day]
    assert sessions("XLON", boxing_day, boxing_day) == []
    assert (exchange_zone("XNYS"), exchange_zone("XLON")) == ("America/New_York", "Europe/London")


def test_hours_in_utc_over_a_half_day_and_the_change_of_the_clocks(spark: SparkSession) -> None:
    found = {
        row["session_date"]: (row["open_ts"].astimezone(UTC).replace(tzinfo=None), row["close_ts"].astimezone(UTC).replace(tzinfo=None))
        for row in session_frame(spark, "XNYS", date(2024, 11, 1), date(2024, 11, 29)).collect()
    }
    assert found[date(2024, 11, 1)] == (datetime(2024, 11, 1, 13, 30), datetime(2024, 11, 1, 20, 0))  # summer time
    assert found[date(2024, 11, 4)] == (datetime(2024, 11, 4, 14, 30), datetime(2024, 11, 4, 21, 0))  # the clocks changed on the 3rd
    assert found[date(2024, 11, 29)] == (datetime(2024, 11, 29, 14, 30), datetime(2024, 11, 29, 18, 0))  # half day
    assert len(found) == 20


def test_an_unknown_calendar_says_which_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"calendar: unknown exchange calendar 'MOON'; expected a name such as"):
        sessions("MOON", date(2024, 1, 1), date(2024, 1, 2))
