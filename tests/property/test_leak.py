"""Nothing of the future is in a feature: whatever happens or becomes known after D, not one value as of D changes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from silver_data import DATES, activity, frame, items, market, users

from propensity_spark.config import CandidateSettings, CrowdSettings
from propensity_spark.features.affinity import item_dates, sector_spending
from propensity_spark.features.candidates import user_item_features
from propensity_spark.features.crowd import crowd, dated, ownership
from propensity_spark.features.events import live_events
from propensity_spark.features.market import market_features
from propensity_spark.features.rfm import user_features
from propensity_spark.features.windows import Grid
from propensity_spark.platform import keep
from propensity_spark.schemas import ACTIVITY, BARS, CORPORATE_ACTIONS, ITEMS, USERS

Row = dict[str, Any]
FEW = settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
CANDIDATES = CandidateSettings(popular_items=2, affine_sectors=1, items_per_affine_sector=1)

CROWD = CrowdSettings(min_users=1, age_from="known")


def until(rows: Iterable[Row], day: date) -> list[Row]:
    """What is visible by the end of the day: all that features as of the day may know."""
    return [row for row in rows if row["visible_date"] <= day]


def after(rows: Iterable[Row], day: date, **renamed: str) -> list[Row]:
    """What only becomes visible later. `renamed`: a prefix by column, where the rows shall be of other things."""
    late = [row for row in rows if row["visible_date"] > day]
    return [{**row, **{name: prefix + row[name] for name, prefix in renamed.items()}} for row in late]


def rows_of(found: DataFrame) -> list[str]:
    """Every value to the last bit, in an order that does not depend on the run."""
    return sorted(repr(row) for row in found.collect())


@FEW
@given(st.sampled_from(DATES), st.booleans(), activity(), activity(), st.tuples(users(), users()), st.tuples(items(), items()))
def test_user_and_pair_features_do_not_see_the_future(
    spark: SparkSession,
    day: date,
    alone: bool,
    events: list[Row],
    more: list[Row],
    profiles: tuple[list[Row], list[Row]],
    catalogues: tuple[list[Row], list[Row]],
) -> None:
    grid = Grid((day,) if alone else tuple(each for each in DATES if each <= day))

    def features(events: list[Row], profiles: list[Row], catalogue: list[Row]) -> tuple[list[str], list[str]]:
        silver, item_frame = frame(spark, events, ACTIVITY), frame(spark, catalogue, ITEMS)
        live = live_events(silver, grid)
        spending = sector_spending(live, item_frame, grid)
        of_users = user_features(live, silver, frame(spark, profiles, USERS), spending, grid=grid, risk_levels=("low", "medium", "high"))
        known = item_dates(live, item_frame, grid)
        owned = keep(ownership(live_events(dated(silver, CROWD), grid), grid, CANDIDATES.held_days))
        around = crowd(owned, live, frame(spark, profiles, USERS), grid, CROWD)
        return rows_of(of_users), rows_of(user_item_features(live, known, spending, grid, CANDIDATES, crowd=around))

    past = features(until(events, day), until(profiles[0], day), until(catalogues[0], day))
    # Own rows that come later (corrections, deletions, late arrivals), new events of the same users, other attributes.
    later = (
        [*events, *after(more, day, event_id="new-", order_id="new-")],
        [*until(profiles[0], day), *after(profiles[1], day)],
        [*until(catalogues[0], day), *after(catalogues[1], day)],
    )
    assert features(*later) == past


@FEW
@given(st.integers(1, 30), market(), market(), st.tuples(items(), items()))
def test_market_features_do_not_see_the_future(
    spark: SparkSession,
    from_end: int,
    feed: tuple[list[Row], list[Row]],
    other: tuple[list[Row], list[Row]],
    catalogues: tuple[list[Row], list[Row]],
) -> None:
    day = sorted({row["session_date"] for row in feed[0]})[-from_end]
    grid = Grid((day,))

    def features(bars: list[Row], actions: list[Row], catalogue: list[Row]) -> list[str]:
        found = market_features(frame(spark, bars, BARS), frame(spark, actions, CORPORATE_ACTIONS), frame(spark, catalogue, ITEMS), grid)
        return rows_of(found)

    past = features(until(feed[0], day), until(feed[1], day), until(catalogues[0], day))
    assert past
    later = [until(mine, day) + after(theirs, day) for mine, theirs in zip((*feed, catalogues[0]), (*other, catalogues[1]), strict=True)]
    assert features(*later) == past
