"""One answer of the market feed: which can be trusted, where the next one is, and what of it is stored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from propensity_spark.errors import FeedError


@dataclass(frozen=True)
class Page:
    """One answer that can be trusted: its bytes as stored, its rows, and where the next page is (path and query)."""

    body: bytes
    results: list[Any]
    next_target: str | None


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
    if not isinstance(next_url, str) or not _is_url(next_url):
        raise fault(f"expected an address as next_url, found {_hide(repr(next_url), key)}")
    if urlsplit(next_url)[:2] != urlsplit(base_url)[:2]:
        raise fault(f"next_url leads to {urlsplit(next_url).netloc!r}, expected the host of {base_url}; the key is not sent there")
    stored = body.replace(json.dumps(next_url).encode(), json.dumps(_without_key(next_url)).encode())
    parts = urlsplit(_without_key(next_url))
    return Page(_hide_bytes(stored, key), results, parts.path + (f"?{parts.query}" if parts.query else ""))


def _is_url(text: str) -> bool:
    try:
        return bool(urlsplit(text).netloc)
    except ValueError:
        return False


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
