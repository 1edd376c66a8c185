"""Dynamic value references of a job, `{{…}}`, as Databricks replaces them when a task starts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

REFERENCE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


class ReplayError(Exception):
    """The job cannot be replayed as it stands: something it names is not there."""


def times(now: datetime) -> dict[str, object]:
    """`job.start_time.…` and `job.trigger.time.…`, in UTC."""
    moment = now.astimezone(UTC)
    parts = {
        "iso_date": f"{moment:%Y-%m-%d}",
        "iso_datetime": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "iso_weekday": moment.isoweekday(),
        "is_weekday": moment.isoweekday() <= 5,
        "timestamp_ms": int(moment.timestamp() * 1000),
        **{name: getattr(moment, name) for name in ("year", "month", "day", "hour", "minute", "second")},
    }
    return {f"{which}.{name}": value for which in ("job.start_time", "job.trigger.time") for name, value in parts.items()}


def text_of(value: object) -> str:
    """A value as a task sees it: a text as it is, anything else as JSON (true, 3, ["a","b"])."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def resolve(value: Any, known: Mapping[str, object], where: str) -> Any:
    """`value` (a text, or texts inside lists and objects) with every reference replaced.

    Stricter than Databricks, which takes a reference of an unknown namespace for plain text: here each one that nothing stands behind,
    and each bundle variable left over, raises ReplayError with `where`.
    """
    if isinstance(value, dict):
        return {name: resolve(item, known, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, known, f"{where}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    if "${" in value:
        raise ReplayError(f"{where}: {value!r} still has a bundle variable; resolve the bundle for a target first")

    def replaced(match: re.Match[str]) -> str:
        name = match[1].replace("`", "")
        if name not in known:
            raise ReplayError(f"{where}: {match[0]} refers to nothing; known here: {', '.join(sorted(_worth_naming(known)))}")
        return text_of(known[name])

    return REFERENCE.sub(replaced, value)


def _worth_naming(known: Mapping[str, object]) -> list[str]:
    return [name for name in known if not name.startswith(("job.start_time.", "job.trigger."))]
