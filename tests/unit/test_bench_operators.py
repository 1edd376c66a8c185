"""Where the time of a line goes, from an event log; the table of targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import stored
from benchmarks.command import StageRun
from benchmarks.operators import work_of


def node(name: str, *children: dict[str, Any], **metrics: int) -> dict[str, Any]:
    told = [{"name": what.replace("_", " "), "accumulatorId": number, "metricType": "timing"} for what, number in metrics.items()]
    return {"nodeName": name, "metrics": told, "children": list(children)}


def task(ended: int, **spent: int) -> dict[str, Any]:
    metrics = {"Executor Run Time": 2000, "Executor CPU Time": 1_500_000_000, "JVM GC Time": 100, "Disk Bytes Spilled": 7}
    metrics["Shuffle Write Metrics"] = {"Shuffle Bytes Written": 1000}  # type: ignore[assignment]
    accumulables = [{"ID": int(number[1:]), "Update": str(amount), "Metadata": "sql"} for number, amount in spent.items()]
    return {
        "Event": "SparkListenerTaskEnd",
        "Task Info": {"Finish Time": ended, "Accumulables": accumulables},
        "Task Metrics": metrics,
    }


def test_tasks_go_to_their_stage_and_their_time_to_operators(tmp_path: Path) -> None:
    plan = node(
        "WholeStageCodegen (3)",
        node("Project", node("HashAggregate", node("InputAdapter", node("MapInArrow", time_to_run_Python_workers=2)))),
        duration=1,
    )
    started = {"Event": "org.apache.spark.sql.execution.ui.SparkListenerSQLExecutionStart", "time": 500, "sparkPlanInfo": plan}
    unknown = {"Event": "SparkListenerTaskEnd", "Task Info": {"Finish Time": 900_000, "Accumulables": []}, "Task Metrics": None}
    log = tmp_path / "log"
    log.write_text("\n".join(json.dumps(event) for event in (started, task(900, n1=400, n2=250), task(1500, n2=1000), unknown)))
    stages = [StageRun("ingest", 1, 0, 0, 1.0), StageRun("validate", 1, 0, 0, 2.0)]
    found = work_of(log, stages)
    assert (found["ingest"].queries, found["validate"].queries) == (1, 0)
    assert dict(found["ingest"].operators) == {
        "code of HashAggregate: duration": pytest.approx(0.4),  # what feeds a piece of code is no part of it
        "MapInArrow: time to run Python workers": pytest.approx(0.25),
    }
    assert found["validate"].python == pytest.approx(1.0)
    assert (found["validate"].tasks, found["validate"].cpu, found["validate"].shuffled, found["validate"].spilled) == (2.0, 1.5, 1000, 7)


def test_the_table_has_one_row_a_target_and_says_what_was_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"on": "2026-01-02", "commit": "abc", "load": 0.5}
    ratio = {
        "name": "fit: 1,000,000 × 40, 200 trees: ratio",
        "value": 1.4,
        "unit": "×",
        "target": 1.3,
        "note": "median",
        "measured": measured,
    }
    seconds = {"name": "fit: 1,000,000 × 40, 200 trees", "value": 14.0, "unit": "s", "reference": 10.0, "rows": 5, "measured": measured}
    seconds["note"] = "JVM at most 2.5 GiB"
    (tmp_path / "stored.json").write_text(json.dumps({"measures": [ratio, seconds]}))
    monkeypatch.setattr(stored, "STORED", tmp_path / "stored.json")
    rows = stored.targets().splitlines()[2:]
    assert len(rows) == len(stored.TARGETS)
    assert [row for row in rows if row.startswith("| fit, 1,000,000 × 40, 200 trees ")] == [
        "| fit, 1,000,000 × 40, 200 trees | ≤ 1.3 × XGBoost alone | 1.4 × | no | 14.0 s, 10.0 s | 5 | JVM at most 2.5 GiB | median | "
        "2026-01-02, `abc`, load before 0.5 |"
    ]
    assert sum("not measured" in row for row in rows) == len(stored.TARGETS) - 2  # another is proven by tests
