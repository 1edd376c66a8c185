"""All numbers of an evaluation from scored test rows: metrics, paired differences, segments, curves, lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import EvaluateSettings, ScoreSettings
from propensity_spark.evaluate import metrics as M
from propensity_spark.evaluate.bootstrap import Floats, bootstrap_totals
from propensity_spark.evaluate.ranking import mean_over_lists, outside_candidates, user_lists
from propensity_spark.evaluate.segments import USER_SEGMENT, segment_numbers, tally_apart
from propensity_spark.evaluate.worth import cuts, worth
from propensity_spark.schemas import grain_key

RIVALS = ("baseline", "champion")
SCORES = {"challenger": "probability", "baseline": "baseline_probability", "champion": "champion_probability"}
CURVE_POINTS = 200
_USUAL = ScoreSettings()
HISTOGRAM_BINS_PER_LOGIT = 4


def evaluate(
    scored: DataFrame,
    purchases: DataFrame,
    *,
    grain: str,
    base_rate: float,
    threshold: float,
    settings: EvaluateSettings,
    score: ScoreSettings = _USUAL,
) -> dict[str, Any]:
    """Everything the report says about the scores, as plain numbers; each estimate is {value, low, high}, low and high the 95% interval.

    `scored`: the test candidates, unsampled: key, `label`, `probability` (the challenger's), `baseline_probability`,
    `is_new_user`, optionally `champion_probability` and `user_segment`; read several times, so cached by the caller. `purchases`: every
    purchase of the population in the test windows, candidate or not. `base_rate`: the training slice's purchase rate.
    `score`: limits of the segments, value and cost. Differences are challenger − rival in the same bootstrap rounds. Raises
    OneClassOnly when all labels are equal.
    """
    names = {score: column for score, column in SCORES.items() if column in scored.columns}
    key = grain_key(grain)
    told = [name for name in ("is_new_user", USER_SEGMENT) if name in scored.columns]
    rows = scored.select(*key, "label", *told, *(F.col(column).cast("double").alias(score) for score, column in names.items()))
    rounds, seed = settings.bootstrap_rounds, settings.seed
    missing = outside_candidates(rows, purchases, key).withColumn("missed", F.lit(1.0))
    missed = bootstrap_totals(missing, ["missed"], rounds, seed)[0]
    edges = M.find_edges(rows, list(names), settings.bins, {"challenger": cuts(threshold, score)})
    tallies, apart = tally_apart(rows, edges, rounds, seed, missed)
    challenger = tallies["challenger"]
    M.require_both_classes(challenger, "test slice")
    tallies["constant"] = M.constant(challenger, base_rate)
    values = {score: {name: metric(tally) for name, metric in M.METRICS.items()} for score, tally in tallies.items()}
    lists, ranked = _ranking(rows, purchases, names, grain, settings)
    for name, found in ranked.items():
        ranker, metric = name.split(":")
        values[ranker][metric] = found
    return {
        "rows": int(challenger.total[0]),
        "purchases": int(challenger.hits[0]),
        "users": rows.agg(F.count_distinct("user_id")).collect()[0][0],
        "lists": lists,
        "base_rate": base_rate,
        "metrics": _estimates(values),
        "differences": _estimates(
            {
                rival: {name: found - values[rival][name] for name, found in values["challenger"].items()}
                for rival in RIVALS
                if rival in values
            }
        ),
        "candidates": {
            "purchases": int(challenger.hits[0] + missed[0]),
            "missed": int(missed[0]),
            "recall": M.estimate(M.candidate_recall(challenger)),
        },
        "segments": segment_numbers(apart),
        "threshold": {"value": threshold, **{name: M.estimate(found) for name, found in M.at_threshold(challenger, threshold).items()}},
        "worth": worth(challenger, threshold, score),
        "deciles": {name: [M.estimate(row) for row in found] for name, found in M.deciles(challenger).items()},
        "curves": {score: curves(tallies[score]) for score in names},
        "reliability": reliability(challenger),
        "histogram": score_histogram(rows, "challenger"),
    }


def _ranking(
    rows: DataFrame, purchases: DataFrame, names: Mapping[str, str], grain: str, settings: EvaluateSettings
) -> tuple[int, dict[str, Floats]]:
    if grain == "user":
        return 0, {}
    lists = user_lists(rows, purchases, list(names), settings.top_k)
    return mean_over_lists(lists, settings.bootstrap_rounds, settings.seed)


def _estimates(values: Mapping[str, Mapping[str, Floats]]) -> dict[str, dict[str, Any]]:
    return {outer: {name: M.estimate(found) for name, found in inner.items()} for outer, inner in values.items()}


def curves(tally: M.Tally) -> dict[str, list[float]]:
    """ROC, precision–recall and threshold curves of the data as observed, from the highest threshold down, thinned."""
    found = np.cumsum(tally.positives[::-1, 0])
    chosen = np.cumsum(tally.rows[::-1, 0])
    hits, total, missed = tally.hits[0], tally.total[0], tally.missed[0]
    filled = np.flatnonzero(tally.rows[::-1, 0])
    targets = np.concatenate([np.linspace(0, total, CURVE_POINTS // 2), np.interp(np.linspace(0, hits, CURVE_POINTS // 2), found, chosen)])
    kept = filled[np.unique(np.clip(np.searchsorted(chosen[filled], targets), 0, len(filled) - 1))]
    lower = np.concatenate([[0.0], tally.edges.bins])[::-1]
    curves = {
        "threshold": lower[kept],
        "false_positive_rate": (chosen - found)[kept] / (total - hits),
        "true_positive_rate": found[kept] / hits,
        "precision": found[kept] / chosen[kept],
        "recall": found[kept] / (hits + missed),
        "f1": 2 * found[kept] / (chosen[kept] + hits + missed),
    }
    return {name: [round(float(value), 6) for value in values] for name, values in curves.items()}


def reliability(tally: M.Tally) -> list[dict[str, Any]]:
    """Per calibration group: rows, mean probability, purchase rate with its 95% interval."""
    rows, positives = tally.by_group(tally.rows), tally.by_group(tally.positives)
    expected_rows = tally.by_group(tally.expected)
    groups = []
    for row, hits, expected in zip(rows, positives, expected_rows, strict=True):
        if row[0] > 0:
            rate = M.estimate(np.divide(hits, row, out=np.full_like(hits, np.nan), where=row > 0))
            groups.append({"rows": int(row[0]), "mean_probability": float(expected[0] / row[0]), "rate": rate})
    return groups


def score_histogram(rows: DataFrame, score: str) -> list[dict[str, Any]]:
    """Rows and purchases per quarter of a unit of log-odds of the score; `from_log_odds` is the lower edge."""
    kept = F.least(F.greatest(F.col(score), F.lit(1e-6)), F.lit(1 - 1e-6))
    bin_ = F.floor(F.ln(kept / (1 - kept)) * HISTOGRAM_BINS_PER_LOGIT).alias("bin")
    counted = rows.groupBy(bin_).agg(F.count("*").alias("rows"), F.sum("label").alias("purchases")).orderBy("bin").collect()
    return [{"from_log_odds": row["bin"] / HISTOGRAM_BINS_PER_LOGIT, "rows": row["rows"], "purchases": row["purchases"]} for row in counted]
