"""The local feed, asked over HTTP as the real client asks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from propensity_spark.calendars import session_times
from propensity_spark.config import CONF_DIR, SimulateSettings, load_settings
from propensity_spark.simulate.feed import KEY_VARIABLE, FeedServer, RateLimit, local_feed, serve
from propensity_spark.simulate.generator import simulate_market
from propensity_spark.simulate.market import Market
from propensity_spark.simulate.quotes import Quotes, Refused

AS_OF = date(2023, 7, 5)
KEY = "a-key-for-tests"
SIMULATION = SimulateSettings(items=25, start=date(2023, 1, 3), end=date(2023, 8, 31), seed=11)


@pytest.fixture(scope="module")
def market() -> Market:
    return simulate_market(SIMULATION, "XNYS")


@pytest.fixture(scope="module")
def url(market: Market) -> Iterator[str]:
    with running(market, RateLimit(100_000, 1.0)) as server:
        yield server.url


class running:
    """A server in a thread for the length of a `with`."""

    def __init__(self, market: Market, limit: RateLimit) -> None:
        self.server = FeedServer(Quotes(market, SIMULATION.seed, AS_OF), KEY, limit)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> FeedServer:
        self.thread.start()
        return self.server

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def ask(url: str, path: str, key: str | None = KEY, **params: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return requests.get(url + path, params=params, headers=headers, timeout=10)


def every_page(url: str, path: str, **params: Any) -> list[list[dict[str, Any]]]:
    """The results of each page, following next_url to its end."""
    answer = ask(url, path, **params).json()
    pages = [answer["results"]]
    while "next_url" in answer:
        assert answer["next_url"].startswith(url)
        assert KEY not in answer["next_url"]
        answer = ask(answer["next_url"], "").json()
        pages.append(answer["results"])
    return pages


def aggregates(market: Market, item: int, timespan: str = "day", first: str = "2023-01-03", last: str = "2023-12-31") -> str:
    return f"/v2/aggs/ticker/{market.item_ids[item]}/range/1/{timespan}/{first}/{last}"


def whole(market: Market) -> int:
    """An item that trades from the first session on and splits before the as-of date."""
    last = market.session_on_or_before(AS_OF)
    return next(int(i) for s, i in zip(market.split_session, market.split_item, strict=True) if s < last and market.listed[i] == 0)


def test_paging_covers_every_bar_up_to_the_as_of_date_exactly_once(url: str, market: Market) -> None:
    for item in range(3):
        pages = every_page(url, aggregates(market, item), adjusted="false", limit=40)
        assert [len(page) for page in pages[:-1]] == [40] * (len(pages) - 1)
        bars = [bar for page in pages for bar in page]
        sessions = [s for s in np.flatnonzero(market.traded[:, item]) if market.dates[s] <= np.datetime64(AS_OF)]
        assert [bar["c"] for bar in bars] == market.close[sessions, item].tolist()
        assert [bar["v"] for bar in bars] == market.volume[sessions, item].tolist()
        starts = [datetime.fromtimestamp(bar["t"] / 1000, UTC) for bar in bars]
        assert {start.hour for start in starts} == {4, 5}  # midnight in New York, summer and winter
        assert [start.date() for start in starts] == market.dates[sessions].tolist()


def test_the_envelope_is_that_of_the_api(url: str, market: Market) -> None:
    answer = ask(url, aggregates(market, 0, last="2023-01-10"), adjusted="false").json()
    assert answer["status"] == "OK"
    assert answer["ticker"] == market.item_ids[0]
    assert answer["adjusted"] is False
    assert answer["queryCount"] == answer["resultsCount"] == answer["count"] == len(answer["results"]) == 6
    assert set(answer["results"][0]) == {"o", "h", "l", "c", "v", "vw", "t", "n"}
    assert answer == ask(url, aggregates(market, 0, last="2023-01-10"), adjusted="false").json()


def test_a_range_may_be_given_in_milliseconds_and_sorted_backwards(url: str, market: Market) -> None:
    path = aggregates(market, 0, first="2023-01-04", last="2023-01-09")
    bars = ask(url, path).json()["results"]
    by_ms = aggregates(market, 0, first=str(bars[0]["t"]), last=str(bars[-1]["t"]))
    assert ask(url, by_ms).json()["results"] == bars
    assert ask(url, path, sort="desc").json()["results"] == bars[::-1]


def test_adjusted_prices_do_not_jump_at_a_split_and_are_the_default(url: str, market: Market) -> None:
    item = whole(market)
    reported = [bar["c"] for bar in ask(url, aggregates(market, item), adjusted="false").json()["results"]]
    adjusted = [bar["c"] for bar in ask(url, aggregates(market, item)).json()["results"]]
    jump = np.abs(np.diff(np.log(reported))).max()
    assert jump > 0.6
    assert np.abs(np.diff(np.log(adjusted))).max() < 0.4
    assert adjusted[-1] == reported[-1]


def test_an_unknown_ticker_has_no_bars(url: str, market: Market) -> None:
    answer = ask(url, "/v2/aggs/ticker/NONE/range/1/day/2023-01-03/2023-01-31").json()
    assert (answer["status"], answer["resultsCount"], answer["results"]) == ("OK", 0, [])


def test_minute_bars_add_up_to_the_daily_bar_also_on_a_half_day(url: str, market: Market) -> None:
    for day, minutes in (("2023-03-15", 390), ("2023-07-03", 210)):
        bars = [bar for page in every_page(url, aggregates(market, 0, "minute", day, day), adjusted="false", limit=100) for bar in page]
        (daily,) = ask(url, aggregates(market, 0, "day", day, day), adjusted="false").json()["results"]
        assert (bars[0]["o"], bars[-1]["c"]) == (daily["o"], daily["c"])
        assert (max(bar["h"] for bar in bars), min(bar["l"] for bar in bars)) == (daily["h"], daily["l"])
        assert sum(bar["v"] for bar in bars) == daily["v"]
        assert all(bar["l"] <= min(bar["o"], bar["c"]) <= max(bar["o"], bar["c"]) <= bar["h"] for bar in bars)
        ((_, opens, closes),) = session_times("XNYS", date.fromisoformat(day), date.fromisoformat(day))
        assert bars[0]["t"] == opens.timestamp() * 1000
        assert bars[-1]["t"] == closes.timestamp() * 1000 - 60_000
        assert len({bar["t"] for bar in bars}) == minutes
    within = aggregates(market, 0, "minute", str(bars[3]["t"]), str(bars[5]["t"]))
    assert [bar["t"] for bar in ask(url, within).json()["results"]] == [bar["t"] for bar in bars[3:6]]


def test_grouped_daily_has_every_item_that_traded(url: str, market: Market) -> None:
    session = market.session_on_or_before(date(2023, 3, 15))
    answer = ask(url, "/v2/aggs/grouped/locale/us/market/stocks/2023-03-15", adjusted="false").json()
    closes = {bar["T"]: bar["c"] for bar in answer["results"]}
    traded = np.flatnonzero(market.traded[session])
    assert closes == {str(market.item_ids[i]): market.close[session, i] for i in traded}
    assert {bar["t"] for bar in answer["results"]} == {1678910400000}  # 16:00 in New York
    for closed in ("2023-03-18", "2023-07-06", "2020-01-02"):
        assert ask(url, f"/v2/aggs/grouped/locale/us/market/stocks/{closed}").json()["results"] == []


def test_reference_tickers_by_page_and_one_by_one(url: str, market: Market) -> None:
    pages = every_page(url, "/v3/reference/tickers", limit=10)
    names = [row["ticker"] for page in pages for row in page]
    listed = market.listed <= market.session_on_or_before(AS_OF)
    assert names == sorted(market.item_ids[listed].tolist())
    assert [len(page) for page in pages[:-1]] == [10] * (len(pages) - 1)
    backwards = ask(url, "/v3/reference/tickers", order="desc", ticker=names[3]).json()["results"]
    assert [row["ticker"] for row in backwards] == [names[3]]
    early = ask(url, "/v3/reference/tickers", date="2022-01-01", limit=1000).json()
    assert early["results"] == []
    one = ask(url, f"/v3/reference/tickers/{names[0]}", date="2023-02-01").json()
    assert one["results"]["ticker"] == names[0]
    missing = ask(url, "/v3/reference/tickers/NONE")
    assert (missing.status_code, missing.json()["status"]) == (404, "NOT_FOUND")


def test_splits_up_to_the_as_of_date(url: str, market: Market) -> None:
    pages = every_page(url, "/v3/reference/splits", limit=1)
    rows = [row for page in pages for row in page]
    days = market.dates[market.split_session]
    known = days <= np.datetime64(AS_OF)
    assert known.sum() > 0
    assert [row["execution_date"] for row in rows] == sorted(str(day) for day in days[known])
    ratio = {str(market.item_ids[i]): float(r) for i, r in zip(market.split_item, market.split_ratio, strict=True)}
    assert all(row["split_to"] / row["split_from"] == ratio[row["ticker"]] for row in rows)
    first = rows[0]["execution_date"]
    after = ask(url, "/v3/reference/splits", **{"execution_date.gt": first, "limit": 1000}).json()["results"]
    assert after == [row for row in rows if row["execution_date"] > first]
    assert ask(url, "/v3/reference/splits", ticker=rows[0]["ticker"]).json()["results"] == rows[:1]
    by_ticker = ask(url, "/v3/reference/splits", sort="ticker", order="desc", limit=1000).json()["results"]
    assert [row["ticker"] for row in by_ticker] == sorted((row["ticker"] for row in rows), reverse=True)


@pytest.mark.parametrize(("key", "text"), [(None, "not provided"), ("wrong", "Unknown API Key")])
def test_no_or_a_wrong_key_is_401(url: str, key: str | None, text: str) -> None:
    answer = ask(url, "/v3/reference/tickers", key=key)
    assert answer.status_code == 401
    assert answer.json()["status"] == "ERROR"
    assert text in answer.json()["error"]


def test_the_key_may_come_in_the_query_and_is_not_echoed(url: str) -> None:
    answer = ask(url, "/v3/reference/tickers", key=None, apiKey=KEY, limit=1)
    assert answer.status_code == 200
    assert KEY not in answer.text


@pytest.mark.parametrize(
    ("path", "params", "text"),
    [
        ("/v2/aggs/ticker/AAA/range/5/minute/2023-01-03/2023-01-04", {}, "5/minute"),
        ("/v2/aggs/ticker/AAA/range/1/day/2023-01-03/tomorrow", {}, "'tomorrow'"),
        ("/v3/reference/tickers", {"limit": 1001}, "from 1 to 1000"),
        ("/v3/reference/tickers", {"limit": "many"}, "from 1 to 1000"),
        ("/v3/reference/tickers", {"cursor": "nonsense"}, "cursor"),
        ("/v3/reference/tickers", {"cursor": "WzFd"}, "cursor"),
        ("/v3/reference/splits", {"sort": "name"}, "sort"),
    ],
)
def test_what_cannot_be_answered_is_400_and_says_why(url: str, path: str, params: dict[str, Any], text: str) -> None:
    answer = ask(url, path, **params)
    assert answer.status_code == 400
    assert text in answer.json()["error"]


def test_an_unknown_path_is_404(url: str) -> None:
    assert ask(url, "/v1/marketstatus/now").status_code == 404


def test_too_many_calls_are_429_with_retry_after(market: Market) -> None:
    now = [100.0]
    with running(market, RateLimit(2, 60.0, clock=lambda: now[0])) as server:
        path = "/v3/reference/tickers"
        assert [ask(server.url, path).status_code for _ in range(3)] == [200, 200, 429]
        now[0] += 29.5
        refused = ask(server.url, path)
        assert refused.headers["Retry-After"] == "31"
        assert refused.json()["status"] == "ERROR"
        now[0] += 31
        assert ask(server.url, path).status_code == 200


def test_the_limit_counts_only_what_it_admits() -> None:
    now = [0.0]
    limit = RateLimit(1, 10.0, clock=lambda: now[0])
    limit.admit()
    for _ in range(3):
        with pytest.raises(Refused) as refused:
            limit.admit()
        assert refused.value.retry_after == 10
    now[0] = 10.0
    limit.admit()


def test_local_feed_serves_the_built_world_and_takes_its_key_back(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(CONF_DIR / "local.yml", "stocks", [f"lake.root={tmp_path}"])
    (tmp_path / "simulated").mkdir()
    market.save(tmp_path / "simulated" / "market.npz")
    for before in (None, "mine"):
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
        if before:
            monkeypatch.setenv(KEY_VARIABLE, before)
        with local_feed(settings, AS_OF) as url:
            assert os.environ[KEY_VARIABLE] not in ("", "mine")
            assert ask(url, "/v3/reference/tickers", key=os.environ[KEY_VARIABLE]).status_code == 200
        assert os.environ.get(KEY_VARIABLE) == before


@pytest.mark.parametrize("key", [None, "mine"])
def test_serve_says_where_it_is_and_stops_when_interrupted(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    settings = load_settings(CONF_DIR / "local.yml", "stocks", [f"lake.root={tmp_path}"])
    (tmp_path / "simulated").mkdir()
    market.save(tmp_path / "simulated" / "market.npz")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    if key:
        monkeypatch.setenv(KEY_VARIABLE, key)

    def interrupt(self: FeedServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FeedServer, "serve_forever", interrupt)
    said: list[str] = []
    serve(settings, 0, AS_OF, said.append)
    assert said[-1] == "stopped"
    assert said[-2].startswith("serving bars up to 2023-07-05 on http://127.0.0.1:")
    assert (len(said) == 3) == (key is None)
