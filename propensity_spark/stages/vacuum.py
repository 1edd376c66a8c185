"""vacuum: data files that no version of the last days needs are removed. Not a stage of the line: asked for by hand, or weekly."""

from __future__ import annotations

from propensity_spark.features.registry import gold_tables
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import BRONZE, DELIVERIES, OPS, QUARANTINE, SILVER


def _execute(run: Run) -> Outcome:
    settings = run.settings
    gold = gold_tables(settings.grain, settings.has_market, settings.has_crowd)
    tables = (*BRONZE.values(), DELIVERIES, *SILVER.values(), QUARANTINE, *gold, *OPS.values())
    there = [table for table in tables if run.lake.exists(table)]
    for table in there:
        run.lake.vacuum(table, settings.lake.vacuum_days)
    return Outcome(0, 0, note=f"{len(there)} tables keep the files of every version of the last {settings.lake.vacuum_days} days")


STAGE = Stage("vacuum", "files that no recent version needs are removed", _execute, always=True)
