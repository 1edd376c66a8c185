"""ingest: feeds and files to bronze, each page or file exactly once, whatever crashes."""

from __future__ import annotations

from contextlib import nullcontext

from propensity_spark.config import MassiveSource, Settings
from propensity_spark.ingest.batches import SourceByName, Taken, finish_unfinished, sources_by_name, take_new
from propensity_spark.ingest.landing import download, landing_folder
from propensity_spark.ingest.massive import CallLimit, MassiveClient, api_key
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import BRONZE, DELIVERIES, Table


def _execute(run: Run) -> Outcome:
    sources = sources_by_name(run)
    if run.settings.simulate:
        from propensity_spark.simulate.world import build_world

        build_world(run.spark, run.settings)
    finished = finish_unfinished(run, sources)
    _download(run, sources)
    taken = finished + take_new(run, sources)
    return Outcome(taken.rows, taken.rows, len(taken.refused), _note(taken))


def _download(run: Run, sources: SourceByName) -> None:
    """Bring the landing folder of every market feed up to the as-of date."""
    feeds = [source for _, source in sources.values() if isinstance(source, MassiveSource)]
    with _local_feed(run, feeds) as local_url:
        for source in feeds:
            folder = landing_folder(run.lake.root, source)
            base_url = local_url if source.base_url == "local" else source.base_url
            limit = CallLimit(source.calls_per_minute)
            client = MassiveClient(
                base_url,
                api_key(source, run.spark, run.settings.secret_scope),
                limit,
                source.parallel,
                timeout_seconds=source.timeout_seconds,
                deadline_seconds=source.deadline_seconds,
            )
            download(client, source, folder, run.as_of, calendar=run.settings.calendar, say=run.say)


def _local_feed(run: Run, feeds: list[MassiveSource]):  # type: ignore[no-untyped-def]
    if not any(source.base_url == "local" for source in feeds):
        return nullcontext("")
    from propensity_spark.simulate.feed import local_feed

    return local_feed(run.settings, run.as_of)


def _note(taken: Taken) -> str:
    if not taken.deliveries and not taken.refused:
        return "nothing new"
    refused = "; ".join(f"{d.uri} ({d.reason})" for d in taken.refused[:5])
    news = f"{taken.deliveries:,} files, {taken.rows:,} rows" if taken.deliveries else "nothing new"
    return f"{news}; {len(taken.refused)} refused: {refused}" if taken.refused else news


def _writes(settings: Settings) -> tuple[Table, ...]:
    return (*(BRONZE[target] for target in settings.sources), DELIVERIES)


STAGE = Stage(
    name="ingest",
    promise="append-only, every row with its source and exact payload; each page or file exactly once",
    execute=_execute,
    writes=_writes,
    always=True,
)
