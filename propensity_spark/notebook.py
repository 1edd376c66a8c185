"""What a notebook needs before its first picture: the session, settings and lake of the place where it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from propensity_spark.config import CONF_DIR, Settings, load_settings
from propensity_spark.errors import TableMissing
from propensity_spark.evaluate.canvas import LOOK
from propensity_spark.features.windows import Grid, version_intervals
from propensity_spark.platform import on_databricks, widgets
from propensity_spark.schemas import RUNS, Table
from propensity_spark.session import get_session
from propensity_spark.tables import Lake

WIDGETS = {
    "dataset": "stocks",
    "catalog": "main",
    "schema": "propensity",
    "volume": "landing",
    "model": "propensity",
    "publish_uri": "",
    "settings": "",
}
"""Widgets on Databricks and their defaults; they mean what the bundle's variables of these names mean."""


class Opened(NamedTuple):
    spark: SparkSession
    settings: Settings
    lake: Lake


def open_lake(environ: Mapping[str, str] = os.environ) -> Opened:
    """The session, settings and lake of a notebook, and the look of its pictures.

    On Databricks the widgets `WIDGETS` say which; in development mode schema and model begin with `dev_<user>_`. Elsewhere the
    variables PROPENSITY_CONF (default: local), PROPENSITY_DATASET (stocks) and PROPENSITY_SETTINGS (key=value words) do, and
    relative folders are those of `make run`, whatever folder the notebook runs in.
    Raises ConfigurationError for a setting that is wrong, CatalogMissing for a Unity Catalog schema that is not there.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for every file read would be left in the page
    mpl.rcParams.update(LOOK | {"figure.dpi": 110, "axes.titlelocation": "left", "axes.titleweight": "bold"})
    settings = _from_widgets(widgets(None, WIDGETS)) if on_databricks() else _from_environment(environ)
    spark = get_session(settings.spark, "propensity notebook")
    lake = Lake(spark, settings.lake)
    lake.require_schema()
    return Opened(spark, settings, lake)


def last_run(lake: Lake, stage: str) -> date:
    """The newest as-of date that a stage has succeeded for. Raises TableMissing when there is none."""
    done = (F.col("stage") == stage) & (F.col("status") == "succeeded")
    row = lake.read_or_empty(RUNS).where(done).agg(F.max("as_of_date")).first()
    if row is None or row[0] is None:
        raise TableMissing(f"{lake.location(RUNS)}: no run of {stage} that succeeded; run the line first (`make run`, or the job `daily`)")
    found: date = row[0]
    return found


def as_seen(lake: Lake, table: Table, as_of: date) -> DataFrame:
    """A silver table as known at the end of `as_of`: the visible version of each key, without what was deleted."""
    key = [name for name in table.key if name != "known_at"]
    return version_intervals(lake.read(table), key, Grid((as_of,))).drop("enters", "leaves")


def _from_widgets(chosen: Mapping[str, str]) -> Settings:
    """Settings as resources/parameters.yml gives them to the jobs."""
    catalog, schema = chosen["catalog"], chosen["schema"]
    volume = f"/Volumes/{catalog}/{schema}/{chosen['volume']}"
    overrides = (
        f"lake.catalog={catalog}",
        f"lake.schema_name={schema}",
        f"lake.root={volume}/{{dataset}}",
        f"publish.uri={chosen['publish_uri'] or f'{volume}/published'}/{{dataset}}",
        f"mlflow.model_name={catalog}.{schema}.{chosen['model']}",
    )
    return load_settings("databricks", chosen["dataset"], [*overrides, *chosen["settings"].split()], f"{volume}/data")


def _from_environment(environ: Mapping[str, str]) -> Settings:
    words = environ.get("PROPENSITY_SETTINGS", "").split()
    home = CONF_DIR.parent if (CONF_DIR.parent / "Makefile").is_file() else Path.cwd()
    settings = load_settings(
        environ.get("PROPENSITY_CONF", "local"), environ.get("PROPENSITY_DATASET", "stocks"), words, environ.get("PROPENSITY_DATA")
    )
    lake = settings.lake.model_copy(update={"root": _under(home, settings.lake.root)})
    publish = settings.publish.model_copy(update={"uri": _under(home, settings.publish.uri)})
    return settings.model_copy(update={"lake": lake, "publish": publish})


def _under(home: Path, location: str) -> str:
    return location if "://" in location else str(home / location)
