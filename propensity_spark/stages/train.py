"""train: gold/training_set → a calibrated model, registered as challenger."""

from __future__ import annotations

from propensity_spark import __version__
from propensity_spark.features.registry import model_features, training_set_table
from propensity_spark.label import require_both_classes
from propensity_spark.models import SPEED, register, registered
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import ACTIVITY
from propensity_spark.stages.label import reads as feature_tables
from propensity_spark.train.challenger import challenger
from propensity_spark.train.search import STUDY, search
from propensity_spark.train.version import TRAINING_ROWS, content, fingerprint, rows_per_second


def _execute(run: Run) -> Outcome:
    settings = run.settings
    table = training_set_table(settings.grain, settings.has_market, settings.has_crowd)
    training_set = run.lake.read(table)
    counts = require_both_classes(training_set)
    rows_in = sum(counts.values())
    rows = content(training_set)
    made_from = fingerprint(rows, settings.config_hash())
    version = registered(settings, made_from)
    if version is not None:
        return Outcome(rows_in, 0, note=f"version {version} comes from these very rows, settings and code: it is the challenger again")
    inputs = run.lake.versions((table, *feature_tables(settings), ACTIVITY))
    features = [feature.name for feature in model_features(settings.grain, settings.has_market, settings.has_crowd)]
    found = search(training_set, features, settings, rows, say=run.say)
    model, trials = challenger(training_set, features, found.added_to(settings) if found else settings, inputs)
    best = trials[0]
    run.say(f"{best.rounds} rounds, validation log loss {best.validation_log_loss:.6f}, best of {len(trials)}")
    version = register(
        settings,
        model,
        fingerprint=made_from,
        params={
            **best.params,
            "rounds": best.rounds,
            "label": model.label.model_dump_json(),
            "as_of": run.as_of,
            "code": __version__,
            TRAINING_ROWS: rows,
        },
        metrics={
            "validation_log_loss": best.validation_log_loss,
            "threshold": model.threshold,
            SPEED: rows_per_second(model),
            **_row_counts(counts),
        },
        documents={
            "settings.json": settings.shown(),
            "features.json": {"features": features},
            "trials.json": {"trials": [{**t.params, "rounds": t.rounds, "validation_log_loss": t.validation_log_loss} for t in trials]},
            **({STUDY: found.as_json()} if found else {}),
        },
    )
    note = f"version {version}: {best.rounds} rounds on {counts['train']:,} rows ({model.train_from} to {model.train_to})"
    return Outcome(rows_in, 1, note=note, facts={"model": f"{model.name} version {version}"})


def _row_counts(counts: dict[str, int]) -> dict[str, float]:
    return {f"rows.{name}": float(rows) for name, rows in counts.items()}


STAGE = Stage(
    name="train",
    promise="distributed XGBoost, tuned, calibrated on a later slice, logged to MLflow with data versions",
    execute=_execute,
    reads=lambda settings: (training_set_table(settings.grain, settings.has_market, settings.has_crowd),),
)
