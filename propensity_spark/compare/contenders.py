"""The families that are compared. Each is fitted on matrices in this process; what comes out scores matrices, on Spark or here."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from propensity_spark.config import TrainSettings
from propensity_spark.train.native import binned, fit_binned
from propensity_spark.train.sample import Rows

Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Fitted:
    """`score`: raw P(label = 1) of a matrix, to be calibrated; it can be pickled. `about`: what is worth knowing of the fit."""

    score: Callable[[Matrix], Vector]
    about: Mapping[str, Any]


def fit_xgboost(train: Rows, validation: Rows, features: Sequence[str], settings: TrainSettings) -> Fitted:
    """The product's own, with `train.params` and `train.monotone`, stopped on validation; here on the sample alone."""
    booster = fit_binned(binned(train, validation, settings), features, settings)
    best = booster[: booster.best_iteration + 1]
    return Fitted(_OfTrees(best), {"rounds": booster.best_iteration + 1})


def fit_lightgbm(train: Rows, validation: Rows, features: Sequence[str], settings: TrainSettings) -> Fitted:
    """LightGBM as it comes, with the learning rate of `train.params`, stopped on validation. Raises ImportError where it is missing."""
    try:
        import lightgbm
    except OSError as error:  # its wheel needs libgomp from the system
        raise ImportError(str(error)) from error
    first = lightgbm.Dataset(train.matrix, train.label, weight=train.weight)
    other = lightgbm.Dataset(validation.matrix, validation.label, weight=validation.weight, reference=first)
    params = {"objective": "binary", "metric": "binary_logloss", "verbosity": -1, "seed": settings.seed, "deterministic": True}
    booster = lightgbm.train(
        {**params, "learning_rate": settings.params.get("learning_rate", 0.1)},
        first,
        num_boost_round=settings.rounds,
        valid_sets=[other],
        callbacks=[lightgbm.early_stopping(settings.early_stopping_rounds, verbose=False)],
    )
    return Fitted(_OfLightGbm(booster.model_to_string()), {"rounds": booster.best_iteration})


def fit_logistic(train: Rows, validation: Rows, features: Sequence[str], settings: TrainSettings) -> Fitted:
    """Ridge logistic regression. Values as sign · ln(1 + |x|), standardised; a null is the mean, beside a column that says so."""
    model = make_pipeline(*_prepared(), LogisticRegression(max_iter=500))
    model.fit(train.matrix, train.label, logisticregression__sample_weight=train.weight)
    names = model[:-1].get_feature_names_out(np.asarray(features, dtype=object))
    weights = dict(zip(map(str, names), map(float, model[-1].coef_[0]), strict=True))
    return Fitted(_OfSklearn(model), {"coefficients": dict(sorted(weights.items(), key=lambda pair: -abs(pair[1])))})


def fit_forest(train: Rows, validation: Rows, features: Sequence[str], settings: TrainSettings) -> Fitted:
    """A random forest of 200 trees with at least 50 rows in a leaf; it takes nulls as they are."""
    model = RandomForestClassifier(200, min_samples_leaf=50, max_samples=0.5, n_jobs=-1, random_state=settings.seed)
    model.fit(train.matrix, train.label, sample_weight=train.weight)
    model.n_jobs = 1
    return Fitted(_OfSklearn(model), {"trees": len(model.estimators_)})


def fit_network(train: Rows, validation: Rows, features: Sequence[str], settings: TrainSettings) -> Fitted:
    """A network of two hidden layers, 64 and 32, on what the regression sees; it stops after five epochs without a smaller validation loss.

    scikit-learn's own early stopping looks at accuracy, which says nothing where few purchase. Before 1.7 it takes no weights either:
    then the network is off by the sampling of negatives, which calibration mends.
    """
    prepared = make_pipeline(*_prepared())
    inputs, others = prepared.fit_transform(train.matrix), prepared.transform(validation.matrix)
    network = MLPClassifier((64, 32), alpha=1e-3, random_state=settings.seed)
    weighted = {"sample_weight": train.weight} if "sample_weight" in inspect.signature(network.partial_fit).parameters else {}
    best, least, since, epoch = network, np.inf, 0, 0
    while since < _PATIENCE and epoch < _MAX_EPOCHS:
        epoch += 1
        network.partial_fit(inputs, train.label, classes=[0.0, 1.0], **weighted)
        loss = log_loss(validation.label, network.predict_proba(others)[:, 1], sample_weight=validation.weight)
        since += 1
        if loss < least:
            best, least, since = copy.deepcopy(network), loss, 0
    return Fitted(_OfSklearn(make_pipeline(prepared, best)), {"epochs": epoch - since})


_PATIENCE, _MAX_EPOCHS = 5, 100
XGBOOST, ENSEMBLE = "xgboost", "ensemble"
CONTENDERS: dict[str, Callable[[Rows, Rows, Sequence[str], TrainSettings], Fitted]] = {
    XGBOOST: fit_xgboost,
    "lightgbm": fit_lightgbm,
    "logistic": fit_logistic,
    "forest": fit_forest,
    "network": fit_network,
}


@dataclass(frozen=True)
class _OfTrees:
    booster: xgboost.Booster

    def __call__(self, matrix: Matrix) -> Vector:
        return np.asarray(self.booster.inplace_predict(matrix, missing=np.nan), dtype=np.float64)


@dataclass(frozen=True)
class _OfLightGbm:
    text: str

    def __call__(self, matrix: Matrix) -> Vector:
        import lightgbm

        return np.asarray(lightgbm.Booster(model_str=self.text).predict(matrix, num_threads=1), dtype=np.float64)


@dataclass(frozen=True)
class _OfSklearn:
    model: Any

    def __call__(self, matrix: Matrix) -> Vector:
        return np.asarray(self.model.predict_proba(matrix)[:, 1], dtype=np.float64)


def _prepared() -> list[Any]:
    logs = FunctionTransformer(_signed_log, feature_names_out="one-to-one")
    return [logs, SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler()]


def _signed_log(matrix: Matrix) -> NDArray[Any]:
    return np.asarray(np.sign(matrix) * np.log1p(np.abs(matrix)))
