"""One request of a market feed, page after page into its folder; it is seen there when it is whole, and not before.

Pages gather under `_partial/` (Spark does not see names that begin with `_`); a complete request is renamed into place, so what can be
seen is never short, and a re-run goes on after the last good page.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from propensity_spark.errors import FeedError
from propensity_spark.ingest.massive import MassiveClient

_MOST_REPEATS = 3  # pages with the same rows in one request: two are a hiccup, more are a feed that goes in circles


@dataclass(frozen=True)
class FeedRequest:
    """One range of one thing: `key` names it from day to day, `target` is path and query, `context` what its rows do not say.

    `may_be_empty`: false where an answer without any row means that the feed does not have it yet.
    """

    key: str
    target: str
    context: dict[str, str]
    may_be_empty: bool = True


def fetch_all(
    client: MassiveClient,
    requests: Iterable[FeedRequest],
    folder: Path,
    as_of: date,
    parallel: int,
    *,
    say: Callable[[int], None] = lambda done: None,
) -> None:
    """All pages of all requests into `folder/to=<as_of>/<request>/`. Raises the first FeedError; complete requests and good pages stay."""
    requests = list(requests)
    step = max(1, len(requests) // 10)
    with ThreadPoolExecutor(parallel, "feed") as pool:
        futures = [pool.submit(_fetch, client, request, folder, as_of) for request in requests]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                if done % step == 0 or done == len(futures):
                    say(done)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _fetch(client: MassiveClient, request: FeedRequest, folder: Path, as_of: date) -> None:
    """All pages of one request, going on after those already there, then the rename that makes them count."""
    partial = folder / "_partial" / f"to={as_of}" / request.key
    final = folder / f"to={as_of}" / request.key
    _begin(partial, request)
    targets: list[str | None] = [request.target]
    targets += [note.read_text() or None for note in sorted(partial.glob("_next-*.txt"))]
    said = Counter(_rows_hash(json.loads(_page(partial, number).read_bytes()).get("results", [])) for number in range(len(targets) - 1))
    while (target := targets[-1]) is not None:
        number = len(targets) - 1
        page = client.page(target, adjusted=request.context.get("adjusted"), first=number == 0)
        rows = _rows_hash(page.results)
        said[rows] += 1
        if page.next_target in targets:
            raise FeedError(f"GET {target}: next_url leads back to {page.next_target}, which was read before. Earlier pages are kept")
        if said[rows] > _MOST_REPEATS:
            raise FeedError(f"GET {target}: the same rows for the {said[rows]}th time, next_url goes in circles. Earlier pages are kept")
        if not (page.results or page.next_target or number or request.may_be_empty):
            raise FeedError(f"GET {target}: not one row, for a session of the exchange: the feed does not have it (yet). Run again later")
        _write(_page(partial, number), page.body)
        _write(partial / f"_next-{number:05d}.txt", (page.next_target or "").encode())
        targets.append(page.next_target)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(final)


def _begin(partial: Path, request: FeedRequest) -> None:
    """Make the folder of an incomplete request; pages of another request in it are thrown away."""
    asked = json.dumps({"key": request.key, "target": request.target, "context": request.context}, sort_keys=True)
    if partial.exists() and (not (partial / "_request.json").exists() or (partial / "_request.json").read_text() != asked):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    _write(partial / "_request.json", asked.encode())


def _page(folder: Path, number: int) -> Path:
    return folder / f"page-{number:05d}.json"


def _rows_hash(results: list[Any]) -> str:
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


def _write(path: Path, body: bytes) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(f"_{path.name}.tmp")
    unfinished.write_bytes(body)
    os.replace(unfinished, path)
