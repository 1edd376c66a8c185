"""What Spark's tasks read from files and shuffled, stage of the line by stage, from the application's event log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command import StageRun


@dataclass
class Traffic:
    """Bytes. `read`: of files; what the driver reads of Delta's logs by itself is not among them."""

    read: int = 0
    shuffled: int = 0
    spilled: int = 0


def logged_to(folder: Path) -> str:
    """The setting with which Spark writes one plain event log an application into `folder`, which must be there."""
    told = {"enabled": "true", "dir": str(folder), "rolling.enabled": "false", "compress": "false"}
    return f"spark.conf={json.dumps({f'spark.eventLog.{name}': value for name, value in told.items()})}"


def traffic(log: Path, stages: Sequence[StageRun]) -> dict[str, Traffic]:
    """Stage → its traffic. A task belongs to the first stage that succeeded after it ended; one that ended after all belongs to none."""
    found = {stage.stage: Traffic() for stage in stages}
    with log.open(encoding="utf-8") as lines:
        for event in (json.loads(line) for line in lines if line.startswith('{"Event":"SparkListenerTaskEnd"')):
            ended, metrics = event["Task Info"]["Finish Time"] / 1000, event.get("Task Metrics")
            of = next((stage.stage for stage in stages if ended <= stage.ended), None)
            if of and metrics:
                found[of].read += metrics["Input Metrics"]["Bytes Read"]
                found[of].shuffled += metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
                found[of].spilled += metrics["Disk Bytes Spilled"]
    return found
