"""Quartz cron expressions, which have seconds first and want a `?` for one of the two kinds of day."""

from __future__ import annotations

import re

_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_FIELDS: tuple[tuple[str, int, int, list[str]], ...] = (
    ("seconds", 0, 59, []),
    ("minutes", 0, 59, []),
    ("hours", 0, 23, []),
    ("day of month", 1, 31, []),
    ("month", 1, 12, _MONTHS),
    ("day of week", 1, 7, _DAYS),
    ("year", 1970, 2099, []),
)
_LAST = {"day of month": r"L(-\d+)?|LW|\d+W", "day of week": r"L|([1-7]|SUN|MON|TUE|WED|THU|FRI|SAT)(L|#[1-5])"}


def problem(expression: str) -> str | None:
    """What is wrong with the expression, None when nothing is."""
    words = expression.upper().split()
    if len(words) not in (6, 7):
        return f"expected 6 or 7 fields (seconds minutes hours day-of-month month day-of-week [year]), found {len(words)}"
    for word, (name, low, high, names) in zip(words, _FIELDS, strict=False):
        if word == "?" and name.startswith("day"):
            continue
        for part in word.split(","):
            if not re.fullmatch(_LAST.get(name, r"(?!)"), part) and not _in_range(part, low, high, names):
                return f"{name}: {part!r} is not within {low}-{high}"
    if [words[3], words[5]].count("?") != 1:
        return "expected ? for exactly one of day of month and day of week"
    return None


def _in_range(part: str, low: int, high: int, names: list[str]) -> bool:
    found = re.fullmatch(r"(\*|\w+(?:-\w+)?)(?:/(\d+))?", part)
    if found is None or found.group(2) == "0":
        return False
    ends = [] if found.group(1) == "*" else found.group(1).split("-")
    numbers = [names.index(end) + low if end in names else int(end) if end.isdigit() else -1 for end in ends]
    return all(low <= number <= high for number in numbers)
