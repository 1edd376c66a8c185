"""What every picture has in common: colours, look, an empty panel, axes in percent, and how a figure goes into a page."""

from __future__ import annotations

import base64
import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Okabe and Ito (2008): told apart with every common kind of colour blindness; line styles repeat the distinction.
BLUE, ORANGE, GREEN, PURPLE, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#8A8F98", "#1F2933"
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


def embedded(figure: Figure) -> str:
    """The figure as a `data:` URI of an SVG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=160)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def panel(width: float = 5.2, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure of `width` by `height` inches with one empty panel."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def percent_axes(axes: Axes, which: str) -> None:
    """Show the axes named in `which` (x, y or xy) as percentages."""
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if name in which:
            axis.set_major_formatter(FuncFormatter(lambda value, _: as_percent(value)))


def as_percent(value: float) -> str:
    """A share in percent with as many digits as it needs: 0.25%, 5%, 40%."""
    return f"{100 * value:.2g}%" if abs(value) < 0.0995 else f"{100 * value:.0f}%"


def as_count(value: float) -> str:
    """A count in few characters: 1.5M, 20k, 300."""
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"
