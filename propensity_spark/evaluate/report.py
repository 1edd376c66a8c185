"""One page for people (HTML, everything inside it) and one file for programs (JSON, every number of the page)."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from propensity_spark.evaluate.pictures import pictures, score_names

METRIC_NAMES = {
    "roc_auc": ("ROC-AUC", "chance a purchase scores above a non-purchase", "higher"),
    "pr_auc": ("PR-AUC", "average precision over the candidates", "higher"),
    "brier": ("Brier score", "mean squared error of the probability", "lower"),
    "log_loss": ("Log loss", "nats per candidate", "lower"),
    "calibration_error": ("Calibration error", "mean |purchase rate − probability|, 15 groups", "lower"),
}

_GATE_NAMES = {
    "auc_over_champion": "AUC ahead of the champion (above the limit)",
    "calibration_error": "Calibration error (at most the limit)",
    "segment_auc": "AUC of the worst segment (at least the limit)",
    "auc_over_dates": "AUC of the worst test date below their mean (at most the limit)",
    "auc_over_folds": "AUC of the worst fold in time below their mean (at most the limit)",
    "feature_alone_auc": "AUC of one feature alone (at most the limit)",
    "decided_by_feature": "Share of labels that one feature decides (at most the limit)",
    "score_rows_per_second": "Rows scored a second by one core (at least the limit)",
    "rolled_back": "Times rolled back as champion (at most the limit)",
}


def render(report: Mapping[str, Any], path: Path) -> None:
    """Write the page for the numbers in `report` (the content of report.json); asks nothing of the network when opened.

    Only `head`, `decision` and `evaluation` must be there; a section whose numbers are missing or null is left out. To
    show drift, set `report["drift"]` to the rows of ops/drift and render again.
    """
    environment = Environment(
        loader=PackageLoader("propensity_spark.evaluate", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= FILTERS
    empty: dict[str, Any] = dict.fromkeys(("splits", "leaks", "folds", "stages", "quality", "notes"), ())
    optional = empty | dict.fromkeys(("explain", "ceiling", "drift", "items_together"))
    page = environment.get_template("report.html.j2").render(
        **optional | dict(report),
        pictures=pictures(report),
        metric_names=metric_names(report),
        score_names=score_names(report),
        gate_names=gate_names(report),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def write(report: Mapping[str, Any], reports: Path, as_of: date) -> tuple[Path, Path]:
    """Write `<as_of>/report.html`, `<as_of>/report.json` and the copy `latest.html` under `reports`; returns page and JSON.

    Each is renamed into place whole: the next run reads the JSON, and a person may have the page open.
    """
    page, numbers = reports / as_of.isoformat() / "report.html", reports / as_of.isoformat() / "report.json"
    page.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=reports, prefix=".report-") as aside:
        made = Path(aside)
        render(report, made / "page")
        shutil.copyfile(made / "page", made / "latest")
        (made / "numbers").write_text(json.dumps(report, indent=1, default=str, allow_nan=False), encoding="utf-8")
        for name, place in (("page", page), ("numbers", numbers), ("latest", reports / "latest.html")):
            os.replace(made / name, place)
    return page, numbers


def estimate_text(estimate: Mapping[str, float | None], digits: int = 3) -> str:
    """`0.842 [0.835, 0.849]`; without an interval the value alone, undefined: a dash."""
    value, low, high = (estimate[end] for end in ("value", "low", "high"))
    if value is None:
        return "–"
    interval = f" [{low:.{digits}f}, {high:.{digits}f}]" if low is not None and high is not None else ""
    return f"{value:.{digits}f}{interval}"


def gate_names(report: Mapping[str, Any]) -> dict[str, str]:
    """Gate → what the report calls it."""
    return {**_GATE_NAMES, "auc_over_baseline": f"AUC ahead of {score_names(report)['baseline'].lower()} (above the limit)"}


def facts(report: Mapping[str, Any]) -> dict[str, str]:
    """The lines of the closing table: AUC beside the baseline's, and the share of the ceiling where it is known."""
    metrics = report["evaluation"]["metrics"]
    said = {"AUC": estimate_text(metrics["challenger"]["roc_auc"]), "baseline": estimate_text(metrics["baseline"]["roc_auc"])}
    if ceiling := report.get("ceiling"):
        truth, share = estimate_text(ceiling["truth"]["roc_auc"]), ceiling["share"]
        said["ceiling"] = (
            f"{truth}, {_percent(share['value'])} of it above chance reached by the model's {estimate_text(ceiling['model']['roc_auc'])}"
        )
    return said


def flat_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of the evaluation by one name each, as MLflow wants them: `test.roc_auc`, `test.roc_auc.low`, …"""
    named = dict(report["evaluation"]["metrics"]["challenger"])
    named["candidate_recall"] = report["evaluation"]["candidates"]["recall"]
    if report.get("ceiling"):
        named["share_of_ceiling"] = report["ceiling"]["share"]
    flat = {f"test.{name}{'' if end == 'value' else '.' + end}": number for name, found in named.items() for end, number in found.items()}
    return {name.replace("@", "_at_"): number for name, number in flat.items() if number is not None}


def metric_names(report: Mapping[str, Any]) -> dict[str, tuple[str, str, str]]:
    """Title, meaning and better direction of every metric in the report, those per user's list included."""
    ranked = [name for name in report["evaluation"]["metrics"]["challenger"] if "@" in name]
    meanings = {
        "precision": "purchases among the first {k} / {k}",
        "recall": "purchases among the first {k} / purchases",
        "ndcg": "gain of the first {k}",
    }
    lists = {}
    for name in ranked:
        kind, _, k = name.partition("@")
        title = "nDCG" if kind == "ndcg" else kind.capitalize()
        lists[name] = (f"{title}@{k}", f"per user: {meanings[kind].format(k=k)}", "higher")
    return METRIC_NAMES | lists


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%"


def _decimal(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


FILTERS = {"estimate": estimate_text, "count": _count, "percent": _percent, "decimal": _decimal}
