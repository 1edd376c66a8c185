"""As-of dates a run needs, counted out by hand."""

from __future__ import annotations

import itertools
from datetime import date, timedelta

import pytest

from propensity_spark.config import CONF_DIR, Settings, load_settings
from propensity_spark.schedule import feature_dates, training_dates


def settings(*overrides: str) -> Settings:
    return load_settings(CONF_DIR / "local.yml", "stocks", ["calendar=null", "schedule.dates=3", *overrides])


LONG_AGO = date(2020, 1, 1)
TUESDAY = date(2024, 12, 31)


def test_weekly_fridays_whose_label_window_has_closed() -> None:
    # As of Tuesday the 31st a horizon of 7 days has closed for dates up to Tuesday the 24th.
    assert training_dates(settings(), LONG_AGO, TUESDAY) == [date(2024, 12, 6), date(2024, 12, 13), date(2024, 12, 20)]


def test_the_window_closes_on_the_as_of_date_itself() -> None:
    friday = date(2024, 12, 27)
    assert training_dates(settings(), LONG_AGO, friday)[-1] == date(2024, 12, 20)
    assert training_dates(settings(), LONG_AGO, friday - timedelta(days=1))[-1] == date(2024, 12, 13)


def test_the_horizon_moves_the_last_date_back() -> None:
    assert training_dates(settings("label.horizon_days=30"), LONG_AGO, TUESDAY)[-1] == date(2024, 11, 29)


def test_the_weekday_is_a_setting() -> None:
    found = training_dates(settings("schedule.weekday=1"), LONG_AGO, TUESDAY)
    assert found == [date(2024, 12, 9), date(2024, 12, 16), date(2024, 12, 23)]


def test_every_second_week_keeps_its_weeks_from_day_to_day() -> None:
    runs = [training_dates(settings("schedule.every_weeks=2"), LONG_AGO, TUESDAY + timedelta(days=day)) for day in range(14)]
    assert all(later - earlier == timedelta(days=14) for dates in runs for earlier, later in itertools.pairwise(dates))
    seen = sorted({day for dates in runs for day in dates})
    assert all((day - seen[0]).days % 14 == 0 for day in seen)
    assert len(seen) == 4


def test_nothing_before_the_first_event() -> None:
    assert training_dates(settings(), date(2024, 12, 13), TUESDAY) == [date(2024, 12, 13), date(2024, 12, 20)]
    assert training_dates(settings(), date(2024, 12, 21), TUESDAY) == []


def test_a_holiday_moves_a_date_back_to_the_previous_session() -> None:
    found = training_dates(settings("calendar=XNYS", "schedule.dates=40"), LONG_AGO, TUESDAY)
    assert date(2024, 3, 28) in found  # Thursday: the 29th was Good Friday
    assert date(2024, 3, 29) not in found
    assert len(found) == len(set(found)) == 40


def test_a_date_moved_before_the_first_event_is_dropped() -> None:
    found = training_dates(settings("calendar=XNYS", "schedule.dates=40"), date(2024, 3, 29), TUESDAY)
    assert found[0] == date(2024, 4, 5)


def test_features_are_needed_on_the_training_dates_and_on_the_as_of_date() -> None:
    assert feature_dates(settings(), LONG_AGO, TUESDAY) == [*training_dates(settings(), LONG_AGO, TUESDAY), TUESDAY]
    assert feature_dates(settings(), TUESDAY, TUESDAY) == [TUESDAY]


@pytest.mark.parametrize("count", [1, 26])
def test_as_many_dates_as_asked_for(count: int) -> None:
    assert len(training_dates(settings(f"schedule.dates={count}"), LONG_AGO, TUESDAY)) == count


LISTED = "schedule.listed_dates=[2024-03-01, 2024-01-05, 2024-11-01, 2024-12-20, 2024-12-29]"


def test_listed_dates_whose_window_has_closed() -> None:
    assert training_dates(settings(LISTED), LONG_AGO, TUESDAY) == [date(2024, 3, 1), date(2024, 11, 1), date(2024, 12, 20)]
    assert training_dates(settings(LISTED, "schedule.dates=9"), date(2024, 2, 1), TUESDAY)[0] == date(2024, 3, 1)


def test_a_delay_moves_the_last_date_back_too() -> None:
    # The window of the 20th ends on the 27th; what happened in it is known 4 days later, on the 31st.
    assert training_dates(settings(LISTED, "label.delay_days=4"), LONG_AGO, TUESDAY)[-1] == date(2024, 12, 20)
    assert training_dates(settings(LISTED, "label.delay_days=5"), LONG_AGO, TUESDAY)[-1] == date(2024, 11, 1)
    assert training_dates(settings("label.delay_days=5"), LONG_AGO, TUESDAY)[-1] == date(2024, 12, 13)


def test_listed_dates_between_the_slices_need_no_features() -> None:
    dates = [date(2024, 1, 5), date(2024, 3, 1), date(2024, 4, 1)]
    listed = settings(
        f"schedule.listed_dates=[{', '.join(map(str, dates))}]",
        "label.horizon_days=60",
        "split.by=users",
        "split.test_dates=1",
        "split.min_train_dates=1",
    )
    assert training_dates(listed, LONG_AGO, TUESDAY) == dates
    assert feature_dates(listed, LONG_AGO, TUESDAY) == [dates[0], dates[2], TUESDAY]  # the window of 1 March reaches into test
