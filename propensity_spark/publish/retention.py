"""What happens to runs that are no longer current: back to an earlier one, and the removal of old ones and of litter.

"Before" is told by the runs themselves: each manifest names the run that it replaced. Clocks decide about ages alone, and then the
store's own, for both ends.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from propensity_spark.config import PublishSettings
from propensity_spark.errors import NoEarlierRun, PublishConflict, PublishedRunInvalid
from propensity_spark.publish.manifest import ATTEMPT, MANIFEST, POINTER, RUN, Manifest, current_manifest, current_run, read_manifest
from propensity_spark.publish.read import day_folder
from propensity_spark.publish.store import Store, open_store
from propensity_spark.publish.verify import Verified, verify_run
from propensity_spark.publish.write import point_to

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tidied:
    """What was removed: old runs, folders without a manifest, uploads in parts that were never ended."""

    runs: int = 0
    unfinished: int = 0
    uploads: int = 0


@dataclass(frozen=True)
class StoredRun:
    """A complete run of a date: what it replaced, and when its newest file was stored."""

    run_id: str
    replaces: str | None
    stored_at: datetime


def rollback(uri: str, as_of_date: date | str, to: str | None = None) -> Verified:
    """Make an earlier run of a date current again; it is verified first, and no file of any run changes.

    `to`: its run id; null: the run that the current one replaced. Holds until the date is published again. Raises NoEarlierRun when
    there is no such run, PublishedRunInvalid when it is damaged, PublishConflict when somebody publishes the date meanwhile.
    """
    store, day = open_store(uri), day_folder(as_of_date)
    if store.read(f"{day}/{POINTER}") is None:
        current_manifest(store, day)  # raises: nothing was published
    with store.lock(day):
        before = store.read(f"{day}/{POINTER}")
        target = _earlier(store, day, to)
        verified = verify_run(store, target)
        point_to(store, day, target.run_id, before)
    return verified


def _earlier(store: Store, day: str, to: str | None) -> Manifest:
    where = store.spark_path(day)
    if to is None:
        current = current_manifest(store, day)
        to = current.replaces
        if to is None:
            raise NoEarlierRun(f"{where}: run {current.run_id} replaced none. {_others(store, day, current.run_id)}")
    if store.read(f"{day}/{RUN}{to}/{MANIFEST}") is None:
        raise NoEarlierRun(f"{where}: expected run {to}, found none (was it removed by retention?). {_others(store, day, to)}")
    return read_manifest(store, day, to)


def _others(store: Store, day: str, but: str) -> str:
    _, changed = store.listing()
    stored = (key.split("/") for key in changed if key.startswith(f"{day}/{RUN}") and key.endswith(f"/{MANIFEST}"))
    runs = sorted(folder.removeprefix(RUN) for _, folder, *_ in stored)
    others = [run_id for run_id in runs if run_id != but]
    return f"Complete runs of the date: {', '.join(others)}; name one with --to" if others else "There is no other complete run of the date"


def tidy(uri: str, settings: PublishSettings) -> Tidied:
    """Remove what `publish.keep_runs`, `keep_days` and `leftovers_hours` say, of every date. Again: nothing more is removed.

    Never removed: the current run of a date, and where none is current the newest. A run goes manifest first, so one that is half gone
    is no run. A date that is just being published is passed over.
    """
    store = open_store(uri)
    now, changed = store.listing()
    runs = unfinished = 0
    for day, folders in sorted(_folders(changed).items()):
        if len(folders) == 1 and folders[0].complete:
            continue
        try:
            with store.lock(day):
                runs += _remove_expired(store, day, folders, settings, now)
                unfinished += _remove_unfinished(store, day, folders, settings, now)
        except (PublishConflict, PublishedRunInvalid) as error:
            log.warning("%s is not tidied: %s", day, error)
    return Tidied(runs, unfinished, store.abort_uploads(timedelta(hours=settings.leftovers_hours)))


def expired(
    runs: Sequence[StoredRun], current: str | None, *, keep_runs: int | None, keep_days: int | None, now: datetime
) -> list[StoredRun]:
    """The runs of one date that are to go: beyond the `keep_runs` newest, or stored more than `keep_days` days ago (null: no limit).

    Newest first: the current run, the one it replaced, the one that replaced, and so on; then the others by the time they were stored.
    The first of them always stays.
    """
    by_id = {run.run_id: run for run in runs}
    ordered: list[StoredRun] = []
    following = by_id.pop(current, None) if current else None
    while following:
        ordered.append(following)
        following = by_id.pop(following.replaces, None) if following.replaces else None
    ordered += sorted(by_id.values(), key=lambda run: (run.stored_at, run.run_id), reverse=True)
    return [
        run
        for place, run in enumerate(ordered)
        if place > 0
        and ((keep_runs is not None and place >= keep_runs) or (keep_days is not None and now - run.stored_at > timedelta(days=keep_days)))
    ]


@dataclass(frozen=True)
class _Folder:
    """Folder of a run or an attempt: whether it has a manifest, and the last change of a file in it."""

    name: str
    complete: bool
    changed: datetime


def _folders(changed: Mapping[str, datetime]) -> dict[str, list[_Folder]]:
    """Date folder → its runs and attempts, from the keys of all files."""
    moments: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    for key, moment in changed.items():
        day, _, inner = key.partition("/")
        folder, slash, _ = inner.partition("/")
        if slash and folder.startswith((RUN, ATTEMPT)):
            moments[day, folder].append(moment)
    found: dict[str, list[_Folder]] = defaultdict(list)
    for (day, folder), times in moments.items():
        found[day].append(_Folder(folder, f"{day}/{folder}/{MANIFEST}" in changed, max(times)))
    return found


def _remove_expired(store: Store, day: str, folders: Sequence[_Folder], settings: PublishSettings, now: datetime) -> int:
    if settings.keep_runs is None and settings.keep_days is None:
        return 0
    complete = [(folder.name.removeprefix(RUN), folder.changed) for folder in folders if folder.complete]
    runs = [StoredRun(run_id, read_manifest(store, day, run_id).replaces, changed) for run_id, changed in complete]
    gone = expired(runs, current_run(store, day), keep_runs=settings.keep_runs, keep_days=settings.keep_days, now=now)
    return sum(_remove(store, day, run.run_id) for run in gone)


def _remove_unfinished(store: Store, day: str, folders: Sequence[_Folder], settings: PublishSettings, now: datetime) -> int:
    """Folders without a manifest whose newest file is old: of a writer that died, or of a removal that did."""
    current, age = f"{RUN}{current_run(store, day)}", timedelta(hours=settings.leftovers_hours)
    stale = [folder for folder in folders if not folder.complete and folder.name != current and now - folder.changed > age]
    for folder in stale:
        store.clear(f"{day}/{folder.name}")
    return len(stale)


def _remove(store: Store, day: str, run_id: str) -> bool:
    """Remove a run that is not current; where there is no lock it may become so meanwhile, and then gets its manifest back."""
    key = f"{day}/{RUN}{run_id}/{MANIFEST}"
    stored = store.read(key)
    if stored is None or current_run(store, day) == run_id:
        return False
    store.remove(key)
    if current_run(store, day) == run_id:
        store.write(key, stored[0], None)
        return False
    store.clear(f"{day}/{RUN}{run_id}")
    log.info("removed run %s of %s", run_id, day)
    return True
