"""`make bench-store ARGS="RESULTS.json …"`: keep results as the figures that later runs are held against.

They go to benchmarks/stored.json, which is committed: one entry a measure, the last one kept, each with the day, the commit and the load
it was measured at. The table of docs/performance.md is made of it (`make docs`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
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


def targets() -> str:
    """One row a kept measure that has a target."""
    lines = ["| what | measured | target | met | rows | how | when |", "| --- | ---: | ---: | --- | ---: | --- | --- |"]
    for stored in json.loads(STORED.read_text(encoding="utf-8"))["measures"]:
        when = stored.pop("measured")
        measure = Measure(**stored)
        if measure.target is not None:
            rows = f"{measure.rows:,}" if measure.rows else ""
            cells = (measure.name, f"{measure.value:,.3g} {measure.unit}", f"{measure.target:g} {measure.unit}", measure.met, rows)
            lines.append(f"| {' | '.join(cells)} | {measure.note} | {when['on']}, `{when['commit']}`, load before {when['load']:g} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
