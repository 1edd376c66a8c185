"""XGBoost fitted in this process, on rows that were brought here: the same parameters and early stopping as the distributed fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xgboost

from propensity_spark.config import TrainSettings
from propensity_spark.train.fit import monotone_constraints
from propensity_spark.train.sample import Rows

FIXED: Mapping[str, Any] = {"objective": "binary:logistic", "eval_metric": "logloss", "tree_method": "hist"}
Binned = tuple[xgboost.QuantileDMatrix, xgboost.QuantileDMatrix]


def binned(train: Rows, validation: Rows, settings: TrainSettings, feature_types: Sequence[str] | None = None) -> Binned:
    """Train and validation rows, cut into bins once for all fits. `feature_types`: as `fit.fit` takes them."""
    options = bins_of(settings.params)
    if feature_types:
        options |= {"feature_types": list(feature_types), "enable_categorical": True}
    first = xgboost.QuantileDMatrix(train.matrix, train.label, weight=train.weight, missing=np.nan, **options)
    other = xgboost.QuantileDMatrix(validation.matrix, validation.label, weight=validation.weight, missing=np.nan, ref=first, **options)
    return first, other


def bins_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """How many bins a QuantileDMatrix must have for a fit with these parameters: XGBoost refuses one that has others."""
    return {"max_bin": params["max_bin"]} if "max_bin" in params else {}


def fit_binned(
    rows: Binned,
    features: Sequence[str],
    settings: TrainSettings,
    overrides: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> xgboost.Booster:
    """`train.params` with `overrides`, stopped early on validation; `best_iteration` and `best_score` say where and at what loss."""
    train, validation = rows
    return xgboost.train(
        {**FIXED, "seed": settings.seed, **settings.params, **monotone_constraints(features, settings), **(overrides or {})},
        train,
        num_boost_round=settings.rounds,
        evals=[(validation, "validation")],
        early_stopping_rounds=settings.early_stopping_rounds,
        verbose_eval=False,
        callbacks=list(callbacks),
    )
