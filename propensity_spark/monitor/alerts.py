"""Which alert rules hold on a day, given what was measured on it and before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase

from propensity_spark.config import AlertRule
from propensity_spark.monitor.drift import Measure
from propensity_spark.monitor.performance import Performance

SHOWN_SUBJECTS = 5


@dataclass(frozen=True)
class Seen:
    """One measure of one subject: the day it is of, and the monitored day on which it became known (later for performance)."""

    day: date
    known: date
    subject: str
    measure: str
    value: float | None
    breached: bool
    note: str | None = None


@dataclass(frozen=True)
class Alert:
    """A rule that holds on a day, and the subjects for which it does, worst first. `cooling`: within the rule's cooldown."""

    rule: AlertRule
    as_of: date
    subjects: tuple[Seen, ...]
    cooling: bool

    @property
    def text(self) -> str:
        shown = [_words(seen) for seen in self.subjects[:SHOWN_SUBJECTS]]
        more = len(self.subjects) - len(shown)
        return "; ".join(shown) + (f"; and {more} more" if more else "")

    def identity(self, dataset: str) -> str:
        """16 hex digits, the same for every attempt to deliver it."""
        return hashlib.sha256(f"{dataset} {self.as_of} {self.rule.name}".encode()).hexdigest()[:16]


def seen_drift(measures: Sequence[Measure], day: date) -> list[Seen]:
    """Today's measures as what rules look at."""
    return [Seen(day, day, m.subject, m.measure, m.value, m.breached, m.note) for m in measures]


def seen_performance(rows: Sequence[Performance]) -> list[Seen]:
    """Realised measures, under the subject `performance`; mere estimates are not judged."""
    return [
        Seen(row.scored, row.as_of, "performance", row.measure, row.realised, row.breached, f"scores of {row.scored}")
        for row in rows
        if row.realised is not None
    ]


def holding(rules: Sequence[AlertRule], history: Sequence[Seen], as_of: date, alerted: Mapping[str, date]) -> list[Alert]:
    """The rules that hold on D, in their order.

    For a subject a rule holds when its measure is off on `days` of the last `of` days it was measured, the last of these is
    off and became known on D: so an alert is about news. What became known after D is left out. `alerted`: rule → last day
    before D on which it was told.
    """
    alerts = []
    for rule in rules:
        subjects = _off(rule, [seen for seen in history if seen.known <= as_of], as_of)
        if subjects:
            last = alerted.get(rule.name)
            cooling = last is not None and (as_of - last).days <= rule.cooldown_days
            alerts.append(Alert(rule, as_of, tuple(subjects), cooling))
    return alerts


def _off(rule: AlertRule, history: Sequence[Seen], as_of: date) -> list[Seen]:
    by_subject: dict[str, list[Seen]] = {}
    for seen in sorted(history, key=lambda seen: seen.day):
        if seen.measure == rule.measure and fnmatchcase(seen.subject, rule.subject):
            by_subject.setdefault(seen.subject, []).append(seen)
    found = []
    for days in by_subject.values():
        last = days[-rule.of :]
        if last[-1].known == as_of and is_off(rule, last[-1]) and sum(is_off(rule, seen) for seen in last) >= rule.days:
            found.append(last[-1])
    sign = 1 if rule.below is not None else -1
    return sorted(found, key=lambda seen: (seen.value is not None, sign * (seen.value or 0.0), seen.subject))


def is_off(rule: AlertRule, seen: Seen) -> bool:
    """Whether one measure breaks the rule. One that could not be had is off where it has a limit of its own, else not."""
    if rule.above is None and rule.below is None:
        return seen.breached
    if seen.value is None:
        return False
    return (rule.above is not None and seen.value > rule.above) or (rule.below is not None and seen.value < rule.below)


def _words(seen: Seen) -> str:
    value = "not measurable" if seen.value is None else f"{seen.value:.4g}"
    return f"{seen.subject} {seen.measure} {value}" + (f" ({seen.note})" if seen.note else "")
