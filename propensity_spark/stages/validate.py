"""validate: bronze → silver + quarantine."""

from __future__ import annotations

from propensity_spark.config import Settings
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import BRONZE, DELIVERIES, QUARANTINE, Table
from propensity_spark.validate.batch import ORDER, configured
from propensity_spark.validate.profile import Profile
from propensity_spark.validate.table import validate_table


def _execute(run: Run) -> Outcome:
    notes, rows_in, rows_out, rows_rejected = [], 0, 0, 0
    for table in configured(run):
        found = validate_table(run, table)
        if found is None or not (found.rows("in") or any(found.changes.values())):
            continue
        notes.append(_note(table, found))
        run.say(notes[-1])
        rows_in += found.rows("in")
        rows_out += found.changes["insert"]
        rows_rejected += found.rows("rejected")
    return Outcome(rows_in, rows_out, rows_rejected, "; ".join(notes) or "nothing new")


def _note(table: Table, found: Profile) -> str:
    reasons = ", ".join(f"{name} {count:,}" for name, count in found.reasons().items())
    counts = ", ".join(f"{found.rows(name):,} {name}" for name in ("valid", "repeated", "rejected"))
    return f"{table.name} {counts}" + (f" ({reasons})" if reasons else "")


def _tables(settings: Settings) -> list[Table]:
    return [table for table in ORDER if settings.sources.get(table.name)]  # type: ignore[call-overload]


STAGE = Stage(
    name="validate",
    promise="typed, each version of a row once; every rejected row kept with its reasons; valid + repeated + rejected = input",
    execute=_execute,
    reads=lambda settings: (*[BRONZE[table.name] for table in _tables(settings)], DELIVERIES),
    writes=lambda settings: (*_tables(settings), QUARANTINE),
)
