"""One as-of date alone, which takes a way of its own, gives what the same date gives among others."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from silver_data import event, frame, told, version

from propensity_spark.config import CandidateSettings
from propensity_spark.features import windows
from propensity_spark.features.affinity import item_dates, sector_spending
from propensity_spark.features.candidates import user_item_features
from propensity_spark.features.events import corrections, live_events
from propensity_spark.features.rfm import user_features
from propensity_spark.features.windows import Grid
from propensity_spark.schemas import ACTIVITY, ITEMS
from propensity_spark.stages import carrying as stage
from propensity_spark.stages.carrying import few_corrections

DAY = date(2024, 7, 12)


def ago(days: int) -> date:
    return DAY - timedelta(days=days)


EVENTS = [
    event("first of its order", "u0", "i0", "buy", ago(30), "5.50", order_id="o1", session_id="s1"),
    event("second of its order", "u0", "i0", "buy", ago(29), "10.00", order_id="o1", session_id="s1"),
    event("view", "u0", "i1", "view", ago(6), session_id="s2"),
    event("older view", "u0", "i1", "view", ago(7), session_id="s2"),
    event("undone", "u0", "i0", "cancel", ago(3), "-2.25", order_id="o1"),
    event("not known yet", "u0", "i2", "buy", ago(1), "7.00", known=DAY + timedelta(days=1)),
    event("corrected", "u1", "i1", "buy", ago(364), "1.00"),
    event("corrected", "u1", "i1", "buy", ago(364), "99.99", known=ago(1), moment=1),
    event("out of all windows", "u1", "i1", "buy", ago(365), "1.00"),
    event("deleted", "u1", "i0", "view", ago(2)),
    event("deleted", "u1", "i0", "view", ago(2), known=ago(1), moment=1, deleted=True),
    event("long ago", "u2", "i2", "search", ago(400)),
]
ITEM_ROWS = [
    version({"item_id": name, "valid_from": ago(500), "sector": sector}, ago(500), ago(500))
    for name, sector in (("i0", "tech"), ("i1", "food"), ("i2", None))
]


def features(spark: SparkSession, grid: Grid, *, are_told: bool = False) -> dict[str, list[dict[str, Any]]]:
    activity, items = frame(spark, told(EVENTS), ACTIVITY), frame(spark, ITEM_ROWS, ITEMS)
    events = live_events(activity, grid, corrections(activity) if are_told else None)
    spending = sector_spending(events, items, grid)
    of_users = user_features(events, activity, None, spending, grid=grid, risk_levels=())
    pairs = user_item_features(events, item_dates(events, items, grid), spending, grid, CandidateSettings(affine_sectors=1))
    found = {"users": of_users.where(of_users.as_of_date == DAY), "pairs": pairs.where(pairs.as_of_date == DAY)}
    return {name: sorted((row.asDict() for row in each.collect()), key=repr) for name, each in found.items()}


def test_one_date_alone_is_as_among_others(spark: SparkSession) -> None:
    alone = features(spark, Grid((DAY,)))
    assert alone == features(spark, Grid((ago(7), DAY)))
    users = {row["user_id"]: row for row in alone["users"]}
    assert {name: users["u0"][name] for name in ("frequency_30d", "frequency_90d", "views_7d", "sessions_30d", "active_days_30d")} == {
        "frequency_30d": 0,  # an order counts on the date of its first event
        "frequency_90d": 1,
        "views_7d": 1,
        "sessions_30d": 2,
        "active_days_30d": 4,
    }
    assert (users["u0"]["monetary_30d"], users["u0"]["monetary_90d"]) == (Decimal("7.7500"), Decimal("13.2500"))
    assert (users["u1"]["frequency_365d"], users["u1"]["monetary_365d"]) == (1, Decimal("99.9900"))
    assert (users["u2"]["frequency_365d"], users["u2"]["recency_days"], users["u2"]["tenure_days"]) == (0, None, 400)
    assert ("u0", "i0") in {(row["user_id"], row["item_id"]) for row in alone["pairs"]}


@pytest.mark.parametrize("dates", [(DAY,), (ago(7), DAY)])
def test_corrections_that_silver_tells_apart_replace_what_they_correct(spark: SparkSession, dates: tuple[date, ...]) -> None:
    assert features(spark, Grid(dates), are_told=True) == features(spark, Grid(dates))


def test_events_with_the_same_hash_do_not_correct_each_other(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = features(spark, Grid((DAY,)))
    monkeypatch.setattr(windows.F, "xxhash64", lambda *columns: F.lit(1).cast("long"))
    assert features(spark, Grid((DAY,)), are_told=True) == expected


def test_corrections_are_looked_up_only_where_they_are_few(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    activity = frame(spark, told(EVENTS), ACTIVITY)
    with few_corrections(activity) as few:
        assert few is not None
        assert sorted(row["event_id"] for row in few.collect()) == ["corrected", "deleted"]
    for limit, most in (("FEW", 1), ("FEW_OF_ONE", 0)):
        with monkeypatch.context() as patch, few_corrections(activity) as few:
            assert few is not None
            patch.setattr(stage, limit, most)
            with few_corrections(activity) as too_many:
                assert too_many is None
    with few_corrections(frame(spark, EVENTS, ACTIVITY)) as unknown:  # not recorded: each may be one
        assert unknown is not None
        assert unknown.count() == len(EVENTS)
