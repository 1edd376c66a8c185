"""What a Delta log in a folder or on S3 must look like before a run may trust its table.

Delta itself takes an empty commit for one that changed nothing, and a commit cut at the end of a line for a shorter one: rows are
lost without a word. One listing and the last commit are enough to tell. Unity Catalog keeps its own logs and is not looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

_SCHEME = re.compile(r"[A-Za-z][\w+.-]+:/")
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..+")
_ROWS_WRITTEN = ("numOutputRows", "numCopiedRows")
"""Metrics in which an append, a replacement or a MERGE, and a DELETE, say how many rows are in the files they added.

That of files does not do: it counts files without a row too, which Delta then leaves out.
"""


@dataclass(frozen=True)
class Log:
    """The names in `_delta_log`: bytes of each commit by version, the last checkpoint (-1: none), when the oldest commit was written."""

    commits: Mapping[int, int]
    checkpoint: int
    first_written: datetime | None

    @property
    def version(self) -> int:
        """The table's version, -1 for a log without any commit."""
        return max(self.commits, default=-1)

    def is_younger_than(self, moment: datetime) -> bool:
        """Whether the table was made after `moment`; false when its log no longer reaches back to its first commit."""
        return 0 in self.commits and self.first_written is not None and self.first_written > moment


def list_log(spark: SparkSession, location: str) -> Log | None:
    """The log of the table at `location`, by one listing; None when there is no folder `_delta_log`."""
    if not _SCHEME.match(location):
        folder = Path(location) / "_delta_log"
        if not folder.is_dir():
            return None
        entries = [(path.name, path.stat().st_size, path.stat().st_mtime) for path in folder.iterdir()]
    else:
        system, path = _file_system(spark, f"{location}/_delta_log")
        if not system.exists(path):
            return None
        entries = [(one.getPath().getName(), one.getLen(), one.getModificationTime() / 1000) for one in system.listStatus(path)]
    commits = {int(match[1]): (size, at) for name, size, at in entries if (match := _COMMIT.fullmatch(name))}
    checkpoints = [int(match[1]) for name, _, _ in entries if (match := _CHECKPOINT.fullmatch(name))]
    first = datetime.fromtimestamp(commits[min(commits)][1], UTC) if commits else None
    return Log({version: size for version, (size, _) in commits.items()}, max(checkpoints, default=-1), first)


def damage(log: Log, last_commit: str) -> str | None:
    """What is wrong with a log, in words that name the file; None when nothing is. `last_commit` is the text of the last commit.

    Nothing is wrong with a log that is empty: a writer that is killed before its table's first commit leaves one behind.
    """
    if not log.commits:
        return None if log.checkpoint < 0 else "its log holds a checkpoint and no commit, expected both"
    needed = range(log.checkpoint + 1, log.version + 1)  # what is older is in the checkpoint
    for version in needed:
        if version not in log.commits:
            return f"{_name(version)} is missing, expected every commit from {needed.start} to {log.version}"
        if log.commits[version] == 0:
            return f"{_name(version)} is empty: a commit was torn, and reading on would silently lose its rows"
    if needed and (reason := _torn(last_commit)) is not None:
        return f"{_name(log.version)} is torn ({reason}), expected one JSON object a line, complete"
    return None


def read_commit(spark: SparkSession, location: str, version: int) -> str:
    """The text of one commit."""
    name = _name(version)
    if not _SCHEME.match(location):
        return (Path(location) / name).read_text(encoding="utf-8", errors="replace")
    system, path = _file_system(spark, f"{location}/{name}")
    stream = system.open(path)
    try:
        return str(spark._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))  # type: ignore[union-attr]
    finally:
        stream.close()


def _torn(text: str) -> str | None:
    if not text.endswith("\n"):
        return "its last line has no end"
    try:
        actions = list(_actions(text))
    except ValueError:
        return "a line is no JSON"
    metrics: dict[str, Any] = next((action["commitInfo"].get("operationMetrics", {}) for action in actions if "commitInfo" in action), {})
    said = next((int(metrics[name]) for name in _ROWS_WRITTEN if name in metrics), 0)
    stats = [action["add"].get("stats") for action in actions if "add" in action]
    if not all(stats):
        return None  # a writer that counts no rows
    found = sum(json.loads(counted)["numRecords"] for counted in stats)
    return f"it lists files of {found} rows, {said} were written" if found < said else None


def _actions(text: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in text.splitlines())


def _name(version: int) -> str:
    return f"_delta_log/{version:020}.json"


def _file_system(spark: SparkSession, location: str) -> tuple[Any, Any]:
    """Hadoop's file system of a place, and the place as it wants it."""
    jvm: Any = spark._jvm
    path = jvm.org.apache.hadoop.fs.Path(location)
    return path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf()), path
