"""`python benchmarks/compare.py A.json B.json`: every measure of both results files with the ratio B / A.

Below 1, B is faster (or smaller). A measure that only one of the files has is shown without a ratio.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    options = parser.parse_args()
    before, after = _read(options.before), _read(options.after)
    for path, body in ((options.before, before), (options.after, after)):
        where = body["machine"]
        about = f"{body['code']['commit']}, {where['cores']} cores of {where['cpu']}, load before {where['load_before'][0]}"
        sys.stdout.write(f"{path.name}: {about}, settings {body['settings'] or 'as they are'}\n")
    if before["settings"] != after["settings"]:
        sys.stdout.write("the two were measured with different settings: the ratios say little\n")
    sys.stdout.write(f"\n{'measure':<32} {'A':>10} {'B':>10}     B / A\n")
    one, other = _values(before), _values(after)
    for name, unit in {**one, **other}:
        a, b = one.get((name, unit)), other.get((name, unit))
        ratio = f"{b / a:9.2f}" if a and b is not None else " " * 9
        sys.stdout.write(f"{name:<32} {_show(a)} {_show(b)} {ratio} {unit}\n")


def _read(path: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return body


def _values(body: dict[str, Any]) -> dict[tuple[str, str], float]:
    """(name, unit) → value, the references as measures of their own: they tell how much faster the machine was."""
    values: dict[tuple[str, str], float] = {}
    for measure in body["measures"]:
        values[measure["name"], measure["unit"]] = measure["value"]
        if measure["reference"] is not None:
            values[f"{measure['name']} (reference)", "s"] = measure["reference"]
    return values


def _show(value: float | None) -> str:
    return f"{'–' if value is None else f'{value:,.2f}':>10}"


if __name__ == "__main__":
    main()
