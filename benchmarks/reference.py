"""The same work on one machine without Spark: DuckDB for tables, XGBoost alone for the model, two threads each.

Every reference reads the Parquet files of the lake's current tables and writes Parquet (train: a booster in memory). What
they leave out, and the line does, is why a ratio is a bound and not a verdict:

- all: Delta commits (a table is whole or not changed), records of runs and versions, skipping what is up to date, sizes beyond one machine.
- validate: the rules about the exchange's calendar, splits and changed dates, rows settled against earlier versions in silver,
  quarantine with provenance, accounting of every row, profile, gate, announcements; corporate actions.
- features: earlier versions of late or corrected events, items and users (the last version stands for all dates, so this is not
  point-in-time but for the last one, where users and pairs come out as the line's), adjustment for splits, as-of dates of market
  features that are no session.
- label: the check of both classes. Its negatives are thinned by another hash, so a few rows more or less.
- train: calibration, threshold, bins for monitoring, MLflow, repeatability over any layout of the rows.
- score: the blocked lists, the check of features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from string import Template
from typing import Any

import duckdb
import numpy as np
import xgboost

from propensity_spark import models
from propensity_spark.config import Settings
from propensity_spark.features.registry import model_features

SQL = Path(__file__).parent / "sql"
THREADS = 2


@dataclass(frozen=True)
class Reference:
    """Seconds of the reference of one stage; what it was made with and how many rows it wrote, for people."""

    seconds: float
    what: str


@dataclass(frozen=True)
class Work:
    """What the references work on. `files`: table → its Parquet files; `out`: an empty folder to write into."""

    settings: Settings
    as_of: date
    files: Mapping[str, Sequence[str]]
    out: Path


def references(work: Work) -> dict[str, Reference]:
    """Stage → its reference, each measured once, as the stage was."""
    each: dict[str, Callable[[Work], Reference]] = {
        "validate": validate,
        "features": features,
        "label": label,
        "train": train,
        "score": score,
    }
    return {stage: measured(work) for stage, measured in each.items()}


def validate(work: Work) -> Reference:
    return _sql(work, "validate", ["bronze/items", "bronze/users", "bronze/bars", "bronze/activity"], {"zone": work.settings.time_zone})


def features(work: Work) -> Reference:
    """For the as-of dates that gold/user_features holds."""
    words = {**work.settings.candidates.model_dump(), "risk_levels": list(work.settings.features.risk_levels)}
    dates = "CREATE TABLE dates AS SELECT DISTINCT as_of_date FROM gold_user_features"
    tables = ["silver/activity", "silver/items", "silver/users", "silver/bars", "gold/user_features"]
    return _sql(work, "features", tables, words, dates)


def label(work: Work) -> Reference:
    """For the dates and slices that gold/training_set holds."""
    chosen = work.settings.label
    words = {"horizon_days": chosen.horizon_days, "event_types": [*chosen.event_types, "cancel"], "as_of": work.as_of}
    words["negative_share"] = work.settings.sampling.negative_share
    dates = "CREATE TABLE slices AS SELECT DISTINCT as_of_date, split FROM gold_training_set"
    tables = ["silver/activity", "gold/user_features", "gold/user_item_features", "gold/market_features", "gold/training_set"]
    return _sql(work, "label", tables, words, dates)


def train(work: Work) -> Reference:
    """Read the training set and fit with the line's parameters, each candidate for as many rounds as the line's model.

    Those kept and those that early stopping looked ahead; stopping by itself, another sample of rows would stop elsewhere.
    """
    settings = work.settings.train
    kept = int(_booster(models.load(work.settings, models.CHALLENGER)).num_boosted_rounds())
    rounds = min(kept + settings.early_stopping_rounds, settings.rounds)
    clock = time.monotonic()
    fitting, held_out = (_rows(work, split) for split in ("train", "validation"))
    training = xgboost.QuantileDMatrix(fitting.matrix, fitting.label, weight=fitting.weight)
    validation = xgboost.QuantileDMatrix(held_out.matrix, held_out.label, weight=held_out.weight, ref=training)
    for overrides in settings.candidates or ({},):
        params = {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
            "seed": settings.seed,
            "nthread": THREADS,
        }
        params |= {**settings.params, **overrides}
        xgboost.train(params, training, rounds, evals=[(validation, "validation")], verbose_eval=False)
    return Reference(time.monotonic() - clock, f"XGBoost, {rounds} rounds")


def score(work: Work) -> Reference:
    """Join the features as of D, predict with the champion, calibrate, rank, write."""
    clock = time.monotonic()
    champion = models.load(work.settings, models.CHAMPION)
    booster = _booster(champion)
    connection = _open(work, ["gold/user_features", "gold/user_item_features", "gold/market_features"])
    joined = f"""
      FROM gold_user_item_features c JOIN gold_user_features u USING (user_id, as_of_date)
      LEFT JOIN gold_market_features m USING (item_id, as_of_date) WHERE as_of_date = DATE '{work.as_of}'"""
    owned = {name: "u.day_of_week" if name == "day_of_week" else name for name in champion.features}
    columns = connection.execute(f"SELECT user_id, item_id, {_floats(owned)} {joined}").fetchnumpy()
    raw = booster.inplace_predict(_matrix(columns, champion.features), missing=np.nan)
    scored = {name: np.asarray(columns[name], dtype=object) for name in ("user_id", "item_id")}
    scored["probability"] = np.interp(raw, champion.calibration_x, champion.calibration_y)
    _register(connection, scored)
    connection.execute(
        "COPY (SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY probability DESC, item_id) AS rank FROM scored) "
        f"TO '{work.out}/scores.parquet'"
    )
    return Reference(time.monotonic() - clock, f"DuckDB and XGBoost, {len(raw):,} out")


def _booster(model: models.PropensityModel) -> Any:
    return xgboost.Booster({"nthread": THREADS}, model_file=bytearray(model.booster))


@dataclass(frozen=True)
class _Rows:
    matrix: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def _rows(work: Work, split: str) -> _Rows:
    names = [feature.name for feature in model_features(work.settings.grain, work.settings.has_market)]
    connection = _open(work, ["gold/training_set"])
    chosen = f"SELECT label, sample_weight, {_floats({name: name for name in names})} FROM gold_training_set WHERE split = '{split}'"
    columns = connection.execute(chosen).fetchnumpy()
    return _Rows(_matrix(columns, names), columns["label"], columns["sample_weight"])


def _floats(columns: Mapping[str, str]) -> str:
    return ", ".join(f"coalesce({column}::FLOAT, 'nan'::FLOAT) AS {name}" for name, column in columns.items())


def _matrix(columns: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    return np.column_stack([columns[name] for name in names])


def _register(connection: Any, columns: Mapping[str, np.ndarray]) -> None:
    import pyarrow as pa

    connection.register("scored", pa.table({name: pa.array(values) for name, values in columns.items()}))


def _open(work: Work, tables: Sequence[str]) -> Any:
    """A fresh DuckDB on two threads, with a view per table: `gold/scores` is gold_scores."""
    connection = duckdb.connect()
    connection.execute(f"SET threads = {THREADS}")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    for table in tables:
        layer = table.split("/")[0]
        folders = "hive_partitioning = false" if layer == "bronze" else "hive_partitioning = true, hive_types_autocast = true"
        connection.execute(f"CREATE VIEW {table.replace('/', '_')} AS SELECT * FROM read_parquet({list(work.files[table])!r}, {folders})")
    return connection


def _sql(work: Work, stage: str, tables: Sequence[str], words: Mapping[str, object], first: str = "SELECT 1") -> Reference:
    """Run sql/<stage>.sql and count what it wrote. `first` is not timed: it tells what is asked for, which the line is told too."""
    out = work.out / stage
    out.mkdir()
    connection = _open(work, tables)
    connection.execute(first)
    script = Template((SQL / f"{stage}.sql").read_text(encoding="utf-8")).substitute(words, out=out)
    clock = time.monotonic()
    connection.execute(script)
    seconds = time.monotonic() - clock
    written = connection.execute(f"SELECT sum(num_rows) FROM parquet_file_metadata('{out}/*.parquet')").fetchall()
    return Reference(seconds, f"DuckDB, {written[0][0]:,} out")
