"""A run of the whole line on a small lake, for the tests of tests/line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pyspark.sql import SparkSession

from propensity_spark.config import CONF_DIR, Settings, load_settings
from propensity_spark.line import run_line
from propensity_spark.run import Outcome
from propensity_spark.tables import Lake

AS_OF = date(2023, 5, 31)
NEXT_DAY = date(2023, 6, 1)
SMALL = (
    "simulate.items=24",
    "simulate.users=240",
    "simulate.users_per_batch=60",
    "simulate.truth_users=60",
    "simulate.truth_futures=50",
    "simulate.start=2022-01-03",
    "simulate.end=2023-06-30",
    "sources.bars=[{kind: massive, name: market_feed, base_url: local, endpoint: custom_bars, start: 2022-01-03, "
    "page_limit: 200, api_key_env: LOCAL_FEED_KEY}]",
    "schedule.dates=14",
    "split.test_dates=2",
    "split.calibration_dates=2",
    "split.validation_dates=2",
    "split.min_train_dates=6",
    "train.rounds=30",
    "evaluate.bootstrap_rounds=40",
    "evaluate.shap_rows=200",
)


@dataclass(frozen=True)
class Finished:
    """A finished run of the line: where it is, and what each stage said (None: up to date)."""

    settings: Settings
    lake: Lake
    outcomes: dict[str, Outcome | None]


def small_settings(folder: Path, *overrides: str, dataset: str = "stocks", data: str | None = None) -> Settings:
    paths = (f"lake.root={folder / 'lake'}", f"publish.uri={folder / 'published'}")
    return load_settings(CONF_DIR / "local.yml", dataset, [*paths, *overrides], data)


def run(spark: SparkSession, settings: Settings, as_of: date, **kwargs: object) -> Finished:
    outcomes = {stage.name: outcome for stage, outcome, _ in run_line(spark, settings, as_of, **kwargs)}  # type: ignore[arg-type]
    return Finished(settings, Lake(spark, settings.lake), outcomes)
