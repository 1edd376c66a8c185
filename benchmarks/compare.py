"""`make bench-compare`, or `python benchmarks/compare.py [A.json B.json]`: every measure of both results files with the ratio B / A.

Without names A is benchmarks/stored.json and B the newest file of benchmarks/results, and what B has not measured is left out. Below 1,
B is faster (or smaller). A measure with a reference has regressed when its ratio to that reference, measured in the same run, has grown
by more than a fifth; one without, when its value has. A measure that only one of the files has is shown without a ratio. Exit code 1
when something has regressed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
STORED = RESULTS.parent / "stored.json"
ALLOWED = 1.2


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="A.json B.json")
    named: list[Path] = parser.parse_args(words).files
    files = named or [path for path in (STORED, *sorted(RESULTS.glob("[0-9]*.json"))[-1:]) if path.exists()]
    if len(files) != 2:
        parser.error(f"expected two results files, found {len(files)}: measure with `make bench` first, or name them")
    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in files)
    for path, body in zip(files, (before, after), strict=True):
        where = body["machine"]
        about = f"{body['code']['commit']}, {where['cores']} cores of {where['cpu']}, load before {where['load_before'][0]}"
        sys.stdout.write(f"{path.name}: {about}, settings {body['settings'] or 'as they are'}\n")
    if before["settings"] != after["settings"]:
        sys.stdout.write("the two were measured with different settings: the ratios say little\n")
    sys.stdout.write(f"\n{'measure':<40} {'A':>10} {'B':>10}     B / A\n")
    one, other = ({measure["name"]: measure for measure in body["measures"]} for body in (before, after))
    one = one if named else {name: measure for name, measure in one.items() if name in other}
    grown = {name: growth(one[name], other[name]) for name in one if name in other}
    for name in {**one, **other}:
        a, b = one.get(name), other.get(name)
        found = grown.get(name)
        ratio = " " * 9 if found is None else f"{found:9.2f}"
        mark = f"regressed by {found - 1:.0%}" if found and found > ALLOWED else ""
        sys.stdout.write(f"{name:<40} {_show(a)} {_show(b)} {ratio} {(a or b or {})['unit']:<4} {mark}\n")
    return int(any(found and found > ALLOWED for found in grown.values()))


def growth(before: dict[str, Any], after: dict[str, Any]) -> float | None:
    """B / A of one measure: of its ratios to the reference where both have one, else of its values; None where that says nothing."""
    a, b = (m["value"] / m["reference"] if before["reference"] and after["reference"] else m["value"] for m in (before, after))
    return b / a if a else None


def _show(measure: dict[str, Any] | None) -> str:
    return f"{'–' if measure is None else format(measure['value'], ',.2f'):>10}"


if __name__ == "__main__":
    sys.exit(main())
