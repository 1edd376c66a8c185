"""Splits, the fit, calibration, the threshold and the reference bins."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import xgboost
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from propensity_spark.config import ScoreSettings, Settings, TrainSettings
from propensity_spark.errors import ConfigurationError, EnvironmentMissing, NotEnoughHistory, OneClassOnly
from propensity_spark.predictor import ReferenceBins
from propensity_spark.tables import local_frame
from propensity_spark.train.calibrate import METHODS, Histogram, beta, calibrated, histograms, isotonic, platt, together
from propensity_spark.train.challenger import challenger
from propensity_spark.train.fit import arranged, fit
from propensity_spark.train.reference import feature_bins, score_bins
from propensity_spark.train.sample import sampled
from propensity_spark.train.search import search
from propensity_spark.train.split import split_dates
from propensity_spark.train.threshold import NOBODY, allowed_contacts, best_threshold
from propensity_spark.train.tune import tune

FRIDAY = date(2024, 1, 5)
SHARE = 0.25
FEATURES = ["signal", "noise", "sparse"]
TRAIN = TrainSettings(rounds=30, early_stopping_rounds=5, params={"max_depth": 3, "learning_rate": 0.3})


def settings(**sections: object) -> Settings:
    body = {
        "dataset": "t",
        "grain": "user",
        "lake": {"root": "lake"},
        "publish": {"uri": "out"},
        "sources": {},
        "train": TRAIN.model_dump(),
        "split": {"test_dates": 2, "calibration_dates": 1, "validation_dates": 1, "min_train_dates": 3},
    }
    return Settings.model_validate(body | sections)


def weekly(count: int) -> list[date]:
    return [FRIDAY + timedelta(weeks=n) for n in range(count)]


@pytest.fixture(scope="module")
def training_set(spark: SparkSession) -> DataFrame:
    """6,000 users a slice; label 1 with probability 0.02 to 0.4 by `signal`; `sparse` is half zero, a third null.

    Negatives of train and validation are thinned to a quarter and weighted by 4.
    """
    random = np.random.default_rng(5)
    parts = []
    for number, name in enumerate(("train", "validation", "calibration")):
        n = 6000
        signal = random.random(n)
        label = (random.random(n) < 0.02 + 0.38 * signal**2).astype(int)
        sparse = np.where(random.random(n) < 0.5, 0.0, random.random(n))
        part = pd.DataFrame({"signal": signal, "noise": random.random(n), "sparse": sparse, "label": label})
        part.loc[random.random(n) < 1 / 3, "sparse"] = np.nan
        part["user_id"] = [f"u{i:05d}" for i in range(n)]
        part["as_of_date"] = FRIDAY + timedelta(weeks=4 * number)
        part["split"] = name
        thinned = (name != "calibration") & (label == 0)
        part["sample_weight"] = np.where(thinned, 1 / SHARE, 1.0)
        parts.append(part[~thinned | (random.random(n) < SHARE)])
    frame = spark.createDataFrame(pd.concat(parts).astype({"label": "int32"}))
    frame = frame.replace(float("nan"), None, subset=["sparse"])
    return frame.cache()


def test_slices_are_in_time_order_with_the_horizon_purged() -> None:
    slices = split_dates(settings(label={"horizon_days": 10}), weekly(12), FRIDAY, FRIDAY)
    days = weekly(12)
    assert slices == {"train": days[:5], "validation": [days[6]], "calibration": [days[8]], "test": days[10:]}
    assert list(slices) == ["train", "validation", "calibration", "test"]


def test_a_horizon_of_one_step_purges_nothing() -> None:
    slices = split_dates(settings(label={"horizon_days": 7}), weekly(7), FRIDAY, FRIDAY)
    assert [day for part in slices.values() for day in part] == weekly(7)


def test_too_few_dates_says_from_when_on_events_are_needed() -> None:
    days = weekly(6)
    with pytest.raises(NotEnoughHistory) as error:
        split_dates(settings(label={"horizon_days": 7}), days, FRIDAY, FRIDAY + timedelta(weeks=6))
    text = str(error.value)
    assert "6 as-of dates with a closed label window (2024-01-05 to 2024-02-09)" in text
    assert "needs 7 of them, back to 2023-12-29" in text
    assert "Load 7 more days of events (the first is of 2024-01-05)" in text


def test_too_short_a_schedule_says_how_many_dates_to_ask_for() -> None:
    with pytest.raises(NotEnoughHistory, match=r"Set schedule.dates to 7 or more \(now 40\)"):
        split_dates(settings(label={"horizon_days": 7}), weekly(6), date(2020, 1, 1), date(2024, 3, 1))


def test_no_date_at_all_counts_back_from_the_as_of_date() -> None:
    with pytest.raises(NotEnoughHistory, match=r"0 as-of dates with a closed label window; the split needs 7 of them, back to 2024-01-05"):
        split_dates(settings(label={"horizon_days": 7}), [], date(2024, 2, 20), date(2024, 2, 23))


def test_where_users_divide_the_dates_only_test_lies_apart() -> None:
    chosen = settings(label={"horizon_days": 10, "delay_days": 4}, split={"by": "users", "test_dates": 2, "min_train_dates": 8})
    days = weekly(12)
    slices = split_dates(chosen, days, FRIDAY, FRIDAY)
    assert slices == {"train": days[:9], "validation": days[:9], "calibration": days[:9], "test": days[10:]}


def test_too_few_listed_dates() -> None:
    chosen = settings(label={"horizon_days": 7}, schedule={"listed_dates": [str(day) for day in weekly(3)]})
    with pytest.raises(NotEnoughHistory, match=r"3 of the schedule.listed_dates have a closed label window.* list earlier dates"):
        split_dates(chosen, weekly(3), FRIDAY, date(2024, 3, 1))


def test_a_monotone_feature_never_lowers_the_probability(training_set: DataFrame) -> None:
    """Here a greater signal means a purchase; told the reverse, the model may not use it."""
    rows = arranged(training_set, FEATURES, ["user_id", "as_of_date"], 1)
    matrix = np.array([[x, 0.5, np.nan] for x in np.linspace(-1, 3, 60)], dtype=np.float32)
    for sign in (1, -1):
        trained = fit(rows, FEATURES, TRAIN.model_copy(update={"monotone": {"signal": sign}}))
        found = xgboost.Booster(model_file=bytearray(trained.booster)).inplace_predict(matrix)
        assert (np.diff(found) * sign >= 0).all()
        assert (found[0] != found[-1]) == (sign == 1)
    with pytest.raises(ConfigurationError, match=r"train.monotone: colour: no feature of this model; expected some of \['signal'"):
        fit(rows, FEATURES, TRAIN.model_copy(update={"monotone": {"colour": 1}}))


def test_the_same_rows_give_the_same_bytes_in_any_order(training_set: DataFrame) -> None:
    one, other = (arranged(rows, FEATURES, ["user_id", "as_of_date"], 2) for rows in (training_set, training_set.repartition(5, "noise")))
    in_one_order = str(one.collect()) == str(other.collect())
    assert in_one_order, "so few rows may give the same bytes by luck, so their order is looked at too"
    two = TRAIN.model_copy(update={"num_workers": 2})
    assert fit(one, FEATURES, two).booster == fit(other, FEATURES, two).booster


def test_zero_is_a_value_and_null_is_missing(spark: SparkSession) -> None:
    rows = [(f"u{n}", None if n % 2 else 0.0, 1 - n % 2, 1.0, "train" if n % 5 else "validation") for n in range(800)]
    frame = local_frame(spark, rows, "user_id string, x double, label int, sample_weight double, split string")
    fitted = fit(arranged(frame, ["x"], ["user_id"], 1), ["x"], TRAIN)
    assert fitted.validation_log_loss < 0.1


def test_more_workers_than_slots_are_refused(training_set: DataFrame) -> None:
    with pytest.raises(ConfigurationError, match=r"train.num_workers: 99 workers must run at once, Spark has 2"):
        fit(training_set, FEATURES, TRAIN.model_copy(update={"num_workers": 99}))


def test_tune_takes_the_candidate_with_the_smallest_validation_loss(training_set: DataFrame) -> None:
    blind, seeing = {"max_depth": 1, "learning_rate": 0.001}, {"max_depth": 3}
    train = TRAIN.model_copy(update={"rounds": 5, "candidates": (blind, seeing)})
    trials = tune(training_set, FEATURES, ["user_id", "as_of_date"], train)
    assert [trial.params["max_depth"] for trial in trials] == [3, 1]
    assert trials[0].validation_log_loss < trials[1].validation_log_loss


def searching(root: Path, trials: int, **tuning: object) -> Settings:
    """Configured are stumps that hardly learn; the space has better."""
    space = {"max_depth": {"low": 1, "high": 4}, "learning_rate": {"low": 0.001, "high": 0.5, "log": True}}
    train = {"rounds": 40, "early_stopping_rounds": 5, "params": {"max_depth": 1, "learning_rate": 0.001}}
    tuning = {"trials": trials, "space": space, "rows": 100_000} | tuning
    return settings(lake={"root": str(root)}, train={**train, "tuning": tuning})


def test_a_search_begins_with_what_is_configured_and_finds_better(training_set: DataFrame, tmp_path: Path) -> None:
    chosen, said = searching(tmp_path, 12), list[str]()
    found = search(training_set, FEATURES, chosen, "rows", say=said.append)
    assert found is not None
    first = found.trials[0]
    assert first["params"] == {"max_depth": 1, "learning_rate": 0.001}
    losses = [trial["validation_log_loss"] for trial in found.trials if trial["state"] == "complete"]
    assert min(losses) < first["validation_log_loss"] - 0.01
    assert found.params == next(trial["params"] for trial in found.trials if trial["validation_log_loss"] == min(losses))
    assert "pruned" in {trial["state"] for trial in found.trials}
    assert said[-1].startswith("trial 12 of 12: ")
    assert said[-1].endswith(f"best {min(losses):.6f}")
    tuned = found.added_to(chosen)
    assert tuned.train.candidates == ({}, found.params)
    model, trials = challenger(training_set, FEATURES, tuned, {})
    assert trials[0].validation_log_loss == pytest.approx(min(losses), rel=0.01)
    assert trials[1].params["max_depth"] == 1
    once_more = chosen.model_copy(update={"train": chosen.train.model_copy(update={"candidates": (trials[0].params,)})})
    assert challenger(training_set, FEATURES, once_more, {})[0].booster == model.booster


def test_a_study_that_broke_off_goes_on(training_set: DataFrame, tmp_path: Path) -> None:
    one = search(training_set, FEATURES, searching(tmp_path, 2), "rows")
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/mlflow/tuning.db")
    study.ask()  # a process that died in its third trial
    said = list[str]()
    two = search(training_set, FEATURES, searching(tmp_path, 4), "rows", say=said.append)
    assert one is not None
    assert two is not None
    assert two.trials[:2] == one.trials
    assert [trial["state"] for trial in two.trials[2:]] == ["fail", "complete", "complete"]
    assert len(said) == 2
    three = search(training_set, FEATURES, searching(tmp_path, 4), "rows", say=said.append)
    assert three == two
    assert len(said) == 2
    other = search(training_set, FEATURES, searching(tmp_path, 1), "other rows")
    assert other is not None
    assert len(other.trials) == 1


def test_a_search_looks_at_whole_users_and_always_the_same(training_set: DataFrame) -> None:
    rows = training_set.where("split <> 'calibration'")
    part = sampled(training_set, 1500, seed=7)
    assert 1300 < part.count() < 1700 < rows.count()
    assert {row["split"] for row in part.select("split").distinct().collect()} == {"train", "validation"}
    users = part.select("user_id").distinct()
    assert rows.join(users, "user_id", "left_semi").select(*part.columns).exceptAll(part).count() == 0
    assert sampled(training_set.repartition(5), 1500, seed=7).exceptAll(part).count() == 0
    assert sampled(training_set, 100_000, seed=7).count() == rows.count()


def test_a_search_says_what_it_lacks(training_set: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert search(training_set, FEATURES, searching(tmp_path, 0), "rows") is None
    negatives = training_set.where("label = 0 OR split = 'train'")
    with pytest.raises(OneClassOnly, match=r"both labels among the validation rows of the sample, found \d+ rows with 1 of them"):
        search(negatives, FEATURES, searching(tmp_path, 1), "rows")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(EnvironmentMissing, match=r"1 trials need the package optuna: pip install 'propensity-spark\[tuning\]'"):
        search(training_set, FEATURES, searching(tmp_path, 1), "rows")


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ({"trials": 1, "space": {}}, "at least one parameter to search"),
        ({"space": {"max_depth": {"low": 5, "high": 5}}}, "expected low < high, found 5.0 and 5.0"),
        ({"space": {"gamma": {"low": 0, "high": 5, "log": True}}}, "expected a positive low where log is true"),
        ({"space": {"max_bin": {"low": 8, "high": 512}}}, "max_depth"),
        ({"rows": 10}, "greater than or equal to 1000"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(tuning: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate({"tuning": tuning})


def test_probabilities_are_right_on_unsampled_rows(training_set: DataFrame) -> None:
    model, _ = challenger(training_set, FEATURES, settings(), {"gold/training_set": 3})
    rows = training_set.where("split = 'calibration'").toPandas()
    probability = model.predict(rows[FEATURES].to_numpy(dtype=np.float32))
    assert probability.mean() == pytest.approx(rows["label"].mean(), rel=0.03)
    assert ((probability > 0) & (probability < 1)).all()
    top = rows["signal"] > 0.9
    assert probability[top].mean() == pytest.approx(rows.loc[top, "label"].mean(), abs=0.05)
    assert (model.train_from, model.train_to, model.inputs) == (FRIDAY, FRIDAY, {"gold/training_set": 3})
    assert set(model.baseline) == {*FEATURES, "purchase_probability"}
    again, _ = challenger(training_set, FEATURES, settings(), {"gold/training_set": 3})
    assert again == model


def test_histogram_counts_every_row_once(spark: SparkSession) -> None:
    rows = [(0.0, 0, FRIDAY), (1.0, 1, FRIDAY), (0.5, 1, FRIDAY), (0.5, 0, FRIDAY + timedelta(7)), (0.2, 0, FRIDAY)]
    by_day = histograms(local_frame(spark, rows, "purchase_probability double, label int, as_of_date date"))
    assert {day: one.rows.tolist() for day, one in by_day.items()} == {FRIDAY: [1, 1, 1, 1], FRIDAY + timedelta(7): [1]}
    counted = together(list(by_day.values()))
    assert counted.rows.tolist() == [1, 1, 2, 1]
    assert counted.positives.tolist() == [0, 0, 1, 1]
    assert counted.centre[1:3] == pytest.approx([0.2, 0.5], abs=0.001)
    assert (counted.lower < counted.centre).all()


def test_isotonic_line_rises_strictly_through_the_blocks() -> None:
    scores = Histogram(
        lower=np.array([0.05, 0.15, 0.25, 0.35]),
        centre=np.array([0.1, 0.2, 0.3, 0.4]),
        rows=np.array([10.0, 10.0, 10.0, 10.0]),
        positives=np.array([0.0, 4.0, 2.0, 9.0]),
    )
    x, y = isotonic(scores)
    assert x.tolist() == pytest.approx([0.0, 0.1, 0.25, 0.4, 1.0])
    assert y[1:-1].tolist() == pytest.approx([1 / 42, 0.3, 0.9])
    assert (np.diff(y) > 0).all()
    assert 0 < y[0] < y[-1] < 1
    assert best_threshold(scores, x, y, ScoreSettings()) == pytest.approx(float(np.interp(0.35, x, y)))  # F1: 18/25, one bin lower 22/35


def scored_days(odds: Callable[[np.ndarray], np.ndarray], *, days: int = 3, rows: float = 4000.0) -> dict[date, Histogram]:
    """Raw scores over the whole range, equally many of each, of which exactly the share sigmoid(odds(logit)) purchases."""
    logit = np.arange(-5.975, 2, 0.05)
    centre = 1 / (1 + np.exp(-logit))
    right = 1 / (1 + np.exp(-odds(logit)))
    day = Histogram(1 / (1 + np.exp(-(logit - 0.025))), centre, np.full(len(logit), rows), rows * right)
    return {FRIDAY + timedelta(weeks=n): day for n in range(days)}


@pytest.mark.parametrize(
    ("odds", "method"),
    [
        (lambda logit: 0.6 * logit - 1.2, "platt"),
        (lambda logit: 1.5 * np.log(1 / (1 + np.exp(-logit))) + 0.3 * np.log1p(np.exp(logit)) - 0.5, "beta"),
    ],
)
def test_a_curve_of_the_family_is_found_again(odds: Callable[[np.ndarray], np.ndarray], method: str) -> None:
    scores = together(list(scored_days(odds).values()))
    knots = METHODS[method](scores)
    assert knots is not None
    assert np.interp(scores.centre, *knots) == pytest.approx(scores.positives / scores.rows, rel=2e-3)
    assert (np.diff(knots[0]) > 0).all()
    assert (np.diff(knots[1]) > 0).all()


def test_the_method_that_holds_on_the_later_date_is_chosen() -> None:
    """A curve with a step is neither family's; of a smooth one with few rows a day, steps learn the noise."""
    _, _, chosen = calibrated(scored_days(lambda logit: np.where(logit > -2, -0.5, -4.0)))
    assert chosen.method == "isotonic"
    assert set(chosen.log_loss) == {"isotonic", "beta", "platt"}
    assert (
        "smallest log loss on 2024-01-19, of methods fitted on the calibration slice before it (2024-01-05 to 2024-01-12)" in chosen.reason
    )
    rng = np.random.default_rng(7)
    smooth = scored_days(lambda logit: 0.6 * logit - 1.2, rows=5)
    noisy = {day: replace(one, positives=rng.binomial(5, one.positives / 5).astype(float)) for day, one in smooth.items()}
    _, y, chosen = calibrated(noisy)
    assert chosen.method in ("platt", "beta")
    assert chosen.log_loss[chosen.method] < chosen.log_loss["isotonic"]
    fitted_on_all = METHODS[chosen.method](together(list(noisy.values())))
    assert fitted_on_all is not None
    assert y.tolist() == fitted_on_all[1].tolist()
    assert calibrated(noisy, "isotonic")[2].reason == "set in train.calibration"


def test_without_a_later_date_or_a_second_class_it_is_isotonic() -> None:
    days = scored_days(lambda logit: logit)
    assert calibrated({FRIDAY: days[FRIDAY]})[2].reason.startswith("the calibration slice has one date, 2024-01-05")
    empty = days | {max(days): replace(days[FRIDAY], positives=np.zeros_like(days[FRIDAY].positives))}
    assert calibrated(empty)[2].reason == "before 2024-01-19 or on it there is one class only"


def test_a_family_that_would_turn_the_order_round_is_no_candidate() -> None:
    falling = together(list(scored_days(lambda logit: -0.5 * logit - 2).values()))
    assert platt(falling) is None
    assert beta(falling) is None
    _, y, chosen = calibrated({FRIDAY: falling}, "platt")
    assert (chosen.method, chosen.reason) == ("isotonic", "platt calibration does not rise on the calibration slice")
    assert (np.diff(y) > 0).all()


QUARTERS = Histogram(
    lower=np.array([0.05, 0.15, 0.25, 0.35]),
    centre=np.array([0.1, 0.2, 0.3, 0.4]),
    rows=np.array([100.0, 60.0, 30.0, 10.0]),
    positives=np.array([2.0, 6.0, 6.0, 4.0]),
)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ({"threshold_by": "f1"}, 0.25),  # 20/58; 8/28 above it, 32/118 below
        ({"threshold_by": "youden"}, 0.15),  # 16/18 − 84/182; 10/18 − 30/182 above it
        ({"threshold_by": "profit", "conversion_value": 10.0, "contact_cost": 1.5}, 0.25),  # a purchase in 6.7 pays: 2/10 do, 1/10 do not
        ({"threshold_by": "profit", "conversion_value": 10.0, "contact_cost": 0.9}, 0.15),
        ({"threshold_by": "profit", "conversion_value": 1.0, "contact_cost": 1.0}, NOBODY),
        ({"threshold_by": "budget", "budget_share": 0.2}, 0.25),
        ({"threshold_by": "budget", "budget_share": 0.19}, 0.35),
        ({"threshold_by": "budget", "budget_share": 0.01}, NOBODY),
        ({"threshold_by": "budget", "budget_contacts": 40}, 0.25),
        ({"threshold_by": "budget", "budget_contacts": 39}, 0.35),
    ],
)
def test_the_threshold_is_the_best_by_what_was_asked_for(score: dict[str, object], expected: float) -> None:
    asked = settings(score=score)
    line = np.array([0.0, 1.0])
    allowed = allowed_contacts(asked, QUARTERS.rows.sum(), days=1)
    assert best_threshold(QUARTERS, line, line, asked.score, allowed) == pytest.approx(expected)


def test_a_budget_of_a_day_is_shared_by_the_users_that_the_slice_has() -> None:
    pairs = settings(grain="user_item", score={"budget_contacts": 100}, sampling={"user_share": 0.5}, split={"by": "users"})
    assert allowed_contacts(pairs, 1e6, days=3) == pytest.approx(100 * 3 * 0.5 * 0.2)
    assert allowed_contacts(settings(sampling={"user_share": 0.5}, score={"budget_contacts": 100}), 1e6, days=3) == 300
    assert allowed_contacts(settings(), 1e6, days=3) == float("inf")


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ({"threshold_by": "profit"}, "expected score.conversion_value and score.contact_cost, found neither"),
        ({"conversion_value": 2.0}, "expected both or neither"),
        ({"threshold_by": "budget"}, "expected score.budget_share or score.budget_contacts, found neither"),
        ({"budget_share": 0.1, "budget_contacts": 5}, "expected one of them, found both"),
    ],
)
def test_a_threshold_without_what_decides_is_refused(score: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(score=score)


def test_one_block_is_a_constant_with_a_slight_slope() -> None:
    scores = Histogram(lower=np.array([0.4]), centre=np.array([0.5]), rows=np.array([8.0]), positives=np.array([2.0]))
    x, y = isotonic(scores)
    assert x.tolist() == [0.0, 0.5, 1.0]
    assert y.tolist() == pytest.approx([0.2475, 0.25, 0.2575])


def test_feature_bins_count_by_weight(spark: SparkSession) -> None:
    rows = [(float(n), 0.0, None, 1.0) for n in range(1, 9)] + [(9.0, None, None, 2.0)]
    frame = local_frame(spark, rows, "x double, mostly double, nothing double, sample_weight double")
    frame = frame.withColumn("as_of_date", F.lit(date(2024, 1, 5)))
    bins = feature_bins(frame, ["x", "mostly", "nothing"], 3)
    assert bins["x"] == ReferenceBins((3.0, 6.0), (0.3, 0.3, 0.4), 0.0)
    assert bins["mostly"] == ReferenceBins((0.0,), (1.0, 0.0), 0.2)
    assert bins["nothing"] == ReferenceBins((), (0.0,), 1.0)


def test_score_bins_share_the_histogram_evenly() -> None:
    lower = np.linspace(0.0, 0.9, 10)
    scores = Histogram(lower=lower, centre=lower + 0.05, rows=np.full(10, 5.0), positives=np.zeros(10))
    bins = score_bins(scores, np.array([0.0, 1.0]), np.array([0.0, 0.5]), 5)
    assert bins.edges == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert bins.shares == pytest.approx((0.2, 0.2, 0.2, 0.2, 0.2))
