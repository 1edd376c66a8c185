"""What a measurement is, the closing table, and the results file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from propensity_spark import __version__

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Measure:
    """One number. `rows`: rows read in that time; `reference`: seconds of what it is held against, named in `against`.

    Where that had other rows, `reference_rows` of them; `bytes_each`: what each row more shuffles.
    """

    name: str
    value: float
    unit: str = "s"
    rows: int | None = None
    reference: float | None = None
    against: str = ""
    target: float | None = None
    note: str = ""
    reference_rows: int | None = None
    bytes_each: float | None = None

    @property
    def met(self) -> str:
        return "" if self.target is None else "yes" if self.value <= self.target else "no"


def table(measures: Sequence[Measure]) -> str:
    """The measures as one plain table. `ratio` is ours / reference: above 1 the reference is faster."""
    head = ("measure", "value", "target", "met", "rows in", "rows/s", "reference", "ratio", "")
    lines = [head, *(_cells(measure) for measure in measures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    left = (0, 3, 8)
    pad = [str.ljust if column in left else str.rjust for column in range(len(head))]
    return "\n".join("  ".join(pad[i](cell, widths[i]) for i, cell in enumerate(line)).rstrip() for line in lines)


def _cells(m: Measure) -> tuple[str, ...]:
    return (
        m.name,
        f"{m.value:,.2f} {m.unit}",
        "" if m.target is None else f"{m.target:g} {m.unit}",
        m.met,
        "" if m.rows is None else f"{m.rows:,}",
        f"{m.rows / m.value:,.0f}" if m.rows and m.value else "",
        "" if m.reference is None else f"{m.reference:,.2f} s",
        f"{m.value / m.reference:,.1f}" if m.reference else "",
        "; reference: ".join(part for part in (m.note, m.against) if part),
    )


def machine(cores: Sequence[int]) -> dict[str, Any]:
    """What the numbers were measured on. The load average before the start says whether the machine had other work."""
    return {
        "cores": len(cores),
        "cpu": _cpu(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def code() -> dict[str, str]:
    """Version and commit of what was measured; `-dirty` when the working tree was changed."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {"version": __version__, "commit": described.stdout.strip() or "unknown"}


def say(text: str) -> None:
    """A line to the terminal at once, also where it is a file."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def seconds_of(work: Callable[..., object], *arguments: object) -> float:
    clock = time.monotonic()
    work(*arguments)
    return time.monotonic() - clock


def write(measures: Sequence[Measure], about: dict[str, Any]) -> Path:
    """Write benchmarks/results/<UTC timestamp>.json; two such files are what compare.py compares."""
    return write_body({**about, "measures": [asdict(measure) for measure in measures]})


def write_body(body: dict[str, Any], kind: str = "") -> Path:
    """Write benchmarks/results/<kind><UTC timestamp>.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{kind}{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
