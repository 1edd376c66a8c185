"""The market feed's client and its landing folder, against a scripted HTTP server on loopback."""

from __future__ import annotations

import json
import logging
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from propensity_spark.config import MassiveSource
from propensity_spark.errors import ConfigurationError, EnvironmentMissing, FeedError
from propensity_spark.ingest.landing import download, landing_folder
from propensity_spark.ingest.massive import CallLimit, MassiveClient, api_key
from propensity_spark.ingest.pages import read_page

KEY = "secret-key-0123456789"
DAY = date(2024, 3, 8)


@dataclass
class Answer:
    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False

    @property
    def bytes(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Feed:
    """Answers by path (without query), one after the other, the last one again and again."""

    url: str = ""
    script: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)

    def says(self, path: str, *answers: Answer | dict[str, Any]) -> None:
        self.script[path] = [answer if isinstance(answer, Answer) else Answer(answer) for answer in answers]


@pytest.fixture
def feed() -> Iterator[Feed]:
    scripted = Feed()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            scripted.asked.append(self.path)
            scripted.authorizations.add(self.headers.get("Authorization"))
            answers = scripted.script.get(
                self.path, scripted.script.get(self.path.partition("?")[0], [Answer({"status": "NOT_FOUND"}, 404)])
            )
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if answer.close:
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.bytes)))
            self.end_headers()
            self.wfile.write(answer.bytes)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    scripted.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield scripted
    server.shutdown()
    server.server_close()
    thread.join()


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.time = 0.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.time += seconds

    def now(self) -> datetime:
        return datetime(2024, 3, 9, tzinfo=UTC) + timedelta(seconds=self.time)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def client_of(feed: Feed, clock: Clock, **other: Any) -> MassiveClient:
    limit = CallLimit(1000, clock, clock.sleep)
    settings = {"clock": clock, "sleep": clock.sleep, "now": clock.now, "jitter": lambda low, high: high, **other}
    return MassiveClient(feed.url, KEY, limit, **settings)


def source_of(endpoint: str = "custom_bars", **other: Any) -> MassiveSource:
    settings = {"kind": "massive", "name": "feed", "base_url": "https://api.example.com", "endpoint": endpoint, "start": date(2024, 3, 1)}
    return MassiveSource.model_validate({**settings, "tickers": ["AAA"], "parallel": 2, **other})


def page(*rows: Any, next_url: str | None = None, **other: Any) -> dict[str, Any]:
    body = {"status": "OK", "resultsCount": len(rows), "results": list(rows), **other}
    return {**body, "next_url": next_url} if next_url else body


def stored(folder: Path) -> dict[str, Any]:
    return {str(file.relative_to(folder)): json.loads(file.read_bytes())["results"] for file in sorted(folder.rglob("page-*.json"))}


BARS = "/v2/aggs/ticker/AAA/range/1/day/2024-03-01/2024-03-08"


def test_follows_next_url_and_stores_each_page_as_received(feed: Feed, clock: Clock, tmp_path: Path) -> None:
    first = (
        f'{{"status":"OK", "adjusted": false,\n "results":[{{"c":1.50}}],"resultsCount":1,"next_url":"{feed.url}/more?cursor=b"}}'.encode()
    )
    feed.says(BARS, Answer(first))
    feed.says("/more", page({"c": 2}))
    folder = landing_folder(str(tmp_path), source_of())
    download(client_of(feed, clock), source_of(), folder, DAY)
    assert feed.asked == [f"{BARS}?adjusted=false&sort=asc&limit=50000", "/more?cursor=b"]
    assert feed.authorizations == {f"Bearer {KEY}"}
    assert list(stored(folder).values()) == [[{"c": 1.5}], [{"c": 2}]]
    request = next(folder.glob("to=2024-03-08/*"))
    assert (request / "page-00000.json").read_bytes() == first
    assert json.loads((request / "_request.json").read_text())["context"] == {
        "endpoint": "custom_bars",
        "bar_size": "1d",
        "adjusted": "false",
        "ticker": "AAA",
        "new_from": "2024-03-01",
    }
    assert folder == tmp_path / "landing" / "feed" / "custom_bars-day"


def test_429_waits_as_long_as_it_is_told(feed: Feed, clock: Clock) -> None:
    date_in_7_seconds = format_datetime(clock.now() + timedelta(seconds=7), usegmt=True)
    feed.says("/x", Answer({}, 429, {"Retry-After": "4"}), Answer({}, 429, {"Retry-After": date_in_7_seconds}), page())
    assert client_of(feed, clock).page("/x").results == []
    assert clock.naps == pytest.approx([4.0, 3.0])


def test_5xx_resets_and_odd_retry_after_are_tried_again_with_growing_pauses(feed: Feed, clock: Clock) -> None:
    feed.says("/x", Answer({}, 503), Answer(close=True), Answer({}, 429), Answer({}, 502, {"Retry-After": "soon"}), page({"c": 1}))
    assert client_of(feed, clock).page("/x").results == [{"c": 1}]
    assert clock.naps == [0.75, 1.5, 3.0, 6.0]


def test_gives_up_at_the_deadline_and_says_so(feed: Feed, clock: Clock) -> None:
    feed.says("/x", Answer({}, 503))
    with pytest.raises(FeedError, match=r"GET /x: HTTP 503 after 4 tries; .* past the deadline of 10 s"):
        client_of(feed, clock, deadline_seconds=10.0).page("/x")
    feed.says("/y", Answer({}, 429, {"Retry-After": "3600"}))
    with pytest.raises(FeedError, match="after 1 tries"):
        client_of(feed, clock, deadline_seconds=10.0).page("/y")


def test_a_client_error_is_not_tried_again_and_does_not_show_the_key(feed: Feed, clock: Clock) -> None:
    feed.says("/x", Answer({"status": "ERROR", "error": f"unknown key {KEY}"}, 401))
    with pytest.raises(FeedError, match=r"GET /x: HTTP 401.*unknown key \*\*\*.*check the API key") as caught:
        client_of(feed, clock).page("/x")
    assert KEY not in str(caught.value)
    feed.says("/moved", Answer({}, 302, {"Location": f"{feed.url}/x"}))
    with pytest.raises(FeedError, match="HTTP 302"):
        client_of(feed, clock).page("/moved")
    assert feed.asked == ["/x", "/moved"]


def test_the_call_limit_holds_over_any_minute(clock: Clock) -> None:
    limit = CallLimit(3, clock, clock.sleep)
    starts = []
    for _ in range(7):
        limit.wait()
        starts.append(clock())
    assert starts == [0, 0, 0, 60, 60, 60, 120]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b'{"status":"OK","results":[{"c":1', "not whole JSON"),
        (b"\xff\xfe", "not whole JSON"),
        (b"[1]", "expected status OK, found 'list'"),
        (b'{"results":[]}', "expected status OK, found None"),
        (b'{"status":"ERROR","results":[]}', "expected status OK, found 'ERROR'"),
        (b'{"status":"OK"}', "expected a list `results`, found NoneType"),
        (b'{"status":"OK","resultsCount":2}', "expected a list `results`"),
        (b'{"status":"OK","results":{}}', "expected a list `results`, found dict"),
        (b'{"status":"OK","resultsCount":3,"results":[1]}', "promises 3 results and holds 1"),
        (b'{"status":"OK","adjusted":true,"results":[]}', "asked for adjusted=false, the answer says adjusted=True"),
        (b'{"status":"OK","results":[],"next_url":"http://evil.example/x?cursor=1"}', "next_url leads to 'evil.example'"),
        (b'{"status":"OK","results":[],"next_url":"https://feed.example:444/x"}', "the key is not sent there"),
        (b'{"status":"OK","results":[],"next_url":5}', "expected an address as next_url, found 5"),
        (b'{"status":"OK","results":[],"next_url":"http://[x"}', "expected an address as next_url"),
    ],
)
def test_an_answer_that_cannot_be_trusted_names_the_request(body: bytes, complaint: str) -> None:
    with pytest.raises(FeedError, match=r"^GET /v2/x\?a=1: ") as caught:
        read_page(body, "/v2/x?a=1", "https://feed.example", adjusted="false")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("count", ["resultsCount", "queryCount", "count"])
def test_an_empty_range_needs_no_results(count: str) -> None:
    assert read_page(json.dumps({"status": "DELAYED", count: 0}).encode(), "/x", "https://feed.example").results == []


def test_a_total_count_over_several_pages_is_no_fault() -> None:
    body = b'{"status":"OK","resultsCount":5,"results":[1]}'
    assert read_page(body, "/x", "https://feed.example", first=False).results == [1]


def test_the_key_is_cut_out_of_next_url_and_of_what_is_stored() -> None:
    next_url = f"https://feed.example/more?apiKey={KEY}&cursor=a%2Fb"
    body = json.dumps({"status": "OK", "results": [{"note": KEY}], "next_url": next_url}).encode()
    found = read_page(body, "/x", "https://feed.example", key=KEY)
    assert found.next_target == "/more?cursor=a%2Fb"
    assert KEY.encode() not in found.body
    assert b"apiKey" not in found.body
    assert json.loads(found.body)["next_url"] == "https://feed.example/more?cursor=a%2Fb"


def test_a_truncated_page_stops_and_the_next_run_goes_on_after_the_last_good_one(feed: Feed, clock: Clock, tmp_path: Path) -> None:
    feed.says(BARS, page({"c": 1}, next_url=f"{feed.url}/p2"))
    feed.says("/p2", page({"c": 2}, next_url=f"{feed.url}/p3"))
    feed.says("/p3", Answer(b'{"status":"OK","results":[{"c":'), page({"c": 3}))
    folder = landing_folder(str(tmp_path), source_of())
    with pytest.raises(FeedError, match="GET /p3: the answer is not whole JSON"):
        download(client_of(feed, clock), source_of(), folder, DAY)
    assert not list(folder.glob("to=*")), "an incomplete request must not be seen"
    feed.asked.clear()
    download(client_of(feed, clock), source_of(), folder, DAY)
    assert feed.asked == ["/p3"]
    assert list(stored(folder).values()) == [[{"c": 1}], [{"c": 2}], [{"c": 3}]]
    feed.asked.clear()
    download(client_of(feed, clock), source_of(), folder, DAY)
    assert feed.asked == []


def test_a_next_url_that_loops_is_an_error(feed: Feed, clock: Clock, tmp_path: Path) -> None:
    feed.says(BARS, page({"c": 1}, next_url=f"{feed.url}/p2"))
    feed.says("/p2", page({"c": 2}, next_url=f"{feed.url}/p2"))
    folder = landing_folder(str(tmp_path), source_of())
    with pytest.raises(FeedError, match="GET /p2: next_url leads back to /p2"):
        download(client_of(feed, clock), source_of(), folder, DAY)
    assert list(stored(folder).values()) == [[{"c": 1}]]


def test_pages_of_another_request_are_not_mixed_in(feed: Feed, clock: Clock, tmp_path: Path) -> None:
    feed.says(BARS, page({"c": 1}, next_url=f"{feed.url}/p2"))
    feed.says("/p2", Answer(b"{"), page({"c": 2}))
    folder = landing_folder(str(tmp_path), source_of())
    with pytest.raises(FeedError):
        download(client_of(feed, clock), source_of(), folder, DAY)
    smaller = source_of(page_limit=10)
    feed.says(BARS, page({"c": 1}, {"c": 2}))
    download(client_of(feed, clock), smaller, folder, DAY)
    assert list(stored(folder).values()) == [[{"c": 1}, {"c": 2}]]


def test_the_next_day_asks_again_for_the_days_that_may_be_corrected(feed: Feed, clock: Clock, tmp_path: Path) -> None:
    feed.says(BARS, page())
    feed.says("/v2/aggs/ticker/AAA/range/1/day/2024-03-07/2024-03-09", page())
    folder = landing_folder(str(tmp_path), source_of())
    download(client_of(feed, clock), source_of(correction_days=2), folder, DAY)
    download(client_of(feed, clock), source_of(correction_days=2), folder, DAY + timedelta(days=1))
    download(client_of(feed, clock), source_of(correction_days=2), folder, date(2024, 2, 1))
    assert [target.partition("?")[0][-21:] for target in feed.asked] == ["2024-03-01/2024-03-08", "2024-03-07/2024-03-09"]


def test_tickers_are_taken_from_the_feed_with_those_that_were_delisted_since(feed: Feed, clock: Clock, tmp_path: Path) -> None:
    active = page({"ticker": "A/B", "active": True})
    gone = page(
        {"ticker": "OLD", "active": False, "delisted_utc": "2024-02-01"}, {"ticker": "NEW", "active": False, "delisted_utc": "2024-03-05"}
    )
    for flag, answer in (("true", active), ("false", gone)):
        feed.says(f"/v3/reference/tickers?market=stocks&active={flag}&date=2024-03-08&order=asc&sort=ticker&limit=1000", answer)
    for ticker in ("A%2FB", "NEW"):
        feed.says(BARS.replace("AAA", ticker), page({"c": 1}))
    folder = landing_folder(str(tmp_path), source_of())
    said: list[str] = []
    download(client_of(feed, clock), source_of(tickers=None), folder, DAY, say=said.append)
    assert sorted(name.split("/")[1][:4] for name in stored(folder)) == ["A-B-", "NEW-"]
    assert said == ["feed 1/2 requests", "feed 2/2 requests"]


def test_a_feed_without_tickers_is_an_error(feed: Feed, clock: Clock, tmp_path: Path) -> None:
    feed.says("/v3/reference/tickers", page())
    with pytest.raises(FeedError, match="lists no tickers"):
        download(client_of(feed, clock), source_of(tickers=None), landing_folder(str(tmp_path), source_of()), DAY)


def test_grouped_daily_asks_each_session_once(feed: Feed, clock: Clock, tmp_path: Path) -> None:
    source = source_of("grouped_daily", correction_days=1)
    days = [f"/v2/aggs/grouped/locale/us/market/stocks/2024-03-{day:02d}" for day in (1, 4, 5, 6, 7, 8, 11)]
    for day in days:
        feed.says(day, page({"T": "AAA"}))
    folder = landing_folder(str(tmp_path), source)
    download(client_of(feed, clock), source, folder, DAY)
    download(client_of(feed, clock), source, folder, date(2024, 3, 11), calendar="XNYS")
    assert sorted(feed.asked) == [f"{day}?adjusted=false" for day in days]


def test_splits_and_reference_tickers(feed: Feed, clock: Clock, tmp_path: Path) -> None:
    feed.says("/v3/reference/splits", page())
    feed.says("/v3/reference/tickers", page())
    for endpoint in ("splits", "tickers"):
        source = source_of(endpoint)
        for day in (DAY, DAY, DAY - timedelta(days=1)):
            download(client_of(feed, clock), source, landing_folder(str(tmp_path), source), day)
    everything = source_of("splits", tickers=None, name="all")
    download(client_of(feed, clock), everything, landing_folder(str(tmp_path), everything), DAY)
    splits = [target for target in feed.asked if "splits" in target]
    between = "execution_date.gte=2024-03-01&execution_date.lte=2024-03-08&order=asc&sort=execution_date&limit=1000"
    assert splits == [f"/v3/reference/splits?ticker=AAA&{between}", f"/v3/reference/splits?{between}"]
    assert len(feed.asked) == 4


def test_the_key_is_nowhere_but_in_the_header(
    feed: Feed, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    caplog.set_level(logging.DEBUG)
    feed.says(BARS, Answer({}, 503), page({"c": 1}, next_url=f"{feed.url}/p2?apiKey={KEY}"))
    feed.says("/p2", Answer(b"{"))
    client = client_of(feed, clock)
    with pytest.raises(FeedError) as caught:
        download(client, source_of(), landing_folder(str(tmp_path), source_of()), DAY)
    assert feed.authorizations == {f"Bearer {KEY}"}
    assert feed.asked[-1] == "/p2"
    assert KEY not in caplog.text + repr(client) + repr(caught.value) + repr(caught.value.__cause__)
    files = [file for file in (tmp_path / "landing").rglob("*") if file.is_file()]
    assert len(files) == 3
    assert not [file for file in files if KEY.encode() in file.read_bytes() or KEY in file.name]


def test_the_landing_must_be_a_mounted_folder() -> None:
    with pytest.raises(ConfigurationError, match=r"lake.root: source feed .* found 's3a://bucket/lake'"):
        landing_folder("s3a://bucket/lake", source_of())


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    assert api_key(source_of(api_key_env="MY_KEY"), None) == KEY  # type: ignore[arg-type]
    monkeypatch.setenv("MY_KEY", "")
    with pytest.raises(
        EnvironmentMissing, match=r"environment variable MY_KEY must hold the API key of https://api\.example\.com, found nothing"
    ):
        api_key(source_of(api_key_env="MY_KEY"), None)  # type: ignore[arg-type]
    monkeypatch.setenv("MY_KEY", "two words")
    with pytest.raises(EnvironmentMissing, match="no HTTP header may hold") as caught:
        api_key(source_of(api_key_env="MY_KEY"), None)  # type: ignore[arg-type]
    assert "two words" not in str(caught.value)


def test_the_key_comes_from_a_secret_scope_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(secret_scope="market", secret_key="feed")
    with pytest.raises(EnvironmentMissing, match="secret market/feed needs Databricks"):
        api_key(source, None)  # type: ignore[arg-type]
    secrets = types.SimpleNamespace(get=lambda scope, name: f"{scope}-{name}-key")
    module = types.ModuleType("pyspark.dbutils")
    module.DBUtils = lambda spark: types.SimpleNamespace(secrets=secrets)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyspark.dbutils", module)
    assert api_key(source, None) == "market-feed-key"  # type: ignore[arg-type]
