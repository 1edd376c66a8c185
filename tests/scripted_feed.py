"""A market feed that lies: a real HTTP server over a small market of which every row is known, with faults by a script.

The market can be changed between two runs, as feeds change what they said: bars corrected, late or of a renamed ticker, splits
announced late.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

KEY = "secret-key-0123456789"
Row = dict[str, Any]


@dataclass
class Market:
    """Bars by ticker and date, splits, and since when a ticker is no longer listed."""

    bars: dict[str, dict[date, Row]] = field(default_factory=dict)
    splits: list[Row] = field(default_factory=list)
    delisted: dict[str, date] = field(default_factory=dict)

    def trade(self, ticker: str, day: date, close: float, volume: float) -> None:
        start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
        row = {"v": volume, "vw": close, "o": close, "c": close, "h": close * 1.01, "l": close * 0.99, "t": start, "n": 10}
        self.bars.setdefault(ticker, {})[day] = row

    def split(self, ticker: str, day: date, ratio: float) -> None:
        self.splits.append({"id": f"{ticker}{day}", "ticker": ticker, "execution_date": str(day), "split_from": 1, "split_to": ratio})

    def rows(self, path: str, query: dict[str, str]) -> list[Row]:
        if found := re.fullmatch(r"/v2/aggs/ticker/([^/]+)/range/1/day/([^/]+)/([^/]+)", path):
            first, last = date.fromisoformat(found[2]), date.fromisoformat(found[3])
            return [row for day, row in sorted(self.bars.get(found[1], {}).items()) if first <= day <= last]
        if found := re.fullmatch(r"/v2/aggs/grouped/locale/us/market/stocks/([^/]+)", path):
            day = date.fromisoformat(found[1])
            return [{"T": ticker, **days[day]} for ticker, days in sorted(self.bars.items()) if day in days]
        if path == "/v3/reference/splits":
            rows = [row for row in self.splits if query.get("ticker", row["ticker"]) == row["ticker"]]
            return [row for row in rows if query["execution_date.gte"] <= row["execution_date"] <= query["execution_date.lte"]]
        assert path == "/v3/reference/tickers", path
        gone = query["active"] == "false"
        return [self._listed(ticker) for ticker in sorted(self.bars) if (ticker in self.delisted) is gone]

    def _listed(self, ticker: str) -> Row:
        day = self.delisted.get(ticker)
        return {"ticker": ticker, "active": day is None, **({"delisted_utc": str(day)} if day else {})}


Fault = Callable[["Handler", bytes], None]


@dataclass
class ScriptedFeed:
    """`faults`: (part of the path and query, fault), each for the first answer that it fits, in order; `always` for every such answer."""

    market: Market
    url: str = ""
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    always: dict[str, Fault] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_for(self, target: str) -> Fault | None:
        with self.lock:
            self.asked.append(target)
            plain = _plain(target)
            for number, (part, fault) in enumerate(self.faults):
                if part in plain:
                    del self.faults[number]
                    return fault
        return next((fault for part, fault in self.always.items() if part in plain), None)


def _plain(target: str) -> str:
    """The target with its cursor spelled out, `…&page=2`."""
    path, query = urlsplit(target)[2], dict(parse_qsl(urlsplit(target).query))
    if cursor := query.get("cursor"):
        query = json.loads(base64.urlsafe_b64decode(cursor))
    return f"{path}?{urlencode({'page': 0, **query})}&"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    feed: ScriptedFeed

    def do_GET(self) -> None:
        fault = self.feed.fault_for(self.path)
        body = json.dumps(self._answer()).encode()
        (fault or send)(self, body)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> Row:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        if cursor := query.get("cursor"):
            query = json.loads(base64.urlsafe_b64decode(cursor))
        number, size = int(query.get("page", 0)), int(query.get("limit", 100))
        rows = self.feed.market.rows(parts.path, query)
        page = rows[number * size : (number + 1) * size]
        adjusted = {"adjusted": query["adjusted"] == "true"} if "adjusted" in query else {}
        body = {"status": "OK", "resultsCount": len(page), "results": page, **adjusted}
        return {**body, "next_url": self.address(number + 1)} if (number + 1) * size < len(rows) else body

    def address(self, page: int, **more: str) -> str:
        """The address of another page of this request."""
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        query = json.loads(base64.urlsafe_b64decode(query["cursor"])) if "cursor" in query else query
        cursor = base64.urlsafe_b64encode(json.dumps({**query, "page": str(page), **more}).encode()).decode()
        return f"{self.feed.url}{parts.path}?{urlencode({'cursor': cursor})}"


def send(handler: Handler, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def refused(status: int, **headers: str) -> Fault:
    """An answer other than 200; `Retry_After="3"` is the header Retry-After."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, body: send(handler, b'{"status": "ERROR"}', status, named)


def reset(handler: Handler, body: bytes) -> None:
    """The connection is reset in the middle of the answer."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + body[:10])
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def cut(handler: Handler, body: bytes) -> None:
    """Fewer bytes than the header promises, then the end."""
    handler.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:-7])
    handler.close_connection = True


def truncated(handler: Handler, body: bytes) -> None:
    """A whole answer, as HTTP goes, whose JSON breaks off."""
    send(handler, body[: len(body) // 2])


def dripping(head: bytes) -> Fault:
    """`head`, then a byte every twentieth of a second, so that no read ever times out; for 20 seconds or until the server stops."""

    def drip(handler: Handler, body: bytes) -> None:
        handler.close_connection = True
        try:
            handler.wfile.write(head)
            for _ in range(400):
                handler.wfile.write(b" ")
                if handler.feed.closing.wait(0.05):
                    return
        except OSError:
            return  # the client has left

    return drip


drip_body = dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
drip_head = dripping(b"HTTP/1.1 200 OK\r\nX-Slow: ")


def next_url(page: Callable[[int], int], **more: str) -> Fault:
    """The whole answer, but with the address of another page as the next one; `unique` in `more` is made new for each answer."""

    def lie(handler: Handler, body: bytes) -> None:
        number = int(dict(parse_qsl(_plain(handler.path).partition("?")[2].rstrip("&")))["page"])
        fresh = {name: str(time.monotonic_ns()) for name in more}
        send(handler, json.dumps({**json.loads(body), "next_url": handler.address(page(number), **fresh)}).encode())

    return lie


@contextmanager
def serve(market: Market) -> Iterator[ScriptedFeed]:
    feed = ScriptedFeed(market)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisFeed", (Handler,), {"feed": feed}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    feed.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield feed
    finally:
        feed.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def days_before(last: date, count: int) -> list[date]:
    return [last - timedelta(days=n) for n in reversed(range(count))]
