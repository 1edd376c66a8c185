"""The report's pictures, drawn from the numbers of its JSON alone: as figures, and as SVG to embed in the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

# Okabe and Ito (2008): told apart with every common kind of colour blindness; line styles repeat the distinction.
BLUE, ORANGE, GREEN, PURPLE, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#8A8F98", "#1F2933"
STYLES: dict[str, tuple[str, Any]] = {
    "challenger": (BLUE, "-"),
    "baseline": (ORANGE, (0, (5, 2))),
    "champion": (GREEN, (0, (1.5, 1.5))),
}
_NAMES = {"challenger": "This model", "champion": "Champion before", "constant": "Constant rate"}
LOOK: dict[Any, Any] = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#9AA5B1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E7EB",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "propensity",
}


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
            drawn["gain_importance"] = _bars(explained["gain"][:15], "Share of total gain", PercentFormatter(1.0, 0))
            drawn["shap"] = _bars(explained["shap"][:15], "Mean |SHAP value| (log-odds)", None)
            drawn["beeswarm"] = _beeswarm(explained["points"])
            if explained.get("dependence"):
                drawn["dependence"] = _dependence(explained["dependence"])
        if drift := report.get("drift"):
            measured = [row for row in drift if row["measure"] == "psi" and row["value"] is not None]
            if measured:
                drawn["drift"] = _drift(sorted(measured, key=lambda row: -row["value"])[:20])
        return drawn


def embedded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=160)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def panel(width: float = 5.2, height: float = 4.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


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
    axes.axhline(rate, color=GREY, lw=1, label=f"Purchase rate, {_rate(rate)}")
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
    counts.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    for axis in (axes.xaxis, axes.yaxis, counts.xaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if top / floor < 1e3 else (1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _rate(value)))
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
    axes.set_xticks([math.log(p / (1 - p)) for p in ticks], [_rate(p) for p in ticks])
    axes.set(xlabel="Predicted probability (log-odds scale)", ylabel="Share of rows of the class")
    percent_axes(axes, "y")
    axes.legend(loc="upper right")
    return figure


def _threshold(curve: Mapping[str, Any], threshold: float) -> Figure:
    figure, axes = panel()
    for name, (colour, style) in zip(("precision", "recall", "f1"), STYLES.values(), strict=True):
        axes.plot(curve["threshold"], curve[name], color=colour, ls=style, label="F1" if name == "f1" else name.capitalize())
    axes.axvline(threshold, color=INK, lw=1, label=f"Decision threshold, {_rate(threshold)}")
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
    axes.axvline(chosen, color=INK, lw=1, ls=(0, (5, 2)), label=f"At the threshold: {_rate(chosen)} contacted")
    best = max(value)
    worth_seeing = max((n for n, profit in enumerate(value) if profit >= -best), default=0) + 1  # beyond it is loss alone
    right = shares[min(worth_seeing, len(shares) - 1)] if best > 0 else 1.0
    axes.set(xlabel="Share of candidates contacted", ylabel="Profit", xlim=(0, max(right, min(1.2 * chosen, 1.0))))
    if best > 0:
        axes.set_ylim(-1.2 * best, 1.25 * best)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: _rate(share)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda money, _: f"{money:,.0f}"))
    axes.legend(loc="upper right" if value[-1] < 0 else "lower right")
    return figure


def _bars(pairs: Sequence[tuple[str, float]], label: str, formatter: Any) -> Figure:
    figure, axes = panel(5.2, 0.9 + 0.27 * len(pairs))
    names, values = [pair[0] for pair in pairs][::-1], [pair[1] for pair in pairs][::-1]
    axes.barh(names, values, color=BLUE, height=0.65)
    axes.set(xlabel=label)
    axes.grid(visible=False, axis="y")
    if formatter is not None:
        axes.xaxis.set_major_formatter(formatter)
    return figure


def _beeswarm(points: Mapping[str, Sequence[Sequence[float | None]]]) -> Figure:
    """One row per feature; dots pile up where SHAP values are common; colour is the feature's value as a rank."""
    figure, axes = panel(10.6, 0.9 + 0.36 * len(points))
    shown = None
    names = list(points)[::-1]
    for row, name in enumerate(names):
        pairs = points[name]
        x = np.array([pair[0] for pair in pairs], float)
        rank = np.array([np.nan if pair[1] is None else pair[1] for pair in pairs], float)
        y = row + _piled(x)
        empty = np.isnan(rank)
        axes.scatter(x[empty], y[empty], s=9, color="#B8BEC6", linewidths=0, rasterized=True)
        shown = axes.scatter(x[~empty], y[~empty], s=9, c=rank[~empty], cmap="cividis", vmin=0, vmax=1, linewidths=0, rasterized=True)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="SHAP value (log-odds): left lowers, right raises the probability")
    if shown is not None:
        bar = figure.colorbar(shown, ax=axes, ticks=[0, 1], pad=0.01, aspect=40)
        bar.ax.set_yticklabels(["low", "high"])
        bar.set_label("Value of the feature (grey: null)")
    return figure


def _dependence(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """One panel per feature, three in a row, on one scale of probability."""
    rows = math.ceil(len(found) / 3)
    figure = Figure(figsize=(10.6, 0.4 + 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, 3, sharey=True, squeeze=False).ravel()
    for axes, (name, curve) in zip(panels, found.items(), strict=False):
        axes.fill_between(curve["values"], curve["low"], curve["high"], color=BLUE, alpha=0.18, linewidth=0)
        axes.plot(curve["values"], curve["mean"], color=BLUE, marker="o", ms=3)
        if curve["null"] is not None:
            axes.axhline(curve["null"], color=GREY, ls=(0, (1.5, 1.5)))
        axes.set(xlabel=name)
        percent_axes(axes, "y")
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    figure.supylabel("Probability")
    return figure


def _piled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offsets in ±0.4: dots whose values fall into one of 60 bins are spread, the fullest bin the widest."""
    bins = np.floor((x - x.min()) / ((np.ptp(x) or 1.0) / 60)).astype(int)
    order = np.argsort(bins, kind="stable")
    counts = np.bincount(bins)
    place = np.empty(len(x))
    place[order] = np.arange(len(x)) - np.repeat(np.cumsum(counts) - counts, counts)
    middle = (counts[bins] - 1) / 2
    offsets: NDArray[np.float64] = (place - middle) / max(counts.max(), 2) * 0.8
    return offsets


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


def percent_axes(axes: Axes, which: str) -> None:
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if name in which:
            axis.set_major_formatter(FuncFormatter(lambda value, _: _rate(value)))


def _rate(value: float) -> str:
    """A share in percent with as many digits as it needs: 0.25%, 5%, 40%."""
    return f"{100 * value:.2g}%" if abs(value) < 0.0995 else f"{100 * value:.0f}%"


def _short(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
