"""One day's measures as a page that a person can open: verdict first, then what drifted, what was told, what the scores were worth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from propensity_spark.evaluate import report
from propensity_spark.monitor.alerts import Seen
from propensity_spark.monitor.drift import RETRAIN, Measure, shares
from propensity_spark.monitor.performance import Performance
from propensity_spark.predictor import ReferenceBins
from propensity_spark.score import PROBABILITY

SHOWN_DAYS = 14
_LINES = (
    (PROBABILITY, "psi", "PSI of the score"),
    ("model", "drifted_features", "Drifted features"),
    ("gold/scores", "rows", "Candidates scored"),
)
_OF_SUBJECT = ("psi", "jensen_shannon", "null_share", "baseline_null_share", "unseen_share")


def summary(
    measures: Sequence[Measure],
    as_of: date,
    model_name: str,
    model_version: str,
    *,
    baseline: Mapping[str, ReferenceBins] | None = None,
    counted: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """The measures as plain JSON: `retrain` (yes or no, with the reason), `subjects` with PSI, divergence, nulls and shares per bin,
    worst first, `tables`."""
    by_subject: dict[str, dict[str, Any]] = {}
    for m in measures:
        if m.measure in _OF_SUBJECT:
            entry = by_subject.setdefault(m.subject, {"subject": m.subject})
            entry[m.measure] = m.value
            if m.measure == "psi":
                entry |= {"limit": m.limit, "breached": m.breached}
    for subject, bins in (baseline or {}).items():
        by_subject[subject]["bins"] = _bins(bins, (counted or {})[subject])
    tables = [
        {"subject": m.subject, "measure": m.measure, "value": m.value, "limit": m.limit, "breached": m.breached, "note": m.note}
        for m in measures
        if m.measure in ("rows", "age_days")
    ]
    return {
        "as_of_date": as_of.isoformat(),
        "model_name": model_name,
        "model_version": model_version,
        "retrain": next(f"{'yes' if m.breached else 'no'}: {m.note}" for m in measures if m.measure == RETRAIN),
        "subjects": sorted(by_subject.values(), key=lambda entry: -entry["psi"]),
        "tables": tables,
    }


def write(
    found: Mapping[str, Any],
    folder: Path,
    *,
    history: Sequence[Seen] = (),
    performance: Sequence[Performance] = (),
    alerts: Sequence[Mapping[str, Any]] = (),
) -> None:
    """`monitor.json` and `monitor.html` in `folder`: `summary`, the measures of the last days, performance as estimated and as
    realised, and the rows of ops/alerts."""
    numbers = dict(found) | {
        "history": _by_day([seen for seen in history if any((seen.subject, seen.measure) == line[:2] for line in _LINES)]),
        "performance": _by_scored_day(performance),
        "alerts": [{name: None if value is None else str(value) for name, value in alert.items()} for alert in alerts][::-1],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "monitor.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    (folder / "monitor.html").write_text(page(numbers), encoding="utf-8")


def add_to_report(measures: Sequence[Measure], as_of: date, reports: Path) -> None:
    """Show the measures in the evaluation report of the same date under `reports`; a day that only scores has none."""
    numbers = reports / as_of.isoformat() / "report.json"
    if not numbers.exists():
        return
    evaluated = json.loads(numbers.read_text(encoding="utf-8"))
    evaluated["drift"] = [asdict(m) | {"as_of_date": as_of.isoformat(), "breached": m.breached} for m in measures]
    report.write(evaluated, reports, as_of)


def page(numbers: Mapping[str, Any]) -> str:
    """The numbers of monitor.json as one HTML page without scripts or outside files."""
    environment = Environment(
        loader=PackageLoader("propensity_spark.monitor", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent}
    lines = [(title, _line([day[measure] for day in numbers["history"]])) for _, measure, title in _LINES]
    return environment.get_template("monitor.html.j2").render(**numbers, lines=lines, shown_days=SHOWN_DAYS)


def _bins(reference: ReferenceBins, counts: Sequence[float]) -> list[dict[str, Any]]:
    """Label, expected and found share of every bin, the empty null bin left out."""
    edges = [f"{edge:.3g}" for edge in reference.edges]
    if reference.categories:
        labels = [*reference.categories, "unseen"]
    else:
        labels = [f"≤ {edge}" for edge in edges] + ([f"> {edges[-1]}"] if edges else ["any"])
    cells = zip([*labels, "null"], reference.expected, shares(counts), strict=True)
    return [{"label": label, "expected": e, "found": f} for label, e, f in cells if label not in ("null", "unseen") or e or f]


def _by_day(history: Sequence[Seen]) -> list[dict[str, Any]]:
    """One entry a monitored day, the oldest first; a measure it lacks is null."""
    days: dict[str, dict[str, Any]] = {}
    for seen in history:
        empty = {"day": str(seen.day), **{measure: None for _, measure, _ in _LINES}}
        days.setdefault(str(seen.day), empty)[seen.measure] = seen.value
    return [days[day] for day in sorted(days)]


def _by_scored_day(rows: Sequence[Performance]) -> list[dict[str, Any]]:
    """One entry a scored day, the newest first: per measure what was estimated and, once it is, what was realised."""
    days: dict[date, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row.scored, row.as_of)):
        entry = days.setdefault(row.scored, {"scored_date": str(row.scored), "judged": False, "measures": {}})
        entry |= {"model_version": row.model_version, "judged": entry["judged"] or row.as_of > row.scored}
        numbers = {name: getattr(row, name) for name in ("estimated", "realised", "low", "high", "error", "breached")}
        entry["measures"][row.measure] = numbers
    return [days[day] for day in sorted(days, reverse=True)]


def _line(values: Sequence[float | None]) -> dict[str, Any]:
    """Points of a line of 240 × 48 from 0 to the largest value, and the last value; gaps are left out."""
    there = [(place, value) for place, value in enumerate(values) if value is not None]
    top = max((value for _, value in there), default=0.0) or 1.0
    step = 232 / max(1, len(values) - 1)
    points = [(round(4 + place * step, 1), round(44 - 40 * value / top, 1)) for place, value in there]
    return {"points": points, "last": there[-1][1] if there else None, "top": top}


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}%"
