"""Client of a market REST feed that speaks the Massive (formerly Polygon.io) API: one trusted page at a time."""

from __future__ import annotations

import itertools
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode, urlsplit

import requests
from pyspark.sql import SparkSession
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from propensity_spark.config import MassiveSource
from propensity_spark.errors import EnvironmentMissing, FeedError
from propensity_spark.ingest.pages import Page, read_page
from propensity_spark.platform import secret

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, HTTPError, TimeoutError)
_BYTES_AT_ONCE = 1 << 20


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
class _Answer:
    """An answer of the server, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class MassiveClient:
    """Asks for pages: signs, limits, retries, checks. `clock`, `sleep`, `now` and `jitter` are replaced in tests.

    An answer must be there, to its last byte, within `timeout_seconds`; all tries for a page together end at `deadline_seconds`.
    """

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
        """The body of a 200 answer. 429, 5xx, broken connections and answers that do not end are tried again until the deadline."""
        self.limit.wait()
        deadline = self.clock() + self.deadline_seconds
        for attempt in itertools.count():
            told = None
            try:
                answer = self._ask(target, min(self.timeout_seconds, deadline - self.clock()))
            except _BROKEN as error:
                problem = type(error).__name__
            else:
                if answer.status == 200:
                    return answer.body
                problem = f"HTTP {answer.status}"
                if answer.status != 429 and answer.status < 500:
                    raise FeedError(self._refusal(target, answer))
                told = _seconds(answer.headers.get("Retry-After"), self.now())
            delay = told or min(30.0, 0.5 * 2**attempt) * self.jitter(0.5, 1.5)  # told to come back at once: with our own pauses
            if self.clock() + delay > deadline:
                raise FeedError(
                    f"GET {target}: {problem} after {attempt + 1} tries; the next one, {delay:.1f} s later, would be past the deadline of "
                    f"{self.deadline_seconds:g} s. Pages had so far are kept; run again to go on from there"
                )
            if told:
                self.limit.pause(delay)
            else:
                self.sleep(delay)
            self.limit.wait()
        raise AssertionError("unreachable")

    def _ask(self, target: str, seconds: float) -> _Answer:
        """One answer to its last byte. Raises TimeoutError when it is not there after `seconds`.

        The time-out of a socket starts anew with every byte, so a server that drips would hold us for ever. Another thread reads, and is
        no longer waited for when the time is over; it ends by itself at the next bytes of the body, or with the process.
        """
        if seconds <= 0:
            raise TimeoutError
        late = threading.Event()
        answered: Future[_Answer] = Future()

        def read() -> None:
            try:
                answered.set_result(self._read(target, seconds, late))
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                answered.set_exception(error)

        threading.Thread(target=read, name="feed-answer", daemon=True).start()
        try:
            return answered.result(seconds)
        finally:
            late.set()

    def _read(self, target: str, seconds: float, late: threading.Event) -> _Answer:
        url = self.base_url.rstrip("/") + target
        with self.session.get(url, auth=self._sign, timeout=seconds, allow_redirects=False, stream=True) as answer:
            body = bytearray()
            while not late.is_set() and (some := answer.raw.read1(_BYTES_AT_ONCE, decode_content=True)):
                body += some
            return _Answer(answer.status_code, answer.headers, bytes(body))

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # As `auth`, so that no .netrc entry of the host can replace it.
        request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def _refusal(self, target: str, answer: _Answer) -> str:
        said = answer.body.decode(errors="replace").replace(self.key, "***")[:200]
        hint = "check the API key and what its plan allows" if answer.status in (401, 403) else "check the source's settings"
        return f"GET {target}: HTTP {answer.status}, expected 200; the feed said {said!r}; {hint}"


def target_of(path: str, params: dict[str, str]) -> str:
    return f"{path}?{urlencode(params)}" if params else path


def _seconds(retry_after: str | None, now: datetime) -> float | None:
    """`Retry-After` in seconds from now, whether it came as seconds or as an HTTP date; None when there is none."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\s*[0-9]+\s*", retry_after):
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - now).total_seconds())
    except (TypeError, ValueError):
        return None
