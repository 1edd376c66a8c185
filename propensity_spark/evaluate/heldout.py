"""The test slice as it would have been scored, and everything the report says about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.evaluate.baseline import fit_baseline, with_baseline
from propensity_spark.evaluate.ceiling import ceiling
from propensity_spark.evaluate.explain import explain
from propensity_spark.evaluate.folds import Fold
from propensity_spark.evaluate.gates import Decision, decide
from propensity_spark.evaluate.leaks import alone
from propensity_spark.evaluate.results import SCORES, evaluate
from propensity_spark.features.registry import FEATURES
from propensity_spark.platform import keep, release
from propensity_spark.predictor import PropensityModel
from propensity_spark.schemas import grain_key
from propensity_spark.score import PROBABILITY, threshold_of, with_probability


def scored_test(test: DataFrame, challenger: PropensityModel, champion: PropensityModel | None, new_user_days: int) -> DataFrame:
    """`test` (key, features, label), `probability` of the challenger, `champion_probability` where there is a champion,
    and `is_new_user`: first event fewer than `new_user_days` days before D.

    Each model sees its own features alone. Raises FeatureMismatch when the rows lack one.
    """
    scored = test.withColumn("is_new_user", F.coalesce(F.col("tenure_days") < new_user_days, F.lit(True)))
    scored = _probability_of(challenger, scored, "probability")
    return scored if champion is None else _probability_of(champion, scored, "champion_probability")


def assess(
    training_set: DataFrame,
    bought: DataFrame,
    *,
    challenger: PropensityModel,
    champion: PropensityModel | None,
    settings: Settings,
    truth: DataFrame | None = None,
    user_segments: DataFrame | None = None,
    folds: Sequence[Fold] = (),
    rows_per_second: float | None = None,
    rolled_back: bool = False,
) -> tuple[dict[str, Any], Decision]:
    """Sections `evaluation`, `explain`, `leaks`, `folds`, `ceiling` and `decision` of the report, and the decision.

    `training_set`: gold/training_set; `bought`: purchases of the population in the test windows, candidates or not; `truth`: of
    simulated investors, for the ceiling alone; `user_segments`: (user_id, as_of_date, `user_segment`), at most one row a user
    and date; `folds` of `time_folds`; `rows_per_second`: of scoring, as measured with the challenger; `rolled_back`: whether the
    challenger was champion and was left. A champion of the challenger's own version is not compared.
    Raises OneClassOnly when the training or the test slice has one class only.
    """
    key = list(grain_key(settings.grain))
    options = settings.evaluate
    test, train = (training_set.where(F.col("split") == name) for name in ("test", "train"))
    baseline = fit_baseline(train, settings.grain)
    leaks = alone(train, challenger.features, challenger.baseline)
    rival = None if champion is None or champion.version == challenger.version else champion
    wide = with_baseline(scored_test(test, challenger, rival, options.new_user_days), baseline)
    probabilities = [name for name in wide.columns if name in SCORES.values()]
    scored = wide.select(*key, "label", "is_new_user", *probabilities)
    scored = keep(scored if user_segments is None else scored.join(user_segments, ["user_id", "as_of_date"], "left"))
    try:
        found = evaluate(
            scored,
            bought,
            grain=settings.grain,
            base_rate=baseline.base_rate,
            threshold=threshold_of(challenger, settings.score),
            settings=options,
            score=settings.score,
        )
        found["threshold"]["by"] = challenger.threshold_by if settings.score.threshold is None else "set"
        limits = {"bins": options.bins, "rounds": options.bootstrap_rounds, "seed": options.seed}
        reached = None if truth is None else ceiling(scored, truth, key, **limits)
    finally:
        release(scored)
    differences = found["differences"]
    decision = decide(
        options,
        challenger=challenger.version,
        champion=None if champion is None else champion.version,
        over_baseline=differences["baseline"]["roc_auc"],
        over_champion=differences["champion"]["roc_auc"] if rival is not None else None,
        calibration_error=found["metrics"]["challenger"]["calibration_error"],
        segments=found["segments"],
        leaks=leaks,
        folds=folds,
        rows_per_second=rows_per_second,
        rolled_back=rolled_back,
    )
    explained = explain(test, challenger, options.shap_rows)
    sections = {"evaluation": found, "explain": explained, "leaks": [asdict(one) for one in leaks], "ceiling": reached}
    sections["folds"] = [asdict(fold) for fold in folds]
    return sections | {"decision": decision.as_json()}, decision


def _probability_of(model: PropensityModel, rows: DataFrame, column: str) -> DataFrame:
    unknown = {one.name: f"not seen: {one.name}" for one in FEATURES if one.name in rows.columns and one.name not in model.features}
    scored = with_probability(rows.withColumnsRenamed(unknown), model).withColumnRenamed(PROBABILITY, column)
    return scored.withColumnsRenamed({hidden: name for name, hidden in unknown.items()})
