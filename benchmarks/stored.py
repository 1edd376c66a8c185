"""`make bench-store ARGS="RESULTS.json …"`: keep results as the figures that later runs are held against.

They go to benchmarks/stored.json, which is committed: one entry a measure, the last one kept, each with the day, the commit and the load
it was measured at. The table of docs/performance.md is made of it (`make docs`).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.compare import STORED
from benchmarks.measure import Measure


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-store", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="RESULTS.json", help="of benchmarks/results")
    kept = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    for path in parser.parse_args().files:
        kept = with_results(kept, json.loads(path.read_text(encoding="utf-8")), datetime.strptime(path.stem, "%Y%m%dT%H%M%SZ"))
    STORED.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def with_results(kept: Mapping[str, Any], results: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    """`kept` with the measures of a results file in the place of those of the same names. `at`: when that file was written."""
    measured = {"on": f"{at:%Y-%m-%d}", "commit": results["code"]["commit"], "load": results["machine"]["load_before"][0]}
    measures = {measure["name"]: measure for measure in kept.get("measures", [])}
    measures |= {measure["name"]: {**measure, "measured": measured} for measure in results["measures"]}
    return {**{part: results[part] for part in ("machine", "code", "settings")}, "measures": list(measures.values())}


@dataclass(frozen=True)
class Target:
    """One row of the table: what is asked, the kept measure that is held against it, and the one that tells more of the same run.

    `asked`: in words, where a number alone does not say it. Without a measure `proven` says how it is known.
    """

    what: str
    measure: str = ""
    more: str = ""
    asked: str = ""
    proven: str = ""


TARGETS = (
    Target(
        "user features, distinct counts included: one date",
        "user features, one date: ratio",
        "user features, one date",
        "≤ 4 × DuckDB (aim 2)",
    ),
    Target(
        "counts and sums over 30, 90, 365 days on 52 dates",
        "counts and sums, 52 dates: ratio",
        "counts and sums, 52 dates",
        "≤ 1.5 × DuckDB's range windows (aim 1)",
    ),
    Target("windows of 4,000 rows", "windows: 4,000 rows: ratio", "windows: 4,000 rows", "≤ 1.5 × windows of 50 rows"),
    Target("one more day after five times the history: seconds", "history: one more day, ratio", asked="≤ 1.3 ×"),
    Target("one more day after five times the history: bytes of files read", "history: bytes read, ratio", asked="≤ 1.3 ×"),
    Target(
        "incremental against full rebuild, with late rows, corrections, deletions",
        asked="equal; floats to 1e-9",
        proven="tests/property/test_split_invariance.py, test_carried.py, test_silver_order.py",
    ),
    Target(
        "fit, 1,000,000 × 40, 200 trees", "fit: 1,000,000 × 40, 200 trees: ratio", "fit: 1,000,000 × 40, 200 trees", "≤ 1.3 × XGBoost alone"
    ),
    Target(
        "fit, 1,000,000 × 40, 1,000 trees",
        "fit: 1,000,000 × 40, 1000 trees: ratio",
        "fit: 1,000,000 × 40, 1000 trees",
        "≤ 1.15 × XGBoost alone",
    ),
    Target(
        "scoring, Delta to published run, 2,000,000 × 40, 200 trees",
        "scoring: 2,000,000 × 40, 200 trees: ratio",
        "scoring: 2,000,000 × 40, 200 trees",
        "≤ 2.22 × inplace_predict, its speed at 45% (aim 60%)",
    ),
    Target("ten times the rows: all stages", "ten times the rows: all stages", asked="≤ 10.5 ×"),
    Target("ten times the rows: ingest", "ten times the rows: ingest", asked="≤ 10.5 ×"),
    Target("ten times the rows: validate, the largest", "ten times the rows: validate", asked="≤ 10.5 ×"),
    Target(
        "half of all events of one user",
        "skew: half of all events of one user: ratio",
        "skew: half of all events of one user",
        "≤ 1.5 × an even spread",
    ),
    Target(
        "half of all events of one item",
        "skew: half of all events of one item: ratio",
        "skew: half of all events of one item",
        "≤ 1.5 × an even spread",
    ),
    Target(
        "as-of join, 100 million feature rows, 10 million labels",
        "as-of join: 10,001,787 labels: ratio",
        "as-of join: 10,001,787 labels",
        "≤ 3 × DuckDB's ASOF JOIN",
    ),
    Target("evaluation report, 10 million rows, 200 bootstrap rounds", "evaluation: every number", asked="≤ 60 s"),
    Target("its binned AUC off the exact one, in 1e-4", "evaluation: AUC off the exact one", asked="≤ 1"),
    Target("start of a stage: first Spark job", "start: first Spark job", asked="≤ 9 s"),
    Target("`make run` on stocks", "line: in all", "line: JVM peak", "≤ 120 s"),
    Target("a trial of a search for parameters", "tuning: a trial beside its fit", asked="≤ 1.1 × its fit"),
    Target("reasons of 200,000 rows, one core, 80 trees", "looked up, 80 trees", asked="≤ 4 s"),
    Target("reasons of 200,000 rows, one core, 200 trees", "looked up, 200 trees", asked="≤ 4 s"),
    Target("monitoring 10 million rows of the gold tables, joined", "monitoring, gold tables, joined", asked="≤ 2 × the reading"),
    Target("monitoring 10 million rows of one flat table", "monitoring, one flat table", asked="≤ 2 × the reading"),
)
_MEMORY = re.compile(r"JVM at most [0-9.]+(?: and [0-9.]+)? GiB")


def targets() -> str:
    """One row a target, in the order in which they were asked for."""
    kept = {measure["name"]: measure for measure in json.loads(STORED.read_text(encoding="utf-8"))["measures"]}
    lines = [
        "| what | asked | measured | met | ours, the other | rows | memory | how | when |",
        "| --- | --- | ---: | --- | --- | ---: | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(target, kept))} |" for target in TARGETS)])


def _cells(target: Target, kept: Mapping[str, Any]) -> tuple[str, ...]:
    if not target.measure:
        return (target.what, target.asked, "equal", "yes", "", "", "", target.proven, "each run of the tests")
    if target.measure not in kept:
        return (target.what, target.asked, "not measured", "", "", "", "", "", "")
    told, more = (dict(kept.get(name, {})) for name in (target.measure, target.more))
    when = told.pop("measured")
    more.pop("measured", None)
    measure = Measure(**told)
    beside = Measure(**more) if more else measure
    pair = f"{beside.value:,.1f} s, {beside.reference:,.1f} s" if beside.reference else ""
    memory = _MEMORY.search(f"{measure.note} {beside.note}")
    peak = f"JVM at most {beside.value:g} GiB" if beside.unit == "GiB" else memory[0] if memory else "not recorded"
    rows, how = beside.rows or measure.rows, _MEMORY.sub("", measure.note).strip("; ")
    cells = (target.what, target.asked, f"{measure.value:,.3g} {measure.unit}", measure.met, pair, f"{rows:,}" if rows else "", peak, how)
    return (*cells, f"{when['on']}, `{when['commit']}`, load before {when['load']:g}")


if __name__ == "__main__":
    main()
