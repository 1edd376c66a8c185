"""The table of docs/scaling.md: cores, hours and cost of a day for 1 million to 1 billion customers, from stored figures.

They are those of `make bench-history ARGS=--tenfold`: each stage of a day for so many customers and for a tenth of them, on two cores. What
a customer more costs is the difference; what would be left of no customer is fixed cost, which a cluster pays once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from benchmarks.compare import STORED
from benchmarks.measure import Measure

CORES_MEASURED = 2
CUSTOMERS = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
MINUTES = 60
"""The day has to be done in."""
EFFICIENCY = 0.6
"""Of a core of a cluster beside one of these: shuffles cross a network, and each stage waits for its last task. Assumed, not measured."""
USD_PER_CORE_HOUR = 0.10
"""A machine and what runs on it together. Assumed: put your own."""
WORKER_CORES = 16
PARTITION_BYTES = 128 * 1024 * 1024
NOTHING_STORED = "Not measured yet: `make bench-history ARGS=--tenfold`, then `make bench-store`."
_DAY = "next day, by customers: "


@dataclass(frozen=True)
class Slope:
    """What a customer more costs a stage: seconds of one core, bytes shuffled. `fixed`: seconds for no customer at all."""

    stage: str
    core_seconds: float
    shuffled: float
    fixed: float


def slopes(measures: Iterable[Measure]) -> list[Slope]:
    """The stages of a day. A stage that takes no longer for ten times the customers costs nothing by customer."""
    found = []
    for measure in measures:
        few = measure.reference_rows
        if measure.name.startswith(_DAY) and measure.rows and few and measure.reference is not None:
            seconds, shuffled = max(0.0, measure.value - measure.reference) / (measure.rows - few), measure.bytes_each or 0.0
            found.append(Slope(measure.name.removeprefix(_DAY), CORES_MEASURED * seconds, shuffled, measure.reference - few * seconds))
    return found


def stored_slopes() -> list[Slope]:
    stored = json.loads(STORED.read_text(encoding="utf-8"))["measures"]
    return slopes(Measure(**{name: value for name, value in one.items() if name != "measured"}) for one in stored)


def stages() -> str:
    """One row a stage of a day: what a customer more costs."""
    lines = ["| stage | microseconds of a core for each customer | bytes shuffled | fixed seconds |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {one.stage} | {1e6 * one.core_seconds:,.0f} | {one.shuffled:,.0f} | {one.fixed:,.1f} |" for one in stored_slopes()]
    return "\n".join(lines) if lines[2:] else NOTHING_STORED


def clusters() -> str:
    """One row a number of customers."""
    each = stored_slopes()
    if not each:
        return NOTHING_STORED
    core_seconds, shuffled, fixed = sum(one.core_seconds for one in each), max(one.shuffled for one in each), sum(one.fixed for one in each)
    head = ("customers", "core hours a day", "cores", f"workers of {WORKER_CORES}", "largest shuffle", "its partitions", "USD a day")
    lines = [f"| {' | '.join(head)} |", f"|{' ---: |' * len(head)}"]
    for customers in CUSTOMERS:
        hours = customers * core_seconds / EFFICIENCY / 3600
        cores = max(CORES_MEASURED, ceil(3600 * hours / (60 * MINUTES - fixed)))
        moved, cost = customers * shuffled, USD_PER_CORE_HOUR * (hours + cores * fixed / 3600)
        cells = (f"{customers:,}", f"{hours:,.1f}", f"{cores:,}", f"{ceil(cores / WORKER_CORES):,}", f"{moved / 1e9:,.1f} GB")
        lines.append(f"| {' | '.join((*cells, f'{ceil(moved / PARTITION_BYTES):,}', f'{cost:,.2f}'))} |")
    return "\n".join(lines)
