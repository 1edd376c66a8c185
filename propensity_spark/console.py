"""What a person sees of a run: progress on a terminal (plain lines elsewhere) and the closing table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from propensity_spark.run import Outcome

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """One stage of a run. `rested`: it was up to date, and the outcome is that of its last success."""

    stage: str
    outcome: Outcome | None
    seconds: float
    rested: bool = False


class LineProgress(AbstractContextManager["LineProgress"]):
    """Which stage is at work, since when, and what it said last: on a terminal one line drawn again, elsewhere a line a message."""

    def __init__(self, console: Console, stages: Sequence[str]) -> None:
        self.console, self.stages, self.done = console, stages, 0
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting Spark")

    def __enter__(self) -> LineProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """One message of the stage at work; it goes to the log too."""
        log.info(message)
        line = f"{self._heading()}: {message}"
        self._bar.update(self._task, description=escape(line))
        if not self.console.is_terminal:
            self._print(line)

    def start(self) -> None:
        """The next stage begins."""
        self._bar.reset(self._task, description=escape(self._heading()))

    def finish(self, outcome: Outcome | None, seconds: float) -> None:
        """Leave one line of the stage that is through and start the next one."""
        what = "up to date" if outcome is None else f"{outcome.rows_out:,} rows"
        self._print(f"{self._heading()}: {what}, {seconds:.1f} s")
        self.done += 1
        if self.done < len(self.stages):
            self.start()

    def _heading(self) -> str:
        return f"[{self.done + 1}/{len(self.stages)}] {self.stages[self.done]}"

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def closing_table(results: Sequence[Result]) -> Table:
    """One row a stage: rows in, rows out, rejected, seconds and its note."""
    table = Table("stage", box=None, pad_edge=False)
    for heading in ("rows in", "rows out", "rejected", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("note", overflow="fold")
    for stage, outcome, seconds, rested in results:
        if outcome is None or rested:
            table.add_row(stage, "", "", "", f"{seconds:.1f}", "up to date")
        else:
            counts = (f"{count:,}" for count in (outcome.rows_in, outcome.rows_out, outcome.rows_rejected))
            table.add_row(stage, *counts, f"{seconds:.1f}", escape(outcome.note))
    table.add_section()
    table.add_row("together", "", "", "", f"{sum(result.seconds for result in results):.1f}", "")
    return table


def closing_facts(results: Sequence[Result]) -> list[str]:
    """What the stages found worth reading last, `name: value`, in the order of the line: AUC, baseline, ceiling, report …"""
    outcomes = [result.outcome for result in results if result.outcome is not None]
    return [f"{name}: {value}" for outcome in outcomes for name, value in outcome.facts.items()]
