"""Random scored rows against scikit-learn and a plain-Python reading of the definitions."""

from __future__ import annotations

import math
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, log_loss, ndcg_score, roc_auc_score

from propensity_spark.evaluate import metrics as M
from propensity_spark.evaluate.bootstrap import user_weights
from propensity_spark.evaluate.ranking import user_lists
from propensity_spark.tables import local_frame

pytestmark = pytest.mark.usefixtures("compiled")

D = date(2024, 1, 5)


def cases() -> pd.DataFrame:
    """Several data sets in one frame: continuous scores, heavy ties, rare purchases, scores that mean nothing."""
    rng = np.random.default_rng(11)
    frames = []
    for case, (rows, levels, power) in enumerate([(3000, 0, 1), (3000, 7, 1), (4000, 0, 8), (300, 3, 2), (40_000, 0, 4)]):
        score = rng.random(rows) ** power
        if levels:
            score = np.round(score * levels) / levels
        label = (rng.random(rows) < (score if case else rng.random(rows) * 0.2)).astype(int)
        frames.append(pd.DataFrame({"case": case, "user_id": [f"u{n}" for n in rng.integers(0, 50, rows)], "label": label, "score": score}))
    return pd.concat(frames).assign(as_of_date=D)


def test_metrics_agree_with_scikit_learn(spark: SparkSession) -> None:
    rows = cases()
    for case, part in rows.groupby("case"):
        y, p = part["label"].to_numpy(), part["score"].to_numpy()
        frame = spark.createDataFrame(part)
        edges = M.find_edges(frame, ["score"], 2000, {"score": [0.5]})
        found = M.tally(frame, edges, 1, 3)["score"]
        assert found.total[0] == len(part)
        assert M.roc_auc(found)[0] == pytest.approx(roc_auc_score(y, p), abs=1e-4), case
        assert M.pr_auc(found)[0] == pytest.approx(average_precision_score(y, p), abs=1e-3), case
        assert M.brier(found)[0] == pytest.approx(brier_score_loss(y, p), rel=1e-9)
        assert M.log_loss(found)[0] == pytest.approx(log_loss(y, np.clip(p, 1e-15, 1 - 1e-15)), rel=1e-6)
        decided = M.at_threshold(found, 0.5)
        (tn, fp), (fn, tp) = confusion_matrix(y, p >= 0.5)
        assert [decided[n][0] for n in ("true_negative", "false_positive", "false_negative", "true_positive")] == [tn, fp, fn, tp]
        assert M.calibration_error(found)[0] == pytest.approx(calibration_error(y, p, edges["score"].groups), rel=1e-9)


def calibration_error(y: np.ndarray, p: np.ndarray, cuts: np.ndarray) -> float:
    group = [sum(1 for cut in cuts if cut <= one) for one in p]
    error = 0.0
    for name in set(group):
        members = [n for n, one in enumerate(group) if one == name]
        error += abs(sum(y[n] - p[n] for n in members))
    return error / len(y)


def test_a_round_is_the_data_with_users_repeated(spark: SparkSession) -> None:
    """Round k of the bootstrap equals scikit-learn on the rows weighted by their users' weights."""
    part = cases().query("case == 1")
    frame = spark.createDataFrame(part)
    found = M.tally(frame, M.find_edges(frame, ["score"], 100), 6, 9)["score"]
    hashes = {row[0]: row[1] for row in frame.selectExpr("user_id", "xxhash64(user_id)").distinct().collect()}
    users = sorted(hashes)
    weights = pd.DataFrame(user_weights(np.array([hashes[user] for user in users]), 6, 9), index=users)
    for number in range(7):
        weight = part["user_id"].map(weights[number]).to_numpy()
        assert M.roc_auc(found)[number] == pytest.approx(roc_auc_score(part["label"], part["score"], sample_weight=weight))
        assert M.brier(found)[number] == pytest.approx(brier_score_loss(part["label"], part["score"], sample_weight=weight))


items = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=15)


@settings(deadline=None, derandomize=True, max_examples=3)
@given(st.lists(st.tuples(items, st.integers(0, 3)), min_size=5, max_size=12))
def test_lists_agree_with_the_definition(spark: SparkSession, users: list[tuple[list[tuple[int, bool]], int]]) -> None:
    """Many users in one frame: (score level, bought) per candidate, and how many purchases lay outside the candidates."""
    scored, bought, expected = [], [("nobody", "x", D)], {"nobody": (0.0, 0.0, 0.0)}
    for number, (candidates, outside) in enumerate(users):
        user = f"u{number}"
        ordered = sorted((-level, f"i{n:02d}", label) for n, (level, label) in enumerate(candidates))
        scored += [(user, f"i{n:02d}", D, int(label), level / 4) for n, (level, label) in enumerate(candidates)]
        purchases = [f"i{n:02d}" for n, (_, label) in enumerate(candidates) if label] + [f"x{n}" for n in range(outside)]
        bought += [(user, item, D) for item in purchases]
        if purchases:
            hits = [int(label) for _, _, label in ordered]
            dcg = sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits[:10]))
            ideal = sum(1 / math.log2(rank + 2) for rank in range(min(10, len(purchases))))
            expected[user] = (sum(hits[:5]) / 5, sum(hits[:5]) / len(purchases), dcg / ideal)
    frame = local_frame(spark, scored, "user_id string, item_id string, as_of_date date, label int, s double")
    lists = user_lists(frame, local_frame(spark, bought, "user_id string, item_id string, as_of_date date"), ["s"], (5,))
    found = {row["user_id"]: (row["s:precision@5"], row["s:recall@5"], row["s:ndcg@10"]) for row in lists.collect()}
    assert found.keys() == expected.keys()
    for user, values in expected.items():
        assert found[user] == pytest.approx(values), user


def test_ndcg_agrees_with_scikit_learn(spark: SparkSession) -> None:
    rng = np.random.default_rng(2)
    label, score = (rng.random(30) < 0.3).astype(int), rng.random(30)
    rows = [("u", f"i{n}", D, int(label[n]), float(score[n])) for n in range(30)]
    frame = local_frame(spark, rows, "user_id string, item_id string, as_of_date date, label int, s double")
    purchases = frame.where("label = 1").select("user_id", "item_id", "as_of_date")
    row = user_lists(frame, purchases, ["s"], (1,)).collect()[0]
    assert row["s:ndcg@10"] == pytest.approx(ndcg_score([label], [score], k=10))
