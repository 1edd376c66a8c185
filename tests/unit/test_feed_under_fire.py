"""A feed that refuses, resets, drips, breaks off or goes in circles: a request lands as without faults, or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from scripted_feed import (
    KEY,
    Fault,
    Market,
    ScriptedFeed,
    cut,
    days_before,
    drip_body,
    drip_head,
    next_url,
    refused,
    reset,
    serve,
    truncated,
)

from propensity_spark.config import MassiveSource
from propensity_spark.errors import FeedError
from propensity_spark.ingest.landing import download
from propensity_spark.ingest.massive import CallLimit, MassiveClient

DAY = date(2024, 3, 8)
NOW = datetime(2024, 3, 9, tzinfo=UTC)
PAGES = 4


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def feed() -> Iterator[ScriptedFeed]:
    market = Market()
    for number, day in enumerate(days_before(DAY, 3 * PAGES)):
        market.trade("AAA", day, 100.0 + number, 1000.0)
        market.trade("BBB", day, 50.0 + number, 500.0)
    with serve(market) as running:
        yield running


def source(**other: Any) -> MassiveSource:
    settings = {"kind": "massive", "name": "feed", "base_url": "local", "endpoint": "custom_bars", "start": DAY - timedelta(days=30)}
    return MassiveSource.model_validate({**settings, "tickers": ["AAA", "BBB"], "page_limit": 3, "parallel": 2, **other})


def bring(feed: ScriptedFeed, folder: Path, chosen: MassiveSource | None = None, calendar: str | None = None, **other: Any) -> Clock:
    """One download with a clock of its own; only drips take real time (see `patience`)."""
    clock, chosen = Clock(), chosen or source()
    settings = {"timeout_seconds": 60.0, "clock": clock, "sleep": clock.sleep, "now": lambda: NOW, "jitter": lambda _, high: high, **other}
    client = MassiveClient(feed.url, KEY, CallLimit(10_000, clock, clock.sleep), 2, **settings)
    download(client, chosen, folder, DAY, calendar=calendar)
    return clock


def patience(fault: Fault) -> float:
    """Real seconds for an answer: a drip ends with them; any other must not, however busy the machine is."""
    return 0.3 if fault in (drip_body, drip_head) else 60.0


def landed(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("to=*/*/page-*"))}


TRANSIENT: dict[str, tuple[Fault, float]] = {
    "429 in seconds": (refused(429, Retry_After="40"), 40.0),
    "429 by a date": (refused(429, Retry_After=format_datetime(NOW + timedelta(seconds=50), usegmt=True)), 50.0),
    "429 by a date of another style": (refused(429, Retry_After="Saturday, 09-Mar-24 00:01:00 GMT"), 60.0),
    "429 and nothing else": (refused(429), 0.75),
    "503": (refused(503), 0.75),
    "reset": (reset, 0.75),
    "fewer bytes than promised": (cut, 0.75),
    "a body that drips": (drip_body, 0.75),
    "headers that drip": (drip_head, 0.75),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_fault_that_passes_at_any_page_leaves_no_trace(feed: ScriptedFeed, tmp_path: Path, name: str) -> None:
    bring(feed, tmp_path / "clean")
    expected = landed(tmp_path / "clean")
    assert len(expected) == 2 * PAGES
    fault, least = TRANSIENT[name]
    feed.faults = [(f"AAA/range/1/day/2024-02-07/2024-03-08?page={page}&", fault) for page in range(PAGES)]
    clock = bring(feed, tmp_path / "fire", timeout_seconds=patience(fault))
    assert not feed.faults
    assert clock.time >= least * PAGES
    assert landed(tmp_path / "fire") == expected


@pytest.mark.parametrize("page", range(PAGES))
def test_json_that_breaks_off_at_any_page_shows_nothing_and_the_next_run_goes_on_there(
    feed: ScriptedFeed, tmp_path: Path, page: int
) -> None:
    bring(feed, tmp_path / "clean")
    feed.faults = [(f"AAA/range/1/day/2024-02-07/2024-03-08?page={page}&", truncated)]
    with pytest.raises(FeedError, match=r"AAA.*the answer is not whole JSON"):
        bring(feed, tmp_path / "fire")
    assert not [name for name in landed(tmp_path / "fire") if "/AAA-" in name]
    feed.asked.clear()
    bring(feed, tmp_path / "fire")
    assert len([target for target in feed.asked if "AAA" in target]) == PAGES - page
    assert landed(tmp_path / "fire") == landed(tmp_path / "clean")


@pytest.mark.parametrize(
    "fault", [drip_body, drip_head, refused(503), refused(429, Retry_After="0"), refused(429, Retry_After="\xb2"), reset]
)
def test_a_fault_that_does_not_pass_ends_at_the_deadline(feed: ScriptedFeed, tmp_path: Path, fault: Fault) -> None:
    feed.always = {"AAA": fault}
    with pytest.raises(FeedError, match=r"AAA.*after 4 tries; .* past the deadline of 10 s.*run again"):
        bring(feed, tmp_path, source(tickers=["AAA"]), deadline_seconds=10.0, timeout_seconds=patience(fault))
    assert landed(tmp_path) == {}
    assert len(feed.asked) == 4


@pytest.mark.parametrize("drip", [drip_body, drip_head])
def test_an_answer_that_outlasts_the_deadline_is_cut_off_by_it(feed: ScriptedFeed, tmp_path: Path, drip: Fault) -> None:
    """With the real clock: each answer may take a minute, all together half a second."""
    feed.always = {"AAA": drip}
    with pytest.raises(FeedError, match="TimeoutError after 1 tries"):
        bring(feed, tmp_path, timeout_seconds=60.0, deadline_seconds=0.5, clock=time.monotonic)


@pytest.mark.parametrize(("page", "back_to"), [(1, 1), (2, 1), (3, 1)])
def test_a_loop_is_an_error_that_resumes_from_the_last_good_page(feed: ScriptedFeed, tmp_path: Path, page: int, back_to: int) -> None:
    bring(feed, tmp_path / "clean")
    feed.always = {f"AAA/range/1/day/2024-02-07/2024-03-08?page={page}&": next_url(lambda _: back_to)}
    for _ in range(2):
        feed.asked.clear()
        with pytest.raises(FeedError, match=r"next_url leads back to .*, which was read before. Earlier pages are kept"):
            bring(feed, tmp_path / "fire")
        assert not [name for name in landed(tmp_path / "fire") if "/AAA-" in name]
    assert len(feed.asked) == 1
    feed.always = {}
    bring(feed, tmp_path / "fire")
    assert landed(tmp_path / "fire") == landed(tmp_path / "clean")


def test_circles_with_ever_new_cursors_are_an_error(feed: ScriptedFeed, tmp_path: Path) -> None:
    feed.always = {"AAA": next_url(lambda page: page % 2, unique="1")}
    with pytest.raises(FeedError, match="the same rows for the 4th time, next_url goes in circles"):
        bring(feed, tmp_path, source(tickers=["AAA"]))
    assert landed(tmp_path) == {}
    assert len(feed.asked) < 10


def test_a_session_without_one_row_is_not_taken_for_a_day(feed: ScriptedFeed, tmp_path: Path) -> None:
    grouped = source(endpoint="grouped_daily", tickers=None, start=date(2024, 3, 6))
    bars = feed.market.bars
    missing = {ticker: days.pop(DAY) for ticker, days in bars.items()}
    with pytest.raises(FeedError, match=r"stocks/2024-03-08\?.*not one row, for a session of the exchange"):
        bring(feed, tmp_path, grouped, calendar="XNYS")
    assert {name.split("/")[1] for name in landed(tmp_path)} == {"2024-03-06", "2024-03-07"}
    for ticker, row in missing.items():
        bars[ticker][DAY] = row
    bring(feed, tmp_path, grouped, calendar="XNYS")
    assert len(landed(tmp_path)) == 3
