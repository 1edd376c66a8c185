"""`make bench`: how long the `stocks` line takes on two cores, beside targets and single-machine references.

1. `line`: all nine stages in a fresh lake, then the next day's scoring alone in a fresh process, each a real `propensity run`
   timed from start to exit; seconds per stage, rows per second, peak memory.
2. `features`: user features of one as-of date from 100,000 events, in a warm session (median of 5).
3. `reference`: stages beside DuckDB and XGBoost alone (benchmarks/reference.py says what those leave out).

Order: line, features, references, next day, each with the machine to itself, so that all see the lake the first one left.
Everything is written to a temporary folder, except the results file.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import features, reference
from benchmarks.command import CommandRun, propensity
from benchmarks.measure import Measure, code, machine, say, table, write
from propensity_spark.config import CONF_DIR, Settings, load_settings

DATASET, AS_OF, NEXT_DAY = "stocks", "2024-12-31", "2025-01-02"
CORES = 2
LINE_SECONDS, NEXT_DAY_SECONDS, FEATURES_SECONDS, JVM_GIB = 120, 60, 1.2, 4
GIB = 2**30

T = TypeVar("T")


def main() -> None:
    options = _options()
    cores = _take_cores()
    overrides = [*options.set, *shlex.split(options.settings)]
    about: dict[str, Any] = {"machine": machine(cores), "code": code(), "settings": overrides}
    with tempfile.TemporaryDirectory(prefix="propensity-bench-") as folder:
        measures = _measure(Path(folder), overrides, line_alone=options.line)
    path = write(measures, about)
    where = about["machine"]
    say(f"\n{table(measures)}\n")
    say(f"ratio: seconds of the line / seconds of the reference, which does less (see benchmarks/reference.py). {where['cores']} cores of")
    say(f"{where['cpu']}, load average before the start {where['load_before'][0]}; settings {' '.join(overrides) or 'as they are'}")
    say(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def _measure(folder: Path, overrides: Sequence[str], *, line_alone: bool) -> list[Measure]:
    lake = folder / "lake"
    places = [f"spark.master=local[{CORES}]", *overrides, f"lake.root={lake}", f"publish.uri={folder / 'published'}"]
    arguments = ["--dataset", DATASET, *(word for place in places for word in ("--set", place))]
    settings = load_settings(CONF_DIR / "local.yml", DATASET, places)
    say("1/4 the whole line in a fresh lake")
    line = propensity(arguments, lake, AS_OF)
    if line_alone:
        return _command("line", line, LINE_SECONDS, settings, {})
    say(f"2/4 user features of {features.ROWS:,} events")
    side = _aside(features.measure, settings, date.fromisoformat(AS_OF))
    say("3/4 single-machine references")
    work = reference.Work(settings, date.fromisoformat(AS_OF), side.files, folder / "reference")
    work.out.mkdir()
    beside = _aside(reference.references, work)
    say("4/4 the next day, scoring alone")
    next_day = propensity([*arguments, "--score-only"], lake, NEXT_DAY)
    return [
        *_command("line", line, LINE_SECONDS, settings, beside),
        *_command("next day", next_day, NEXT_DAY_SECONDS, settings, {}),
        _user_features(side),
    ]


def _command(name: str, run: CommandRun, target: float, settings: Settings, beside: Mapping[str, reference.Reference]) -> list[Measure]:
    measures = []
    for stage in run.stages:
        found = beside.get(stage.stage)
        seconds, against = (round(found.seconds, 3), found.what) if found else (None, "")
        note = f"{stage.rows_out:,} out"
        measures.append(Measure(f"{name}: {stage.stage}", stage.seconds, "s", stage.rows_in, seconds, against, note=note))
    total = Measure(f"{name}: in all", round(run.seconds, 3), target=target, note="from start to exit")
    if not run.jvm_peak:
        return [*measures, total]
    heap = f"VmHWM, heap limit {settings.spark.driver_memory}"
    peaks = [
        Measure(f"{name}: JVM peak", round(run.jvm_peak / GIB, 3), "GiB", target=JVM_GIB, note=heap),
        Measure(f"{name}: all processes peak", round(run.all_peak / GIB, 3), "GiB", note="JVM, Python and its workers"),
    ]
    return [*measures, total, *peaks]


def _user_features(side: features.SparkSide) -> Measure:
    every = ", ".join(f"{seconds:.2f}" for seconds in side.seconds)
    median = round(statistics.median(side.seconds), 3)
    return Measure("user features, warm", median, "s", side.rows, target=FEATURES_SECONDS, note=f"median of {every}")


def _aside(measured: Callable[..., T], *arguments: object) -> T:
    """The result of a function that runs in a fresh process of its own, which ends with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measured, *arguments).result()


def _take_cores() -> list[int]:
    """Bind this process and those it starts to two cores, where the system can; elsewhere Spark alone is told to use two."""
    if not hasattr(os, "sched_setaffinity"):
        return list(range(CORES))
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    return cores


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting, such as simulate.users=300")
    parser.add_argument("--settings", default="", metavar="'K=V …'", help="several overrides in one text")
    parser.add_argument("--line", action="store_true", help="the whole line alone, without next day, features and references")
    return parser.parse_args()


if __name__ == "__main__":
    main()
