"""Take persons out of what was published: a run is never changed, so a run without them takes its place and the old one goes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import PublishedRunInvalid
from propensity_spark.publish.manifest import POINTER, Manifest, Provenance, current_manifest, read_manifest
from propensity_spark.publish.store import Store, open_store
from propensity_spark.publish.write import _is_stored, _plan, _write_run
from propensity_spark.schemas import published_table


@dataclass(frozen=True)
class Rewritten:
    """Published runs that were replaced, and the persons' rows that were in them."""

    runs: int
    rows: int


def published_rows(uri: str, people: DataFrame) -> int:
    """Rows of the persons (`user_id`) in every complete run of every date, current or not."""
    store = open_store(uri)
    return sum(_own(_read(store, run, people), people).count() for day in store.days() for run in _runs(store, day))


def erase_published(uri: str, people: DataFrame) -> Rewritten:
    """Replace every run that has rows of the persons, of every date, by one without; its id is the one that publish would give it.

    Readers see the old complete run until the pointer moves, then the new complete run; only then is the old one removed, under whoever
    is still reading it: that is what erasing means. Runs that are not current are replaced too. Leftovers without a manifest go. A date
    that has nobody else is removed whole. Can be repeated after a death at any point.
    """
    store, found = open_store(uri), Rewritten(0, 0)
    for day in store.days():
        with store.lock(day):
            for run_id in _run_ids(store, day) - {run.run_id for run in _runs(store, day)}:
                store.clear(f"{day}/run_id={run_id}")
            for manifest in _runs(store, day):
                rows = _read(store, manifest, people)
                theirs = _own(rows, people).count()
                if theirs == 0:
                    continue
                found = Rewritten(found.runs + 1, found.rows + theirs)
                if theirs < manifest.rows:
                    _replace(store, manifest, rows.join(F.broadcast(people), "user_id", "left_anti"))
                elif _is_current(store, manifest):
                    store.clear(day)
                    break
                store.clear(manifest.folder)
    return found


def _replace(store: Store, old: Manifest, rows: DataFrame) -> None:
    """Store `rows` as a run, and make it current where `old` is."""
    pointer = f"{old.day}/{POINTER}"
    before = store.read(pointer)
    new = _plan(rows, date.fromisoformat(old.as_of_date), old.grain, _provenance(old))
    if not _is_stored(store, new):
        _write_run(store, rows, new, len(old.files))
    if before is not None and _is_current(store, old):
        store.write(pointer, f"run_id={new.run_id}\n".encode(), before[1])


def _is_current(store: Store, run: Manifest) -> bool:
    return store.read(f"{run.day}/{POINTER}") is not None and current_manifest(store, run.day).run_id == run.run_id


def _provenance(old: Manifest) -> Provenance:
    return Provenance(
        dataset=old.dataset,
        feature_table_versions=old.feature_table_versions,
        input_table_versions=old.input_table_versions,
        config_version=old.config_version,
        code_version=old.code_version,
        scored_at=old.scored_at,
    )


def _run_ids(store: Store, day: str) -> set[str]:
    folders = {name.partition("/")[0] for name in store.sizes(day) if "/" in name}
    return {folder.removeprefix("run_id=") for folder in folders if folder.startswith("run_id=")}


def _runs(store: Store, day: str) -> list[Manifest]:
    """Complete runs of a date, the current one first."""
    stored = store.read(f"{day}/{POINTER}")
    current = stored[0].decode(errors="replace") if stored else ""
    found = []
    for run_id in sorted(_run_ids(store, day), key=lambda run_id: (run_id not in current, run_id)):
        try:
            found.append(read_manifest(store, day, run_id))
        except PublishedRunInvalid:
            if run_id in current:
                raise  # a damaged current run is not ours to remove
    return found


def _read(store: Store, manifest: Manifest, people: DataFrame) -> DataFrame:
    files = [store.spark_path(f"{manifest.folder}/{file.key}") for file in manifest.files]
    return people.sparkSession.read.schema(published_table(manifest.grain).schema).parquet(*files)


def _own(rows: DataFrame, people: DataFrame) -> DataFrame:
    return rows.join(F.broadcast(people), "user_id", "left_semi")
