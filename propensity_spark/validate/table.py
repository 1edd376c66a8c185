"""Tables from bronze to silver: judge, profile, gate, write. And the replay of what was rejected."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark import StorageLevel
from pyspark.sql import DataFrame

from propensity_spark import platform
from propensity_spark.errors import ConfigurationError, GateFailed
from propensity_spark.run import Run
from propensity_spark.schemas import SILVER, Table
from propensity_spark.validate.batch import Batch, held_batch, judge, new_batches, next_batch
from propensity_spark.validate.gate import Gate
from propensity_spark.validate.nearby import Reach
from propensity_spark.validate.profile import Profile, earlier_rows_per_date, of_no_rows, profile, write_profiles
from propensity_spark.validate.silver import announce, drop_erased, mark_validated, quarantine, release, write_silver


def validate_tables(run: Run, tables: Sequence[Table]) -> dict[str, Profile]:
    """Judge what is new for each table, in their order, and bring silver and quarantine up to date.

    Out: the profiles of the tables that had anything to judge, by name. Order for each: quarantine (so that nothing is
    lost when the run dies), the gate, the announcement, silver, what quarantine gives back. What is only noted down comes
    last, for all tables at once: the profiles, and the mark that the batches are done. Raises GateFailed before silver
    is touched; the tables before it are done then.
    """
    new, earlier, gate = new_batches(run, tables), earlier_rows_per_date(run), Gate(run)
    found: dict[str, Profile] = {}
    done: list[Batch] = []
    failure: GateFailed | None = None
    for table in tables:
        batch = next_batch(run, table, new.get(table.name, {}))
        if batch.is_empty:
            continue
        judged = _without_rows(run, batch, gate) if batch.is_without_rows else _judged(run, batch, gate, earlier.get(table.name))
        found[table.name], failure = judged
        if failure is not None:
            break
        done.append(batch)
        if found[table.name].is_news:
            run.say(found[table.name].described(table))
    write_profiles(run, {name: found[name].measures for name in new if name in found})
    mark_validated(run, done)
    gate.build_docs()
    if failure is not None:
        raise failure
    return found


def _judged(run: Run, batch: Batch, gate: Gate | None = None, earlier: float | None = None) -> tuple[Profile, GateFailed | None]:
    """Judge a batch and, unless the gate fails what was delivered, bring silver up to date."""
    judged, near = judge(run, batch)
    settled = platform.keep(judged, StorageLevel.MEMORY_AND_DISK)
    try:
        found = profile(run, settled, batch, earlier)
        _keep_rejected(run, settled, batch, found)
        failure = gate.check(batch.table, found.measures) if gate and batch.ids else None
        if failure is None:
            _bring_up_to_date(run, settled, batch, found, near)
            if batch.ids and found.rows("erased"):
                drop_erased(run, settled, batch)
    finally:
        platform.release(settled)
    return found, failure


def _without_rows(run: Run, batch: Batch, gate: Gate) -> tuple[Profile, GateFailed | None]:
    """A batch such as an empty page has nothing to judge, but the gate hears of it, and its silver table is there afterwards."""
    found = of_no_rows()
    failure = gate.check(batch.table, found.measures)
    if failure is None:
        run.lake.create(batch.table)
    return found, failure


def replay(run: Run, table: str, reason: str | None = None) -> Profile | None:
    """Judge the quarantined rows of a silver table again (those with `reason`, or all) after a rule or mapping is mended.

    What is fine now moves to silver, the rest stays with its reasons of today; null when there was nothing to judge.
    The gate is for deliveries: it does not judge a replay. Raises ConfigurationError for a table that has no source.
    """
    if table not in SILVER or not run.settings.sources.get(table):  # type: ignore[call-overload]
        raise ConfigurationError(f"replay: no source feeds {table!r}; expected one of {sorted(run.settings.sources)}")
    batch = held_batch(run, SILVER[table], reason)
    if batch.is_empty:
        return None
    found, _ = _judged(run, batch)
    return found


def _keep_rejected(run: Run, settled: DataFrame, batch: Batch, found: Profile) -> None:
    if found.rows("rejected") or found.displaced or found.rejected_again:
        quarantine(run, settled, batch, displaced=found.displaced, rejected_again=found.rejected_again)


def _bring_up_to_date(run: Run, settled: DataFrame, batch: Batch, found: Profile, near: Reach) -> None:
    announce(run, batch.table, found.changed_from)
    if any(found.changes.values()) or not run.lake.exists(batch.table):
        write_silver(run, settled, near, found.changes)
    release(run, settled, batch, found.released)
