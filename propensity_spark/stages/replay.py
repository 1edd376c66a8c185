"""replay: quarantine → silver, after a rule or a mapping was mended. Not a stage of the line: asked for by hand."""

from __future__ import annotations

from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.stages.validate import STAGE as VALIDATE
from propensity_spark.validate.table import replay


def replay_stage(table: str, reason: str | None) -> Stage:
    """Judges the quarantined rows of one silver table again: those rejected for `reason`, or all."""

    def execute(run: Run) -> Outcome:
        found = replay(run, table, reason)
        if found is None:
            return Outcome(0, 0, note=f"{table}: nothing in quarantine" + (f" for {reason}" if reason else ""))
        return Outcome(found.rows("in"), found.changes["insert"], found.rows("rejected"), f"{table}: judged again")

    return Stage("replay", "what is valid now moves to silver", execute, VALIDATE.reads, VALIDATE.writes, always=True)
