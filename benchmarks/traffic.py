"""What Spark read from files, shuffled and spilled, stage of the line by stage, from the application's event log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import StageRun

_FILES_READ = "size of files read"


@dataclass
class Traffic:
    """Bytes. `read`: the size of the files that the scans of the plans read, whole files, whatever columns were asked of them; what the
    driver reads of Delta's logs by itself is not among them. (A task's own count of bytes read has those of cached rows in it.)"""

    read: int = 0
    shuffled: int = 0
    spilled: int = 0


def logged_to(folder: Path) -> str:
    """The setting with which Spark writes one plain event log an application into `folder`, which must be there."""
    told = {"enabled": "true", "dir": str(folder), "rolling.enabled": "false", "compress": "false"}
    return f"spark.conf={json.dumps({f'spark.eventLog.{name}': value for name, value in told.items()})}"


def closed_log(folder: Path) -> Path:
    """The event log of the one application, once its JVM, which ends after the command, has closed it."""
    until = time.monotonic() + 60
    while (log := next(folder.iterdir())).suffix == ".inprogress" and time.monotonic() < until:
        time.sleep(0.2)
    return log


def traffic(log: Path, stages: Sequence[StageRun]) -> dict[str, Traffic]:
    """Stage → its traffic: a task is of the first stage that succeeded after it ended, a query of the first that did after it began."""
    found = {stage.stage: Traffic() for stage in stages}
    begun: dict[int, float] = {}
    sizes: set[int] = set()
    updates: list[tuple[int, int, int]] = []

    def of(milliseconds: float) -> Traffic:
        return next((found[stage.stage] for stage in stages if milliseconds / 1000 <= stage.ended), Traffic())

    with log.open(encoding="utf-8") as lines:
        for event in map(json.loads, lines):
            kind = event["Event"].rpartition(".")[2]
            if kind == "SparkListenerTaskEnd" and (metrics := event.get("Task Metrics")):
                at = of(event["Task Info"]["Finish Time"])
                at.shuffled += metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
                at.spilled += metrics["Disk Bytes Spilled"]
            elif kind == "SparkListenerDriverAccumUpdates":
                updates += [(event["executionId"], metric, value) for metric, value in event["accumUpdates"]]
            elif plan := event.get("sparkPlanInfo"):
                begun.setdefault(event["executionId"], event.get("time", 0))
                sizes |= {metric["accumulatorId"] for metric in _metrics(plan) if metric["name"] == _FILES_READ}
    for query, metric, value in updates:
        if metric in sizes:
            of(begun[query]).read += value
    return found


def _metrics(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from plan["metrics"]
    for child in plan["children"]:
        yield from _metrics(child)
