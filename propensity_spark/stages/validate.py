"""validate: bronze → silver + quarantine."""

from __future__ import annotations

from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import BRONZE, DELIVERIES, QUARANTINE
from propensity_spark.validate.batch import configured
from propensity_spark.validate.table import validate_tables


def _execute(run: Run) -> Outcome:
    tables = configured(run.settings)
    judged = validate_tables(run, tables)
    found = {table: judged[table.name] for table in tables if table.name in judged and judged[table.name].is_news}
    return Outcome(
        sum(profile.rows("in") for profile in found.values()),
        sum(profile.changes["insert"] for profile in found.values()),
        sum(profile.rows("rejected") for profile in found.values()),
        "; ".join(profile.described(table) for table, profile in found.items()) or "nothing new",
    )


STAGE = Stage(
    name="validate",
    promise="typed, each version of a row once; every rejected row kept with its reasons; valid + repeated + rejected = input",
    execute=_execute,
    reads=lambda settings: (*[BRONZE[table.name] for table in configured(settings)], DELIVERIES),
    writes=lambda settings: (*configured(settings), QUARANTINE),
)
