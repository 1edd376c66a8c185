"""vacuum: data files that no recent version and no model needs are removed. Not a stage of the line: asked for by hand, or weekly."""

from __future__ import annotations

from propensity_spark.features.registry import gold_tables
from propensity_spark.models import oldest_inputs
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import BRONZE, DELIVERIES, OPS, QUARANTINE, SILVER


def _execute(run: Run) -> Outcome:
    settings = run.settings
    gold = gold_tables(settings.grain, settings.has_market, settings.has_crowd)
    tables = (*BRONZE.values(), DELIVERIES, *SILVER.values(), QUARANTINE, *gold, *OPS.values())
    there = [table for table in tables if run.lake.exists(table)]
    needed, kept = oldest_inputs(settings), dict[str, int]()
    for table in there:
        days = settings.lake.vacuum_days
        if table.full_name in needed:
            days = max(days, min(run.lake.days_since_replaced(table, needed[table.full_name]), settings.lake.log_days))
        run.lake.vacuum(table, days)
        kept[table.full_name] = days
    longer = [f"{name} of the last {days}" for name, days in kept.items() if days > settings.lake.vacuum_days]
    note = f"{len(there)} tables keep the files of every version of the last {settings.lake.vacuum_days} days"
    return Outcome(0, 0, note=note + (f"; for registered models {', '.join(longer)}" if longer else ""))


STAGE = Stage("vacuum", "files that no recent version and no registered model needs are removed", _execute, always=True)
