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
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np

from propensity_spark.config import Settings
from propensity_spark.simulate.quotes import Quotes, Refused, read_date
from propensity_spark.simulate.world import load_market, simulation_of

KEY_VARIABLE = "LOCAL_FEED_KEY"
_LOG = logging.getLogger(__name__)
_Rows = list[dict[str, Any]]


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


class FeedServer(ThreadingHTTPServer):
    """A server on loopback (port 0: a free one) over `quotes`, which asks for `key` and answers no faster than `limit`."""

    daemon_threads = True

    def __init__(self, quotes: Quotes, key: str, limit: RateLimit, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.quotes, self.key, self.limit = quotes, key, limit

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FeedServer
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
        if not secrets.compare_digest(given.encode(), self.server.key.encode()):
            raise Refused(401, "Unknown API Key" if given else "API Key was not provided")
        self.server.limit.admit()
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

    def _answer(self, path: str, query: dict[str, str]) -> tuple[_Rows, dict[str, Any], int | None]:
        """All rows of a request in order, the other keys of its body, and the page size (None: a single object)."""
        quotes, adjusted = self.server.quotes, query.get("adjusted", "true").lower() != "false"
        if found := re.fullmatch(r"/v2/aggs/ticker/([^/]+)/range/(\d+)/(\w+)/([^/]+)/([^/]+)", path):
            ticker, multiplier, timespan, first, last = found.groups()
            if multiplier != "1" or timespan not in ("day", "minute"):
                raise Refused(400, f"this feed serves 1/day and 1/minute bars only, not {multiplier}/{timespan}")
            rows = quotes.bars(ticker, timespan, first, last, adjusted)
            rows = rows[::-1] if query.get("sort") == "desc" else rows
            return rows, {"ticker": ticker, "adjusted": adjusted, "queryCount": 0}, _size(query, 5000, 50_000)
        if found := re.fullmatch(r"/v2/aggs/grouped/locale/us/market/stocks/([^/]+)", path):
            rows = quotes.grouped(read_date(found[1]), adjusted)
            return rows, {"adjusted": adjusted, "queryCount": 0}, max(1, len(rows))
        if path == "/v3/reference/tickers":
            day = read_date(query["date"]) if "date" in query else None
            rows = [row for row in quotes.tickers(day) if query.get("ticker", row["ticker"]) == row["ticker"]]
            return _ordered(rows, query, ("ticker",)), {}, _size(query, 100, 1000)
        if found := re.fullmatch(r"/v3/reference/tickers/([^/]+)", path):
            day = read_date(query["date"]) if "date" in query else None
            rows = [row for row in quotes.tickers(day) if row["ticker"] == found[1]]
            if not rows:
                raise Refused(404, "Ticker not found.")
            return [], {"results": rows[0], "count": 1}, None
        if path == "/v3/reference/splits":
            return _ordered(_filtered(quotes.splits(), query), query, ("execution_date", "ticker")), {}, _size(query, 10, 1000)
        raise Refused(404, f"{path}: this feed does not serve that")


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "": lambda found, given: bool(found == given),
    ".gte": lambda found, given: bool(found >= given),
    ".gt": lambda found, given: bool(found > given),
    ".lte": lambda found, given: bool(found <= given),
    ".lt": lambda found, given: bool(found < given),
}


def _filtered(rows: _Rows, query: dict[str, str]) -> _Rows:
    """The rows that fulfil every `ticker` and `execution_date` condition of the query."""
    for name in ("ticker", "execution_date"):
        for suffix, holds in _COMPARE.items():
            if (given := query.get(f"{name}{suffix}")) is not None:
                rows = [row for row in rows if holds(row[name], given)]
    return rows


def _ordered(rows: _Rows, query: dict[str, str], allowed: tuple[str, ...]) -> _Rows:
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


def make_server(settings: Settings, as_of: date, key: str, port: int = 0, calls_per_second: int = 200) -> FeedServer:
    """A server of the built world's market (see `world.build_world`) up to `as_of`; it is not serving yet."""
    quotes = Quotes(load_market(settings), simulation_of(settings).seed, as_of)
    return FeedServer(quotes, key, RateLimit(calls_per_second, 1.0), port)


@contextmanager
def local_feed(settings: Settings, as_of: date) -> Iterator[str]:
    """Serve the built world's market up to `as_of`; yields the base URL, with a fresh key in LOCAL_FEED_KEY meanwhile."""
    before = os.environ.get(KEY_VARIABLE)
    key = secrets.token_urlsafe(24)
    with make_server(settings, as_of, key) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        os.environ[KEY_VARIABLE] = key
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()
            del os.environ[KEY_VARIABLE]
            if before is not None:
                os.environ[KEY_VARIABLE] = before


def serve(settings: Settings, port: int, as_of: date, say: Callable[[str], None]) -> None:
    """Serve until interrupted; the key is LOCAL_FEED_KEY, or a new one that is said once."""
    key = os.environ.get(KEY_VARIABLE) or secrets.token_urlsafe(24)
    with make_server(settings, as_of, key, port) as server:
        if KEY_VARIABLE not in os.environ:
            say(f"export {KEY_VARIABLE}={key}")
        say(f"serving bars up to {as_of} on {server.url} (Ctrl-C stops)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")
