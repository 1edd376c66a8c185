"""`make bench-operators`: where the time of a line goes, stage by stage and operator by operator, from Spark's event log.

Runs the line in a fresh lake (of `--dataset`, which must be simulated or get `--data`), then prints one row a stage (queries, seconds of
tasks, of those on the CPU, garbage collection, bytes shuffled and spilled, seconds in Python workers) and, for each stage, its most
expensive operators. `--log FILE --lake FOLDER` reads the event log of a run that is over.

An operator's seconds are those of its tasks added up; a stretch of operators that became one piece of generated code has one figure, and
what it waits for above it, such as a scan, is inside. Seconds of a stage beyond its tasks are the driver's: planning, Delta's log, Python,
and a processor that compiles code.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.command import StageRun, propensity, stage_runs
from benchmarks.measure import say
from benchmarks.traffic import closed_log, logged_to

_MILLISECONDS = {"timing": 1.0, "nsTiming": 1e-6}
_PYTHON = "time to run Python workers"
_WAITED = frozenset(
    {"remote reqs duration", "remote merged reqs duration", "time to start Python workers", "time to initialize Python workers"}
)
MOST = 8


@dataclass
class Work:
    """Of one stage: seconds of its tasks, and `operators`, the seconds of each. Bytes are as Spark's tasks count them."""

    queries: int = 0
    tasks: float = 0.0
    cpu: float = 0.0
    collected: float = 0.0
    shuffled: int = 0
    spilled: int = 0
    python: float = 0.0
    operators: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def main() -> None:
    options = _options()
    if options.log:
        stages = stage_runs(options.lake, options.as_of)
        show(stages, work_of(options.log, stages))
        return
    with tempfile.TemporaryDirectory(prefix="propensity-operators-", dir=options.folder) as folder:
        root = Path(folder)
        (root / "events").mkdir()
        words = ["--dataset", options.dataset, *(["--data", options.data] if options.data else [])]
        for override in (f"lake.root={root / 'lake'}", f"publish.uri={root / 'published'}", logged_to(root / "events")):
            words += ["--set", override]
        run = propensity(words, root / "lake", options.as_of)
        show(run.stages, work_of(closed_log(root / "events"), run.stages))


def work_of(log: Path, stages: Sequence[StageRun]) -> dict[str, Work]:
    """Stage → its work: a task is of the first stage that succeeded after it ended."""
    found = {stage.stage: Work() for stage in stages}
    operator: dict[int, tuple[str, str, float]] = {}  # of an accumulator: operator, what it measures, milliseconds of its unit
    spent: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def of(milliseconds: float) -> str | None:
        return next((stage.stage for stage in stages if milliseconds / 1000 <= stage.ended), None)

    with log.open(encoding="utf-8") as lines:
        for event in map(json.loads, lines):
            if plan := event.get("sparkPlanInfo"):
                operator |= dict(_measures(plan))
                if (begun := of(event.get("time", 0))) and event["Event"].endswith("ExecutionStart"):
                    found[begun].queries += 1
            if event["Event"] != "SparkListenerTaskEnd" or not (metrics := event.get("Task Metrics")):
                continue
            if (stage := of(event["Task Info"]["Finish Time"])) is None:
                continue
            work = found[stage]
            work.tasks += metrics["Executor Run Time"] / 1e3
            work.cpu += metrics["Executor CPU Time"] / 1e9
            work.collected += metrics["JVM GC Time"] / 1e3
            work.shuffled += metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
            work.spilled += metrics["Disk Bytes Spilled"]
            for told in event["Task Info"]["Accumulables"]:
                if told.get("Metadata") == "sql" and "Update" in told:
                    spent[stage][told["ID"]] += int(told["Update"])
    for stage, updates in spent.items():  # plans are told before, and while, their tasks run: names come last
        for accumulator, amount in updates.items():
            if accumulator in operator:
                name, what, unit = operator[accumulator]
                seconds = amount * unit / 1e3
                found[stage].operators[f"{name}: {what}"] += seconds
                found[stage].python += seconds if what == _PYTHON else 0.0
    return found


def _measures(plan: Mapping[str, Any]) -> Iterator[tuple[int, tuple[str, str, float]]]:
    """(accumulator, (operator, what, milliseconds)) of all that a plan measures in time."""
    name = re.sub(r" \(\d+\)$| +$", "", plan["nodeName"])
    if name == "WholeStageCodegen":
        name = f"code of {' < '.join(dict.fromkeys(_inside(plan['children']))) or 'Project'}"
    for metric in plan["metrics"]:
        if (unit := _MILLISECONDS.get(metric["metricType"])) and metric["name"] not in _WAITED:
            yield metric["accumulatorId"], (name, metric["name"], unit)
    for child in plan["children"]:
        yield from _measures(child)


def _inside(nodes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for node in nodes:
        if node["nodeName"] not in ("InputAdapter", "ColumnarToRow"):
            if node["nodeName"] not in ("Project", "Filter"):
                yield node["nodeName"].strip()
            yield from _inside(node["children"])


def show(stages: Sequence[StageRun], work: Mapping[str, Work]) -> None:
    say("| stage | seconds | queries | of tasks | on the CPU | collecting garbage | in Python | MB shuffled | MB spilled |")
    say("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for stage in stages:
        of = work[stage.stage]
        seconds = (stage.seconds, of.queries, of.tasks, of.cpu, of.collected, of.python)
        cells = [f"{value:,.0f}" if isinstance(value, int) else f"{value:,.1f}" for value in seconds]
        say(f"| {stage.stage} | {' | '.join(cells)} | {of.shuffled / 1e6:,.1f} | {of.spilled / 1e6:,.1f} |")
    for stage in stages:
        say(f"\n| {stage.stage}: operator | seconds |\n| --- | ---: |")
        for name, seconds_of_it in sorted(work[stage.stage].operators.items(), key=lambda spent: -spent[1])[:MOST]:
            say(f"| {name} | {seconds_of_it:,.1f} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-operators", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="stocks", help="default: %(default)s")
    parser.add_argument("--data", default=None, help="folder of real data, for a data set that needs it")
    parser.add_argument("--as-of", default="2024-12-31", help="default: %(default)s")
    parser.add_argument("--log", type=Path, default=None, help="event log of a run that is over, instead of running one; with --lake")
    parser.add_argument("--lake", type=Path, default=None, help="lake of that run")
    parser.add_argument("--folder", default=None, help="where the temporary folder is made")
    options = parser.parse_args()
    if (options.log is None) != (options.lake is None):
        parser.error("expected --log and --lake together")
    return options


if __name__ == "__main__":
    main()
