"""A real HTTP server on loopback that speaks a part of the Massive (formerly Polygon.io) API, over the simulated market.

Paging by `limit` and `next_url`, an API key, a rate limit, and the API's error bodies, so that the default run
exercises the real client. It serves nothing that lies after its as-of date.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from zoneinfo import ZoneInfo

import numpy as np

from propensity_spark.calendars import exchange_zone, session_times
from propensity_spark.config import Settings
from propensity_spark.simulate.market import Market
from propensity_spark.simulate.minutes import minute_bars
from propensity_spark.simulate.world import load_market, simulation_of

KEY_VARIABLE = "LOCAL_FEED_KEY"
_LOG = logging.getLogger(__name__)
_PRICES = (("o", "open"), ("h", "high"), ("l", "low"), ("c", "close"), ("vw", "vwap"))
Answer = tuple[list[dict[str, Any]], dict[str, Any]]


class Refused(Exception):
    """An answer other than 200: its status code and the text of the error body."""

    def __init__(self, status: int, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


@dataclass
class RateLimit:
    """At most `calls` answers in any `seconds`; thread-safe."""

    calls: int
    seconds: float
    clock: Callable[[], float] = time.monotonic
    _served: deque[float] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def admit(self) -> None:
        """Count one call. Raises Refused (429, with the whole seconds to wait) when there were too many."""
        with self._lock:
            now = self.clock()
            while self._served and self._served[0] <= now - self.seconds:
                self._served.popleft()
            if len(self._served) >= self.calls:
                wait = max(1, int(np.ceil(self._served[0] + self.seconds - now)))
                raise Refused(429, "You've exceeded the maximum requests per minute, please wait or upgrade your subscription.", wait)
            self._served.append(now)


@dataclass(frozen=True)
class Feed:
    """What the server knows: the market, the last date it serves, the sectors' names aside, and its limits."""

    market: Market
    seed: int
    as_of: date
    key: str
    limit: RateLimit

    @property
    def _last(self) -> int:
        return self.market.session_on_or_before(self.as_of)

    def bars(self, ticker: str, timespan: str, first: str, last: str, adjusted: bool) -> list[dict[str, Any]]:
        """Ascending bars whose start lies in [first, last] (dates of the exchange, or milliseconds); none for an unknown ticker."""
        lower, upper = self._instant(first), self._instant(last, end_of_day=True)
        found = np.flatnonzero(self.market.item_ids == ticker)
        if not len(found):
            return []
        item = int(found[0])
        window = [
            session
            for session in np.flatnonzero(self.market.traded[: self._last + 1, item])
            if lower - 86_400_000 < self._midnight(session) <= upper
        ]
        make = self._daily if timespan == "day" else self._minutes
        return [bar for session in window for bar in make(int(session), item, adjusted) if lower <= bar["t"] <= upper]

    def grouped(self, day: date, adjusted: bool) -> list[dict[str, Any]]:
        """One bar per item that traded on `day`; `t` is the end of the session's day, 16:00 at the exchange."""
        session = self.market.session_on_or_before(day)
        if session < 0 or session > self._last or self.market.dates[session] != np.datetime64(day):
            return []
        end = int(datetime(day.year, day.month, day.day, 16, tzinfo=self._zone).timestamp() * 1000)
        items = np.flatnonzero(self.market.traded[session])
        return [{"T": str(self.market.item_ids[i]), **self._daily(session, int(i), adjusted)[0], "t": end} for i in items]

    def tickers(self, day: date | None = None) -> list[dict[str, Any]]:
        """The items listed by `day` (default and at most: the as-of date), by ticker."""
        day = min(day or self.as_of, self.as_of)
        session = self.market.session_on_or_before(day)
        names = sorted((str(self.market.item_ids[i]), i) for i in np.flatnonzero(self.market.listed <= session))
        return [
            {
                "ticker": ticker,
                "name": f"{ticker} {self.market.sectors[i]} Corp",
                "market": "stocks",
                "locale": "us",
                "primary_exchange": str(self.market.calendar),
                "type": "CS",
                "active": True,
                "currency_name": "usd",
                "list_date": str(self.market.dates[self.market.listed[i]]),
                "last_updated_utc": f"{day}T00:00:00Z",
            }
            for ticker, i in names
        ]

    def splits(self) -> list[dict[str, Any]]:
        """The splits up to the as-of date, by execution date; a reverse split has the greater number in `split_from`."""
        rows = []
        for session, item, ratio in zip(self.market.split_session, self.market.split_item, self.market.split_ratio, strict=True):
            if session <= self._last:
                ticker, day = str(self.market.item_ids[item]), str(self.market.dates[session])
                old, new = (1.0, float(ratio)) if ratio >= 1 else (float(round(1 / ratio)), 1.0)
                rows.append({"id": f"E{ticker}{day}", "execution_date": day, "ticker": ticker, "split_from": old, "split_to": new})
        return sorted(rows, key=lambda row: (row["execution_date"], row["ticker"]))

    @property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(exchange_zone(str(self.market.calendar)))

    def _instant(self, text: str, end_of_day: bool = False) -> int:
        """Milliseconds of a date (its first or last millisecond at the exchange) or of a millisecond text."""
        if re.fullmatch(r"\d{9,15}", text):
            return int(text)
        day = _date(text) + timedelta(days=1 if end_of_day else 0)
        return int(datetime(day.year, day.month, day.day, tzinfo=self._zone).timestamp() * 1000) - (1 if end_of_day else 0)

    def _midnight(self, session: int) -> int:
        return self._instant(str(self.market.dates[session]))

    def _share(self, session: int, item: int, adjusted: bool) -> float:
        """What a reported price is divided by: 1, or the ratios of the later splits that this feed knows of."""
        known = self.market.split_factor[self._last, item] if adjusted else self.market.split_factor[session, item]
        return float(self.market.split_factor[session, item] / known)

    def _daily(self, session: int, item: int, adjusted: bool) -> list[dict[str, Any]]:
        share = self._share(session, item, adjusted)
        bar = {letter: round(float(getattr(self.market, name)[session, item]) / share, 6) for letter, name in _PRICES}
        volume, trades = self.market.volume[session, item], self.market.trade_count[session, item]
        return [{"v": float(volume * share), **bar, "t": self._midnight(session), "n": int(trades)}]

    def _minutes(self, session: int, item: int, adjusted: bool) -> list[dict[str, Any]]:
        day = self.market.dates[session].item()
        ((_, opens, closes),) = session_times(str(self.market.calendar), day, day)
        count = int((closes - opens).total_seconds() // 60)
        made = minute_bars(self.market, self.seed, session, item, count)
        share, first = self._share(session, item, adjusted), int(opens.timestamp() * 1000)
        return [
            {
                "v": float(made["volume"][k] * share),
                **{letter: round(float(made[name][k]) / share, 6) for letter, name in _PRICES},
                "t": first + 60_000 * k,
                "n": int(made["trade_count"][k]),
            }
            for k in range(count)
            if made["volume"][k] > 0
        ]


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise Refused(400, f"could not parse the date {text!r}; expected YYYY-MM-DD or a millisecond timestamp") from error


class _Handler(BaseHTTPRequestHandler):
    """One request; `feed` is set on the subclass that a server is made with."""

    feed: Feed
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        request_id = hashlib.sha256(self.path.split("apiKey=")[0].encode()).hexdigest()[:32]
        try:
            body = {**self._body(), "status": "OK", "request_id": request_id}
            self._send(200, body)
        except Refused as refused:
            status = "NOT_FOUND" if refused.status == 404 else "ERROR"
            body = {"status": status, "request_id": request_id, "error": str(refused)}
            self._send(refused.status, body, refused.retry_after)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests go to the log without their query, which may hold the key."""
        _LOG.debug("%s %s", self.command, urlsplit(self.path).path)

    def _send(self, status: int, body: dict[str, Any], retry_after: int | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> dict[str, Any]:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        given = self.headers.get("Authorization", "").removeprefix("Bearer ") or query.pop("apiKey", "")
        query.pop("apiKey", None)
        if not secrets.compare_digest(given.encode(), self.feed.key.encode()):
            raise Refused(401, "Unknown API Key" if given else "API Key was not provided")
        self.feed.limit.admit()
        offset = 0
        if "cursor" in query:
            query, offset = _read_cursor(query["cursor"])
        rows, extra, size = self._answer(parts.path, query)
        if size is None:
            return extra
        page = rows[offset : offset + size]
        body = {**extra, "results": page, "count": len(page)}
        if "queryCount" in extra:
            body |= {"queryCount": len(page), "resultsCount": len(page)}
        if offset + size < len(rows):
            body["next_url"] = f"http://{self.headers['Host']}{parts.path}?{urlencode({'cursor': _cursor(query, offset + size)})}"
        return body

    def _answer(self, path: str, query: dict[str, str]) -> tuple[list[dict[str, Any]], dict[str, Any], int | None]:
        """All rows of a request in order, the other keys of its body, and the page size (None: a single object)."""
        feed, adjusted = self.feed, query.get("adjusted", "true").lower() != "false"
        if found := re.fullmatch(r"/v2/aggs/ticker/([^/]+)/range/(\d+)/(\w+)/([^/]+)/([^/]+)", path):
            ticker, multiplier, timespan, first, last = found.groups()
            if multiplier != "1" or timespan not in ("day", "minute"):
                raise Refused(400, f"this feed serves 1/day and 1/minute bars only, not {multiplier}/{timespan}")
            rows = feed.bars(ticker, timespan, first, last, adjusted)
            rows = rows[::-1] if query.get("sort") == "desc" else rows
            return rows, {"ticker": ticker, "adjusted": adjusted, "queryCount": 0}, _size(query, 5000, 50_000)
        if found := re.fullmatch(r"/v2/aggs/grouped/locale/us/market/stocks/([^/]+)", path):
            rows = feed.grouped(_date(found[1]), adjusted)
            return rows, {"adjusted": adjusted, "queryCount": 0}, max(1, len(rows))
        if path == "/v3/reference/tickers":
            day = _date(query["date"]) if "date" in query else None
            rows = [row for row in feed.tickers(day) if query.get("ticker", row["ticker"]) == row["ticker"]]
            return _ordered(rows, query, ("ticker",)), {}, _size(query, 100, 1000)
        if found := re.fullmatch(r"/v3/reference/tickers/([^/]+)", path):
            day = _date(query["date"]) if "date" in query else None
            rows = [row for row in feed.tickers(day) if row["ticker"] == found[1]]
            if not rows:
                raise Refused(404, "Ticker not found.")
            return [], {"results": rows[0], "count": 1}, None
        if path == "/v3/reference/splits":
            return _ordered(_filtered(feed.splits(), query), query, ("execution_date", "ticker")), {}, _size(query, 10, 1000)
        raise Refused(404, f"{path}: this feed does not serve that")


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "": lambda found, given: bool(found == given),
    ".gte": lambda found, given: bool(found >= given),
    ".gt": lambda found, given: bool(found > given),
    ".lte": lambda found, given: bool(found <= given),
    ".lt": lambda found, given: bool(found < given),
}


def _filtered(rows: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    """The rows that fulfil every `ticker` and `execution_date` condition of the query."""
    for name in ("ticker", "execution_date"):
        for suffix, holds in _COMPARE.items():
            if (given := query.get(f"{name}{suffix}")) is not None:
                rows = [row for row in rows if holds(row[name], given)]
    return rows


def _ordered(rows: list[dict[str, Any]], query: dict[str, str], allowed: tuple[str, ...]) -> list[dict[str, Any]]:
    name = query.get("sort", allowed[0])
    if name not in allowed:
        raise Refused(400, f"sort: expected one of {list(allowed)}, found {name!r}")
    return sorted(rows, key=lambda row: str(row[name]), reverse=query.get("order") == "desc")


def _size(query: dict[str, str], default: int, most: int) -> int:
    text = query.get("limit", str(default))
    if not re.fullmatch(r"\d{1,6}", text) or not 1 <= int(text) <= most:
        raise Refused(400, f"limit: expected a whole number from 1 to {most}, found {text!r}")
    return int(text)


def _cursor(query: dict[str, str], offset: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([query, offset]).encode()).decode()


def _read_cursor(text: str) -> tuple[dict[str, str], int]:
    try:
        query, offset = json.loads(base64.urlsafe_b64decode(text.encode()))
        return dict(query), int(offset)
    except (ValueError, TypeError, binascii.Error) as error:
        raise Refused(400, "cursor: not one that this feed has given out") from error


def make_server(feed: Feed, port: int = 0) -> ThreadingHTTPServer:
    """A server on loopback that is not serving yet; port 0 takes a free one."""
    handler = type("FeedHandler", (_Handler,), {"feed": feed})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    return server


def make_feed(settings: Settings, as_of: date, key: str, calls: int = 200, seconds: float = 1.0) -> Feed:
    """The feed of the world that was built (see `world.build_world`): `calls` answers in any `seconds`."""
    return Feed(load_market(settings), simulation_of(settings).seed, as_of, key, RateLimit(calls, seconds))


@contextmanager
def local_feed(settings: Settings, as_of: date) -> Iterator[str]:
    """Serve the built world's market up to `as_of`; yields the base URL, with a fresh key in LOCAL_FEED_KEY meanwhile."""
    before = os.environ.get(KEY_VARIABLE)
    os.environ[KEY_VARIABLE] = secrets.token_urlsafe(24)
    server = make_server(make_feed(settings, as_of, os.environ[KEY_VARIABLE]))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        if before is None:
            del os.environ[KEY_VARIABLE]
        else:
            os.environ[KEY_VARIABLE] = before


def serve(settings: Settings, port: int, as_of: date, say: Callable[[str], None]) -> None:
    """Serve until interrupted; the key is LOCAL_FEED_KEY, or a new one that is said once."""
    key = os.environ.get(KEY_VARIABLE) or secrets.token_urlsafe(24)
    server = make_server(make_feed(settings, as_of, key), port)
    if KEY_VARIABLE not in os.environ:
        say(f"export {KEY_VARIABLE}={key}")
    say(f"serving bars up to {as_of} on http://127.0.0.1:{server.server_address[1]} (Ctrl-C stops)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("stopped")
    finally:
        server.server_close()
