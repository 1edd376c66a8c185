"""Structured logs: one JSON object a line, in files that rotate, with the run and stage they belong to."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from pyspark.logger import PySparkLogger

from propensity_spark.config import Settings
from propensity_spark.platform import on_databricks

MAX_BYTES = 10_000_000
_FIELDS: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default={})  # noqa: B039 (never changed in place)
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """time, level, logger, run_id, stage, message, whatever was passed as `extra`, and the traceback as `error`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            **current_fields(),
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _OWN},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def current_fields() -> Mapping[str, str]:
    """The fields that lines logged here carry: run_id, stage, as_of."""
    return _FIELDS.get()


@contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """Every line logged inside carries these fields."""
    token = _FIELDS.set({**_FIELDS.get(), **fields})
    try:
        yield
    finally:
        _FIELDS.reset(token)


def log_folder(settings: Settings) -> Path:
    """`<lake.root>/logs`, or `logs/<dataset>` under the current folder when the lake is not on this machine's disk.

    On Databricks `logs/<dataset>` in the driver's temporary folder: a volume takes no appended lines.
    """
    root = settings.lake.root
    if on_databricks():
        folder = Path(tempfile.gettempdir()) / "propensity" / "logs" / settings.dataset
    else:
        folder = Path("logs") / settings.dataset if re.match(r"[A-Za-z][\w+.-]+:/", root) else Path(root) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def start_logging(folder: Path, verbose: bool) -> None:
    """Send all logs to `<folder>/propensity.log` (INFO and above of this package, warnings of others); `verbose`: to stderr too.

    On Databricks always to stderr too, as JSON lines: the job keeps that, while the driver's disk goes with the cluster.
    """
    file = RotatingFileHandler(folder / "propensity.log", maxBytes=MAX_BYTES, backupCount=5, encoding="utf-8")
    file.setFormatter(JsonLines())
    handlers: list[logging.Handler] = [file]
    if verbose or on_databricks():
        handlers.append(logging.StreamHandler())
        if on_databricks():
            handlers[-1].setFormatter(JsonLines())
    if not verbose:
        _quiet_libraries()
    logging.basicConfig(level=logging.WARNING, handlers=handlers, format="%(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("propensity_spark").setLevel(logging.INFO)
    logging.captureWarnings(True)
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).disabled = True  # repeats every failed analysis, handled or not, with values of the data


def log_file() -> str | None:
    """The file that logs go to; None before `start_logging`."""
    return next((handler.baseFilename for handler in logging.getLogger().handlers if isinstance(handler, RotatingFileHandler)), None)


def _quiet_libraries() -> None:
    """No progress bars, and no log handlers of MLflow's own: its messages then go to our file. Read when it is imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Give file descriptor 2 to `path`: a JVM started inside keeps writing there, this process gets its own back."""
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        path.replace(path.with_suffix(".log.1"))
    sys.stderr.flush()
    own = os.dup(2)
    with path.open("ab") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)
