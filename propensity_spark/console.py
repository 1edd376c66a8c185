"""What a person sees: progress on a terminal (plain lines elsewhere), the closing table, what became of a score, experiments,
a model made again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from propensity_spark.run import Outcome

if TYPE_CHECKING:
    from propensity_spark.evaluate.change import Change
    from propensity_spark.evaluate.experiment import Analysis, Plan
    from propensity_spark.reproduce import Reproduced

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


def change_lines(found: Change) -> list[str]:
    """What stands above the table of `change_table`: model, dates, probability and log-odds, calibration, notes."""
    before, after = found.before, found.after
    rows = "; ".join(f"{s.raw_probability:.4f} → {s.probability:.4f} as of {s.scored.as_of_date}" for s in (before, after))
    return [
        f"{found.model_name} version {found.model_version}" + (f", item {found.item_id}" if found.item_id is not None else ""),
        f"purchase_probability: {before.probability:.4f} as of {before.scored.as_of_date} → {after.probability:.4f} as of "
        f"{after.scored.as_of_date} ({found.probability:+.4f})",
        f"log-odds before calibration: {before.margin:.4f} → {after.margin:.4f} ({found.margin:+.4f})",
        f"calibration: {rows}. One rising curve, fixed at training: it scales a change and never turns it round",
        *found.notes,
        *([] if any(one.has_moved for one in found.moved) else ["No feature moved: the score is the same for the same reasons."]),
    ]


def change_table(found: Change) -> Table:
    """One row per feature that moved, the greatest difference first. Differences sum to the change in log-odds, shares to 100%."""
    table = Table("feature", box=None, pad_edge=False)
    for heading in ("from", "to", "log-odds from", "log-odds to", "difference", "share", "probability"):
        table.add_column(heading, justify="right")
    for one in found.moved:
        if one.has_moved:
            values = ("null" if value is None else f"{value:.6g}" for value in (one.value_before, one.value_after))
            odds = (f"{one.contribution_before:+.4f}", f"{one.contribution_after:+.4f}", f"{one.difference:+.4f}")
            parts = ("", "") if one.share is None or one.points is None else (f"{one.share:.1%}", f"{one.points:+.4f}")
            table.add_row(one.feature, *values, *odds, *parts)
    table.add_section()
    whole = ("100.0%", f"{found.probability:+.4f}") if found.margin else ("", "")
    table.add_row("together", "", "", f"{found.before.margin:+.4f}", f"{found.after.margin:+.4f}", f"{found.margin:+.4f}", *whole)
    return table


def plan_lines(found: Plan, rule: str | None, power: float) -> list[str]:
    """What a planned experiment needs, and, once it has a name, how its users are assigned."""
    enough = "enough" if found.needed <= found.users else "not enough"
    smallest = "none" if found.detectable is None else f"{found.detectable:+.1%}"
    return [
        f"audience: {found.users:,} users, of whom {found.expected_rate:.2%} are expected to purchase anyway",
        f"to see a relative effect of {found.effect:+.1%} with power {power:.0%}: {found.needed:,} users in both arms together, {enough}",
        f"with the whole audience: power {found.power_with_all:.1%}; the smallest effect seen with power {power:.0%}: {smallest}",
        "assignment: " + (rule or "give the experiment a --name"),
    ]


def reproduced_lines(found: Reproduced) -> list[str]:
    """What became of making a model again."""
    model = found.model
    rows = "the same to the last bit" if found.has_same_rows else "NOT the same as those that it was trained on"
    parts = f"NOT the same: {', '.join(found.differs)}" if found.differs else "the same to the last bit"
    return [
        f"{model.name} version {model.version}, as of {found.as_of}, made by propensity-spark {found.code}",
        f"from: {', '.join(f'{name} version {version}' for name, version in model.inputs.items())}",
        f"training set: {found.rows:,} rows made again, {rows}",
        f"model: {parts}",
    ]


def analysis_lines(found: Analysis, alpha: float) -> list[str]:
    """What an experiment showed: both arms, the difference, and whether the assignment was kept."""

    def interval(three: tuple[float, float, float]) -> str:
        return "{:+.3%} [{:+.3%}, {:+.3%}]".format(*three)

    lines = [
        f"{name}: {arm.purchasers:,.0f} of {arm.users:,} users purchased, {arm.rate:.3%}"
        for name, arm in (("treatment", found.treatment), ("control", found.control))
    ]
    lift = "" if found.lift is None else f", {found.lift:+.1%} of the control's"
    lines.append(f"difference, all users as assigned: {interval(found.difference)}{lift}, p = {found.p_value:.4f}, level {1 - alpha:.0%}")
    lines.append(f"adjusted for the score: {interval(found.adjusted)}")
    if not found.even:
        lines.append("The arms do not have the shares they should: the assignment was not kept, or --share is another. Trust nothing above")
    return lines
