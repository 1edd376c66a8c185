"""What `propensity compare` does with a lake: its training set and its newest model in, the comparison and where its page lies out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from propensity_spark.compare import page
from propensity_spark.compare.compare import compare
from propensity_spark.config import Settings
from propensity_spark.features.registry import model_features, training_set_table
from propensity_spark.models import CHALLENGER, load, version_of
from propensity_spark.tables import Lake


def compare_lake(
    spark: SparkSession,
    settings: Settings,
    as_of: date,
    *,
    rows: int,
    names: Sequence[str] = (),
    say: Callable[[str], None] = lambda message: None,
) -> tuple[dict[str, Any], Path | None]:
    """Compare on gold/training_set as label left it; the newest registered model stands beside. Nothing is registered or promoted.

    Out: the numbers (see compare.compare) and the page, in `reports/<as_of>`; None where the lake is not a local folder. Raises
    TableMissing before label has run.
    """
    lake = Lake(spark, settings.lake)
    found = compare(
        lake.read(training_set_table(settings.grain, settings.has_market, settings.has_crowd)),
        [feature.name for feature in model_features(settings.grain, settings.has_market, settings.has_crowd)],
        settings,
        rows=rows,
        names=names,
        registered=load(settings, CHALLENGER) if version_of(settings, CHALLENGER) else None,
        say=say,
    )
    return found, lake.folder and page.write(found, lake.folder / "reports" / as_of.isoformat())
