"""`propensity reproduce`: a registered model made again from the table versions it was made from, and held against the registered one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from propensity_spark import __version__
from propensity_spark.config import Settings
from propensity_spark.errors import NotReproducible
from propensity_spark.features.registry import model_features, training_set_table
from propensity_spark.models import CHAMPION, best_params, load, logged, logged_document
from propensity_spark.platform import keep, release
from propensity_spark.predictor import PropensityModel
from propensity_spark.stages.label import slices_of, training_set
from propensity_spark.tables import Lake, conform
from propensity_spark.train.challenger import challenger
from propensity_spark.train.version import TRAINING_ROWS, content

PARTS = ("booster", "calibration_x", "calibration_y", "threshold")
"""What makes a score. The bins of monitoring are cut at approximate quantiles, which depend on how the rows lie in files."""
_OF_HERE = ("lake", "publish", "mlflow", "spark", "data")  # where things are, and on what they run: not the model's
_GONE = re.compile(r"time travel|DELTA_VERSION_NOT_FOUND|DELTA_LOG_FILE_NOT_FOUND|FAILED_READ_FILE|DELTA_FILE_NOT_FOUND")


@dataclass(frozen=True)
class Reproduced:
    """`rows`: of the training set, made again; `has_same_rows`: every value of them is the recorded one; `differs`: which `PARTS` of the
    model are not the same to the last bit."""

    model: PropensityModel
    as_of: date
    code: str
    rows: int
    has_same_rows: bool
    differs: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        return self.has_same_rows and not self.differs


def reproduce(spark: SparkSession, settings: Settings, version: str = CHAMPION) -> Reproduced:
    """Make the training set of a version (or alias) again from the recorded versions of features and purchases, and the model from that.

    With the settings that were recorded with it; where the tables and the store of models are, and how Spark runs, is `settings`'. The
    same bytes need as many workers as then (`train.num_workers`, null: the task slots of that cluster). Nothing is written. Raises
    NoChampion when there is no such version, NotReproducible when a table version is gone or the code has other features.
    """
    model = load(settings, version)
    params, _ = logged(settings, model.version)
    then = Settings.model_validate({**logged_document(settings, model.version, "settings.json"), **_of_here(settings)})
    as_of, table = date.fromisoformat(params["as_of"]), training_set_table(then.grain, then.has_market, then.has_crowd)
    features = tuple(feature.name for feature in model_features(then.grain, then.has_market, then.has_crowd))
    named = f"model {model.name} version {model.version}, made by propensity-spark {params['code']}"
    if features != model.features:
        other = sorted({*features} ^ {*model.features}) or "their order"
        raise NotReproducible(
            f"{named}: expected its features in this code, {__version__}, found others: {other}. Use the code that made it"
        )
    if TRAINING_ROWS not in params:
        raise NotReproducible(f"{named}: expected the hash of its training rows among its parameters ({TRAINING_ROWS}), found none")
    lake = Lake(spark, settings.lake, model.inputs)
    try:
        with training_set(lake, then, as_of, slices_of(lake, then, as_of)) as made:
            rows = keep(conform(made, table))
            try:
                count, found = rows.count(), content(rows)
                again, _ = challenger(rows, features, _with_the_chosen_params(then, model.version), model.inputs)
            finally:
                release(rows)
    except (PySparkException, Py4JJavaError) as error:
        gone = next((line.strip(": ") for line in str(error).splitlines() if _GONE.search(line)), None)
        if gone is None:
            raise
        versions = ", ".join(f"{name} {number}" for name, number in model.inputs.items())
        raise NotReproducible(
            f"{named}: expected the table versions it was made from ({versions}), one of them gone: {gone[:300]}"
        ) from error
    differs = tuple(part for part in PARTS if getattr(again, part) != getattr(model, part))
    return Reproduced(model, as_of, params["code"], count, found == params[TRAINING_ROWS], differs)


def _with_the_chosen_params(settings: Settings, version: str) -> Settings:
    """Only the candidate that was chosen is fitted again: a search with a time limit need not find it twice."""
    chosen = (best_params(settings, version),)
    return settings.model_copy(update={"train": settings.train.model_copy(update={"candidates": chosen})})


def _of_here(settings: Settings) -> dict[str, object]:
    body = settings.model_dump(mode="json")
    return {part: body[part] for part in _OF_HERE}
