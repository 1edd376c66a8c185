"""`propensity run` in a process of its own: wall time, seconds and rows of each stage, and the peak memory of its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class StageRun:
    """One success of one stage, as the line logged it; `ended` in seconds since 1970."""

    stage: str
    seconds: float
    rows_in: int
    rows_out: int
    ended: float


@dataclass(frozen=True)
class CommandRun:
    """A whole command. Peaks in bytes, 0 where the system has no /proc: of the JVM alone (VmHWM), and of all processes
    together (largest sum of resident sizes seen; pages that forked Python workers share count in each of them)."""

    seconds: float
    stages: tuple[StageRun, ...]
    jvm_peak: int
    all_peak: int


def propensity(arguments: Sequence[str], lake: Path, as_of: str) -> CommandRun:
    """Run `propensity run` and time it from start to exit, the start of Python and of the JVM included.

    Seconds per stage come from the line's own log, whose numbers are those of `ops/runs`. Exits when the command fails.
    """
    command = [sys.executable, "-c", "from propensity_spark.cli import main; raise SystemExit(main())", "run", "--as-of", as_of, *arguments]
    jvm_peak = all_peak = 0
    with tempfile.TemporaryFile("w+") as printed:
        clock = time.monotonic()
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        while process.poll() is None:
            jvm, everything = memory(process.pid)
            jvm_peak, all_peak = max(jvm_peak, jvm), max(all_peak, everything)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        seconds = time.monotonic() - clock
        printed.seek(0)
        if process.returncode:
            sys.exit(f"{printed.read()[-4000:]}\npropensity run --as-of {as_of} ended with exit code {process.returncode}")
    return CommandRun(seconds, stage_runs(lake, as_of), jvm_peak, all_peak)


def stage_runs(lake: Path, as_of: str) -> tuple[StageRun, ...]:
    """The last success of each stage for the as-of date, in the order they ran."""
    found: dict[str, StageRun] = {}
    for line in (lake / "logs" / "propensity.log").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["message"] == "succeeded" and entry["as_of"] == as_of:
            rows, ended = entry["outcome"], datetime.fromisoformat(entry["time"]).timestamp()
            found[entry["stage"]] = StageRun(entry["stage"], entry["seconds"], rows["rows_in"], rows["rows_out"], ended)
    return tuple(found.values())


def memory(root: int) -> tuple[int, int]:
    """(highest resident size so far of the JVM, resident size now of the process and all its descendants), in bytes."""
    parents: dict[int, int] = {}
    status: dict[int, dict[str, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines = (folder / "status").read_text(encoding="utf-8").splitlines()
        except OSError:  # it ended in between
            continue
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        parents[int(folder.name)] = int(fields["PPid"])
        status[int(folder.name)] = fields
    family = {root}
    for pid in sorted(parents):  # a child has the greater number, but where numbers start anew
        if parents[pid] in family:
            family.add(pid)
    ours = [status[pid] for pid in family if pid in status]
    jvm = max((_bytes(fields, "VmHWM") for fields in ours if fields["Name"] == "java"), default=0)
    return jvm, sum(_bytes(fields, "VmRSS") for fields in ours)


def peak() -> str:
    """In words, the most memory that the JVM of this process has taken so far."""
    return f"JVM at most {memory(os.getpid())[0] / 2**30:.1f} GiB"


def _bytes(fields: dict[str, str], name: str) -> int:
    return int(fields.get(name, "0 kB").split()[0]) * 1024
