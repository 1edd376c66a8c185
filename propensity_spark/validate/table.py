"""One table from bronze to silver: judge, profile, gate, write. And the replay of what was rejected."""

from __future__ import annotations

from pyspark import StorageLevel

from propensity_spark import platform
from propensity_spark.errors import ConfigurationError
from propensity_spark.run import Run
from propensity_spark.schemas import SILVER, Table
from propensity_spark.validate import gate
from propensity_spark.validate.batch import Batch, judge, next_batch
from propensity_spark.validate.profile import Profile, profile, write_profile
from propensity_spark.validate.rules import rules_for
from propensity_spark.validate.silver import announce, mark_validated, quarantine, release, write_silver


def validate_table(run: Run, table: Table) -> Profile | None:
    """Judge what is new for one table and bring silver and quarantine up to date; null when there is nothing to judge.

    Order: quarantine (so that nothing is lost when the run dies), the gate, the announcement, silver, what quarantine
    gives back, and last the mark that the batches are done. Raises GateFailed before silver is touched.
    """
    batch = next_batch(run, table)
    return None if batch.is_empty else _bring_up_to_date(run, batch)


def replay(run: Run, table: str, reason: str | None = None) -> Profile | None:
    """Judge the quarantined rows of a silver table again (those with `reason`, or all) after a rule or mapping is mended.

    What is fine now moves to silver, the rest stays with its reasons of today; null when there was nothing to judge.
    The gate is for deliveries: it does not judge a replay. Raises ConfigurationError for a table that has no source.
    """
    if table not in SILVER or not run.settings.sources.get(table):  # type: ignore[call-overload]
        raise ConfigurationError(f"replay: no source feeds {table!r}; expected one of {sorted(run.settings.sources)}")
    batch = next_batch(run, SILVER[table], reason, replay=True)
    return None if batch.is_empty else _bring_up_to_date(run, batch)


def _bring_up_to_date(run: Run, batch: Batch) -> Profile:
    table = batch.table
    delivered = batch.delivered.count() if batch.ids else 0
    settled = platform.keep(judge(run, batch), StorageLevel.MEMORY_AND_DISK)
    try:
        found = profile(run, settled, table, rules_for(table, run.settings.validation.rules), delivered)
        if found.rows("rejected") or found.displaced or found.rejected_again:
            quarantine(run, settled, batch, found.displaced)
        if batch.ids:
            write_profile(run, table, found.measures)
            gate.check(run, table, found.measures)
        announce(run, table, found.changed_from)
        if any(found.changes.values()) or not run.lake.exists(table):
            write_silver(run, settled, table, only_inserts=not (found.changes["update"] or found.changes["remove"]))
        release(run, settled, batch, found.released)
        mark_validated(run, batch)
    finally:
        platform.release(settled)
    return found
