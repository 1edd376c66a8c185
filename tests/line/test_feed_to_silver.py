"""From a feed that lies to silver and features: transient faults leave no trace, and what the feed says anew is known from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from scripted_feed import KEY, Market, ScriptedFeed, cut, days_before, next_url, refused, reset, serve, truncated
from validate_support import LENIENT

from propensity_spark.config import Settings
from propensity_spark.errors import FeedError
from propensity_spark.features.market import market_features
from propensity_spark.features.windows import Grid
from propensity_spark.ingest import batches
from propensity_spark.line import run_stage, stage_named
from propensity_spark.schemas import BARS, CORPORATE_ACTIONS
from propensity_spark.tables import Lake

FIRST = date(2024, 3, 1)  # as-of date of the first run; each run is at two o'clock of the next morning
OLD, NEW, SPLIT, LATE = "OLD", "NEW", "SPLT", "LATE"


@pytest.fixture
def feed() -> Iterator[ScriptedFeed]:
    market = Market()
    for number, day in enumerate(days_before(FIRST, 40)):
        market.trade("AAA", day, 100.0 + number % 7, 1000.0)
        market.trade(OLD, day, 20.0 + number % 3, 300.0)
        market.trade(SPLIT, day, 80.0 + number % 5, 400.0)
    with serve(market) as running:
        yield running


class Runs:
    """Ingest and validate of one lake, day after day, at a moment that is given."""

    def __init__(self, spark: SparkSession, folder: Path, feed: ScriptedFeed, monkeypatch: pytest.MonkeyPatch) -> None:
        common = {"kind": "massive", "base_url": feed.url, "start": str(FIRST - timedelta(days=60)), "api_key_env": "FEED_KEY"}
        limits = {"calls_per_minute": 10_000, "timeout_seconds": 2.0, "page_limit": 9}
        sources = {
            "bars": [{**common, **limits, "name": "bars", "endpoint": "custom_bars"}],
            "corporate_actions": [{**common, **limits, "name": "splits", "endpoint": "splits", "correction_days": 10}],
        }
        places = {"lake": {"root": str(folder / "lake")}, "publish": {"uri": str(folder / "published")}}
        self.settings = Settings.model_validate({"dataset": "fire", **places, "sources": sources, "validation": {"gate": LENIENT}})
        self.spark, self.patch, self.lake = spark, monkeypatch, Lake(spark, self.settings.lake)
        monkeypatch.setenv("FEED_KEY", KEY)

    def day(self, as_of: date, *stages: str) -> datetime:
        now = datetime.combine(as_of + timedelta(days=1), time(2), UTC)
        self.patch.setattr(batches, "datetime", type("Then", (), {"now": staticmethod(lambda zone: now)}))
        for name in stages or ("ingest", "validate"):
            run_stage(self.spark, self.settings, stage_named(name), as_of)
        return now

    def rows(self, *columns: str, item: str | None = None) -> list[tuple[Any, ...]]:
        bars = self.lake.read(BARS).where(F.lit(True) if item is None else F.col("item_id") == item)
        return sorted(tuple(row) for row in bars.select(*columns).collect())

    def features(self, *dates: date) -> dict[tuple[str, date], dict[str, Any]]:
        splits = self.lake.read_or_empty(CORPORATE_ACTIONS)
        found = market_features(self.lake.read(BARS), splits, None, Grid(tuple(dates))).collect()
        return {(row["item_id"], row["as_of_date"]): row.asDict() for row in found}


@pytest.fixture
def runs(spark: SparkSession, tmp_path: Path, feed: ScriptedFeed, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Runs]:
    return lambda name: Runs(spark, tmp_path / name, feed, monkeypatch)


ALL = ("item_id", "bar_size", "ts", "known_at", "open", "high", "low", "close", "volume", "visible_date", "is_deleted")


def test_the_table_after_a_day_under_fire_is_that_of_a_quiet_one(feed: ScriptedFeed, runs: Callable[[str], Runs]) -> None:
    quiet, fire = runs("quiet"), runs("fire")
    quiet.day(FIRST)
    expected = quiet.rows(*ALL)
    assert len(expected) == 3 * 40
    whole = "range/1/day/2024-01-01/2024-03-01?page="
    feed.faults = [
        ("tickers?page=0&market=stocks&active=true", refused(429, Retry_After="1")),
        (f"/AAA/{whole}1&", reset),
        (f"/AAA/{whole}2&", cut),
        (f"/AAA/{whole}3&", next_url(lambda page: page, twice="1")),  # this page once more
        (f"/OLD/{whole}4&", truncated),
        (f"/SPLT/{whole}2&", next_url(lambda page: page - 1)),
    ]
    while feed.faults:
        with pytest.raises(FeedError):
            fire.day(FIRST, "ingest")
        assert not fire.lake.exists(BARS), "nothing of a day that is not whole"
    fire.day(FIRST)
    assert fire.rows(*ALL) == expected


def test_what_the_feed_says_anew_is_a_version_known_from_then_on(feed: ScriptedFeed, runs: Callable[[str], Runs]) -> None:
    lake, said = runs("lake"), feed.market
    days = [FIRST + timedelta(days=n) for n in range(5)]
    lake.day(FIRST)
    as_told_first = dict(said.bars["AAA"][FIRST])

    # The next day a bar is corrected, OLD trades as NEW, and SPLT has split without anybody saying so.
    said.trade("AAA", FIRST, 150.0, 1000.0)
    said.trade(LATE, FIRST, 7.0, 10.0)
    said.delisted[OLD] = days[1]
    said.trade(NEW, days[1], 21.0, 300.0)
    said.trade(SPLIT, days[1], 41.0, 800.0)
    second = lake.day(days[1])
    before = lake.features(*days[:3])  # a bar is known at a quarter past midnight: that of the second day as of the third

    # The day after the correction still stands, LATE gets a bar of an earlier day, and the split is announced.
    said.trade(LATE, FIRST - timedelta(days=1), 6.5, 10.0)
    said.trade(NEW, days[2], 22.0, 300.0)
    said.trade(SPLIT, days[2], 42.0, 800.0)
    said.split(SPLIT, days[1], 2.0)
    third = lake.day(days[2])

    # Then the correction is taken back, and after that nothing is said anew.
    said.bars["AAA"][FIRST] = as_told_first
    fourth = lake.day(days[3])
    lake.day(days[4])

    in_time = datetime.combine(days[1], time(0, 15), UTC) - timedelta(microseconds=1)
    versions = lake.rows("known_at", "close", "session_date", item="AAA")
    assert [(_utc(known), price) for known, price, day in versions if day == FIRST] == [
        (in_time, as_told_first["c"]),
        (second, 150.0),
        (fourth, as_told_first["c"]),
    ]
    assert [(day, _utc(known)) for day, known in lake.rows("session_date", "known_at", item=LATE)] == [
        (FIRST - timedelta(days=1), third),
        (FIRST, in_time),
    ]
    bars = lake.rows("item_id", "session_date")
    assert len(bars) == len(set(bars)) + 2, "two corrections, and no other bar twice"
    assert {day for name, day in bars if name == OLD} == set(days_before(FIRST, 40))
    assert {day for name, day in bars if name == NEW} == {days[1], days[2]}

    ((announced, ratio),) = lake.lake.read(CORPORATE_ACTIONS).select("known_at", "ratio").collect()
    assert (_utc(announced), ratio) == (third, 2.0)
    after = lake.features(*days)
    assert {key: row for key, row in after.items() if key[1] <= days[2]} == before
    assert before[SPLIT, days[2]]["return_1d"] == pytest.approx(41.0 / 84.0 - 1), "nobody has said that it split"
    assert after[SPLIT, days[2]]["momentum_5d"] == pytest.approx(41.0 / 80.0 - 1), "announced on the morning after"
    assert after[SPLIT, days[3]]["momentum_5d"] == pytest.approx(2 * 42.0 / 81.0 - 1)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)  # tests run in UTC, and Spark gives local times
