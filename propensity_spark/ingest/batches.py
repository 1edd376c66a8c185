"""Ingestion itself: finish what an earlier run left, then take what is new, each delivery exactly once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import FileSource, MassiveSource
from propensity_spark.errors import ConfigurationError, RowsLost, SourceMissing, TooManyRefused
from propensity_spark.ingest.accept import examine_files, judge
from propensity_spark.ingest.deliveries import Batch, Delivery, first_contexts, new_batches, record, unfinished, unseen
from propensity_spark.ingest.files import due, folder_uri, form_of, list_files, modification_times
from propensity_spark.ingest.landing import PAGES, landing_folder
from propensity_spark.ingest.records import Form
from propensity_spark.ingest.rows import bronze_rows
from propensity_spark.run import Run
from propensity_spark.schemas import BRONZE, TOUCHED
from propensity_spark.tables import local_frame

SourceByName = Mapping[str, tuple[str, FileSource | MassiveSource]]


@dataclass(frozen=True)
class Taken:
    """What a run took: deliveries and rows written to bronze, and the deliveries it refused."""

    deliveries: int = 0
    rows: int = 0
    refused: tuple[Delivery, ...] = ()

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.deliveries + other.deliveries, self.rows + other.rows, self.refused + other.refused)


def sources_by_name(run: Run) -> SourceByName:
    """Every configured source with its target, by name. Raises ConfigurationError when two share a name."""
    pairs = [(source.name, (target, source)) for target, sources in run.settings.sources.items() for source in sources]
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigurationError(f"sources: the name of a source must be its own, found twice: {', '.join(repeated)}")
    return dict(pairs)


def finish_unfinished(run: Run, sources: SourceByName) -> Taken:
    """Write the batches that an earlier run planned and did not finish; a file that changed meanwhile is refused."""
    total = Taken()
    for batch in unfinished(run.lake, folder_uri(run.lake.root)):
        # A file may have been touched and still hold the same bytes.
        modified = modification_times(run.spark, [d.path for d in batch.deliveries])
        there = [replace(d, modified=modified[d.path]) for d in batch.deliveries if d.source in sources and d.path in modified]
        findings = examine_files(run.spark, there, forms_of(sources))
        same = [d for d in there if findings[d.source, d.path].reason is None and findings[d.source, d.path].delivery_id == d.delivery_id]
        kept = {(d.source, d.uri): d for d in same}
        gone = [
            d.refused("changed or vanished between two runs, or its source is no longer configured")
            for d in batch.deliveries
            if (d.source, d.uri) not in kept
        ]
        record(run.lake, [(d, "refused", batch.batch_id) for d in gone], datetime.now(UTC), run.run_id)
        again = [replace(batch, deliveries=tuple(kept.values()))] if kept else []
        total += Taken(refused=tuple(gone)) + _write(run, again, sources)
    return total


def take_new(run: Run, sources: SourceByName) -> Taken:
    """Examine, plan and write every file and page that is due by the as-of date and not yet in bronze as it is now.

    Raises SourceMissing for a folder that is not there or never held a file, and TooManyRefused (after the refusals are
    recorded, before anything is planned) when a source's share of refused files exceeds `ingest.max_refused_share`. Files
    refused and tolerated before are tried again, and not counted again.
    """
    found = unseen(run.lake, listing(run, sources))
    first = first_contexts(run.lake)
    _require_files(sources, {d.source for d in found} | first.keys())
    candidates = [d for d in (due(d, sources[d.source][1], run.as_of) for d in found) if d is not None]
    if not candidates:
        return Taken()
    findings = examine_files(run.spark, [d for d in candidates if not d.reason], forms_of(sources))
    judged = [
        d
        for name, (_, source) in sources.items()
        for d in judge(run.spark, source, [d for d in candidates if d.source == name], findings, first.get(name))
    ]
    return _take(run, sources, judged)


def _take(run: Run, sources: SourceByName, judged: list[Delivery]) -> Taken:
    refused = [d for d in judged if d.reason]
    touched = [d for d in judged if not d.reason and d.delivery_id in d.earlier_ids]
    now = datetime.now(UTC)
    problem = _too_many(judged, run.settings.ingest.max_refused_share)
    if problem:
        record(run.lake, [(d, "refused", None) for d in refused], now, run.run_id)
        raise TooManyRefused(problem)
    batches = new_batches((d for d in judged if not d.reason and d.delivery_id not in d.earlier_ids), now)
    planned = [(d, "planned", batch.batch_id) for batch in batches for d in batch.deliveries]
    newly_refused = [(d, "refused", "tolerated") for d in refused if not d.tolerated]
    record(run.lake, [*planned, *newly_refused, *((d, "ingested", TOUCHED) for d in touched)], now, run.run_id)
    return Taken(refused=tuple(refused)) + _write(run, batches, sources)


def _write(run: Run, batches: list[Batch], sources: SourceByName) -> Taken:
    """Replace each batch's rows in bronze, count them, and only then call its deliveries ingested."""
    for batch in batches:
        rows = sum(d.rows for d in batch.deliveries)
        run.say(f"{len(batch.deliveries):,} deliveries, {rows:,} rows to bronze/{batch.target}")
        table = BRONZE[batch.target]
        run.lake.replace(bronze_rows(run.spark, batch, forms_of(sources)), table, f"batch_id = '{batch.batch_id}'")
    _require_whole(run, batches)
    done = [(d, "ingested", batch.batch_id) for batch in batches for d in batch.deliveries]
    record(run.lake, done, datetime.now(UTC), run.run_id)
    return Taken(len(done), sum(d.rows for d, _, _ in done))


def _require_whole(run: Run, batches: list[Batch]) -> None:
    """Raise RowsLost when bronze does not hold just the rows that were found in the files of a batch. One query for all."""
    there = [run.lake.read(BRONZE[batch.target]).where(F.col("batch_id") == batch.batch_id).select("batch_id") for batch in batches]
    counts: dict[str, int] = dict(reduce(DataFrame.unionByName, there).groupBy("batch_id").count().collect()) if there else {}
    for batch in batches:
        rows, written = sum(d.rows for d in batch.deliveries), counts.get(batch.batch_id, 0)
        if written != rows:
            raise RowsLost(
                f"{BRONZE[batch.target].full_name}: batch {batch.batch_id} has {written:,} rows, {rows:,} were found in its files; "
                "run again"
            )


def listing(run: Run, sources: SourceByName) -> DataFrame:
    """Every file and page that is there now, named as in the lake: relative inside its root, so that a lake can be moved."""
    inside = f"{folder_uri(run.lake.root)}/"
    rows = []
    for target, source in sources.values():
        if isinstance(source, FileSource):
            files = list_files(run.spark, source.path, source.pattern, source.name)
        else:
            pages = landing_folder(run.lake.root, source)
            files = list_files(run.spark, str(pages), PAGES, source.name) if pages.exists() else []
        rows += [(source.name, target, path.removeprefix(inside), path, size, modified) for path, size, modified in files]
    listed = local_frame(run.spark, rows, "source string, target string, source_uri string, path string, bytes bigint, modified bigint")
    return listed.withColumn("modified_at", F.timestamp_micros("modified"))


def _require_files(sources: SourceByName, seen: set[str]) -> None:
    empty = [source for _, source in sources.values() if isinstance(source, FileSource) and source.name not in seen]
    if empty:
        places = "; ".join(f"{source.name}: {source.path} holds no file {source.pattern}" for source in empty)
        raise SourceMissing(f"{places}. Expected at least one; check `path` and `pattern` of the source")


def _too_many(judged: list[Delivery], max_share: float) -> str | None:
    """Which sources exceed the share, in words; None when none does."""
    problems = []
    for name in sorted({d.source for d in judged}):
        counted = [d for d in judged if d.source == name and not d.tolerated]
        bad = [d for d in counted if d.reason]
        if bad and len(bad) > max_share * len(counted):
            shown = "; ".join(f"{d.uri}: {d.reason}" for d in bad[:5])
            problems.append(f"{name}: {len(bad)} of {len(counted)} files refused ({shown}{' …' if len(bad) > 5 else ''})")
    if not problems:
        return None
    return (
        f"{'. '.join(problems)}. At most a share of {max_share:g} may be refused (ingest.max_refused_share); nothing of this batch was "
        "taken. Mend or remove the files, or raise the share, and run again"
    )


def forms_of(sources: SourceByName) -> dict[str, Form]:
    return {name: form_of(source) for name, (_, source) in sources.items()}
