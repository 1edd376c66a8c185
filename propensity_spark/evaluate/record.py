"""Where an evaluation is kept: report and model card in the lake's folder, and both with the version in MLflow."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from propensity_spark.evaluate import card, report
from propensity_spark.models import log_evaluation
from propensity_spark.run import Run


def reports_folder(run: Run) -> Path | None:
    """Folder of the reports; None where the lake root is not a local folder (then MLflow alone keeps them)."""
    return run.lake.folder and run.lake.folder / "reports"


def record(run: Run, numbers: Mapping[str, Any], version: str) -> str:
    """Write the report and the model card, log both to MLflow; returns where the report lies, for people."""
    reports = reports_folder(run)
    with tempfile.TemporaryDirectory() as aside:
        page, data = report.write(numbers, reports or Path(aside), run.as_of)
        cards = card.write(numbers, page.parent)
        log_evaluation(run.settings, version, report.flat_metrics(numbers), [page, data, *cards])
    return str(page) if reports else f"MLflow, evaluation/report.html of version {version} ({run.lake.root} is not a local folder)"
