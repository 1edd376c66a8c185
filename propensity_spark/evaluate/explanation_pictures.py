"""Pictures of what the model looks at: importance, direction, dependence, single rows, and what moves together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from propensity_spark.evaluate.canvas import BLUE, GREY, INK, ORANGE, as_percent, panel, percent_axes


def bars(pairs: Sequence[tuple[str, float]], label: str, formatter: Any) -> Figure:
    """One bar per (name, value), the first on top."""
    figure, axes = panel(5.2, 0.9 + 0.27 * len(pairs))
    names, values = [pair[0] for pair in pairs][::-1], [pair[1] for pair in pairs][::-1]
    axes.barh(names, values, color=BLUE, height=0.65)
    axes.set(xlabel=label)
    axes.grid(visible=False, axis="y")
    if formatter is not None:
        axes.xaxis.set_major_formatter(formatter)
    return figure


def beeswarm(points: Mapping[str, Sequence[Sequence[float | None]]]) -> Figure:
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


def dependence(found: Mapping[str, Mapping[str, Any]]) -> Figure:
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


def force(singles: Sequence[Mapping[str, Any]]) -> Figure:
    """One panel per row: what raises its log-odds lies left of its score, what lowers them right of it, the largest innermost."""
    figure = Figure(figsize=(10.6, 0.3 + 1.75 * len(singles)), layout="constrained")
    panels = figure.subplots(len(singles), 1, squeeze=False).ravel()
    for axes, row in zip(panels, singles, strict=True):
        parts = [(_told(name, value), effect) for name, value, effect in row["reasons"]] + [("all others", row["others"])]
        score = row["base"] + sum(effect for _, effect in parts)
        raising = sorted((part for part in parts if part[1] > 0), key=lambda part: -part[1])
        lowering = sorted((part for part in parts if part[1] < 0), key=lambda part: part[1])
        width = sum(effect for _, effect in raising) - sum(effect for _, effect in lowering) or 1.0
        _stacked(axes, raising, score, ORANGE, width)
        _stacked(axes, lowering, score, BLUE, width)
        axes.plot([row["base"]] * 2, [-0.42, 0.42], color=GREY, lw=1.4, ls=(0, (3, 2)))
        axes.plot([score] * 2, [-0.5, 0.5], color=INK, lw=1.8)
        axes.set(yticks=[], ylim=(-1.05, 1.05))
        axes.set_title(f"{row['which']}: {as_percent(row['probability'])}", loc="left", fontsize=10)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
    panels[-1].set_xlabel("Log-odds before calibration; dashed: where every row starts, black: where this one ends")
    return figure


def _stacked(axes: Axes, parts: Sequence[tuple[str, float]], score: float, colour: str, width: float) -> None:
    """Bars from the score outwards; names of those wide enough to bear one, above and below in turn."""
    end = score
    for place, (name, effect) in enumerate(parts):
        axes.barh(0, effect, left=end - effect, color=colour, height=0.5, edgecolor="white", lw=1, alpha=0.85 if place % 2 else 1.0)
        if abs(effect) > 0.06 * width:
            axes.text(end - effect / 2, 0.62 if place % 2 else -0.62, name, ha="center", va="center", fontsize=7.5, color=INK)
        end -= effect


def _told(name: str, value: float | None) -> str:
    return f"{name}\nnull" if value is None else f"{name}\n{value:.4g}"


def correlations(found: Mapping[str, Any]) -> Figure:
    """A square of correlations in −1 to 1, in the order of `names`; empty where too few rows have both."""
    names, size = found["names"], len(found["names"])
    figure, axes = panel(2.6 + 0.33 * size, 1.9 + 0.3 * size)
    matrix = np.array([[np.nan if value is None else value for value in row] for row in found["matrix"]], float)
    picture = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(size), names, rotation=90, fontsize=8)
    axes.set_yticks(range(size), names, fontsize=8)
    axes.grid(visible=False)
    figure.colorbar(picture, ax=axes, shrink=0.7, label="Correlation")
    return figure
