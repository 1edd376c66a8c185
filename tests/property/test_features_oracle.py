"""Every feature equals the one that plain Python computes from the definitions, on every date at once and on one date alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import date
from typing import Any

import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from silver_data import DATES, activity, frame, items, market, told, users

from propensity_spark.config import CandidateSettings, CrowdSettings
from propensity_spark.features import affinity, candidates, crowd, rfm
from propensity_spark.features import market as market_module
from propensity_spark.features.events import corrections, live_events
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES, user_item_table
from propensity_spark.features.windows import Grid
from propensity_spark.platform import keep
from propensity_spark.schemas import ACTIVITY, BARS, CORPORATE_ACTIONS, ITEMS, USERS, Table

pytestmark = pytest.mark.usefixtures("compiled")

Row = dict[str, Any]
LEVELS = ("low", "medium", "high")
FEW = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
GRIDS = st.just(DATES) | st.sampled_from(DATES).map(lambda day: [day])  # several dates take another way than one
MARKET_DATES = [date(2023, 1, 2), date(2023, 2, 1), date(2023, 6, 30), date(2023, 12, 20), *(date(2024, 1, n) for n in range(2, 27))]


def check(found: DataFrame, expected: Iterable[Row], table: Table) -> None:
    """Same keys; integers, dates, texts and decimals equal; floats to a relative 1e-9."""

    def by_key(rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
        return {tuple(row[name] for name in table.key): row for row in rows}

    rows = [row.asDict() for row in found.collect()]
    got, want = by_key(rows), by_key(expected)
    assert len(got) == len(rows)
    assert sorted(got) == sorted(want)
    for key, row in got.items():
        for name in table.column_names:
            one, other = row[name], want[key][name]
            same = math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-15) if isinstance(one, float) and other is not None else one == other
            assert same, f"{name} of {key}: found {one}, expected {other}"


def live(silver: DataFrame, grid: Grid, are_told: bool) -> DataFrame:
    """The events as they are seen; `are_told`: by the corrections that silver tells apart, else by putting all versions in order."""
    return live_events(silver, grid, corrections(silver) if are_told else None)


@FEW
@given(GRIDS, activity(), st.none() | users(), st.none() | items(), st.booleans())
def test_user_features(
    spark: SparkSession, dates: list[date], events: list[Row], profiles: list[Row] | None, catalogue: list[Row] | None, are_told: bool
) -> None:
    grid = Grid(tuple(dates))
    silver = frame(spark, told(events), ACTIVITY)
    item_frame = None if catalogue is None else frame(spark, catalogue, ITEMS)
    user_frame = None if profiles is None else frame(spark, profiles, USERS)
    seen = live(silver, grid, are_told)
    spending = affinity.sector_spending(seen, item_frame, grid)
    found = rfm.user_features(seen, silver, user_frame, spending, grid=grid, risk_levels=LEVELS)
    check(found, (row for day in dates for row in oracle.user_features(events, profiles, catalogue, day, LEVELS)), USER_FEATURES)


@FEW
@given(
    GRIDS,
    activity(),
    st.none() | items(),
    st.sampled_from([(False, False), (True, False), (True, True)]),
    st.sampled_from([(30, 365), (7, 90)]),
    st.booleans(),
)
def test_user_item_features(
    spark: SparkSession,
    dates: list[date],
    events: list[Row],
    catalogue: list[Row] | None,
    rule: tuple[bool, bool],
    days: tuple[int, int],
    are_told: bool,
) -> None:
    grid = Grid(tuple(dates))
    chosen = CandidateSettings(
        viewed_days=days[0],
        held_days=days[1],
        popular_items=2,
        affine_sectors=1,
        items_per_affine_sector=1,
        all_items=rule[0],
        exclude_held=rule[1],
    )
    item_frame = None if catalogue is None else frame(spark, catalogue, ITEMS)
    seen = live(frame(spark, told(events), ACTIVITY), grid, are_told)
    spending, known = affinity.sector_spending(seen, item_frame, grid), affinity.item_dates(seen, item_frame, grid)
    found = candidates.user_item_features(seen, known, spending, grid, chosen)
    expected = (row for day in dates for row in oracle.user_item_features(events, catalogue, day, chosen.model_dump()))
    check(found, expected, USER_ITEM_FEATURES)


@settings(FEW, max_examples=6)
@given(
    GRIDS,
    activity(),
    st.none() | users(),
    st.sampled_from([90, 365, 3650]),
    st.builds(
        CrowdSettings,
        age_from=st.sampled_from(["event", "known"]),
        max_items=st.sampled_from([2, 3, 9]),
        min_users=st.sampled_from([1, 2]),
        neighbours=st.sampled_from([1, 2, 9]),
    ),
)
def test_features_of_the_crowd(
    spark: SparkSession, dates: list[date], events: list[Row], profiles: list[Row] | None, held_days: int, rule: CrowdSettings
) -> None:
    grid = Grid(tuple(dates))
    chosen = CandidateSettings(all_items=True, held_days=held_days)
    silver = frame(spark, events, ACTIVITY)
    live = live_events(silver, grid)
    spending, known = affinity.sector_spending(live, None, grid), affinity.item_dates(live, None, grid)
    owned = keep(crowd.ownership(live_events(crowd.dated(silver, rule), grid), grid, held_days))
    around = crowd.crowd(owned, live, None if profiles is None else frame(spark, profiles, USERS), grid, rule)
    found = candidates.user_item_features(live, known, spending, grid, chosen, crowd=around)
    expected = [
        row
        for day in dates
        for row in oracle.with_crowd(
            oracle.user_item_features(events, None, day, chosen.model_dump()), events, profiles, day, held_days, rule.model_dump()
        )
    ]
    check(found, expected, user_item_table(has_crowd=True))


@FEW
@given(st.just(MARKET_DATES) | st.sampled_from(MARKET_DATES).map(lambda day: [day]), market(), st.none() | items())
def test_market_features(spark: SparkSession, dates: list[date], feed: tuple[list[Row], list[Row]], catalogue: list[Row] | None) -> None:
    bars, actions = feed
    item_frame = None if catalogue is None else frame(spark, catalogue, ITEMS)
    found = market_module.market_features(
        frame(spark, bars, BARS), frame(spark, actions, CORPORATE_ACTIONS), item_frame, Grid(tuple(dates))
    )
    check(found, (row for day in dates for row in oracle.market_features(bars, actions, catalogue, day)), MARKET_FEATURES)
