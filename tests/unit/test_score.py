"""Probabilities on frames, segments, ranks, and the lists of what is never scored."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import xgboost
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from propensity_spark import models
from propensity_spark.config import LabelSettings, ScoreSettings, Settings
from propensity_spark.errors import ConfigurationError, FeatureMismatch, GateFailed, NoChampion, NotEnoughHistory
from propensity_spark.features.registry import USER_FEATURES, features_of, training_set_table
from propensity_spark.predictor import PropensityModel
from propensity_spark.run import Run
from propensity_spark.schemas import ACTIVITY, reasons_table, scores_table
from propensity_spark.score import blocked_fingerprints, eligible, scores, with_probability, with_reasons
from propensity_spark.stages import label as label_stage
from propensity_spark.stages import score as score_stage
from propensity_spark.stages import train as train_stage
from propensity_spark.tables import Lake, conform, local_frame

D = date(2024, 3, 1)
AS_OF = date(2024, 6, 28)
USERS = 80
FEATURES = ("recency_days", "monetary_30d")
KEYS = "user_id string, item_id string, as_of_date date, recency_days bigint, monetary_30d decimal(28,4)"


@pytest.fixture(scope="module")
def model() -> PropensityModel:
    """Knows zero from null: recency 0 is likelier than null, more money is likelier."""
    random = np.random.default_rng(1)
    matrix = np.stack([random.choice([0.0, 5.0, np.nan], 3000), random.random(3000) * 100], axis=1)
    label = random.random(3000) < np.where(matrix[:, 0] == 0, 0.5, 0.02) + matrix[:, 1] / 400
    booster = xgboost.train({"max_depth": 4, "objective": "binary:logistic"}, xgboost.DMatrix(matrix, label), 20)
    return PropensityModel(
        name="m",
        version="4",
        grain="user_item",
        features=FEATURES,
        booster=bytes(booster.save_raw("ubj")),
        calibration_x=(0.0, 1.0),
        calibration_y=(0.05, 0.95),
        threshold=0.4,
        baseline={},
        train_from=D,
        train_to=D,
        label=LabelSettings(),
        inputs={},
    )


def candidates(spark: SparkSession) -> DataFrame:
    rows = [("u", "b", D, 5, "10"), ("u", "a", D, 5, "10"), ("u", "c", D, 0, "90"), ("v", "a", D, None, None), ("w", "a", D, 0, "0")]
    return local_frame(spark, rows, "user_id string, item_id string, as_of_date date, recency_days bigint, money string").selectExpr(
        "user_id", "item_id", "as_of_date", "recency_days", "cast(money as decimal(28,4)) as monetary_30d"
    )


def test_spark_gives_what_predict_gives_and_zero_is_not_missing(spark: SparkSession, model: PropensityModel) -> None:
    found = {(row.user_id, row.item_id): row.purchase_probability for row in with_probability(candidates(spark), model).collect()}
    matrix = np.array([[5, 10], [5, 10], [0, 90], [np.nan, np.nan], [0, 0]], dtype=np.float32)
    expected = model.predict(matrix)
    assert [found[key] for key in (("u", "b"), ("u", "a"), ("u", "c"), ("v", "a"), ("w", "a"))] == expected.tolist()
    assert expected[2] > 0.4 > expected[3]
    assert expected[4] > expected[3]


def test_no_rows_no_probabilities(spark: SparkSession, model: PropensityModel) -> None:
    assert model.predict(np.empty((0, 2), dtype=np.float32)).tolist() == []
    assert with_probability(candidates(spark).where("user_id = 'nobody'"), model).count() == 0


def test_mismatch_lists_both_sides(spark: SparkSession, model: PropensityModel) -> None:
    frame = candidates(spark).withColumnRenamed("recency_days", "tenure_days")
    with pytest.raises(FeatureMismatch, match=r"the model needs \['recency_days'\].*the table has \['tenure_days'\]"):
        with_probability(frame, model)
    with pytest.raises(FeatureMismatch, match=r"needs nothing .* has \['views_7d'\]"):
        with_probability(candidates(spark).selectExpr("*", "1 as views_7d"), model)


def test_reasons_name_what_moved_the_score_and_add_up_to_it(spark: SparkSession, model: PropensityModel) -> None:
    scored = with_probability(candidates(spark), model)
    rows = {(row.user_id, row.item_id): row for row in conform(_reasons(scored, model, 1), reasons_table("user_item")).collect()}
    (reason,) = rows["u", "c"].reasons
    assert (reason.feature, reason.value) == ("recency_days", 0.0)
    assert reason.contribution > 0
    assert rows["v", "a"].reasons[0].value is None
    assert rows["v", "a"].reasons[0].contribution < 0
    for row in rows.values():
        log_odds = row.base + sum(one.contribution for one in row.reasons) + row.others
        calibrated = np.interp(1 / (1 + np.exp(-log_odds)), model.calibration_x, model.calibration_y)
        assert row.purchase_probability == pytest.approx(calibrated, abs=1e-6)
    both = _reasons(scored, model, 20).first()
    assert both is not None
    assert len(both.reasons) == len(FEATURES)
    assert both.others == pytest.approx(0.0, abs=1e-12)
    assert abs(both.reasons[0].contribution) >= abs(both.reasons[1].contribution)
    with pytest.raises(FeatureMismatch, match=r"the model needs \['recency_days'\]"):
        with_reasons(scored.drop("recency_days"), model, 1)


def _reasons(scored: DataFrame, model: PropensityModel, count: int) -> DataFrame:
    return with_reasons(scored, model, count).select(*reasons_table("user_item").column_names)


def test_scores_have_decision_segment_and_rank(spark: SparkSession, model: PropensityModel) -> None:
    rows = scores(with_probability(candidates(spark), model), model, ScoreSettings(high=0.5, low=0.1))
    table = {(row.user_id, row.item_id): row for row in conform(rows, scores_table("user_item")).collect()}
    assert [table["u", item].rank for item in ("c", "a", "b")] == [1, 2, 3]
    assert table["u", "a"].purchase_probability == table["u", "b"].purchase_probability
    assert (table["u", "c"].segment, table["u", "c"].predicted_purchase) == ("High", True)
    assert (table["v", "a"].segment, table["v", "a"].predicted_purchase, table["v", "a"].rank) == ("Medium", False, 1)
    assert {(row.model_name, row.model_version) for row in table.values()} == {("m", "4")}


def test_segment_limits_belong_to_medium_and_the_threshold_decides_at_equality(spark: SparkSession, model: PropensityModel) -> None:
    at = {name: with_probability(candidates(spark), model).where(f"user_id = '{name}'").first() for name in ("v", "w")}
    low, high = at["v"].purchase_probability, at["w"].purchase_probability
    rows = scores(with_probability(candidates(spark), model), model, ScoreSettings(high=high, low=low, threshold=high)).collect()
    assert {(row.segment, row.predicted_purchase) for row in rows if row.user_id == "v"} == {("Medium", False)}
    assert {(row.segment, row.predicted_purchase) for row in rows if row.user_id == "w"} == {("Medium", True)}
    above = (
        scores(with_probability(candidates(spark), model), model, ScoreSettings(high=0.99, low=high + 1e-9)).where("user_id = 'w'").first()
    )
    assert above is not None
    assert above.segment == "Low"


def test_user_grain_has_no_item_and_no_rank(spark: SparkSession, model: PropensityModel) -> None:
    users = with_probability(candidates(spark).where("item_id = 'a'").drop("item_id"), model)
    rows = scores(users, replace(model, grain="user"), ScoreSettings())
    assert conform(rows, scores_table("user")).count() == 3


def test_blocked_users_and_items_are_left_out(spark: SparkSession, tmp_path: Path) -> None:
    users, items = tmp_path / "users.csv", tmp_path / "items.csv"
    users.write_text("user_id,reason\nv,no consent\n", encoding="utf-8")
    items.write_text("item_id\nb\n c \n", encoding="utf-8")
    settings = ScoreSettings(blocked_users=str(users), blocked_items=str(items))
    left = eligible(candidates(spark), settings).select("user_id", "item_id").collect()
    assert sorted(map(tuple, left)) == [("u", "a"), ("w", "a")]
    assert eligible(candidates(spark).drop("item_id"), settings).where("user_id = 'v'").count() == 0
    before = blocked_fingerprints(spark, settings)
    assert set(before) == {"user_id", "item_id"}
    items.write_text("item_id\na\n", encoding="utf-8")
    after = blocked_fingerprints(spark, settings)
    assert (after["user_id"], after["item_id"] != before["item_id"]) == (before["user_id"], True)


def test_a_list_that_cannot_be_used_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    missing = ScoreSettings(blocked_users=str(tmp_path / "none.csv"))
    with pytest.raises(ConfigurationError, match=r"score.blocked_users: no such file .*none.csv"):
        eligible(candidates(spark), missing)
    with pytest.raises(ConfigurationError, match=r"score.blocked_users: no such file"):
        blocked_fingerprints(spark, missing)
    other = tmp_path / "other.csv"
    other.write_text("sku\na\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"score.blocked_items: .* has no column item_id among its 1; expected .* header item_id"):
        eligible(candidates(spark), ScoreSettings(blocked_items=str(other)))
    assert eligible(candidates(spark), ScoreSettings()).count() == 5


def test_from_gold_to_scores(lake: Lake, tmp_path: Path) -> None:
    """label, train and score on small tables of ours: the second run of each stage changes nothing."""
    configured = Settings.model_validate(
        {
            "dataset": "t",
            "grain": "user",
            "lake": {"root": lake.root},
            "publish": {"uri": str(tmp_path / "out")},
            "sources": {},
            "train": {"rounds": 5, "params": {"max_depth": 2}},
            "schedule": {"dates": 12},
            "split": {"min_train_dates": 2},
        }
    )
    run = Run(lake.spark, configured, lake, AS_OF, "run", datetime(2024, 7, 1, tzinfo=UTC))
    write_gold(lake, configured)

    labelled = label_stage.STAGE.execute(run)
    assert (labelled.rows_in, labelled.rows_out) == (12 * USERS, lake.read(training_set_table("user", False)).count())
    with pytest.raises(NoChampion):
        score_stage.STAGE.execute(run)
    first = train_stage.STAGE.execute(run)
    again = train_stage.STAGE.execute(run)
    assert (first.facts["model"], again.note[:9]) == ("propensity version 1", "version 1")
    assert score_stage.STAGE.depends_on(run) == {"champion": "none"}
    models.promote(configured, "1")
    assert score_stage.STAGE.depends_on(run) == {"champion": "1"}

    table = scores_table("user")
    assert score_stage.STAGE.execute(run).rows_out == USERS
    before = sorted(map(tuple, lake.read(table).collect()))
    score_stage.STAGE.execute(run)
    assert sorted(map(tuple, lake.read(table).collect())) == before
    with pytest.raises(GateFailed, match="no candidate as of 2024-07-05"):
        score_stage.STAGE.execute(replace(run, as_of=date(2024, 7, 5)))


def write_gold(lake: Lake, configured: Settings) -> None:
    """Users whose recency tells whether they buy, with features on every date and events in the weeks after."""
    days = [date(2024, 3, 29) + timedelta(weeks=n) for n in range(14)]
    spark = lake.spark
    users = spark.range(USERS).withColumn("user_id", F.format_string("u%03d", "id"))
    users = users.crossJoin(local_frame(spark, [(day,) for day in days], "as_of_date date"))
    values = {feature.name: F.lit(0).cast(feature.type) for feature in features_of("user")}
    values |= {"recency_days": F.col("id") % 10, "avg_ticket_365d": F.lit(None).cast("double")}
    lake.overwrite(users.withColumns(values).drop("id"), USER_FEATURES)
    events = users.where("id % 10 < 3 or id % 7 = 0").withColumns(
        {
            "event_id": F.concat_ws("-", "user_id", "as_of_date"),
            "order_id": F.concat_ws("-", "user_id", "as_of_date"),
            "event_type": F.lit("buy"),
            "event_date": F.date_add("as_of_date", 2),
            "visible_date": F.date_add("as_of_date", 2),
            "event_ts": F.date_add("as_of_date", 2).cast("timestamp"),
            "known_at": F.date_add("as_of_date", 2).cast("timestamp"),
            "quantity": F.lit(1.0),
            "is_deleted": F.lit(False),
            "payload_hash": F.lit("h"),
        }
    )
    columns = [(F.col(c.name) if c.name in events.columns else F.lit(None)).cast(c.type).alias(c.name) for c in ACTIVITY.columns]
    lake.overwrite(events.select(*columns), ACTIVITY)


def test_no_visible_event_at_all(lake: Lake) -> None:
    lake.create(ACTIVITY)
    lake.create(USER_FEATURES)
    configured = Settings.model_validate(
        {"dataset": "t", "grain": "user", "lake": {"root": lake.root}, "publish": {"uri": "out"}, "sources": {}}
    )
    with pytest.raises(NotEnoughHistory, match=r"silver/activity: no event is visible as of 2024-06-28"):
        label_stage.STAGE.execute(Run(lake.spark, configured, lake, AS_OF, "run", datetime(2024, 7, 1, tzinfo=UTC)))
