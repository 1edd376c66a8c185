"""Which as-of dates are missing or out of date."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True)
class Success:
    """A features run that succeeded with the present settings and code: all it had, or needed, up to `as_of` was right then."""

    as_of: date
    started_at: datetime


@dataclass(frozen=True)
class Change:
    """An announcement that silver changes for every as-of date from `changed_from` on."""

    changed_from: date
    recorded_at: datetime


def pending_dates(
    needed: Iterable[date], stored: Sequence[set[date]], as_of: date, successes: Sequence[Success], changes: Sequence[Change]
) -> list[date]:
    """The dates up to `as_of` to compute, ascending: needed and not in every table, or stored or needed and out of date.

    `stored` holds the dates of each table. A date is out of date when no success covers it (a run covers the dates up to
    its own as-of date), or when silver has changed for it since the last success that does. Dates later than `as_of` are
    left alone; they stay out of date until a run reaches them.

    >>> monday, tuesday = date(2024, 1, 1), date(2024, 1, 2)
    >>> done = Success(monday, datetime(2024, 1, 1, 9))
    >>> [day.day for day in pending_dates([monday, tuesday], [{monday}], tuesday, [done], [])]
    [2]
    >>> [day.day for day in pending_dates([monday], [{monday}], tuesday, [done], [Change(monday, datetime(2024, 1, 2, 8))])]
    [1]
    """
    wanted = set(needed)

    def is_pending(day: date) -> bool:
        covered = [success.started_at for success in successes if success.as_of >= day]
        missing = day in wanted and any(day not in dates for dates in stored)
        return missing or not covered or any(change.changed_from <= day and change.recorded_at >= max(covered) for change in changes)

    return sorted(day for day in wanted.union(*stored) if day <= as_of and is_pending(day))
