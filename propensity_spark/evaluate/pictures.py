"""The report's pictures, drawn from the numbers of its JSON alone: as figures, and as SVG to embed in the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from propensity_spark.evaluate.canvas import BLUE, GREEN, GREY, INK, LOOK, ORANGE, as_count, as_percent, embedded, panel, percent_axes
from propensity_spark.evaluate.explanation_pictures import bars, beeswarm, correlations, dependence, force

STYLES: dict[str, tuple[str, Any]] = {
    "challenger": (BLUE, "-"),
    "baseline": (ORANGE, (0, (5, 2))),
    "champion": (GREEN, (0, (1.5, 1.5))),
}
_NAMES = {"challenger": "This model", "champion": "Champion before", "constant": "Constant rate"}


def score_names(report: Mapping[str, Any]) -> dict[str, str]:
    """Score → what the report calls it; the baseline as its head says, on the line recency and popularity."""
    return {**_NAMES, "baseline": report.get("head", {}).get("baseline", "Recency and popularity")}


def pictures(report: Mapping[str, Any]) -> dict[str, str]:
    """Name → `data:` URI of every picture that the report's numbers allow."""
    with matplotlib.rc_context(LOOK):
        return {name: embedded(figure) for name, figure in figures(report).items()}


def figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    """Name → every picture that the report's numbers allow, without a title."""
    found, curves = report["evaluation"], report["evaluation"]["curves"]
    with matplotlib.rc_context(LOOK):
        drawn = {
            "roc": _roc(curves, found, score_names(report)),
            "precision_recall": _precision_recall(curves, found, score_names(report)),
            "reliability": _reliability(found["reliability"]),
            "gain": _gain(found["deciles"]["gain"]),
            "lift": _lift(found["deciles"]["lift"]),
            "histogram": _histogram(found["histogram"]),
            "threshold": _threshold(curves["challenger"], found["threshold"]["value"]),
        }
        if "curve" in found.get("worth", {}):
            drawn["profit"] = _profit(found["worth"])
        if explained := report.get("explain"):
            drawn["gain_importance"] = bars(explained["gain"][:15], "Share of total gain", PercentFormatter(1.0, 0))
            drawn["shap"] = bars(explained["shap"][:15], "Mean |SHAP value| (log-odds)", None)
            drawn["beeswarm"] = beeswarm(explained["points"])
            if explained.get("dependence"):
                drawn["dependence"] = dependence(explained["dependence"])
            if explained.get("singles"):
                drawn["force"] = force(explained["singles"])
            if explained.get("correlations"):
                drawn["correlations"] = correlations(explained["correlations"])
        if together := report.get("items_together"):
            drawn["items_together"] = correlations(together)
        if drift := report.get("drift"):
            measured = [row for row in drift if row["measure"] == "psi" and row["value"] is not None]
            if measured:
                drawn["drift"] = _drift(sorted(measured, key=lambda row: -row["value"])[:20])
        return drawn


def _roc(curves: Mapping[str, Any], found: Mapping[str, Any], names: Mapping[str, str]) -> Figure:
    figure, axes = panel()
    for score, curve in curves.items():
        colour, style = STYLES[score]
        area = found["metrics"][score]["roc_auc"]["value"]
        axes.plot(
            [0, *curve["false_positive_rate"]],
            [0, *curve["true_positive_rate"]],
            color=colour,
            ls=style,
            label=f"{names[score]}, AUC {area:.3f}",
        )
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, label="Chance, AUC 0.5")
    axes.set(xlabel="False positive rate", ylabel="True positive rate (of candidates)", xlim=(0, 1), ylim=(0, 1.01))
    percent_axes(axes, "xy")
    axes.legend(loc="lower right")
    return figure


def _precision_recall(curves: Mapping[str, Any], found: Mapping[str, Any], names: Mapping[str, str]) -> Figure:
    figure, axes = panel()
    for score, curve in curves.items():
        colour, style = STYLES[score]
        axes.plot(curve["recall"], curve["precision"], color=colour, ls=style, label=names[score])
    rate = found["purchases"] / found["rows"]
    axes.axhline(rate, color=GREY, lw=1, label=f"Purchase rate, {as_percent(rate)}")
    axes.set(xlabel="Recall (of all purchases, missed ones too)", ylabel="Precision", xlim=(0, 1), ylim=(0, None))
    percent_axes(axes, "xy")
    axes.legend(loc="upper right")
    return figure


def _reliability(groups: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    x = np.array([group["mean_probability"] for group in groups])
    y = np.array([group["rate"]["value"] for group in groups])
    low, high = (np.array([_or(group["rate"][end], group["rate"]["value"]) for group in groups]) for end in ("low", "high"))
    floor = max(min(x.min(), y[y > 0].min() if (y > 0).any() else x.min()) / 2, 1e-6)
    top = min(1.0, max(x.max(), high.max()) * 1.6)
    axes.plot([floor, top], [floor, top], color=GREY, lw=1, label="Perfectly calibrated")
    shown = np.maximum(y, floor)
    spread = [shown - np.clip(low, floor, shown), np.maximum(high, shown) - shown]
    axes.errorbar(x, shown, yerr=spread, fmt="o", ms=5, color=BLUE, ecolor=BLUE, elinewidth=1.2, label="Groups of rows, 95% interval")
    axes.set(xscale="log", yscale="log", ylabel="Purchase rate", xlim=(floor, top), ylim=(floor, top))
    axes.legend(loc="upper left")
    counts.vlines(x, 0, [group["rows"] for group in groups], color=BLUE, lw=4)
    counts.set(xlabel="Mean predicted probability (log scale)", ylabel="Rows")
    counts.yaxis.set_major_formatter(FuncFormatter(lambda value, _: as_count(value)))
    for axis in (axes.xaxis, axes.yaxis, counts.xaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if top / floor < 1e3 else (1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: as_percent(value)))
        axis.set_minor_formatter(NullFormatter())
    return figure


def _gain(gain: Sequence[Mapping[str, Any]]) -> Figure:
    figure, axes = panel()
    shares = np.arange(11) / 10
    value, low, high = ([0.0] + [_or(point[end], point["value"]) for point in gain] for end in ("value", "low", "high"))
    axes.fill_between(shares, low, high, color=BLUE, alpha=0.18, lw=0, label="95% interval")
    axes.plot(shares, value, color=BLUE, marker="o", ms=4, label=_NAMES["challenger"])
    axes.plot([0, 1], [0, value[-1]], color=GREY, lw=1, label="Random order")
    axes.set(xlabel="Share of candidates, best scores first", ylabel="Share of all purchases reached", xlim=(0, 1), ylim=(0, 1.01))
    percent_axes(axes, "xy")
    axes.legend(loc="lower right")
    return figure


def _lift(lift: Sequence[Mapping[str, Any]]) -> Figure:
    figure, axes = panel()
    value = np.array([point["value"] for point in lift])
    spread = [value - [_or(p["low"], p["value"]) for p in lift], np.array([_or(p["high"], p["value"]) for p in lift]) - value]
    axes.bar(range(1, 11), value, color=BLUE, width=0.7, yerr=np.maximum(spread, 0), ecolor=INK, capsize=2, error_kw={"lw": 1})
    axes.axhline(1, color=ORANGE, lw=1.2, ls=(0, (5, 2)), label="Average candidate (lift 1)")
    axes.set(xlabel="Tenth of the candidates, 1 = best scores", ylabel="Purchase rate / overall rate", xticks=range(1, 11))
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper right")
    return figure


def _histogram(bins: Sequence[Mapping[str, Any]]) -> Figure:
    figure, axes = panel()
    left = np.array([one["from_log_odds"] for one in bins])
    bought = np.array([one["purchases"] for one in bins], float)
    others = np.array([one["rows"] for one in bins], float) - bought
    width = 0.25
    for counts, colour, name, hatch in ((others, GREY, "no purchase", ""), (bought, BLUE, "purchase", "//")):
        share = counts / max(counts.sum(), 1)
        axes.bar(
            left,
            share,
            width,
            align="edge",
            color=colour,
            alpha=0.55,
            edgecolor=colour,
            hatch=hatch,
            label=f"{name}, n = {counts.sum():,.0f}",
        )
    ticks = [p for p in (1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.9, 0.99) if left.min() <= math.log(p / (1 - p)) <= left.max() + width]
    axes.set_xticks([math.log(p / (1 - p)) for p in ticks], [as_percent(p) for p in ticks])
    axes.set(xlabel="Predicted probability (log-odds scale)", ylabel="Share of rows of the class")
    percent_axes(axes, "y")
    axes.legend(loc="upper right")
    return figure


def _threshold(curve: Mapping[str, Any], threshold: float) -> Figure:
    figure, axes = panel()
    for name, (colour, style) in zip(("precision", "recall", "f1"), STYLES.values(), strict=True):
        axes.plot(curve["threshold"], curve[name], color=colour, ls=style, label="F1" if name == "f1" else name.capitalize())
    axes.axvline(threshold, color=INK, lw=1, label=f"Decision threshold, {as_percent(threshold)}")
    axes.set(xlabel="Threshold on the predicted probability", ylabel="Value", xlim=(0, None), ylim=(0, 1.01))
    percent_axes(axes, "xy")
    axes.legend(loc="upper right")
    return figure


def _profit(worth: Mapping[str, Any]) -> Figure:
    figure, axes = panel()
    shares = [point["share"] for point in worth["curve"]]
    value, low, high = (
        [_or(point["profit"][end], point["profit"]["value"]) for point in worth["curve"]] for end in ("value", "low", "high")
    )
    axes.fill_between(shares, low, high, color=BLUE, alpha=0.18, lw=0, label="95% interval")
    axes.plot(shares, value, color=BLUE, label="Best scores first")
    axes.plot([0, 1], [0, value[-1]], color=GREY, lw=1, label="Random order")
    axes.axhline(0, color=INK, lw=0.8)
    chosen = worth["contacted_share"]
    axes.axvline(chosen, color=INK, lw=1, ls=(0, (5, 2)), label=f"At the threshold: {as_percent(chosen)} contacted")
    best = max(value)
    worth_seeing = max((n for n, profit in enumerate(value) if profit >= -best), default=0) + 1  # beyond it is loss alone
    right = shares[min(worth_seeing, len(shares) - 1)] if best > 0 else 1.0
    axes.set(xlabel="Share of candidates contacted", ylabel="Profit", xlim=(0, max(right, min(1.2 * chosen, 1.0))))
    if best > 0:
        axes.set_ylim(-1.2 * best, 1.25 * best)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: as_percent(share)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda money, _: f"{money:,.0f}"))
    axes.legend(loc="upper right" if value[-1] < 0 else "lower right")
    return figure


def _drift(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure, axes = panel(10.6, 1.0 + 0.27 * len(rows))
    ordered = list(reversed(rows))
    colours = [ORANGE if row["breached"] else BLUE for row in ordered]
    axes.barh([row["subject"] for row in ordered], [row["value"] for row in ordered], color=colours, height=0.65)
    limits = [(row["limit"], row["subject"]) for row in ordered if row.get("limit") is not None]
    if limits:  # each feature has its own (monitor/drift.py)
        label = "Limit of the feature; above it the bar is orange"
        axes.plot(*zip(*limits, strict=True), ls="", marker="|", ms=12, mew=1.6, color=INK, label=label)
        axes.legend(loc="lower right")
    axes.set(xlabel="Population stability index against the champion's training data")
    axes.grid(visible=False, axis="y")
    return figure


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
