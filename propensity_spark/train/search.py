"""Search for XGBoost's parameters with Optuna, on a bounded sample of whole users. What it finds is one more candidate for the fit."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import xgboost
from pyspark.sql import DataFrame

from propensity_spark.config import Settings, TrainSettings
from propensity_spark.config.modelling import Whole
from propensity_spark.errors import EnvironmentMissing
from propensity_spark.models import study_storage
from propensity_spark.schemas import grain_key
from propensity_spark.train.native import binned, fit_binned
from propensity_spark.train.sample import here, sampled

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

STUDY = "study.json"
"""Name under which the trials are kept with the model."""
_EVERY = 10  # rounds between two looks at whether a trial is worth going on with


@dataclass(frozen=True)
class Found:
    """What a search came to: the parameters with the least validation log loss, and every trial with its parameters, state, log loss and
    seconds. `rows`: of the sample, train and validation."""

    params: Mapping[str, float | int]
    trials: Sequence[Mapping[str, Any]]
    rows: int

    def as_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "best": self.params, "trials": self.trials}

    def added_to(self, settings: Settings) -> Settings:
        """The settings with what was found as one more of `train.candidates`; `train.params` as they are stay one."""
        candidates = (*(settings.train.candidates or ({},)), dict(self.params))
        return settings.model_copy(update={"train": settings.train.model_copy(update={"candidates": candidates})})


def search(
    training_set: DataFrame,
    features: Sequence[str],
    settings: Settings,
    made_from: str,
    *,
    say: Callable[[str], None] = lambda message: None,
    feature_types: Sequence[str] | None = None,
) -> Found | None:
    """Try `train.tuning.trials` parameter sets, or as many as `train.tuning.seconds` allow; None where no trial is asked for.

    In: gold/training_set; its train rows are fitted, its validation rows stop a fit and judge it. `made_from`: the hash of these rows.
    With the embedded store a study that broke off, or that is given more trials or time, goes on; with a tracking server it lives as
    long as the process. The first trial is what is configured. The fits are XGBoost's own on this machine, one after the other with
    all its cores, so no distributed fit runs inside a trial. A trial that is worse than the median of the others so far ends early.
    Raises EnvironmentMissing without Optuna, OneClassOnly where the sample's train or validation rows have one label only.
    """
    tuning = settings.train.tuning
    if not tuning.trials:
        return None
    study = _study(_name(made_from, features, settings.train), study_storage(settings), settings.train)
    sample = sampled(training_set, tuning.rows, settings.train.seed)
    train, validation = here(sample, features, grain_key(settings.grain), "train.tuning.rows")
    rows = binned(train, validation, settings.train, feature_types)

    def objective(trial: optuna.Trial) -> float:
        started = time.monotonic()
        booster = fit_binned(rows, features, settings.train, _suggested(trial, settings.train), [_Pruning(trial)])
        trial.set_user_attr("rounds", booster.best_iteration + 1)
        trial.set_user_attr("fit_seconds", round(time.monotonic() - started, 3))
        return float(booster.best_score)

    def tell(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        value = "given up" if trial.value is None or trial.state.name != "COMPLETE" else f"log loss {trial.value:.6f}"
        best = f", best {study.best_value:.6f}" if _finished(study, ("COMPLETE",)) else ""
        say(f"trial {trial.number + 1} of {tuning.trials}: {value}{best}")

    left = tuning.trials - len(_finished(study, ("COMPLETE", "PRUNED")))
    if left > 0:
        study.optimize(objective, n_trials=left, timeout=tuning.seconds, callbacks=[tell])
    return Found(dict(study.best_params), [_described(trial) for trial in study.trials], len(train.label) + len(validation.label))


def _name(made_from: str, features: Sequence[str], train: TrainSettings) -> str:
    """The same for everything whose trials can be compared."""
    part = train.model_dump(mode="json", include={"params", "rounds", "early_stopping_rounds", "monotone", "seed"})
    tuning = train.tuning.model_dump(mode="json", include={"rows", "space"})
    return hashlib.sha256(json.dumps([made_from, list(features), part, tuning], sort_keys=True).encode()).hexdigest()[:16]


def _study(name: str, storage: str | None, train: TrainSettings) -> optuna.Study:
    """The study of that name, made if there is none; trials that a dead process left are closed."""
    try:
        import optuna
    except ImportError as error:
        raise EnvironmentMissing(
            f"train.tuning.trials: {train.tuning.trials} trials need the package optuna: pip install 'propensity-spark[tuning]', or set 0"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=train.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2 * _EVERY),
    )
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    if not study.trials:
        space = train.tuning.space.items()
        study.enqueue_trial({key: train.params[key] for key, one in space if one.low <= train.params.get(key, one.low - 1) <= one.high})
    else:
        log.info("study %s goes on after %d trials", name, len(study.trials))
    return study


def _suggested(trial: optuna.Trial, train: TrainSettings) -> dict[str, float | int]:
    return {
        name: trial.suggest_int(name, int(one.low), int(one.high), log=one.log)
        if name in get_args(Whole)
        else trial.suggest_float(name, one.low, one.high, log=one.log)
        for name, one in train.tuning.space.items()
    }


def _finished(study: optuna.Study, states: Sequence[str]) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in states]


def _described(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    seconds = trial.duration.total_seconds() if trial.duration else None
    loss = trial.value if trial.state.name == "COMPLETE" else None
    return {"params": trial.params, "state": trial.state.name.lower(), "validation_log_loss": loss, "seconds": seconds, **trial.user_attrs}


class _Pruning(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """Tells Optuna the validation log loss every `_EVERY` rounds, and ends the fit where it says so."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def after_iteration(self, model: xgboost.Booster, epoch: int, evals_log: Mapping[str, Mapping[str, list[float]]]) -> bool:
        import optuna

        if epoch and epoch % _EVERY == 0:
            self.trial.report(evals_log["validation"]["logloss"][-1], epoch)
            if self.trial.should_prune():
                raise optuna.TrialPruned
        return False
