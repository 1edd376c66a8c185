"""The model card: what a model is made of, how good it is, for whom, and what it is not for. Markdown, and the same as a page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt

from propensity_spark.evaluate.pictures import score_names
from propensity_spark.evaluate.report import FILTERS, estimate_text, gate_names, metric_names

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#])")


def markdown(report: Mapping[str, Any]) -> str:
    """The card for the numbers in `report` (the content of report.json)."""
    environment = Environment(
        loader=PackageLoader("propensity_spark.evaluate", "."),
        autoescape=False,  # Markdown: what is not ours is escaped by `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= FILTERS | {"cell": _cell, "gate_text": _gate_text}
    optional: dict[str, Any] = {"splits": (), "ceiling": None, "notes": ()}
    template = environment.get_template("card.md.j2")
    return (
        template.render(
            **optional | dict(report), metric_names=metric_names(report), gate_names=gate_names(report), score_names=score_names(report)
        )
        + "\n"
    )


def write(report: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write `model_card.md` and `model_card.html`, which asks nothing of the network, in `folder`; returns both."""
    text = markdown(report)
    environment = Environment(loader=PackageLoader("propensity_spark.evaluate", "."), autoescape=True, undefined=StrictUndefined)
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    title = f"Model card: {report['head']['model_name']} version {report['head']['model_version']}"
    card, page = folder / "model_card.md", folder / "model_card.html"
    card.write_text(text, encoding="utf-8")
    page.write_text(environment.get_template("card.html.j2").render(title=title, body=body), encoding="utf-8")
    return card, page


def _cell(text: object) -> str:
    """A value from settings or data as one line of Markdown that means nothing but itself."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _gate_text(gate: Mapping[str, Any]) -> str:
    if gate["found"] >= 100:
        return f"{gate['found']:,.0f}"
    return estimate_text({"value": gate["found"], "low": gate["low"], "high": gate["high"]}, 4)
