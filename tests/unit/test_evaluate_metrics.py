"""Metrics, bootstrap and lists on small frames; scikit-learn is the reference where it knows the metric."""

from __future__ import annotations

import math
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from sklearn.metrics import roc_auc_score

from propensity_spark.config import EvaluateSettings
from propensity_spark.errors import OneClassOnly
from propensity_spark.evaluate import bootstrap
from propensity_spark.evaluate import metrics as M
from propensity_spark.evaluate.bootstrap import bootstrap_totals, user_weights
from propensity_spark.evaluate.ranking import mean_over_lists, outside_candidates, user_lists
from propensity_spark.evaluate.results import evaluate
from propensity_spark.evaluate.segments import segment_numbers, tally_apart
from propensity_spark.tables import local_frame

D, E = date(2024, 1, 5), date(2024, 1, 12)
ROUNDS = 40


def scored_rows(users: int = 60, rows: int = 20, seed: int = 1) -> pd.DataFrame:
    """Purchases with a chance that differs between users, a good score and a worse one; every user and row on two dates."""
    rng = np.random.default_rng(seed)
    taste = rng.gamma(0.5, 0.2, users)[:, None] * rng.random((users, rows)) * 2
    chance = np.clip(taste, 0.001, 0.9).ravel()
    return pd.DataFrame(
        {
            "user_id": np.repeat([f"u{n}" for n in range(users)], rows),
            "item_id": [f"i{n}" for n in range(rows)] * users,
            "as_of_date": [D if n % 2 else E for n in range(rows)] * users,
            "label": (rng.random(users * rows) < chance).astype(int),
            "probability": chance,
            "baseline_probability": np.round(chance * rng.uniform(0.3, 1.2, users * rows), 2),
            "is_new_user": np.repeat(rng.random(users) < 0.3, rows),
        }
    )


def test_weights_are_poisson_and_the_same_for_the_same_user() -> None:
    hashes = np.random.default_rng(3).integers(-(2**62), 2**62, 5000)
    weights = user_weights(hashes, 50, 7)
    assert weights.shape == (5000, 51)
    assert (weights[:, 0] == 1).all()
    drawn = weights[:, 1:]
    assert drawn.mean() == pytest.approx(1.0, abs=0.01)
    assert drawn.var() == pytest.approx(1.0, abs=0.03)
    assert (drawn == 0).mean() == pytest.approx(math.exp(-1), abs=0.005)
    assert (user_weights(hashes[::-1].copy(), 50, 7)[::-1] == weights).all()
    assert (user_weights(hashes, 50, 8) != weights).any()
    across_users = np.corrcoef(drawn[:2500].ravel(), drawn[2500:].ravel())[0, 1]
    across_rounds = np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]
    assert abs(across_users) < 0.02
    assert abs(across_rounds) < 0.06


def test_totals_do_not_depend_on_partitions_chunks_or_blocks(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.DataFrame({"user_id": [f"u{n % 7}" for n in range(50)], "a": range(50), "b": 1.0})
    frame = spark.createDataFrame(rows)
    whole = bootstrap_totals(frame.coalesce(1), ["a", "b"], 10, 5)
    assert whole[:, 0].tolist() == [1225.0, 50.0]
    assert (bootstrap_totals(frame.repartition(5), ["a", "b"], 10, 5) == whole).all()
    batches = [pa.record_batch({"x": [1, 2]}), pa.record_batch({"x": [3, 4]}), pa.record_batch({"x": [5]})]
    monkeypatch.setattr(bootstrap, "CHUNK_ROWS", 3)
    assert [len(chunk) for chunk in bootstrap._chunks(batches)] == [4, 1]


def test_an_empty_frame_has_zero_totals(spark: SparkSession) -> None:
    frame = local_frame(spark, [], "user_id string, a double")
    assert bootstrap_totals(frame, ["a"], 4, 5).tolist() == [[0.0] * 5]


def test_interval_covers_and_copies_of_a_user_s_rows_do_not_shrink_it(spark: SparkSession) -> None:
    rows = scored_rows()
    copied = pd.concat([rows] * 4)
    estimates = []
    for frame in (spark.createDataFrame(rows), spark.createDataFrame(copied)):
        edges = M.find_edges(frame, ["probability"], 2000)
        estimates.append(M.estimate(M.roc_auc(M.tally(frame, edges, 200, 7)["probability"])))
    once, four_times = estimates
    assert once["low"] < once["value"] < once["high"]
    assert four_times == pytest.approx(once)


def test_one_pass_gives_all_scores_and_null_scores_are_left_out(spark: SparkSession) -> None:
    frame = spark.createDataFrame(
        [("a", 1, 0.9, 0.2), ("a", 0, 0.4, None), ("b", 1, 0.4, 0.7), ("b", 0, 0.1, 0.3)], "user_id string, label int, x double, y double"
    )
    no_groups = np.empty(0)
    edges = {"x": M.Edges(np.array([0.4, 0.9]), no_groups), "y": M.Edges(np.array([0.3, 0.7]), no_groups)}
    tallies = M.tally(frame, edges, 3, 1)
    assert tallies["x"].rows[:, 0].tolist() == [1, 2, 1]
    assert tallies["x"].positives[:, 0].tolist() == [0, 1, 1]
    assert M.roc_auc(tallies["x"])[0] == pytest.approx(3.5 / 4)
    assert tallies["y"].total[0] == 3
    assert M.roc_auc(tallies["y"])[0] == pytest.approx(0.5)
    assert M.brier(tallies["y"])[0] == pytest.approx((0.8**2 + 0.3**2 + 0.3**2) / 3)


def tally_of(rows: list[float], positives: list[float], edges: list[float], missed: float = 0.0) -> M.Tally:
    column = np.array([[value] * 2 for value in rows]), np.array([[value] * 2 for value in positives])
    zero = np.zeros(2)
    return M.Tally(M.Edges(np.array(edges), np.empty(0)), *column, np.zeros_like(column[0]), zero, zero, np.full(2, missed))


def test_decisions_at_a_threshold_count_missed_purchases() -> None:
    found = M.at_threshold(tally_of([50, 30, 20], [1, 4, 10], [0.2, 0.5], missed=5), 0.5)
    counts = {name: values[0] for name, values in found.items()}
    assert (counts["true_positive"], counts["false_positive"], counts["false_negative"], counts["true_negative"]) == (10, 10, 10, 75)
    assert counts["precision"] == 0.5
    assert counts["recall"] == 0.5
    assert counts["f1"] == 0.5
    everything = M.at_threshold(tally_of([50, 30, 20], [1, 4, 10], [0.2, 0.5]), 0.0)
    assert everything["recall"][0] == 1.0
    nothing = M.at_threshold(tally_of([50, 30], [1, 4], [0.2]), 0.9)
    assert nothing["true_positive"][0] == 0  # above every edge
    assert np.isnan(nothing["precision"][0])


def test_gain_and_lift_share_out_a_bin_that_straddles() -> None:
    found = M.deciles(tally_of([80, 20], [10, 10], [0.5], missed=5))
    assert found["gain"][:, 0] == pytest.approx([0.2, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8])
    assert found["lift"][:3, 0] == pytest.approx([2.5, 2.5, 0.625])
    assert M.candidate_recall(tally_of([80, 20], [10, 10], [0.5], missed=5))[0] == 0.8


def test_a_constant_rate_has_half_auc_and_its_own_brier() -> None:
    constant = M.constant(tally_of([80, 20], [10, 10], [0.5]), 0.25)
    assert M.roc_auc(constant)[0] == 0.5
    assert M.brier(constant)[0] == pytest.approx(0.2 * 0.75**2 + 0.8 * 0.25**2)
    assert M.log_loss(constant)[0] == pytest.approx(-0.2 * math.log(0.25) - 0.8 * math.log(0.75))
    assert M.calibration_error(constant)[0] == pytest.approx(0.05)


def test_one_class_is_an_error_that_counts(spark: SparkSession) -> None:
    rows = scored_rows(5).assign(label=0)
    frame, bought = spark.createDataFrame(rows), local_frame(spark, [], "user_id string, item_id string, as_of_date date")
    with pytest.raises(OneClassOnly, match=r"test slice: .* found 0 purchases in 100 rows"):
        evaluate(frame, bought, grain="user_item", base_rate=0.1, threshold=0.2, settings=EvaluateSettings(bootstrap_rounds=5))


def test_an_undefined_estimate_is_none() -> None:
    assert M.estimate(np.array([np.nan, np.nan])) == {"value": None, "low": None, "high": None}
    assert M.estimate(np.array([1.0, np.nan, 2.0, 2.0])) == {"value": 1.0, "low": 2.0, "high": 2.0}


def test_edges_keep_every_distinct_score_and_the_threshold() -> None:
    edges = M._edges(np.array([0.1, 0.1, 0.2, 0.4]), np.array([0, 0, 1, 1]), 10, [0.3])
    assert edges.bins.tolist() == [0.2, 0.3, 0.4]
    one_value = M._edges(np.full(5, 0.1), np.array([0, 0, 1, 0, 0]), 10, [])
    assert one_value.bins.tolist() == []


def test_lists_count_missed_purchases_and_break_ties_by_item(spark: SparkSession) -> None:
    scored = spark.createDataFrame(
        [
            ("a", "i1", D, 0, 0.5),
            ("a", "i2", D, 1, 0.5),
            ("a", "i3", D, 0, 0.1),
            ("b", "i1", D, 1, 0.9),
            ("c", "i1", D, 0, 0.9),
            ("b", "i1", E, 0, 0.9),
        ],
        "user_id string, item_id string, as_of_date date, label int, s double",
    )
    purchases = spark.createDataFrame(
        [("a", "i2", D), ("a", "i9", D), ("b", "i1", D), ("d", "i9", D)], "user_id string, item_id string, as_of_date date"
    )
    lists = {row["user_id"]: row for row in user_lists(scored, purchases, ["s"], (1, 2)).collect()}
    assert set(lists) == {"a", "b", "d"}
    assert (lists["a"]["s:precision@1"], lists["a"]["s:precision@2"], lists["a"]["s:recall@2"]) == (0.0, 0.5, 0.5)
    assert lists["a"]["s:ndcg@10"] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert lists["b"]["s:ndcg@10"] == 1.0
    assert (lists["d"]["s:recall@2"], lists["d"]["s:ndcg@10"]) == (0.0, 0.0)
    assert outside_candidates(scored, purchases, ["user_id", "item_id", "as_of_date"]).count() == 2


def test_no_list_has_no_mean(spark: SparkSession) -> None:
    lists = local_frame(spark, [], "user_id string, as_of_date date, `s:ndcg@10` double")
    assert mean_over_lists(lists, 3, 1) == (0, {})


def test_each_segment_is_measured_as_if_alone(spark: SparkSession) -> None:
    """`big` is as large as the others together, `odd.one` promises threefold, `none` has no purchase; some users have no segment."""
    rows = scored_rows(users=80)
    rows["user_segment"] = rows["user_id"].map(lambda user: ["big", "big", "odd.one", None, "none"][int(user[1:]) % 5])
    rows.loc[rows["user_segment"] == "odd.one", "probability"] = np.minimum(3 * rows["probability"], 0.99)
    rows.loc[rows["user_segment"] == "none", "label"] = 0
    frame = spark.createDataFrame(rows.replace({np.nan: None})).cache()
    scores = ["challenger", "baseline"]
    frame = frame.withColumnsRenamed({"probability": "challenger", "baseline_probability": "baseline"})
    edges = M.find_edges(frame, scores, 500)
    whole, apart = tally_apart(frame, edges, 100, 3, np.zeros(101))
    at_once = M.tally(frame, edges, 100, 3)
    for score in scores:
        assert M.roc_auc(whole[score]) == pytest.approx(M.roc_auc(at_once[score]))
        assert M.calibration_error(whole[score]) == pytest.approx(M.calibration_error(at_once[score]))
    found = segment_numbers(apart)
    segments = ["user_segment: big", "user_segment: none", "user_segment: odd.one"]
    assert list(found) == ["new", "returning", f"as of {D}", f"as of {E}", *segments]
    assert found["user_segment: none"] == {"note": found["user_segment: none"]["note"]}
    for name, column, one in (
        ("user_segment: big", "user_segment", "big"),
        ("user_segment: odd.one", "user_segment", "odd.one"),
        (f"as of {E}", "as_of_date", E),
    ):
        part = rows[rows[column] == one]
        assert (found[name]["rows"], found[name]["purchases"]) == (len(part), part["label"].sum())
        assert found[name]["challenger"]["roc_auc"]["value"] == pytest.approx(roc_auc_score(part["label"], part["probability"]), abs=0.003)
        assert found[name]["observed_over_expected"]["value"] == pytest.approx(part["label"].sum() / part["probability"].sum())
        assert "baseline" not in found[name]
    assert found["user_segment: big"]["calibrated"] is True
    assert found["user_segment: odd.one"]["calibrated"] is False


def test_evaluation_at_both_grains(spark: SparkSession) -> None:
    rows = scored_rows()
    frame = spark.createDataFrame(rows).cache()
    bought = rows.loc[rows["label"] == 1, ["user_id", "item_id", "as_of_date"]]
    elsewhere = bought.head(10).assign(item_id="not a candidate")
    settings = EvaluateSettings(bootstrap_rounds=ROUNDS, bins=500)
    purchases = spark.createDataFrame(pd.concat([bought, elsewhere]))
    found = evaluate(frame, purchases, grain="user_item", base_rate=0.1, threshold=0.2, settings=settings)
    again = evaluate(frame.repartition(3), purchases, grain="user_item", base_rate=0.1, threshold=0.2, settings=settings)
    assert again["metrics"]["challenger"]["roc_auc"] == found["metrics"]["challenger"]["roc_auc"]
    assert again["differences"]["baseline"]["roc_auc"] == found["differences"]["baseline"]["roc_auc"]
    assert found["candidates"]["missed"] == 10
    assert found["candidates"]["recall"]["value"] == pytest.approx(len(bought) / (len(bought) + 10))
    assert found["metrics"]["constant"]["roc_auc"]["value"] == 0.5
    assert found["differences"]["baseline"]["roc_auc"]["value"] == pytest.approx(
        found["metrics"]["challenger"]["roc_auc"]["value"] - found["metrics"]["baseline"]["roc_auc"]["value"]
    )
    assert found["segments"]["new"]["rows"] + found["segments"]["returning"]["rows"] == len(rows)
    assert list(found["segments"]) == ["new", "returning", f"as of {D}", f"as of {E}"]
    assert found["curves"]["challenger"]["recall"][-1] == pytest.approx(found["candidates"]["recall"]["value"], abs=1e-5)
    assert sum(one["rows"] for one in found["histogram"]) == len(rows)
    user_rows = rows.drop_duplicates(["user_id", "as_of_date"]).drop(columns="item_id").assign(is_new_user=False)
    per_user = evaluate(
        spark.createDataFrame(user_rows),
        spark.createDataFrame(user_rows.loc[user_rows["label"] == 1, ["user_id", "as_of_date"]]),
        grain="user",
        base_rate=0.1,
        threshold=0.2,
        settings=settings,
    )
    assert per_user["lists"] == 0
    assert "note" in per_user["segments"]["new"]
    assert "ndcg@10" not in per_user["metrics"]["challenger"]
