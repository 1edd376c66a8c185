"""What other users have and acquire lately, from a handful of purchases whose features can be worked out by hand."""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from silver_data import event, frame, version

from propensity_spark.config import CandidateSettings, CrowdSettings
from propensity_spark.features.affinity import item_dates, sector_spending
from propensity_spark.features.candidates import user_item_features
from propensity_spark.features.crowd import crowd, ownership
from propensity_spark.features.events import live_events
from propensity_spark.features.registry import HALF_LIFE_DAYS, LATELY_DAYS, STEPS
from propensity_spark.features.windows import Grid
from propensity_spark.schemas import ACTIVITY, USERS

DAY = date(2024, 7, 12)
RULE = CrowdSettings(enabled=True, max_items=3, min_users=1, neighbours=1)


def buy(user: str, item: str, age: int, **more: Any) -> dict[str, Any]:
    return event(f"{user} {item}", user, item, "buy", DAY - timedelta(days=age), "1", **more)


EVENTS = [
    buy("ann", "gold", 300),
    buy("ann", "bond", 10),
    buy("ben", "gold", 300),
    buy("ben", "fund", 100),
    buy("eve", "gold", 20),
    buy("eve", "sold out", 400),  # out of the 365 days in which a purchase is held
    buy("eve", "bond", 1, known=DAY + timedelta(days=1)),  # not known yet
    event("look", "tom", "gold", "view", DAY),  # has nothing
    *(buy("all", item, 300) for item in ("gold", "fund", "bond", "coin")),  # has too much to say what goes together
]
PROFILES = [
    version({"user_id": user, "valid_from": date(2020, 1, 1), "risk_tolerance": risk}, date(2020, 1, 1), date(2020, 1, 1))
    for user, risk in (("ann", "low"), ("ben", "high"), ("tom", "low"))
]


def features(spark: SparkSession, days: tuple[date, ...], *, of: str | None = None) -> dict[tuple[str, str], dict[str, Any]]:
    grid = Grid(days)
    live = live_events(frame(spark, EVENTS, ACTIVITY), grid)
    chosen = None if of is None else F.col("user_id") == of
    around = crowd(ownership(live, grid, 365), live, frame(spark, PROFILES, USERS), grid, RULE, of=chosen)
    events = live if chosen is None else live.where(chosen)
    spending, known = sector_spending(live, None, grid), item_dates(live, None, grid)
    found = user_item_features(events, known, spending, grid, CandidateSettings(all_items=True), crowd=around)
    return {(row["user_id"], row["item_id"]): row.asDict() for row in found.where(found.as_of_date == DAY).collect()}


@pytest.fixture(scope="module")
def found(spark: SparkSession) -> dict[tuple[str, str], dict[str, Any]]:
    return features(spark, (DAY,))


def test_the_steps_are_those_of_a_half_life() -> None:
    """On each day the whole number nearest to 8 · ½^(age / 120), and 1 from where that would be less."""
    for age in range(500):
        exact = STEPS * 0.5 ** (age / HALF_LIFE_DAYS)
        assert 1 + sum(age < days for days in LATELY_DAYS) == pytest.approx(max(exact, 1), abs=0.52)


def test_how_wanted_an_item_is(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    gold = found["tom", "gold"]
    assert (gold["item_owners"], gold["item_age_days"], gold["item_idle_days"]) == (4, 300, 20)
    # gold: three old purchases and eve's at 7; fund: ben's at 4 and an old one; bond: ann's at 8 and an old one; coin: 1
    assert gold["item_lately_share"] == 10 / 25
    sold_out = found["tom", "sold out"]
    assert (sold_out["item_owners"], sold_out["item_lately_share"], sold_out["item_age_days"]) == (0, 0.0, None)


def test_what_the_owners_of_an_item_acquire_lately(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Of three owners of gold with few items one has bond, at 8, and one fund, at 4: with one neighbour, bond alone is related."""
    assert found["eve", "bond"]["co_purchase_lately"] == 1.0
    assert found["eve", "fund"]["co_purchase_lately"] == 0.0
    to_bond, to_gold = 8 / math.sqrt(3), 1 / math.sqrt(1)  # from gold; from bond, which ann alone has among those with few
    assert found["ann", "bond"]["co_purchase_lately"] == pytest.approx(to_bond / (to_bond + to_gold), abs=1e-6)
    assert found["tom", "bond"]["co_purchase_lately"] == 0.0  # has nothing that anything is related to


def test_what_users_who_are_alike_acquire_lately(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert (found["ann", "bond"]["items_held"], found["tom", "bond"]["items_held"]) == (2, 0)
    bond = 9 / 25
    assert found["ben", "bond"]["size_lately_share"] == (8 + 20 * bond) / (14 + 20)  # ann and ben have two items each
    assert found["ben", "bond"]["risk_lately_share"] == (0 + 20 * bond) / (5 + 20)  # ben alone is of high risk
    assert found["tom", "bond"]["risk_lately_share"] == (8 + 20 * bond) / (9 + 20)  # as ann
    assert found["tom", "bond"]["size_lately_share"] is None
    assert found["eve", "bond"]["risk_lately_share"] is None


def test_one_date_is_as_among_others_and_a_share_of_the_users_as_among_all(
    spark: SparkSession, found: dict[tuple[str, str], dict[str, Any]]
) -> None:
    assert features(spark, (DAY - timedelta(days=30), DAY)) == found
    assert features(spark, (DAY,), of="eve") == {key: row for key, row in found.items() if key[0] == "eve"}
