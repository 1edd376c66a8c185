"""Downloads of a market feed into a landing folder, from which pages go into bronze the way dropped files do.

`<lake.root>/landing/<source>/<endpoint>-<timespan>/to=<as-of date>/<request>/page-00000.json`, the bytes as received.
Pages of a request that is not complete are under `_partial/`; `fetch` renames a complete one into place.

The last days are asked for again, since feeds correct themselves. `new_from` in the context of a request is the first date
that no earlier one covered: what a row of a date before it says anew was not known before it was ingested.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from propensity_spark.calendars import sessions
from propensity_spark.config import MassiveSource
from propensity_spark.errors import ConfigurationError, FeedError
from propensity_spark.ingest.fetch import FeedRequest, fetch_all
from propensity_spark.ingest.massive import MassiveClient, target_of

PAGES = "page-*.json"
_BAR_SIZE = {"day": "1d", "minute": "1m"}


def landing_folder(root: str, source: MassiveSource) -> Path:
    """Where the pages of a source lie. The folder must be mounted: Python writes it (on Databricks a /Volumes path)."""
    if "://" in root:
        raise ConfigurationError(
            f"lake.root: source {source.name} writes its pages there and needs a folder of the file system, such as lake/stocks or "
            f"/Volumes/<catalog>/<schema>/<volume>, found {root!r}"
        )
    kind = f"{source.endpoint}-{source.timespan}" if source.endpoint == "custom_bars" else source.endpoint
    return Path(root) / "landing" / source.name / kind


def download(
    client: MassiveClient,
    source: MassiveSource,
    folder: Path,
    as_of: date,
    *,
    calendar: str | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Bring `folder` up to `as_of`: from `source.start` at first, later again from `correction_days` before the last end.

    A range that was asked with an earlier `start` is not extended backwards. Raises FeedError at the first request that
    fails; complete requests and good pages stay.
    """
    tickers: tuple[str, ...] | None = source.tickers
    if tickers is None and source.endpoint == "custom_bars":
        reference = folder.parent / "tickers"
        fetch_all(client, _ticker_requests(source, reference, as_of), reference, as_of, source.parallel)
        tickers = _listed_tickers(reference, source)
    plan = {
        "custom_bars": lambda: _bar_requests(source, folder, as_of, tickers or ()),
        "grouped_daily": lambda: _grouped_requests(source, folder, as_of, calendar),
        "tickers": lambda: _ticker_requests(source, folder, as_of),
        "splits": lambda: _split_requests(source, folder, as_of),
    }
    requests = list(plan[source.endpoint]())
    fetch_all(client, requests, folder, as_of, source.parallel, say=lambda n: say(f"{source.name} {n}/{len(requests)} requests"))


def _bar_requests(source: MassiveSource, folder: Path, as_of: date, tickers: Iterable[str]) -> Iterable[FeedRequest]:
    covered = _covered(folder)
    for ticker in tickers:
        key = _key(ticker)
        start = _first_day(source, covered.get(key), as_of)
        if start is None:
            continue
        path = f"/v2/aggs/ticker/{quote(ticker, safe='')}/range/1/{source.timespan}/{start}/{as_of}"
        params = {"adjusted": _adjusted(source), "sort": "asc", "limit": str(min(source.page_limit, 50000))}
        context = {**_bar_context(source), "ticker": ticker, "new_from": _new_from(source, covered.get(key))}
        yield FeedRequest(key, target_of(path, params), context)


def _grouped_requests(source: MassiveSource, folder: Path, as_of: date, calendar: str | None) -> Iterable[FeedRequest]:
    """One request a session (a weekday where there is no calendar); the last `correction_days` dates again."""
    if calendar:
        days = sessions(calendar, source.start, as_of)
    else:
        every = (source.start + timedelta(days=n) for n in range((as_of - source.start).days + 1))
        days = [day for day in every if day.isoweekday() <= 5]
    covered = _covered(folder)
    for day in days:
        asked = covered.get(day.isoformat())
        if asked is None or (asked < as_of and day > as_of - timedelta(days=source.correction_days)):
            path = f"/v2/aggs/grouped/locale/us/market/stocks/{day}"
            new_from = day if asked is None else day + timedelta(days=1)
            context = {**_bar_context(source), "session_date": day.isoformat(), "new_from": new_from.isoformat()}
            yield FeedRequest(day.isoformat(), target_of(path, {"adjusted": _adjusted(source)}), context, may_be_empty=calendar is None)


def _ticker_requests(source: MassiveSource, folder: Path, as_of: date) -> Iterable[FeedRequest]:
    """The list as of `as_of`, delisted ones too: a market of survivors alone would flatter every backtest."""
    covered = _covered(folder)
    for active in ("true", "false"):
        key = f"active-{active}"
        if covered.get(key, date.min) < as_of:
            params = {"market": "stocks", "active": active, "date": str(as_of), "order": "asc", "sort": "ticker"}
            target = target_of("/v3/reference/tickers", {**params, "limit": str(min(source.page_limit, 1000))})
            yield FeedRequest(key, target, {"endpoint": "tickers", "date": str(as_of)})


def _split_requests(source: MassiveSource, folder: Path, as_of: date) -> Iterable[FeedRequest]:
    covered = _covered(folder)
    for ticker in source.tickers or (None,):
        key = _key(ticker) if ticker else "all"
        start = _first_day(source, covered.get(key), as_of)
        if start is None:
            continue
        params = {"execution_date.gte": str(start), "execution_date.lte": str(as_of), "order": "asc", "sort": "execution_date"}
        only = {"ticker": ticker} if ticker else {}
        target = target_of("/v3/reference/splits", {**only, **params, "limit": str(min(source.page_limit, 1000))})
        yield FeedRequest(key, target, {"endpoint": "splits", "new_from": _new_from(source, covered.get(key))})


def _first_day(source: MassiveSource, covered_to: date | None, as_of: date) -> date | None:
    """First day to ask for, None when `as_of` is covered or lies before the source's start."""
    if covered_to is None:
        return source.start if source.start <= as_of else None
    if covered_to >= as_of:
        return None
    return max(source.start, covered_to + timedelta(days=1 - source.correction_days))


def _new_from(source: MassiveSource, covered_to: date | None) -> str:
    """First day that no earlier request covered."""
    return (source.start if covered_to is None else covered_to + timedelta(days=1)).isoformat()


def _adjusted(source: MassiveSource) -> str:
    return str(source.adjusted).lower()


def _bar_context(source: MassiveSource) -> dict[str, str]:
    return {"endpoint": source.endpoint, "bar_size": _BAR_SIZE[source.timespan], "adjusted": _adjusted(source)}


def _key(ticker: str) -> str:
    """A folder name for a ticker: symbols are case-sensitive and may hold any character, file systems differ."""
    return f"{re.sub('[^A-Za-z0-9-]', '-', ticker).lstrip('-')}-{hashlib.sha256(ticker.encode()).hexdigest()[:8]}"


def _covered(folder: Path) -> dict[str, date]:
    """Per request key the last `to` date of a complete request."""
    covered: dict[str, date] = {}
    for day in sorted(folder.glob("to=*")):
        covered.update(dict.fromkeys((entry.name for entry in os.scandir(day)), date.fromisoformat(day.name[3:])))
    return covered


def _listed_tickers(reference: Path, source: MassiveSource) -> tuple[str, ...]:
    """Tickers of the latest list: the active ones and those delisted since `source.start`."""
    latest = max(reference.glob("to=*"))
    rows: list[dict[str, Any]] = [
        row for page in sorted(latest.glob(f"*/{PAGES}")) for row in json.loads(page.read_bytes()).get("results", [])
    ]
    names = {row["ticker"] for row in rows if row.get("active", True) or str(row.get("delisted_utc", "9")) >= str(source.start)}
    if not names:
        raise FeedError(
            f"{source.name}: the feed lists no tickers (/v3/reference/tickers); name them under `tickers` in the source's settings"
        )
    return tuple(sorted(names))
