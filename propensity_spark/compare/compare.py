"""`propensity compare`: families of models on the same sample of users and the same slices, scored on Spark, with paired intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.compare.contenders import CONTENDERS, ENSEMBLE, XGBOOST, Fitted, Matrix, Vector
from propensity_spark.config import Settings
from propensity_spark.errors import ConfigurationError
from propensity_spark.evaluate import metrics as M
from propensity_spark.evaluate.results import curves, reliability
from propensity_spark.platform import keep, release
from propensity_spark.predictor import PropensityModel
from propensity_spark.schemas import grain_key
from propensity_spark.score import PROBABILITY, of_matrix
from propensity_spark.train.calibrate import calibrated, histograms
from propensity_spark.train.sample import Rows, here, sampled

REGISTERED = "registered"
_BLENDED = 3
_TINY = 1e-9


@dataclass(frozen=True)
class Contender:
    """A fitted model with its calibration: knots from raw to calibrated probability. `seconds`: of the fit."""

    name: str
    fitted: Fitted
    seconds: float
    validation_auc: float
    knots: tuple[Vector, Vector]
    calibration: str

    def probability(self, matrix: Matrix) -> Vector:
        return np.asarray(np.interp(self.fitted.score(matrix), *self.knots))


def compare(
    training_set: DataFrame,
    features: Sequence[str],
    settings: Settings,
    *,
    rows: int,
    names: Sequence[str] = (),
    registered: PropensityModel | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Fit `names` (all of CONTENDERS) and say what each is worth on the test slice.

    In: gold/training_set. Each is fitted on about `rows` train and validation rows, of whole users and always the same ones, calibrated on
    the whole calibration slice and judged on the whole test slice, both unsampled and scored on Spark. With three or more there is an
    ensemble: the mean log-odds of the three that rank the validation rows best. A `registered` model, trained on all rows, stands beside.
    Out: plain JSON: `models`, best AUC first, each with metrics, their paired difference to XGBoost on the same sample, curves and what is
    worth knowing of the fit; `left_out` with the reason. The bootstrap draws users; purchases outside the candidates are nobody's to find.
    Raises ConfigurationError for an unknown name, OneClassOnly where a slice of the sample has one label only.
    """
    if unknown := sorted(set(names) - set(CONTENDERS)):
        raise ConfigurationError(f"--models: unknown {', '.join(unknown)}; expected some of {', '.join(CONTENDERS)}")
    train, validation = here(sampled(training_set, rows, settings.train.seed), features, grain_key(settings.grain), "--rows")
    fits, left_out = dict[str, tuple[Fitted, float]](), dict[str, str]()
    for name in dict.fromkeys((XGBOOST, *(names or CONTENDERS))):
        started = time.monotonic()
        try:
            fitted = CONTENDERS[name](train, validation, features, settings.train)
        except ImportError as error:
            left_out[name] = f"cannot be imported: {error}"
            say(f"{name}: left out, {left_out[name]}")
            continue
        fits[name] = fitted, time.monotonic() - started
        say(f"{name}: fitted on {len(train.label):,} rows in {fits[name][1]:.1f} s")
    contenders = _calibrated(training_set.where("split = 'calibration'"), features, fits, validation, settings)
    best = sorted(contenders, key=lambda one: -one.validation_auc)[:_BLENDED]
    scored = keep(_scored(training_set.where("split = 'test'"), features, contenders, [one.name for one in best], registered))
    try:
        shown = [name for name in scored.columns if name not in ("user_id", "item_id", "as_of_date", "label")]
        edges = M.find_edges(scored, shown, settings.evaluate.bins)
        tallies = M.tally(scored, edges, settings.evaluate.bootstrap_rounds, settings.evaluate.seed)
    finally:
        release(scored)
    M.require_both_classes(tallies[XGBOOST], "test slice")
    about = {one.name: _about(one) for one in contenders}
    about[ENSEMBLE] = {"of": [one.name for one in best]}
    about[REGISTERED] = {"version": registered.version} if registered else {}
    values = {name: {metric: compute(tally) for metric, compute in M.METRICS.items()} for name, tally in tallies.items()}
    found = [
        {"name": name, **_judged(tally, values[name], None if name == XGBOOST else values[XGBOOST]), "about": about[name]}
        for name, tally in tallies.items()
    ]
    return {
        "features": len(features),
        "train_rows": len(train.label),
        "validation_rows": len(validation.label),
        "test_rows": int(tallies[XGBOOST].total[0]),
        "test_purchases": int(tallies[XGBOOST].hits[0]),
        "models": sorted(found, key=lambda one: -one["metrics"]["roc_auc"]["value"]),
        "left_out": left_out,
    }


def _calibrated(
    rows: DataFrame, features: Sequence[str], fits: Mapping[str, tuple[Fitted, float]], validation: Rows, settings: Settings
) -> list[Contender]:
    """Each with its calibration on the slice, which is scored once for all."""
    scores = {name: fitted.score for name, (fitted, _) in fits.items()}
    raw = keep(rows.select("user_id", "as_of_date", "label", _columns(features, scores).alias("raw")))
    try:
        made = []
        for place, (name, (fitted, seconds)) in enumerate(fits.items()):
            x, y, how = calibrated(histograms(raw.withColumn(PROBABILITY, F.col("raw")[place])), settings.train.calibration)
            made.append(Contender(name, fitted, seconds, _auc(fitted, validation), (x, y), how.method))
    finally:
        release(raw)
    return made


def _scored(
    rows: DataFrame, features: Sequence[str], contenders: Sequence[Contender], best: Sequence[str], registered: PropensityModel | None
) -> DataFrame:
    """(user_id, [item_id,] as_of_date, label) and a column of calibrated probabilities for each model."""
    scores: dict[str, Callable[[Matrix], Vector]] = {one.name: one.probability for one in contenders}
    if registered is not None and list(registered.features) == list(features):
        scores[REGISTERED] = registered.predict
    key = [name for name in ("user_id", "item_id", "as_of_date") if name in rows.columns]
    found = rows.select(*key, "label", _columns(features, scores).alias("scores"))
    found = found.select(*key, "label", *(F.col("scores")[place].alias(name) for place, name in enumerate(scores)))
    if len(contenders) < _BLENDED:
        return found
    log_odds = [F.ln(F.greatest(F.col(name), F.lit(_TINY)) / F.greatest(1 - F.col(name), F.lit(_TINY))) for name in best]
    mean = sum(log_odds[1:], log_odds[0]) / len(log_odds)
    return found.withColumn(ENSEMBLE, 1 / (1 + F.exp(-mean)))


def _columns(features: Sequence[str], scores: Mapping[str, Callable[[Matrix], Vector]]) -> Column:
    """What each makes of a row, as one array in their order."""

    def every(matrix: Matrix) -> pa.Array:
        found = np.stack([score(matrix) if len(matrix) else np.empty(0) for score in scores.values()], axis=1)
        return pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), len(scores)).cast(pa.list_(pa.float64()))

    return of_matrix(features, every, "array<double>")


def _judged(tally: M.Tally, values: Mapping[str, Vector], xgboost: Mapping[str, Vector] | None) -> dict[str, Any]:
    against = {name: M.estimate(found - xgboost[name]) for name, found in values.items()} if xgboost else None
    return {
        "metrics": {name: M.estimate(found) for name, found in values.items()},
        "against_xgboost": against,
        "curves": curves(tally),
        "reliability": reliability(tally),
        "deciles": {name: [M.estimate(row) for row in found] for name, found in M.deciles(tally).items()},
    }


def _about(one: Contender) -> dict[str, Any]:
    return {"fit_seconds": round(one.seconds, 2), "validation_auc": one.validation_auc, "calibration": one.calibration, **one.fitted.about}


def _auc(fitted: Fitted, rows: Rows) -> float:
    return float(M.auc_of_rows(fitted.score(rows.matrix), rows.label, rows.weight[:, None])[0])
