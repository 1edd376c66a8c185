"""`propensity table train`: a file and its label → a calibrated model, registered as challenger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark import __version__
from propensity_spark.config import Settings
from propensity_spark.evaluate.metrics import binned_auc
from propensity_spark.models import SPEED, register, registered
from propensity_spark.own_table.columns import Columns, find_columns, unreadable
from propensity_spark.own_table.read import read_input
from propensity_spark.own_table.rows import KEY, divided, labelled, require_fit
from propensity_spark.own_table.slices import find_slices, hashed, require_both_classes
from propensity_spark.platform import keep, release
from propensity_spark.predictor import PropensityModel
from propensity_spark.run import Run
from propensity_spark.score import with_probability
from propensity_spark.train.calibrate import histograms, together
from propensity_spark.train.challenger import challenger
from propensity_spark.train.search import STUDY, search
from propensity_spark.train.tune import tune
from propensity_spark.train.version import content, fingerprint, rows_per_second

RECORD = "table.json"
"""The document of a version that says how rows are made from a file, and which of them test."""


@dataclass(frozen=True)
class Trained:
    """A registered version. `by_slice`: rows; `folds`: ROC-AUC of each fold of the cross-validation, empty without one."""

    name: str
    version: str
    is_new: bool
    rounds: int | None
    columns: Columns
    by_slice: Mapping[str, int]
    split_by: str
    folds: tuple[float, ...]
    notes: tuple[str, ...]


def train(
    run: Run,
    path: str,
    *,
    id: str,
    label: str,
    time: str | None = None,
    kinds: Mapping[str, str] | None = None,
    interactions: Sequence[tuple[str, str]] = (),
) -> Trained:
    """Train on the table at `path` and register the version. The same rows, settings and code give the version they gave before.

    Raises SourceMissing, TableRefused, OneClassOnly and ConfigurationError as `read_input`, `find_columns`, `require_fit` and
    `slices.require_both_classes` say.
    """
    settings, as_of = run.settings, run.as_of
    frame = read_input(run.spark, path, as_text=(id,))
    columns = find_columns(
        frame, id=id, label=label, time=time, kinds=kinds, interactions=interactions, max_categories=settings.table.max_categories
    )
    require_fit(frame, columns, as_of)
    notes = _notes(frame, columns)
    rows = keep(labelled(frame, columns, as_of))
    try:
        slices = find_slices(rows, settings.table)
        training_set = divided(rows, columns, slices)
        by_slice = require_both_classes(training_set)
        run.say(", ".join(f"{name} {by_slice[name]:,} rows" for name in reversed(by_slice)))
        content_of_rows = content(training_set)
        made_from = fingerprint(content_of_rows, settings.config_hash() + repr(columns))
        folds = _cross_validated(run, training_set, columns)
        version = registered(settings, made_from)
        if version is not None:
            return Trained(settings.mlflow.model_name, version, False, None, columns, by_slice, slices.by, folds, notes)
        types = columns.xgboost_types
        found = search(training_set, columns.names, settings, content_of_rows, say=run.say, feature_types=types)
        tuned = found.added_to(settings) if found else settings
        model, trials = challenger(training_set, columns.names, tuned, {}, feature_types=types)
    finally:
        release(rows)
    best = trials[0]
    version = register(
        settings,
        model,
        fingerprint=made_from,
        params={**best.params, "rounds": best.rounds, "label": label, "input": Path(path).name, "as_of": as_of, "code": __version__},
        metrics={
            "validation_log_loss": best.validation_log_loss,
            "threshold": model.threshold,
            SPEED: rows_per_second(model),
            **{f"rows.{name}": float(number) for name, number in by_slice.items()},
            **({"folds.roc_auc": float(np.mean(folds))} if folds else {}),
        },
        documents={
            RECORD: {"columns": columns.as_json(), "slices": slices.as_json(), "notes": list(notes), "folds": list(folds)},
            "settings.json": settings.shown(),
            **({STUDY: found.as_json()} if found else {}),
        },
    )
    return Trained(model.name, version, True, best.rounds, columns, by_slice, slices.by, folds, notes)


def _cross_validated(run: Run, training_set: DataFrame, columns: Columns) -> tuple[float, ...]:
    """ROC-AUC on each of `table.folds` parts of the rows that do not test, of a model of the other parts (one of which stops it)."""
    settings, found = run.settings, list[float]()
    count = settings.table.folds
    fold = F.floor(hashed(F.col("user_id"), settings.table.seed + 1) * count) if count else F.lit(0)
    for number in range(count):
        split = F.when(fold == number, "held out").when(fold == (number + 1) % count, "validation").otherwise("train")
        part = training_set.where("split <> 'test'").withColumn("split", split)
        fitted = tune(part, columns.names, KEY, settings.train, feature_types=columns.xgboost_types)[0]
        scored = with_probability(part.where("split = 'held out'"), _uncalibrated(fitted.booster, columns, settings))
        scores = together(list(histograms(scored).values()))
        found.append(float(binned_auc(scores.positives, scores.rows - scores.positives)))
        run.say(f"fold {number + 1} of {count}: ROC-AUC {found[-1]:.4f}")
    return tuple(found)


def _uncalibrated(booster: bytes, columns: Columns, settings: Settings) -> PropensityModel:
    nothing: dict[str, Any] = {"baseline": {}, "inputs": {}, "label": settings.label, "train_from": date.min, "train_to": date.min}
    return PropensityModel("fold", "", "user", columns.names, booster, (0.0, 1.0), (0.0, 1.0), 0.5, **nothing)


def _notes(frame: DataFrame, columns: Columns) -> tuple[str, ...]:
    said = [f"{name}: {rows:,} values are not of its type and count as missing" for name, rows in unreadable(frame, columns).items()]
    said += [
        f"{one.column}: more than {len(one.categories)} values (table.max_categories), the rarer ones count as one"
        for one in columns.features
        if one.has_more
    ]
    if columns.time is None:
        said.append(
            "No time column: train and test are other customers of the same moment. That is optimistic, for those of a later "
            "month differ by more than chance; name a --time column where there is one"
        )
    return tuple(said)
