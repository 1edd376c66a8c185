"""`propensity table evaluate`: challenger and champion on the file's test rows → report, model card, promotion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.evaluate import context, report
from propensity_spark.evaluate.explain import explain
from propensity_spark.evaluate.gates import decide
from propensity_spark.evaluate.leaks import alone
from propensity_spark.evaluate.record import record
from propensity_spark.evaluate.results import evaluate as evaluated
from propensity_spark.models import CHALLENGER, SPEED, champion_version, is_rolled_back, load, logged, logged_document, promote
from propensity_spark.own_table import columns as C
from propensity_spark.own_table import slices as S
from propensity_spark.own_table.logistic import Logistic
from propensity_spark.own_table.read import read_input
from propensity_spark.own_table.rows import divided, labelled, require_fit
from propensity_spark.own_table.train import RECORD
from propensity_spark.platform import keep, release
from propensity_spark.predictor import PropensityModel
from propensity_spark.run import Run
from propensity_spark.score import PROBABILITY, threshold_of, with_probability

BASELINE = "Logistic regression"


def evaluate(run: Run, path: str) -> Mapping[str, str]:
    """Measure the challenger on the rows of `path` that its own rule calls test, and promote it when it passes the gates.

    The file is the one it was trained on, or has the same customers: the rule goes by id and label. It must beat logistic regression on
    the same columns, and the champion. Out: the lines to show, by name. Raises TableRefused as `require_fit` does, NoChampion when
    nothing was trained yet.
    """
    settings, as_of = run.settings, run.as_of
    challenger = load(settings, CHALLENGER)
    remembered = logged_document(settings, challenger.version, RECORD)
    frame = read_input(run.spark, path, as_text=None)
    columns, slices = C.from_json(remembered["columns"]), S.from_json(remembered["slices"])
    require_fit(frame, columns, as_of)
    rows = keep(divided(labelled(frame, columns, as_of), columns, slices))
    try:
        S.require_both_classes(rows)
        train, test = (rows.where(F.col("split") == name) for name in ("train", "test"))
        champion = champion_version(settings)
        rival = None if champion in (None, challenger.version) else champion
        scored = with_probability(test, challenger).withColumnRenamed(PROBABILITY, "probability")
        run.say(f"{BASELINE} on the same columns")
        scored = Logistic(train, columns).with_probability(scored, "baseline_probability")
        scored = scored.select("user_id", "as_of_date", "label", "probability", "baseline_probability")
        if rival:
            scored = scored.join(_as_champion(settings, frame, as_of, rival), "user_id", "inner")
        scored = keep(scored)
        run.say("metrics and intervals")
        found = _numbers(scored, train, challenger, settings)
        release(scored)
        leaks = alone(train, challenger.features, challenger.baseline)
        decision = decide(
            settings.evaluate,
            challenger=challenger.version,
            champion=champion,
            over_baseline=found["differences"]["baseline"]["roc_auc"],
            over_champion=found["differences"]["champion"]["roc_auc"] if rival else None,
            calibration_error=found["metrics"]["challenger"]["calibration_error"],
            segments=found["segments"],
            leaks=leaks,
            rows_per_second=logged(settings, challenger.version)[1].get(SPEED),
            rolled_back=is_rolled_back(settings, challenger.version),
            baseline=BASELINE.lower(),
        )
        numbers = {
            "head": _head(settings, challenger, columns, as_of),
            "evaluation": found,
            "explain": explain(test, challenger, settings.evaluate.shap_rows),
            "leaks": [asdict(one) for one in leaks],
            "decision": decision.as_json(),
            "splits": context.slices(rows),
            "notes": [*remembered["notes"], *_ignored(columns), *_folds(remembered["folds"])],
        }
    finally:
        release(rows)
    where = record(run, numbers, challenger.version)
    if decision.promotes:  # last, so that what is killed before decides again on the same ground
        promote(settings, challenger.version)
    return report.facts(numbers) | {"champion": decision.sentence, "report": where}


def _as_champion(settings: Settings, frame: DataFrame, as_of: date, version: str) -> DataFrame:
    """(user_id, `champion_probability`): the champion sees the file by its own record."""
    model = load(settings, version)
    columns = C.from_json(logged_document(settings, version, RECORD)["columns"])
    rows = labelled(frame, columns, as_of)
    return with_probability(rows, model).select("user_id", F.col(PROBABILITY).alias("champion_probability"))


def _numbers(scored: DataFrame, train: DataFrame, model: PropensityModel, settings: Settings) -> dict[str, Any]:
    rate = train.agg(F.avg("label")).first()
    assert rate is not None  # an aggregate without keys has one row
    found = evaluated(
        scored,
        scored.where("label = 1").select("user_id", "as_of_date"),
        grain="user",
        base_rate=rate[0],
        threshold=threshold_of(model, settings.score),
        settings=settings.evaluate,
        score=settings.score,
    )
    found["threshold"]["by"] = model.threshold_by if settings.score.threshold is None else "set"
    return found


def _head(settings: Settings, model: PropensityModel, columns: C.Columns, as_of: date) -> dict[str, Any]:
    return context.head(settings, model, as_of) | {"event_types": [columns.label], "horizon_days": None, "baseline": BASELINE}


def _ignored(columns: C.Columns) -> list[str]:
    return [f"{name} is no feature: {why}." for name, why in columns.ignored.items()]


def _folds(folds: list[float]) -> list[str]:
    if not folds:
        return []
    mean = sum(folds) / len(folds)
    spread = (sum((one - mean) ** 2 for one in folds) / max(len(folds) - 1, 1)) ** 0.5
    return [
        f"Cross-validation on the rows that do not test, {len(folds)} folds: ROC-AUC {mean:.4f}, standard deviation {spread:.4f} "
        f"({', '.join(f'{one:.4f}' for one in folds)})."
    ]
