"""The line on real investors (one in sixteen): what it trained on and what it scored, held against the raw files with pandas."""

from __future__ import annotations

import os
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from far_trans import write_thinned
from line_support import Finished, run, small_settings
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from propensity_spark.features.registry import USER_FEATURES, features_of, training_set_table, user_item_table
from propensity_spark.label import looked_at
from propensity_spark.line import run_line, stage_named
from propensity_spark.models import CHAMPION, load
from propensity_spark.publish import verify
from propensity_spark.schemas import ACTIVITY, scores_table

DATA = Path(os.environ.get("PROPENSITY_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
AS_OF = date(2020, 12, 17)
PAIRS, TRAINING_SET = user_item_table(has_crowd=True), training_set_table("user_item", has_market=False, has_crowd=True)
FEW = (
    "sampling.user_share=0.5",
    "train.rounds=20",
    "evaluate.bootstrap_rounds=20",
    "evaluate.shap_rows=100",
    "evaluate.auc_margin_over_baseline=-1.0",
    "evaluate.max_calibration_error=1.0",
)
pytestmark = [
    pytest.mark.faults,
    pytest.mark.usefixtures("compiled"),
    pytest.mark.skipif(not (DATA / "far_trans").is_dir(), reason=f"the real data set far_trans is not in {DATA}"),
]


@pytest.fixture(scope="module")
def finished(spark: SparkSession, compiled: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("funds")
    write_thinned(DATA, folder / "data", lambda customer: customer.endswith("0"))
    return run(spark, small_settings(folder, *FEW, dataset="funds", data=str(folder / "data")), AS_OF)


@pytest.fixture(scope="module")
def raw(finished: Finished) -> dict[str, pd.DataFrame]:
    folder = Path(str(finished.settings.data)) / "far_trans"
    return {path.name.split("_")[0]: pd.read_csv(path, dtype=str, keep_default_na=False) for path in folder.glob("*.csv.gz")}


def known(pairs: pd.DataFrame, day: date) -> pd.DataFrame:
    """The acquisitions whose interval had ended by the end of the day."""
    return pairs[pairs["before_date"] <= str(day + timedelta(days=1))]


def test_time_is_split_on_the_days_before_bounds_alone(finished: Finished, raw: dict[str, pd.DataFrame]) -> None:
    bounds = {date.fromisoformat(text) - timedelta(days=1) for text in raw["acquisitions"]["before_date"]}
    assert {*(finished.settings.schedule.listed_dates or ()), AS_OF} <= bounds
    stored = {row[0] for row in finished.lake.read(PAIRS).select("as_of_date").distinct().collect()}
    assert AS_OF in stored
    assert len(stored) > 3


def test_everyone_is_scored_for_all_items_known_but_those_held(finished: Finished, raw: dict[str, pd.DataFrame]) -> None:
    pairs, assets = known(raw["acquisitions"], AS_OF), raw["asset"]
    items = set(assets[assets["timestamp"] <= str(AS_OF)]["ISIN"])
    scored = (
        finished.lake.read(scores_table("user_item")).where(F.col("as_of_date") == F.lit(AS_OF)).select("user_id", "item_id").toPandas()
    )
    assert set(scored["user_id"]) == set(pairs["customerID"])
    assert len(scored) == scored["user_id"].nunique() * len(items) - len(pairs)
    assert set(scored["item_id"]) <= items
    both = scored.merge(pairs, left_on=["user_id", "item_id"], right_on=["customerID", "ISIN"])
    assert both.empty
    assert [published.rows for published in verify(finished.settings.publish.uri)] == [len(scored)]


def test_labels_are_the_acquisitions_that_began_in_the_window(finished: Finished, raw: dict[str, pd.DataFrame]) -> None:
    training_set = finished.lake.read(TRAINING_SET)
    found = training_set.where("label = 1").select("user_id", "item_id", "as_of_date", "split").toPandas()
    chosen = {row[0] for row in finished.lake.read(ACTIVITY).where(looked_at(finished.settings.sampling)).select("user_id").collect()}
    dates = sorted(found["as_of_date"].unique())
    assert len(dates) > 2
    pairs, assets = raw["acquisitions"], raw["asset"]
    for day in dates:
        population = chosen & set(known(pairs, day)["customerID"])
        end = str(day + timedelta(days=166))
        window = pairs[(pairs["after_date_inclusive"] > str(day)) & (pairs["after_date_inclusive"] <= end)]
        items = set(assets[assets["timestamp"] <= str(day)]["ISIN"])  # an item that is not there yet is no candidate
        bought = zip(window["customerID"], window["ISIN"], strict=True)
        expected = {(user, item) for user, item in bought if user in population and item in items}
        of_day = found[found["as_of_date"] == day]
        assert set(zip(of_day["user_id"], of_day["item_id"], strict=True)) == expected
    (test_day,) = found[found["split"] == "test"]["as_of_date"].unique()
    for day in set(dates) - {test_day}:
        ended = pairs[(pairs["after_date_inclusive"] <= str(day + timedelta(days=166))) & (pairs["after_date_inclusive"] > str(day))]
        assert ended["before_date"].max() <= str(test_day + timedelta(days=1)), "no label of training was still open on the test date"
    users = training_set.where("split != 'test'").groupBy("user_id").agg(F.count_distinct("split").alias("slices"))
    assert users.where("slices > 1").isEmpty()


def test_the_crowd_is_everyone_though_training_looks_at_a_share_of_the_users(finished: Finished, raw: dict[str, pd.DataFrame]) -> None:
    pairs, day = raw["acquisitions"], date(2020, 6, 11)
    owners = known(pairs, day)["ISIN"].value_counts()
    stored = finished.lake.read(PAIRS).where(F.col("as_of_date") == F.lit(day)).select("item_id", "item_owners").distinct().toPandas()
    assert len(stored) > 100
    assert stored["item_owners"].tolist() == [owners.get(item, 0) for item in stored["item_id"]]
    features = {feature.name for feature in features_of("crowd")}
    assert features < set(load(finished.settings, CHAMPION).features)
    links = finished.lake.read(PAIRS).groupBy("as_of_date").agg(F.max("co_purchase_lately").alias("most")).where("most > 0")
    assert links.count() == finished.lake.read(PAIRS).select("as_of_date").distinct().count()


def test_no_profile_of_the_future_is_in_the_features(finished: Finished, raw: dict[str, pd.DataFrame]) -> None:
    first = raw["customer"].groupby("customerID")["timestamp"].min()
    levels = (
        finished.lake.read(USER_FEATURES)
        .where("risk_level IS NOT NULL")
        .groupBy("user_id")
        .agg(F.min("as_of_date").alias("day"))
        .toPandas()
    )
    dated = levels.merge(first, left_on="user_id", right_index=True)
    assert len(dated) == len(levels) > 0
    assert (dated["day"].astype(str) >= dated["timestamp"]).all()
    assert (first > str(AS_OF)).any(), "there are such profiles"


def test_a_training_date_that_is_scored_later_gets_everyone(finished: Finished, raw: dict[str, pd.DataFrame], spark: SparkSession) -> None:
    day = date(2020, 6, 11)

    def users() -> int:
        return finished.lake.read(PAIRS).where(F.col("as_of_date") == F.lit(day)).select("user_id").distinct().count()

    everyone = known(raw["acquisitions"], day)["customerID"].nunique()
    assert 0 < users() < 0.7 * everyone
    list(run_line(spark, finished.settings, day, [stage_named("features")]))
    assert users() == everyone
