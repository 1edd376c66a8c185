"""The one place that runs stages: what it records, and when it lets a stage rest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import pytest
from pyspark.sql import Row, SparkSession

from propensity_spark.config import CONF_DIR, Settings, load_settings
from propensity_spark.line import last_successes, outcome_of, run_line, run_stage, stage_named
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import ALERTS, DRIFT, PERFORMANCE, RUNS, Column, Table
from propensity_spark.schemas import LONG as LONG_TYPE
from propensity_spark.tables import Lake, local_frame

DAY = date(2024, 12, 31)
SEEDS = Table("silver", "seeds", "one seed", ("seed",), (Column("seed", LONG_TYPE, "which"),))
PLANTS = Table("gold", "plants", "one plant", ("plant",), (Column("plant", LONG_TYPE, "which"),))


@pytest.fixture
def settings(lake: Lake) -> Settings:
    return load_settings(CONF_DIR / "local.yml", "stocks", [f"lake.root={lake.root}"])


@pytest.fixture
def seeds(spark: SparkSession, lake: Lake) -> Lake:
    lake.append(local_frame(spark, [(1,), (2,)], SEEDS.schema), SEEDS)
    return lake


def grow(run: Run) -> Outcome:
    plants = run.lake.read(SEEDS).selectExpr("seed AS plant")
    run.lake.overwrite(plants, PLANTS)
    return Outcome(rows_in=2, rows_out=plants.count(), rows_rejected=0, note="grown", facts={"width": "1 m", "height": "3 m"})


def stage(always: bool = False, other: Mapping[str, str] | None = None) -> Stage:
    tables = {"reads": lambda settings: (SEEDS,), "writes": lambda settings: (PLANTS,)}
    return Stage("grow", "every seed a plant", grow, depends_on=lambda run: other or {}, always=always, **tables)


def recorded(lake: Lake) -> list[Row]:
    return lake.read(RUNS).orderBy("started_at").collect()


def test_a_success_is_recorded_with_versions_counts_and_settings(spark: SparkSession, seeds: Lake, settings: Settings) -> None:
    outcome, seconds = run_stage(spark, settings, stage(), DAY)
    assert outcome == Outcome(2, 2, 0, "grown", {"width": "1 m", "height": "3 m"})
    (row,) = recorded(seeds)
    assert (row["stage"], row["dataset"], row["as_of_date"], row["status"]) == ("grow", "stocks", DAY, "succeeded")
    assert (row["input_versions"], row["output_versions"]) == ({"silver/seeds": 0}, {"gold/plants": 0})
    assert (row["rows_in"], row["rows_out"], row["rows_rejected"], row["note"]) == (2, 2, 0, "grown")
    assert (row["config_hash"], row["code_version"], row["error"]) == (settings.config_hash(), "0.1.0", None)
    assert row["seconds"] == pytest.approx(seconds, abs=0.001)
    assert row["run_id"].startswith("grow-")
    last = last_successes(seeds)
    assert list(last) == ["grow"]
    assert outcome_of(last["grow"]) == outcome
    assert list(outcome_of(last["grow"]).facts) == ["width", "height"]


def test_what_is_up_to_date_rests_until_something_it_depends_on_changes(spark: SparkSession, seeds: Lake, settings: Settings) -> None:
    def ran(wanted: Stage = stage(), settings: Settings = settings, day: date = DAY) -> bool:  # noqa: B008 (values)
        return next(iter(run_line(spark, settings, day, [wanted])))[1] is not None

    assert ran()
    assert not ran()
    seeds.append(local_frame(spark, [(3,)], SEEDS.schema), SEEDS)
    assert ran()  # its input changed
    assert not ran()
    seeds.append(local_frame(spark, [(9,)], PLANTS.schema), PLANTS)
    assert ran()  # somebody else wrote its output
    assert ran(day=date(2025, 1, 1))
    assert ran(settings=load_settings(CONF_DIR / "local.yml", "stocks", [f"lake.root={seeds.root}", "label.horizon_days=9"]))
    assert ran(stage(other={"champion": "2"}))
    assert not ran(stage(other={"champion": "2"}))
    assert ran(stage(always=True))


def test_a_failure_is_recorded_raised_again_and_not_taken_for_success(spark: SparkSession, seeds: Lake, settings: Settings) -> None:
    def wither(run: Run) -> Outcome:
        raise ValueError("no water")

    withered = Stage("grow", "", wither, lambda settings: (SEEDS,), lambda settings: (PLANTS,))
    with pytest.raises(ValueError, match="no water"):
        run_stage(spark, settings, withered, DAY)
    (row,) = recorded(seeds)
    assert (row["status"], row["rows_out"], row["output_versions"]) == ("failed", 0, {"gold/plants": -1})
    assert row["error"].strip() == "ValueError: no water"
    assert last_successes(seeds) == {}


def test_an_interruption_is_recorded_too(spark: SparkSession, seeds: Lake, settings: Settings) -> None:
    def interrupted(run: Run) -> Outcome:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(spark, settings, Stage("grow", "", interrupted), DAY)
    assert recorded(seeds)[0]["status"] == "failed"


def test_the_line_stops_at_the_stage_that_fails(spark: SparkSession, seeds: Lake, settings: Settings) -> None:
    def wither(run: Run) -> Outcome:
        raise ValueError("no water")

    said: list[str] = []

    def speak(run: Run) -> Outcome:
        run.say("hello")
        return Outcome(0, 0)

    line = iter(run_line(spark, settings, DAY, [Stage("speak", "", speak), Stage("wither", "", wither), stage()], said.append))
    assert next(line)[0].name == "speak"
    with pytest.raises(ValueError, match="no water"):
        next(line)
    assert said == ["hello"]
    assert not seeds.exists(PLANTS)


def test_stages_are_found_by_name_and_write_tables_of_the_house(settings: Settings) -> None:
    assert stage_named("monitor").writes(settings) == (DRIFT, PERFORMANCE, ALERTS)
