"""One day's measures as a page that a person can open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

from propensity_spark.evaluate import report
from propensity_spark.monitor.drift import RETRAIN, Measure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733 }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #dde3ea; font-variant-numeric: tabular-nums }
th:first-child, td:first-child, td:last-child { text-align: left }
.breached { background: #fdecea }
.verdict { padding: .6rem 1rem; background: #eef4fb; border-left: 4px solid #2f6fb0 }
"""


def summary(measures: Sequence[Measure], as_of: date, model_name: str, model_version: str) -> dict[str, Any]:
    """The measures as plain JSON: `retrain` (yes or no, with the reason), `subjects` with PSI and nulls, `tables`."""
    by_subject: dict[str, dict[str, Any]] = {}
    for m in measures:
        if m.measure in ("psi", "null_share", "baseline_null_share"):
            entry = by_subject.setdefault(m.subject, {"subject": m.subject})
            entry[m.measure] = m.value
            if m.measure == "psi":
                entry |= {"limit": m.limit, "breached": m.breached}
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


def write(found: dict[str, Any], folder: Path) -> None:
    """`monitor.json` and `monitor.html` in `folder`, from `summary`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "monitor.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (folder / "monitor.html").write_text(page(found), encoding="utf-8")


def add_to_report(measures: Sequence[Measure], as_of: date, reports: Path) -> None:
    """Show the measures in the evaluation report of the same date under `reports`; a day that only scores has none."""
    numbers = reports / as_of.isoformat() / "report.json"
    if not numbers.exists():
        return
    evaluated = json.loads(numbers.read_text(encoding="utf-8"))
    evaluated["drift"] = [asdict(m) | {"as_of_date": as_of.isoformat(), "breached": m.breached} for m in measures]
    report.write(evaluated, reports, as_of)


def page(found: dict[str, Any]) -> str:
    """`summary` as one HTML page without scripts or outside files."""
    title = f"Monitoring as of {found['as_of_date']}"
    subjects = [
        (s["breached"], s["subject"], f"{s['psi']:.4f}", f"{s['limit']:g}", f"{s['null_share']:.2%}", f"{s['baseline_null_share']:.2%}")
        for s in found["subjects"]
    ]
    tables = [
        (t["breached"], t["subject"], t["measure"], _number(t["value"]), _number(t["limit"]), t["note"] or "") for t in found["tables"]
    ]
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>Model {escape(found['model_name'])} version {escape(found['model_version'])}</p>"
        f"<p class='verdict'>Retrain? <strong>{escape(found['retrain'])}</strong></p>"
        "<h2>Drift against the model's training baseline</h2>"
        f"{_table(('subject', 'PSI', 'limit', 'null now', 'null in training'), subjects)}"
        f"<h2>Volume and freshness</h2>{_table(('table', 'measure', 'value', 'limit', 'note'), tables)}</body></html>\n"
    )


def _table(headings: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """Rows whose first element says whether a limit is breached."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr{' class=breached' if breached else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for breached, *cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
