"""The baseline, the held-out scores, SHAP, the ceiling, and what the report says around them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import roc_auc_score

from propensity_spark import models
from propensity_spark.config import FileSource, LabelSettings, Settings
from propensity_spark.errors import FeatureMismatch, OneClassOnly
from propensity_spark.evaluate import context
from propensity_spark.evaluate.baseline import fit_baseline, with_baseline
from propensity_spark.evaluate.ceiling import ceiling
from propensity_spark.evaluate.explain import correlated, dependence, explain, singles
from propensity_spark.evaluate.heldout import assess, scored_test
from propensity_spark.evaluate.leaks import alone
from propensity_spark.features.registry import USER_FEATURES, model_features, training_set_table
from propensity_spark.predictor import PropensityModel
from propensity_spark.run import Run
from propensity_spark.schemas import ACTIVITY, DRIFT, PROFILES, QUARANTINE, RUNS
from propensity_spark.stages.evaluate import STAGE
from propensity_spark.tables import Lake, local_frame
from propensity_spark.train.reference import feature_bins

FEATURES = tuple(feature.name for feature in model_features("user", has_market=False))
TRAIN, TEST = date(2024, 1, 5), date(2024, 3, 1)


def training_rows(users: int = 300) -> pd.DataFrame:
    """Grain user: who purchased lately purchases again; `views_7d` helps too, everything else is noise or null."""
    rng = np.random.default_rng(5)
    frames = []
    for split, day in (("train", TRAIN), ("test", TEST)):
        rows = pd.DataFrame({name: rng.integers(0, 9, users).astype(float) for name in FEATURES})
        rows["recency_days"] = np.where(rng.random(users) < 0.3, np.nan, rng.integers(0, 200, users))
        rows["tenure_days"] = rng.integers(0, 300, users).astype(float)
        chance = 0.6 * np.exp(-rows["recency_days"].fillna(400) / 60) * (0.3 + rows["views_7d"] / 9)
        rows["label"] = (rng.random(users) < chance).astype(int)
        rows["user_id"], rows["as_of_date"], rows["split"], rows["sample_weight"] = [f"u{n}" for n in range(users)], day, split, 1.0
        frames.append(rows)
    return pd.concat(frames)


def frame_of(spark: SparkSession, rows: pd.DataFrame) -> DataFrame:
    frame = spark.createDataFrame(rows.replace({np.nan: None}), schema=", ".join(f"`{c}` {_type(c)}" for c in rows.columns))
    return frame


def _type(column: str) -> str:
    return {"label": "int", "user_id": "string", "split": "string", "as_of_date": "date"}.get(column, "double")


def model_of(rows: pd.DataFrame, features: tuple[str, ...] = FEATURES, version: str = "2", rounds: int = 20) -> PropensityModel:
    train = rows[rows["split"] == "train"]
    data = xgboost.DMatrix(train[list(features)].to_numpy(np.float32), train["label"], missing=np.nan)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "seed": 1, "nthread": 1}, data, rounds)
    return PropensityModel(
        name="propensity",
        version=version,
        grain="user",
        features=features,
        booster=bytes(booster.save_raw("ubj")),
        calibration_x=(0.0, 1.0),
        calibration_y=(0.0, 1.0),
        threshold=0.3,
        baseline={},
        train_from=TRAIN,
        train_to=TRAIN,
        label=LabelSettings(),
        inputs={"gold/training_set": 3},
    )


def settings_of(grain: str = "user", **evaluate: Any) -> Settings:
    items = FileSource(kind="files", name="snapshot", path="x", columns={"item_id": "a"}, static=True)
    return Settings.model_validate(
        {
            "dataset": "test",
            "grain": grain,
            "lake": {"root": "lake"},
            "publish": {"uri": "published"},
            "sources": {"items": (items,), "activity": ()},
            "evaluate": {"bootstrap_rounds": 20, "shap_rows": 50, **evaluate},
        }
    )


def test_the_user_baseline_is_smoothed_rates_by_recency_and_frequency(spark: SparkSession) -> None:
    rows = [(3, 1, 1, 1.0), (5, 1, 0, 5.0), (None, 0, 0, 5.0), (100, 12, 1, 1.0)]
    frame = local_frame(spark, rows, "recency_days long, frequency_90d long, label int, sample_weight double")
    baseline = fit_baseline(frame, "user")
    base = 2 / 12
    assert baseline.base_rate == pytest.approx(base)
    unseen = local_frame(spark, [(6, 1), (None, 0), (80, 3)], "recency_days long, frequency_90d long")
    rates = [
        row["baseline_probability"] for row in with_baseline(unseen, baseline).orderBy(F.col("recency_days").asc_nulls_last()).collect()
    ]
    assert rates == pytest.approx([(1 + 20 * base) / 26, base, (20 * base) / 25])
    assert with_baseline(unseen, baseline).columns == ["recency_days", "frequency_90d", "baseline_probability"]


def test_the_pair_baseline_uses_popularity_and_has_few_cells(spark: SparkSession) -> None:
    pairs = spark.range(2000).selectExpr(
        "cast(id % 200 as long) item_buyers_30d",
        "if(id % 3 = 0, null, id % 120) days_since_item_view",
        "if(id % 5 = 0, id % 50, null) days_since_item_purchase",
        "if(id % 7 = 0, null, id % 100) recency_days",
        "cast(id % 200 > 150 and id % 2 = 0 as int) label",
        "1.0D sample_weight",
    )
    baseline = fit_baseline(pairs, "user_item")
    assert len(baseline.popularity_limits) == 9
    assert 100 < len(baseline.rates) <= 300
    mean = with_baseline(pairs, baseline).groupBy(F.col("item_buyers_30d") > 180).agg(F.avg("baseline_probability")).collect()
    rate = {row[0]: row[1] for row in mean}
    assert rate[True] > 2 * rate[False]


def test_a_baseline_needs_both_classes(spark: SparkSession) -> None:
    frame = local_frame(spark, [(3, 1, 0, 1.0)], "recency_days long, frequency_90d long, label int, sample_weight double")
    with pytest.raises(OneClassOnly, match=r"found 0 purchases in 1 rows"):
        fit_baseline(frame, "user")


def test_each_model_sees_its_own_features(spark: SparkSession) -> None:
    rows = training_rows()
    test = frame_of(spark, rows[rows["split"] == "test"])
    few = tuple(name for name in FEATURES if name != "views_30d")
    scored = scored_test(test, model_of(rows), model_of(rows, few, "1"), 30).orderBy("user_id").toPandas()
    expected = rows[rows["split"] == "test"].sort_values("user_id")
    assert scored["probability"].to_numpy() == pytest.approx(model_of(rows).predict(expected[list(FEATURES)].to_numpy(np.float32)))
    assert scored["champion_probability"].to_numpy() == pytest.approx(model_of(rows, few).predict(expected[list(few)].to_numpy(np.float32)))
    assert (scored["is_new_user"].to_numpy() == (expected["tenure_days"] < 30).to_numpy()).all()
    assert set(FEATURES) <= set(scored.columns)
    with pytest.raises(FeatureMismatch, match="views_30d"):
        scored_test(test.drop("views_30d"), model_of(rows), None, 30)


def test_assess_decides_on_the_same_rows(spark: SparkSession) -> None:
    rows = training_rows()
    frame = frame_of(spark, rows)
    bought = frame.where("split = 'test' and label = 1").select("user_id", "as_of_date")
    challenger, champion = model_of(rows), model_of(rows, version="1", rounds=1)
    truth = bought.select("user_id", F.lit(None).cast("string").alias("item_id"), "as_of_date", F.lit(0.5).alias("probability"))
    options = settings_of(max_calibration_error=1.0, auc_margin_over_baseline=-1.0, auc_margin_over_champion=-1.0, min_segment_purchases=1)
    sections, decision = assess(
        frame,
        bought,
        challenger=challenger,
        champion=champion,
        settings=options,
        truth=truth.withColumn("standard_error", F.lit(0.01)),
    )
    assert decision.outcome == "promoted"
    assert {gate.name for gate in decision.gates} == {"auc_over_baseline", "auc_over_champion", "calibration_error", "segment_auc"}
    assert sections["ceiling"] is None  # only purchases have a truth here: nothing to compare with
    assert sections["evaluation"]["threshold"]["value"] == 0.3
    assert sections["explain"]["rows"] == 50
    json.dumps(sections, allow_nan=False)
    sections, decision = assess(frame, bought, challenger=challenger, champion=challenger, settings=options)
    assert decision.outcome == "already champion"
    assert "champion" not in sections["evaluation"]["metrics"]


def test_a_planted_leak_is_caught(spark: SparkSession) -> None:
    """`sessions_30d` is 0 for nobody who purchases, as a page seen on the way to the till; `views_30d` is the label, but for noise."""
    rows = training_rows(1500)
    rng = np.random.default_rng(9)
    honest = frame_of(spark, rows)
    bins = feature_bins(honest.where("split = 'train'"), FEATURES, 10)
    quiet = alone(honest.where("split = 'train'"), FEATURES, bins)
    train = rows[rows["split"] == "train"]
    assert [one.feature for one in quiet][:1] == ["recency_days"]
    assert {one.feature for one in quiet} == set(FEATURES)
    assert max(one.decided_share for one in quiet) < 0.5
    views = next(one for one in quiet if one.feature == "views_7d")
    assert views.auc == pytest.approx(roc_auc_score(train["label"], train["views_7d"]), abs=0.01)

    leaking = rows.assign(
        sessions_30d=np.where(rows["label"] == 1, 1, rng.random(len(rows)) < 0.1).astype(float),
        views_30d=rows["label"] + 0.3 * rng.random(len(rows)),
    )
    frame = frame_of(spark, leaking)
    bins = feature_bins(frame.where("split = 'train'"), FEATURES, 10)
    model = replace(model_of(leaking), baseline=bins)
    bought = frame.where("split = 'test' and label = 1").select("user_id", "as_of_date")
    sections, decision = assess(frame, bought, challenger=model, champion=None, settings=settings_of(max_calibration_error=1.0))
    assert decision.outcome == "kept"
    assert {gate.name for gate in decision.gates if not gate.passed} == {"feature_alone_auc", "decided_by_feature"}
    found = {one["feature"]: one for one in sections["leaks"]}
    assert found["views_30d"]["auc"] > 0.95
    assert found["sessions_30d"]["decided_share"] == pytest.approx((leaking.query("split == 'train'")["sessions_30d"] == 0).mean())
    assert alone(frame, FEATURES, {}) == []


def test_shap_values_add_up_and_do_not_depend_on_partitions(spark: SparkSession) -> None:
    rows = training_rows()
    frame, model = frame_of(spark, rows), model_of(rows)
    found = explain(frame, model, 100)
    assert found == explain(frame.repartition(3), model, 100)
    assert sum(share for _, share in found["gain"]) == pytest.approx(1.0)
    assert found["gain"][0][0] == found["shap"][0][0] == "recency_days"
    assert len(found["shap"]) == len(FEATURES)
    assert len(found["points"]["recency_days"]) == 100
    assert any(rank is None for _, rank in found["points"]["recency_days"])
    assert all(0 < rank < 1 for _, rank in found["points"]["views_7d"])


def test_three_rows_are_explained_by_what_adds_up_to_their_log_odds() -> None:
    model, rng = model_of(training_rows()), np.random.default_rng(6)
    sample = rng.random((41, len(FEATURES))).astype(np.float32) * 30
    sample[::7, 0] = np.nan
    found = singles(model, sample, model.contributions_of_many(sample))
    probability = model.predict(sample)
    assert [(one["which"], one["probability"]) for one in found] == [
        ("Highest", probability.max()),
        ("Median", np.sort(probability)[20]),
        ("Lowest", probability.min()),
    ]
    booster = xgboost.Booster(model_file=bytearray(model.booster))
    log_odds = booster.inplace_predict(sample, predict_type="margin")
    for one in found:
        row = np.flatnonzero(probability == one["probability"])
        total = one["base"] + sum(effect for _, _, effect in one["reasons"]) + one["others"]
        assert np.isclose(log_odds[row], total, atol=1e-4).any()
        sizes = [abs(effect) for _, _, effect in one["reasons"]]
        assert sizes == sorted(sizes, reverse=True)
        values = {name: value for name, value, _ in one["reasons"]}
        same = [all(_same(sample[r, FEATURES.index(name)], value) for name, value in values.items()) for r in row]
        assert any(same)
    assert singles(model, sample[:0], np.zeros((0, len(FEATURES) + 1))) == []


def _same(cell: float, told: float | None) -> bool:
    return bool(np.isnan(cell)) if told is None else cell == np.float32(told)


def test_correlations_are_of_columns_that_vary_and_of_rows_that_have_both() -> None:
    up = np.arange(60.0)
    columns = pd.DataFrame({"up": up, "noise": np.random.default_rng(1).random(60), "down": -(up**3), "flat": 1.0, "few": up})
    columns.loc[11:, "few"] = np.nan
    found = correlated(columns, "spearman")
    assert found is not None
    assert sorted(found["names"]) == ["down", "few", "noise", "up"]
    assert abs(found["names"].index("up") - found["names"].index("down")) == 1  # like beside like
    value = {(a, b): found["matrix"][i][j] for i, a in enumerate(found["names"]) for j, b in enumerate(found["names"])}
    assert (value["up", "up"], value["up", "down"], value["few", "up"]) == (1.0, -1.0, None)
    assert correlated(columns[["up", "flat"]], "spearman") is None


def test_items_move_together_as_their_returns_of_the_year_do(spark: SparkSession) -> None:
    """`old` is not among the 20 purchased most or has no return of the year; a row that repeats an earlier session is none."""
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(100)]
    rows = []
    for n, day in enumerate(days):
        move = (n * 37 % 11) / 100
        rows += [("a", day, day, move), ("b", day, day, 2 * move), ("c", day, day, -move), ("unpurchased", day, day, move)]
    rows += [
        ("a", date(2024, 4, 20), days[-1], 9.0),
        ("old", date(2022, 1, 3), date(2022, 1, 3), 0.1),
        ("a", date(2024, 6, 1), date(2024, 6, 1), 9.0),
    ]
    market = spark.createDataFrame(rows, "item_id string, as_of_date date, last_session_date date, return_1d double")
    bought = spark.createDataFrame([("u", item) for item in ("a", "a", "b", "c", "old")], "user_id string, item_id string")
    found = context.items_together(market, bought, date(2024, 5, 1))
    assert found is not None
    value = {(a, b): found["matrix"][i][j] for i, a in enumerate(found["names"]) for j, b in enumerate(found["names"])}
    assert sorted(found["names"]) == ["a", "b", "c"]
    assert (value["a", "b"], value["a", "c"]) == (1.0, -1.0)
    assert context.items_together(market, bought, date(2020, 5, 1)) is None


def test_partial_dependence_is_the_mean_of_rows_that_are_told_a_value() -> None:
    model, rng = model_of(training_rows()), np.random.default_rng(5)
    sample = rng.random((40, len(FEATURES))).astype(np.float32) * 30
    sample[:5, 0], sample[:, 1] = np.nan, 3.0
    found = dependence(model, sample, range(len(FEATURES)))
    assert list(found) == [name for name in FEATURES if name != FEATURES[1]][:6]  # a feature of one value tells nothing
    curve = found[FEATURES[0]]
    assert curve["values"] == sorted(set(curve["values"]))
    assert set(curve["values"]) <= set(sample[5:, 0].astype(float))
    for value, mean, low, high in zip(*(curve[name] for name in ("values", "mean", "low", "high")), strict=True):
        told = sample.copy()
        told[:, 0] = value
        each = model.predict(told)
        assert mean == pytest.approx(each.mean())
        assert (low, high) == pytest.approx((np.quantile(each, 0.1), np.quantile(each, 0.9)))
    told[:, 0] = np.nan
    assert curve["null"] == pytest.approx(model.predict(told).mean())
    assert all(found[name]["null"] is None for name in found if name != FEATURES[0])
    assert dependence(model, np.full((3, len(FEATURES)), np.nan, np.float32), range(len(FEATURES))) == {}


def test_the_truth_is_the_ceiling(spark: SparkSession) -> None:
    rng = np.random.default_rng(8)
    chance = rng.random(2000) ** 3
    pairs = pd.DataFrame({"user_id": [f"u{n % 80}" for n in range(2000)], "item_id": [f"i{n}" for n in range(2000)], "as_of_date": TEST})
    scored = pairs.assign(label=(rng.random(2000) < chance).astype(int), probability=np.clip(chance + rng.normal(0, 0.2, 2000), 0.01, 0.99))
    truth = pairs.assign(probability=chance, standard_error=0.01).head(1500)
    key = ["user_id", "item_id", "as_of_date"]
    found = ceiling(spark.createDataFrame(scored), spark.createDataFrame(truth), key, bins=500, rounds=50, seed=1)
    assert found is not None
    assert (found["rows"], found["users"]) == (1500, 80)
    share, model, best = found["share"], found["model"]["roc_auc"]["value"], found["truth"]["roc_auc"]["value"]
    assert share["value"] == pytest.approx((model - 0.5) / (best - 0.5))
    assert 0.5 < share["low"] < share["value"] < share["high"] < 1
    assert found["brier_from_standard_error"] == pytest.approx(1e-4)
    elsewhere = spark.createDataFrame(truth.assign(user_id="stranger"))
    assert ceiling(spark.createDataFrame(scored), elsewhere, key, bins=10, rounds=2, seed=1) is None


def rows_of(spark: SparkSession, table: Any, *rows: Mapping[str, Any]) -> DataFrame:
    return local_frame(spark, [tuple(row.get(name) for name in table.column_names) for row in rows], table.schema)


def test_slices_stages_quality_and_drift(spark: SparkSession) -> None:
    when = datetime(2024, 3, 2, tzinfo=UTC)
    split = spark.createDataFrame(
        [("u", TEST, "test", 1, 1.0), ("v", TEST, "test", 0, 1.0), ("u", TRAIN, "train", 1, 1.0), ("v", TRAIN, "train", 0, 4.0)],
        "user_id string, as_of_date date, split string, label int, sample_weight double",
    )
    found = context.slices(split)
    assert [(entry["split"], entry["rate"], entry["users"], entry["first"]) for entry in found] == [
        ("train", 0.2, 2, "2024-01-05"),
        ("test", 0.5, 2, "2024-03-01"),
    ]
    run = {"as_of_date": TEST, "status": "succeeded", "rows_in": 1, "rows_out": 1, "rows_rejected": 0, "seconds": 1.0, "started_at": when}
    runs = rows_of(
        spark,
        RUNS,
        run | {"stage": "label", "rows_in": 3, "started_at": when.replace(hour=5)},
        run | {"stage": "ingest", "rows_in": 7},
        run | {"stage": "label", "rows_in": 2, "started_at": when.replace(hour=4)},
        run | {"stage": "train", "status": "failed"},
    )
    assert [(entry["stage"], entry["rows_in"]) for entry in context.stage_rows(runs, TEST)] == [("ingest", 7), ("label", 3)]
    quarantine = rows_of(
        spark,
        QUARANTINE,
        {"source_table": "activity", "reasons": ["user_missing", "price_negative"]},
        {"source_table": "activity", "reasons": ["user_missing"]},
    )
    profiles = rows_of(
        spark,
        PROFILES,
        {"table_name": "bars", "measure": "warn:price_jump", "value": 2.0},
        {"table_name": "bars", "measure": "warn:price_jump", "value": 3.0},
        {"table_name": "bars", "measure": "warn:other", "value": 0.0},
        {"table_name": "bars", "measure": "rows_valid", "value": 9.0},
    )
    counted = [(entry["kind"], entry["table_name"], entry["rule"], entry["rows"]) for entry in context.quality(quarantine, profiles)]
    assert counted == [
        ("rejected", "activity", "user_missing", 2),
        ("rejected", "activity", "price_negative", 1),
        ("warning", "bars", "price_jump", 5),
    ]
    measured = rows_of(
        spark,
        DRIFT,
        {"as_of_date": TEST, "subject": "views_7d", "measure": "psi", "value": 0.1, "breached": False},
        {"as_of_date": TRAIN, "subject": "views_7d", "measure": "psi", "value": 0.9, "breached": True},
    )
    assert [(entry["as_of_date"], entry["value"]) for entry in context.drift(measured, TEST)] == [("2024-03-01", 0.1)]


def test_notes_say_what_is_not_point_in_time() -> None:
    notes = " ".join(context.notes(settings_of("user_item"), {"purchases": 12}, 3))
    assert "one undated snapshot (snapshot)" in notes
    assert "Only 12 purchases" in notes
    assert "3 purchases in the test windows" in notes
    assert "over the candidates" in notes
    plain = context.notes(settings_of(), {"purchases": 1000}, 0)
    assert len(plain) == 2
    segments = {"new": {"note": "one class"}, "returning": {"calibrated": True}, "user_segment: a": {"calibrated": False}}
    found = {"purchases": 1000, "segments": segments, "threshold": {"by": "set"}}
    assert context.notes(settings_of(), found, 0)[1:] == [
        "The probabilities are calibrated over all rows together, not inside each segment. The interval of purchases over expected "
        "purchases leaves 1 out for: user segment: a."
    ]


def test_a_run_repeated_after_its_promotion_meets_the_same_rival(tmp_path: Path) -> None:
    assert context.rival(None, TEST, "4", "4") == "4"
    assert context.rival(tmp_path, TEST, "4", "3") == "3"
    assert context.rival(tmp_path, TEST, "4", "4") == "4"
    folder = tmp_path / TEST.isoformat()
    folder.mkdir()
    decision = {"challenger": "4", "outcome": "promoted", "champion_before": "3"}
    (folder / "report.json").write_text(json.dumps({"decision": decision}))
    assert context.rival(tmp_path, TEST, "4", "4") == "3"
    assert context.rival(tmp_path, TEST, "5", "5") == "5"


def filled(lake: Lake, rows: pd.DataFrame) -> None:
    """The tables that the stage reads; a stranger without any event purchases once in the test window."""
    spark = lake.spark
    frame = frame_of(spark, rows)
    table = training_set_table("user", False)
    lake.overwrite(frame.select(*(F.col(column.name).cast(column.type) for column in table.columns)), table)
    known = [F.lit(None).cast(column.type).alias(column.name) for column in USER_FEATURES.columns if column.name not in frame.columns]
    shared = [F.col(column.name).cast(column.type) for column in USER_FEATURES.columns if column.name in frame.columns]
    lake.overwrite(frame.select(*shared, *known).select(*USER_FEATURES.column_names), USER_FEATURES)
    bought = [*rows.loc[(rows["split"] == "test") & (rows["label"] == 1), "user_id"], "stranger"]
    when = datetime(2024, 3, 3, tzinfo=UTC)
    event = {"event_type": "buy", "event_ts": when, "event_date": when.date(), "known_at": when, "is_deleted": False}
    event |= {"visible_date": when.date(), "payload_hash": "p", "item_id": "i"}
    lake.overwrite(rows_of(spark, ACTIVITY, *(event | {"event_id": u, "order_id": u, "user_id": u} for u in bought)), ACTIVITY)


def test_the_stage_promotes_repeats_itself_and_keeps(lake: Lake) -> None:
    rows = training_rows()
    filled(lake, rows)
    settings = settings_of(max_calibration_error=1.0).model_copy(update={"lake": lake.settings})
    day = date(2024, 3, 31)
    run = Run(lake.spark, settings, lake, day, "run", datetime(2024, 4, 1, tzinfo=UTC))
    registered = partial(models.register, settings, params={}, metrics={}, documents={"trials.json": {"trials": [{}]}})

    assert registered(model_of(rows, version=""), fingerprint="good") == "1"
    first = STAGE.execute(run)
    assert models.champion_version(settings) == "1"
    assert first.facts["champion"] == "version 1 promoted, the first champion"
    assert first.rows_in == 300
    folder = Path(lake.root) / "reports" / "2024-03-31"
    page, numbers = (folder / "report.html").read_bytes(), json.loads((folder / "report.json").read_text())
    assert first.facts["report"] == str(folder / "report.html")
    assert numbers["notes"][1].startswith("1 purchases in the test windows were made by users without")
    assert numbers["evaluation"]["candidates"]["missed"] == 0
    assert [entry["split"] for entry in numbers["splits"]] == ["train", "test"]

    assert STAGE.execute(run).facts == first.facts
    assert (folder / "report.html").read_bytes() == page
    later = replace(run, as_of=date(2024, 4, 1))
    assert STAGE.execute(later).facts["champion"] == "version 1 is already champion"

    shuffled = rows.assign(label=rows["label"].to_numpy()[::-1])
    assert registered(model_of(shuffled, version="", rounds=2), fingerprint="bad") == "2"
    kept = STAGE.execute(later)
    assert kept.facts["champion"].startswith("kept version 1: version 2 not promoted, AUC does not beat the baseline")
    assert models.champion_version(settings) == "1"
    assert STAGE.depends_on(run) == {"challenger": "2"}
