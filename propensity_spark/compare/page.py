"""A comparison as lines for a terminal, as a page with pictures, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from propensity_spark.evaluate.canvas import BLUE, GREEN, GREY, INK, LOOK, ORANGE, PURPLE, embedded, panel, percent_axes
from propensity_spark.evaluate.report import estimate_text

_NAMES = {
    "xgboost": "XGBoost, on the sample",
    "lightgbm": "LightGBM",
    "logistic": "Logistic regression",
    "forest": "Random forest",
    "network": "Neural network",
    "ensemble": "Ensemble",
    "registered": "The registered model, on all rows",
}
_STYLES = {
    "xgboost": (BLUE, "-"),
    "lightgbm": (GREEN, (0, (5, 2))),
    "logistic": (ORANGE, (0, (5, 2))),
    "forest": (PURPLE, (0, (5, 2))),
    "network": ("#CC9900", (0, (1.5, 1.5))),
    "ensemble": (INK, (0, (1.5, 1.5))),
    "registered": (INK, "-"),
}
_COLUMNS = {"roc_auc": ("ROC-AUC", 4), "pr_auc": ("PR-AUC", 4), "log_loss": ("Log loss", 5), "calibration_error": ("Calibration error", 4)}
_SHOWN_COEFFICIENTS = 20


def rows_of(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row per model, best first: its name, metrics with intervals, and the AUC's distance from XGBoost on the same sample."""
    rows = []
    for one in found["models"]:
        row = {"model": _named(one)}
        row |= {title: estimate_text(one["metrics"][metric], digits) for metric, (title, digits) in _COLUMNS.items()}
        row["AUC against XGBoost"] = "–" if one["against_xgboost"] is None else _difference(one["against_xgboost"]["roc_auc"])
        seconds = one["about"].get("fit_seconds")
        row["Fit"] = "–" if seconds is None else f"{seconds:.1f} s"
        rows.append(row)
    return rows


def lines(found: Mapping[str, Any]) -> list[str]:
    """The rows, each metric in a column of its own."""
    rows = rows_of(found)
    titles = list(rows[0])
    widths = [max(len(title), *(len(row[title]) for row in rows)) for title in titles]
    table = [titles, *([row[title] for title in titles] for row in rows)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table]


def write(found: Mapping[str, Any], folder: Path) -> Path:
    """Write compare.html and compare.json into the folder; returns the page. It asks nothing of the network when opened."""
    environment = Environment(
        loader=PackageLoader("propensity_spark.compare", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    weights = (one["about"]["coefficients"] for one in found["models"] if "coefficients" in one["about"])
    coefficients: Mapping[str, float] = next(weights, {})
    page = environment.get_template("compare.html.j2").render(
        **found, rows=rows_of(found), pictures=_pictures(found), coefficients=list(coefficients.items())[:_SHOWN_COEFFICIENTS]
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    path = folder / "compare.html"
    path.write_text(page, encoding="utf-8")
    return path


def _named(one: Mapping[str, Any]) -> str:
    of = one["about"].get("of")
    return _NAMES[one["name"]] + (f" of {', '.join(of)}" if of else "")


def _difference(estimate: Mapping[str, float | None]) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return "–"
    real = estimate["low"] > 0 or estimate["high"] < 0
    return f"{estimate['value']:+.4f} [{estimate['low']:+.4f}, {estimate['high']:+.4f}]" + ("" if real else ", may be chance")


def _pictures(found: Mapping[str, Any]) -> dict[str, str]:
    with matplotlib.rc_context(LOOK):
        roc, axes = _drawn(found, lambda one: ([0, *one["curves"]["false_positive_rate"]], [0, *one["curves"]["true_positive_rate"]]))
        axes.plot([0, 1], [0, 1], color=GREY, lw=1)
        axes.set(xlabel="False positive rate", ylabel="True positive rate", xlim=(0, 1), ylim=(0, 1.01))
        percent_axes(axes, "xy")

        precision_recall, axes = _drawn(found, lambda one: (one["curves"]["recall"], one["curves"]["precision"]))
        axes.axhline(found["test_purchases"] / found["test_rows"], color=GREY, lw=1)
        axes.set(xlabel="Recall", ylabel="Precision", xlim=(0, 1), ylim=(0, None))
        percent_axes(axes, "xy")

        calibration, axes = _drawn(found, _groups)
        x = np.concatenate([line.get_xdata() for line in axes.lines])
        axes.plot([x.min(), x.max()], [x.min(), x.max()], color=GREY, lw=1)
        axes.set(xlabel="Mean predicted probability (log scale)", ylabel="Purchase rate", xscale="log", yscale="log")

        lift, axes = _drawn(found, lambda one: (range(1, 11), [tenth["value"] for tenth in one["deciles"]["lift"]]))
        axes.set(xlabel="Tenth of the candidates, 1 = best scores", ylabel="Purchase rate / overall rate", xticks=range(1, 11))

        figures = {"roc": roc, "precision_recall": precision_recall, "calibration": calibration, "lift": lift}
        return {name: embedded(figure) for name, figure in figures.items()}


def _drawn(found: Mapping[str, Any], points: Callable[[Mapping[str, Any]], tuple[Sequence[float], Sequence[float]]]) -> tuple[Figure, Axes]:
    """A line for each model."""
    figure, axes = panel(5.2, 4.2)
    for one in found["models"]:
        colour, style = _STYLES[one["name"]]
        axes.plot(*points(one), color=colour, ls=style, lw=1.4, label=_NAMES[one["name"]])
    axes.legend(fontsize=8)
    return figure, axes


def _groups(one: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Calibration groups in which somebody purchased: the axes are logarithmic."""
    groups = [group for group in one["reliability"] if group["rate"]["value"]]
    return [group["mean_probability"] for group in groups], [group["rate"]["value"] for group in groups]
