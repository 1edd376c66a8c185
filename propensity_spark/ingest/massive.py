"""Client of a market REST feed that speaks the Massive (formerly Polygon.io) API: one trusted page at a time."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import requests
from pyspark.sql import SparkSession
from requests.adapters import HTTPAdapter

from propensity_spark.config import MassiveSource
from propensity_spark.errors import EnvironmentMissing, FeedError
from propensity_spark.platform import secret

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def api_key(source: MassiveSource, spark: SparkSession | None, scope: str | None = None) -> str:
    """The key from the Databricks secret scope when one is configured, else from the environment variable.

    `scope`: the one of the whole run, for a source that names a `secret_key` and no scope of its own.
    Raises EnvironmentMissing, which never shows the key itself.
    """
    scope = source.secret_scope or scope
    if scope and source.secret_key:
        where = f"secret {scope}/{source.secret_key}"
        try:
            key = secret(spark, scope, source.secret_key)
        except EnvironmentMissing as error:
            raise EnvironmentMissing(f"{source.name}: {error}") from error
    else:
        where = f"environment variable {source.api_key_env}"
        key = os.environ.get(source.api_key_env, "").strip()
    if not re.fullmatch(r"[!-~]+", key):
        found = "nothing" if not key else "blanks or characters that no HTTP header may hold"
        raise EnvironmentMissing(f"{source.name}: {where} must hold the API key of {source.base_url}, found {found}")
    return key


@dataclass
class CallLimit:
    """At most `calls_per_minute` calls in any 60 seconds, counted over all threads that share this object."""

    calls_per_minute: int
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _opens_at: float = 0.0

    def __post_init__(self) -> None:
        self._starts: deque[float] = deque(maxlen=self.calls_per_minute)

    def wait(self) -> None:
        """Sleep until one more call may start, and count it."""
        with self._lock:
            now = self.clock()
            start = max(now, self._opens_at)
            if len(self._starts) == self.calls_per_minute:
                start = max(start, self._starts[0] + 60.0)
            self._starts.append(start)
        if start > now:
            self.sleep(start - now)

    def pause(self, seconds: float) -> None:
        """No call of any thread starts before `seconds` from now (the server said so)."""
        with self._lock:
            self._opens_at = max(self._opens_at, self.clock() + seconds)


@dataclass(frozen=True)
class Page:
    """One answer that can be trusted: its bytes as stored, its rows, and where the next page is (path and query)."""

    body: bytes
    results: list[Any]
    next_target: str | None


@dataclass
class MassiveClient:
    """Asks for pages: signs, limits, retries, checks. `clock`, `sleep`, `now` and `jitter` are replaced in tests."""

    base_url: str
    key: str = field(repr=False)
    limit: CallLimit
    parallel: int = 4
    timeout_seconds: float = 30.0
    deadline_seconds: float = 300.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    jitter: Callable[[float, float], float] = random.uniform

    def __post_init__(self) -> None:
        self.session = requests.Session()
        # A loopback feed is never behind a proxy; elsewhere proxies of the environment count.
        self.session.trust_env = urlsplit(self.base_url).hostname not in _LOOPBACK
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=self.parallel))

    def page(self, target: str, *, adjusted: str | None = None, first: bool = True) -> Page:
        """GET `target` (path and query, without key) and check the answer. Raises FeedError that names the request."""
        return read_page(self._get(target), target, self.base_url, key=self.key, adjusted=adjusted, first=first)

    def _get(self, target: str) -> bytes:
        """The body of a 200 answer. 429, 5xx and broken connections are tried again until the deadline."""
        self.limit.wait()
        deadline = self.clock() + self.deadline_seconds
        for attempt in itertools.count():
            retry_after = None
            try:
                answer = self.session.get(
                    self.base_url.rstrip("/") + target, auth=self._sign, timeout=self.timeout_seconds, allow_redirects=False
                )
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                problem = type(error).__name__
            else:
                if answer.status_code == 200:
                    return answer.content
                problem = f"HTTP {answer.status_code}"
                if answer.status_code != 429 and answer.status_code < 500:
                    raise FeedError(self._refusal(target, answer))
                retry_after = _seconds(answer.headers.get("Retry-After"), self.now())
            delay = retry_after if retry_after is not None else min(30.0, 0.5 * 2**attempt) * self.jitter(0.5, 1.5)
            if self.clock() + delay > deadline:
                raise FeedError(
                    f"GET {target}: {problem} after {attempt + 1} tries; the next one, {delay:.1f} s later, would be past the deadline of "
                    f"{self.deadline_seconds:g} s. Pages had so far are kept; run again to go on from there"
                )
            if retry_after is None:
                self.sleep(delay)
            else:
                self.limit.pause(delay)
            self.limit.wait()
        raise AssertionError("unreachable")

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # As `auth`, so that no .netrc entry of the host can replace it.
        request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def _refusal(self, target: str, answer: requests.Response) -> str:
        said = answer.text[:200].replace(self.key, "***")
        hint = "check the API key and what its plan allows" if answer.status_code in (401, 403) else "check the source's settings"
        return f"GET {target}: HTTP {answer.status_code}, expected 200; the feed said {said!r}; {hint}"


def target_of(path: str, params: dict[str, str]) -> str:
    return f"{path}?{urlencode(params)}" if params else path


def read_page(body: bytes, target: str, base_url: str, *, key: str = "", adjusted: str | None = None, first: bool = True) -> Page:
    """Check one answer: whole JSON, status OK, results there (or said to be none), next page on the same host.

    `adjusted`: what was asked ("true" or "false"); an answer that says otherwise is refused, since prices would be on
    another scale. `first`: the first page of its request; where it is also the last, its count must be that of its rows.
    An API key inside `next_url` is cut out of the target and of the stored bytes.
    """

    def fault(text: str) -> FeedError:
        return FeedError(f"GET {target}: {text}. Earlier pages are kept; run again to go on after the last good one")

    try:
        answer = json.loads(body.decode("utf-8"))
    except ValueError as error:
        raise fault(f"the answer is not whole JSON ({len(body)} bytes, {type(error).__name__})") from None
    if not isinstance(answer, dict) or answer.get("status") not in ("OK", "DELAYED"):
        status = answer.get("status") if isinstance(answer, dict) else type(answer).__name__
        raise fault(f"expected status OK, found {_hide(repr(status), key)}")
    results = answer.get("results")
    counts = [answer[name] for name in ("resultsCount", "queryCount", "count") if name in answer]
    if results is None and 0 in counts:
        results = []
    if not isinstance(results, list):
        raise fault(f"expected a list `results`, found {type(results).__name__} with counts {counts}")
    if first and not answer.get("next_url") and answer.get("resultsCount", len(results)) != len(results):
        raise fault(f"it promises {answer['resultsCount']} results and holds {len(results)}")
    if adjusted is not None and str(answer.get("adjusted", adjusted)).lower() != adjusted:
        raise fault(f"asked for adjusted={adjusted}, the answer says adjusted={answer['adjusted']}")
    next_url = answer.get("next_url")
    if not next_url:
        return Page(_hide_bytes(body, key), results, None)
    if urlsplit(next_url)[:2] != urlsplit(base_url)[:2]:
        raise fault(f"next_url leads to {urlsplit(next_url).netloc!r}, expected the host of {base_url}; the key is not sent there")
    stored = body.replace(json.dumps(next_url).encode(), json.dumps(_without_key(next_url)).encode())
    parts = urlsplit(_without_key(next_url))
    return Page(_hide_bytes(stored, key), results, parts.path + (f"?{parts.query}" if parts.query else ""))


def _without_key(url: str) -> str:
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    if not any(name.lower() == "apikey" for name, _ in query):
        return url
    return parts._replace(query=urlencode([(name, value) for name, value in query if name.lower() != "apikey"])).geturl()


def _hide(text: str, key: str) -> str:
    return text.replace(key, "***") if key else text


def _hide_bytes(body: bytes, key: str) -> bytes:
    """A feed that echoes the key must not bring it into the lake. Keys under 8 characters could be anything: left."""
    if len(key) < 8:
        return body
    return body.replace(key.encode(), b"***").replace(quote(key, safe="").encode(), b"***")


def _seconds(retry_after: str | None, now: datetime) -> float | None:
    """`Retry-After` in seconds from now, whether it came as seconds or as an HTTP date; None when there is none."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - now).total_seconds())
    except (TypeError, ValueError):
        return None
