"""The whole line on a small simulated lake, held against the contracts and against a second look at the raw files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlparse

import pandas as pd
import pytest
import xgboost
from line_support import AS_OF, NEXT_DAY, SMALL, Finished, run, small_settings
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from propensity_spark import read_published
from propensity_spark.compare.command import compare_lake
from propensity_spark.errors import ChallengerRefused, ConfigurationError, NotReproducible, SchemaMismatch
from propensity_spark.evaluate.metrics import estimate, find_edges, roc_auc, tally
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES, model_features, training_set_table
from propensity_spark.line import STAGES, run_line, stage_named
from propensity_spark.models import CHAMPION, champion_version, load
from propensity_spark.publish import verify
from propensity_spark.reproduce import reproduce
from propensity_spark.run import Run
from propensity_spark.schemas import ACTIVITY, BARS, BRONZE, QUARANTINE, RUNS, Table, scores_table
from propensity_spark.score import PROBABILITY, with_probability
from propensity_spark.stages import monitor, score
from propensity_spark.stages.backfill import backfill_stage
from propensity_spark.tables import Lake
from propensity_spark.train.challenger import challenger

pytestmark = pytest.mark.usefixtures("compiled")

SCORES = scores_table("user_item")


def test_every_stage_ran_and_was_recorded(finished: Finished) -> None:
    assert all(outcome is not None for outcome in finished.outcomes.values())
    recorded = finished.lake.read(RUNS).where(F.col("as_of_date") == F.lit(AS_OF)).select("stage", "status").distinct().collect()
    assert {(row["stage"], row["status"]) for row in recorded} == {(stage.name, "succeeded") for stage in STAGES}


@pytest.mark.parametrize(
    "table",
    [BARS, ACTIVITY, MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES, training_set_table("user_item", True), SCORES],
    ids=lambda table: table.full_name,
)
def test_keys_are_unique(finished: Finished, table: Table) -> None:
    rows = finished.lake.read(table)
    counted = rows.agg(F.count("*").alias("rows"), F.count_distinct(*table.key).alias("keys")).first()
    assert counted is not None
    assert counted["rows"] == counted["keys"] > 0


def test_valid_and_repeated_and_rejected_are_the_input(finished: Finished) -> None:
    delivered = sum(finished.lake.read(BRONZE[name]).count() for name in finished.settings.sources)
    validated = finished.outcomes["validate"]
    assert validated is not None
    assert validated.rows_in == delivered
    assert validated.rows_rejected == finished.lake.read_or_empty(QUARANTINE).count()


def test_features_as_a_second_look_at_the_raw_files_gives_them(finished: Finished) -> None:
    """Views, last purchase and momentum of the newest date, from the delivered files with pandas alone."""
    landing = Path(finished.lake.root) / "simulated" / "landing" / "activity"
    raw = pd.concat(pd.read_parquet(path) for path in sorted(landing.glob("*.parquet"))).drop_duplicates(["event_id", "known_at"])
    end = pd.Timestamp(AS_OF + timedelta(days=1), tz="America/New_York")
    for column in ("event_ts", "known_at"):
        raw[column] = pd.to_datetime(raw[column], utc=True)
    seen = raw[(raw["event_ts"] < end) & (raw["known_at"] < end)].sort_values("known_at").groupby("event_id").tail(1)
    seen = seen[~seen["is_deleted"].astype(bool)]
    seen["age"] = [(AS_OF - day).days for day in seen["event_ts"].dt.tz_convert("America/New_York").dt.date]
    views = seen[(seen["event_type"] == "view") & (seen["age"] < 30)].groupby("user_id").size()
    recency = seen[seen["event_type"] == "buy"].groupby("user_id")["age"].min()
    found = finished.lake.read(USER_FEATURES).where(F.col("as_of_date") == F.lit(AS_OF)).toPandas().set_index("user_id")
    assert sorted(found.index) == sorted(seen["user_id"].unique())
    assert found["views_30d"].to_dict() == views.reindex(found.index).fillna(0).astype(int).to_dict()
    assert found["recency_days"].dropna().astype(int).to_dict() == recency.to_dict()


def test_the_published_run_is_the_scores(finished: Finished, spark: SparkSession) -> None:
    published = read_published(finished.settings.publish.uri, AS_OF)
    scores = finished.lake.read(SCORES).where(F.col("as_of_date") == F.lit(AS_OF)).drop("as_of_date")
    assert published.exceptAll(scores.select(*published.columns)).isEmpty()
    assert published.count() == scores.count() > 0
    assert [run.rows for run in verify(finished.settings.publish.uri)] == [scores.count()]


def test_the_report_says_what_was_measured(finished: Finished) -> None:
    folder = Path(finished.lake.root) / "reports" / AS_OF.isoformat()
    report = json.loads((folder / "report.json").read_text())
    outcome = finished.outcomes["evaluate"]
    assert outcome is not None
    assert set(outcome.facts) >= {"AUC", "baseline", "ceiling", "champion", "report"}
    assert "http" not in (folder / "report.html").read_text().replace("http://www.w3.org", "").replace("https://www.w3.org", "")
    assert report


def test_the_same_again_changes_nothing_and_the_next_day_takes_only_what_is_new(finished: Finished, spark: SparkSession) -> None:
    pointer = next(Path(finished.settings.publish.uri).glob("*/_CURRENT"))
    before = pointer.read_text()
    again = run(spark, finished.settings, AS_OF)
    resting = {name for name, outcome in again.outcomes.items() if outcome is None}
    assert resting >= {"validate", "features", "label", "train", "evaluate", "score", "monitor"}
    assert pointer.read_text() == before

    daily = [stage_named(name) for name in ("ingest", "validate", "features", "score", "publish", "monitor")]
    outcomes = {stage.name: outcome for stage, outcome, _ in run_line(spark, finished.settings, NEXT_DAY, daily)}
    taken = outcomes["ingest"]
    assert taken is not None
    assert 0 < taken.rows_out < finished.lake.read(BRONZE["activity"]).count() / 20
    assert pointer.read_text() == before
    assert {run.as_of_date for run in verify(finished.settings.publish.uri)} == {AS_OF.isoformat(), NEXT_DAY.isoformat()}
    late = finished.lake.read(USER_FEATURES).where(F.col("as_of_date") > F.lit(AS_OF)).select("as_of_date").distinct().collect()
    assert [row[0] for row in late] == [NEXT_DAY] == [date(2023, 6, 1)]


def test_day_by_day_gives_what_a_rebuild_gives(finished: Finished, spark: SparkSession, tmp_path: Path) -> None:
    """Gold of a lake that has seen one day after the other, beside that of a lake that has all files put before it at once."""
    early = [stage_named(name) for name in ("ingest", "validate", "features")]
    list(run_line(spark, finished.settings, NEXT_DAY, early))
    shutil.copytree(Path(finished.lake.root) / "simulated", tmp_path / "lake" / "simulated")
    rebuilt = run(spark, small_settings(tmp_path, *SMALL), NEXT_DAY, stages=early).lake
    for table in (MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES):
        both = [lake.read(table) for lake in (finished.lake, rebuilt)]
        common = both[0].select("as_of_date").distinct().join(both[1].select("as_of_date").distinct(), "as_of_date", "left_semi")
        mine, theirs = (_rounded(frame.join(common, "as_of_date", "left_semi")) for frame in both)
        assert {NEXT_DAY} < {row[0] for row in common.collect()}
        assert mine.exceptAll(theirs).isEmpty()
        assert theirs.exceptAll(mine).isEmpty()


def test_the_champion_is_made_again_from_the_tables_as_they_were(finished: Finished, spark: SparkSession, tmp_path: Path) -> None:
    """Gold and settings have changed since; then one of the versions is gone."""
    root = tmp_path / "lake"
    shutil.copytree(finished.lake.root, root)
    settings = small_settings(tmp_path, *SMALL, "label.horizon_days=3", "sampling.negative_share=0.01")
    lake, table = Lake(spark, settings.lake), training_set_table("user_item", True)
    lake.overwrite(lake.read(USER_FEATURES).withColumn("tenure_days", F.col("tenure_days") + 1), USER_FEATURES)
    lake.overwrite(lake.read(table).limit(10), table)
    found = reproduce(spark, settings)
    assert (found.has_same_rows, found.differs) == (True, ())
    assert (found.rows, found.as_of) == (finished.lake.read(table).count(), AS_OF)

    pinned = replace(found.model, inputs={**found.model.inputs, "gold/user_features": lake.version(USER_FEATURES)})
    with patch("propensity_spark.reproduce.load", return_value=pinned):
        other = reproduce(spark, settings)
    assert (other.is_same, other.has_same_rows, "booster" in other.differs) == (False, False, True)

    for file in Lake(spark, settings.lake, found.model.inputs).read(MARKET_FEATURES).inputFiles():
        Path(urlparse(file).path).unlink()
    with pytest.raises(
        NotReproducible, match=r"version 1, .*expected the table versions it was made from .*gold/market_features \d+.*gone"
    ):
        reproduce(spark, settings)


def test_other_families_of_models_stand_beside_the_registered_one(finished: Finished, spark: SparkSession) -> None:
    before = finished.lake.versions((training_set_table("user_item", True), RUNS))
    found, page = compare_lake(spark, finished.settings, AS_OF, rows=2000, names=["logistic"])
    auc = {one["name"]: one["metrics"]["roc_auc"]["value"] for one in found["models"]}
    assert set(auc) == {"xgboost", "logistic", "registered"}
    assert min(auc.values()) > 0.6
    folder = Path(finished.lake.root) / "reports" / AS_OF.isoformat()
    said = json.loads((folder / "report.json").read_text())["evaluation"]["metrics"]["challenger"]["roc_auc"]["value"]
    assert auc["registered"] == pytest.approx(said, abs=1e-3)
    assert page == folder / "compare.html"
    assert champion_version(finished.settings) == "1"
    assert finished.lake.versions((training_set_table("user_item", True), RUNS)) == before


def test_nothing_is_learnt_of_labels_that_belong_to_other_rows(finished: Finished) -> None:
    """Features permuted against labels, within each slice: an AUC of 0.5 within its interval. As they belong together: above it."""
    rows = finished.lake.read(training_set_table("user_item", True))

    def numbered(frame: DataFrame, salt: str) -> DataFrame:
        order = Window.partitionBy("split").orderBy(F.xxhash64("user_id", "item_id", "as_of_date", F.lit(salt)))
        return frame.withColumn("number", F.row_number().over(order))

    given = numbered(rows, "features").drop("label", "sample_weight")
    labels = numbered(rows, "labels").select("split", "number", "label", "sample_weight")
    permuted = given.join(labels, ["split", "number"], "inner").drop("number")
    assert permuted.count() == rows.count()

    def auc(training_set: DataFrame) -> Mapping[str, float | None]:
        features = [feature.name for feature in model_features("user_item", has_market=True)]
        model, _ = challenger(training_set, features, finished.settings, {})
        scored = with_probability(training_set.where("split = 'test'"), model).select("user_id", "label", PROBABILITY)
        return estimate(roc_auc(tally(scored, find_edges(scored, [PROBABILITY], 500), 100, 1)[PROBABILITY]))

    nothing, something = auc(permuted), auc(rows)
    assert nothing["low"] < 0.5 < nothing["high"], nothing  # type: ignore[operator]
    assert something["low"] > 0.6, something  # type: ignore[operator]


def test_a_new_feature_comes_to_a_lake_with_history_and_the_champion_goes_on_without_it(
    finished: Finished, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three features are taken out of the tables, as before they were thought of; one stored value is marked, to see that it stays."""
    new = {USER_FEATURES: "views_7d", USER_ITEM_FEATURES: "item_buyers_trend", MARKET_FEATURES: "momentum_21d"}
    for layer in ("silver", "gold", "ops"):
        shutil.copytree(Path(finished.lake.root) / layer, tmp_path / "lake" / layer)
    settings = small_settings(tmp_path, *SMALL)
    lake = Lake(spark, settings.lake)
    somebody = F.col("user_id") == finished.lake.read(USER_FEATURES).select(F.min("user_id")).collect()[0][0]
    marked = F.when(somebody, -1).otherwise(F.col("tenure_days")).cast("long")
    expected = {table: finished.lake.read(table) for table in new}
    expected[USER_FEATURES] = expected[USER_FEATURES].withColumn("tenure_days", marked)
    for table, name in new.items():
        before = expected[table].drop(name).write.format("delta").mode("overwrite").option("overwriteSchema", "true")
        before.partitionBy(*table.partition_by).save(lake.location(table))
    features, last = [stage_named("features")], finished.lake.read(USER_FEATURES).select(F.max("as_of_date")).collect()[0][0]
    with pytest.raises(SchemaMismatch, match=r"gold/user_features .*expected views_7d, .*`propensity backfill --feature views_7d`"):
        list(run_line(spark, settings, last, features))
    with pytest.raises(ConfigurationError, match=r"--as-of 2023-05-01: expected .* or later, up to which dates are stored"):
        list(run_line(spark, settings, date(2023, 5, 1), [backfill_stage(list(new.values()))]))

    list(run_line(spark, settings, last, [backfill_stage(list(new.values()))]))
    for table, frame in expected.items():
        there, wanted = _rounded(lake.read(table)), _rounded(frame)
        assert there.exceptAll(wanted).isEmpty()
        assert wanted.exceptAll(there).isEmpty()
    outcomes = run(spark, settings, last, stages=features).outcomes
    assert outcomes["features"] is not None
    assert outcomes["features"].note == "0 as-of dates, 0 market dates"

    known = [feature.name for feature in model_features("user_item", True) if feature.name not in new.values()]
    rows = finished.lake.read(training_set_table("user_item", True)).limit(2000).toPandas()
    booster = xgboost.train({}, xgboost.DMatrix(rows[known].astype("float32"), rows["label"]), 2).save_raw()
    earlier = replace(load(finished.settings, CHAMPION), features=tuple(known), booster=bytes(booster))
    monkeypatch.setattr(score, "load", lambda *_: earlier)
    monkeypatch.setattr(score, "champion_version", lambda *_: "1")
    scored = run(spark, settings, AS_OF, stages=[score.STAGE]).outcomes["score"]
    assert scored is not None
    assert scored.rows_out > 0
    assert all(name in scored.note.rpartition("trained before there was ")[2] for name in new.values())


def test_the_pairs_of_a_day_are_not_sent_to_every_worker(finished: Finished, spark: SparkSession) -> None:
    """17 million of them were a file of 19 MB, which Spark took for small: the driver ran out of memory."""
    of_day = Run(spark, finished.settings, finished.lake, AS_OF, "plan", datetime.now(UTC))
    plan = monitor._scored_matrix(of_day)._jdf.queryExecution().executedPlan().toString()  # type: ignore[operator]
    assert re.search(r"SortMergeJoin \[user_id#\d+, item_id#\d+", plan), plan


def test_a_refused_challenger_stops_the_run_and_the_champion_stays(finished: Finished, spark: SparkSession) -> None:
    """Last of this file: it leaves a challenger behind."""
    demanding = ("train.rounds=3", "evaluate.auc_margin_over_champion=0.9", "evaluate.refused=fail")
    settings = small_settings(Path(finished.lake.root).parent, *SMALL, *demanding)
    champion = champion_version(settings)
    with pytest.raises(ChallengerRefused, match=r"not promoted, AUC does not beat champion .*Report: .*report\.html"):
        run(spark, settings, AS_OF, stages=[stage_named("train"), stage_named("evaluate")])
    assert champion_version(settings) == champion is not None
    last = finished.lake.read(RUNS).where("stage = 'evaluate'").orderBy(F.desc("started_at")).first()
    assert last is not None
    assert (last["status"], "not promoted" in last["error"]) == ("failed", True)


def _rounded(frame: DataFrame) -> DataFrame:
    """Sums of floats depend on their order in the last digits."""
    return frame.select(*(F.round(name, 9).alias(name) if kind == "double" else name for name, kind in sorted(frame.dtypes)))
