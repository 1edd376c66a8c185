"""Take persons out of what was published: a run is never changed, so a run without them takes its place and the old one goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import PublishedRunInvalid
from propensity_spark.publish.manifest import ATTEMPT, POINTER, RUN, Manifest, Provenance, current_run, read_manifest
from propensity_spark.publish.store import Store, open_store
from propensity_spark.publish.write import is_stored, part_writer, plan_run, point_to, write_run
from propensity_spark.schemas import published_table


def published_rows(uri: str, people: DataFrame) -> int:
    """Rows of the persons (`user_id`) in every complete run of every date, current or not."""
    store = open_store(uri)
    return sum(_own(_read(store, run, people), people).count() for day in store.days() for run in _runs(store, day))


def erase_published(uri: str, people: DataFrame) -> None:
    """Replace every run that has rows of the persons, of every date, by one without; its id is the one that publish would give it.

    Readers see the old complete run until the pointer moves, then the new complete run; only then is the old one removed, under whoever
    is still reading it: that is what erasing means. Runs that are not current are replaced too, and a run goes on to name the one it
    replaced. Folders without a manifest go, those of a publisher at work too: it fails, and is to run again. A date that has nobody else
    is removed whole. Can be repeated after a death at any point.
    """
    store = open_store(uri)
    for day in store.days():
        with store.lock(day):
            _erase_day(store, day, people)


def _erase_day(store: Store, day: str, people: DataFrame) -> None:
    runs, new_ids = _runs(store, day), dict[str, str]()
    for folder in _folders(store, day) - {f"{RUN}{run.run_id}" for run in runs}:
        store.clear(f"{day}/{folder}")
    for old in _oldest_first(runs):
        rows = _read(store, old, people)
        theirs = _own(rows, people).count()
        if theirs == 0:
            continue
        if theirs < old.rows:
            new_ids[old.run_id] = _replace(store, old, rows.join(F.broadcast(people), "user_id", "left_anti"), new_ids)
        elif current_run(store, day) == old.run_id:
            store.remove(f"{day}/{POINTER}")
        store.clear(old.folder)
    if not _folders(store, day):
        store.clear(day)


def _replace(store: Store, old: Manifest, rows: DataFrame, new_ids: Mapping[str, str]) -> str:
    """Store `rows` as a run, and make it current where `old` is; returns its id."""
    before = store.read(f"{old.day}/{POINTER}")
    planned = plan_run(rows, date.fromisoformat(old.as_of_date), old.grain, _provenance(old))
    new = replace(planned, replaces=new_ids.get(old.replaces, old.replaces) if old.replaces else None)
    if not is_stored(store, new):
        write_run(store, new, part_writer(rows, len(old.files)))
    if current_run(store, old.day) == old.run_id:
        point_to(store, old.day, new.run_id, before)
    return new.run_id


def _provenance(old: Manifest) -> Provenance:
    return Provenance(
        dataset=old.dataset,
        feature_table_versions=old.feature_table_versions,
        input_table_versions=old.input_table_versions,
        config_version=old.config_version,
        code_version=old.code_version,
        scored_at=old.scored_at,
    )


def _folders(store: Store, day: str) -> set[str]:
    """Folders of runs and of attempts to write one."""
    folders = {name.partition("/")[0] for name in store.sizes(day) if "/" in name}
    return {folder for folder in folders if folder.startswith((RUN, ATTEMPT))}


def _runs(store: Store, day: str) -> list[Manifest]:
    """Complete runs of a date. Raises PublishedRunInvalid for a damaged current one, which is not ours to remove."""
    found, current = [], current_run(store, day)
    for run_id in sorted(folder.removeprefix(RUN) for folder in _folders(store, day) if folder.startswith(RUN)):
        try:
            found.append(read_manifest(store, day, run_id))
        except PublishedRunInvalid:
            if run_id == current:
                raise
    return found


def _oldest_first(runs: Iterable[Manifest]) -> Iterator[Manifest]:
    """Each run after the one that it replaced, where they do not go in a circle (a damaged run that was written again)."""
    left = {run.run_id: run for run in runs}
    while left:
        run = next((run for run in left.values() if run.replaces not in left), next(iter(left.values())))
        yield left.pop(run.run_id)


def _read(store: Store, manifest: Manifest, people: DataFrame) -> DataFrame:
    files = [store.spark_path(f"{manifest.folder}/{file.key}") for file in manifest.files]
    return people.sparkSession.read.schema(published_table(manifest.grain).schema).parquet(*files)


def _own(rows: DataFrame, people: DataFrame) -> DataFrame:
    return rows.join(F.broadcast(people), "user_id", "left_semi")
