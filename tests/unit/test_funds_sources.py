"""The data set funds on a handful of rows: when an acquisition is known, what of the future stays out, who may be offered what."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from far_trans import write_few
from line_support import Finished, run, small_settings
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.far_trans import features as benchmark_features
from benchmarks.far_trans_model import FEATURES, Windows
from propensity_spark.config import Settings
from propensity_spark.errors import NotEnoughHistory
from propensity_spark.features.affinity import item_dates, sector_spending
from propensity_spark.features.candidates import user_item_features
from propensity_spark.features.crowd import crowd, dated, ownership
from propensity_spark.features.events import live_events
from propensity_spark.features.registry import USER_ITEM_FEATURES, features_of, user_item_table
from propensity_spark.features.rfm import user_features
from propensity_spark.features.windows import Grid, attributes_as_of
from propensity_spark.label import purchases
from propensity_spark.line import stage_named
from propensity_spark.schemas import ACTIVITY, ITEMS, QUARANTINE, USERS

EVE = date(2020, 2, 19)  # the day before a bound, on which two intervals end
BEFORE = date(2020, 2, 18)
NEXT_EVE = date(2020, 3, 3)
GRID = Grid((BEFORE, EVE, date(2020, 2, 20), NEXT_EVE, date(2020, 12, 17)))


@pytest.fixture(scope="module")
def silver(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("funds")
    write_few(folder / "data")
    settings = small_settings(folder, "validation.gate_by_table.items.max_rejected_share=0.5", dataset="funds", data=str(folder / "data"))
    return run(spark, settings, date(2020, 12, 17), stages=[stage_named("ingest"), stage_named("validate")])


def rows(frame: DataFrame, *columns: str) -> set[tuple[Any, ...]]:
    return {tuple(row) for row in frame.select(*columns).collect()}


def users_on(silver: Finished, column: str) -> dict[tuple[str, date], Any]:
    """(user, as-of date) → the profile's attribute seen then."""
    users = silver.lake.read(USERS).withColumn("last_questionnaire", F.col("attributes")["last_questionnaire"])
    seen = attributes_as_of(users, "user_id", [column], GRID).withColumn("day", GRID.day(F.col("position")))
    return {(row["user_id"], row["day"]): row[column] for row in seen.collect()}


def candidates(silver: Finished, **changed: object) -> set[tuple[str, str, date]]:
    events = live_events(silver.lake.read(ACTIVITY), GRID)
    items = silver.lake.read(ITEMS)
    chosen = silver.settings.candidates.model_copy(update=changed)
    found = user_item_features(events, item_dates(events, items, GRID), sector_spending(events, items, GRID), GRID, chosen)
    return {(user, item, day) for user, item, day in rows(found, "user_id", "item_id", "as_of_date")}


def test_an_acquisition_is_dated_to_its_start_and_known_just_before_its_end(silver: Finished) -> None:
    found = rows(silver.lake.read(ACTIVITY).where("user_id = 'early'"), "item_id", "event_ts", "known_at", "event_date", "visible_date")
    assert found == {
        ("old", datetime(2018, 1, 2), datetime(2019, 7, 31, 23, 59, 59, 999999), date(2018, 1, 2), date(2019, 7, 31)),
        ("moved", datetime(2020, 2, 7), datetime(2020, 2, 19, 23, 59, 59, 999999), date(2020, 2, 7), EVE),
        ("twice", datetime(2020, 2, 20), datetime(2020, 3, 3, 23, 59, 59, 999999), date(2020, 2, 20), NEXT_EVE),
    }


def test_it_is_seen_on_the_eve_of_the_bound_and_not_a_day_earlier(silver: Finished) -> None:
    live = live_events(silver.lake.read(ACTIVITY), GRID).where("item_id = 'moved'")
    assert [GRID.dates[row["enters"]] for row in live.collect()] == [EVE]


def test_the_population_is_whoever_has_a_visible_acquisition(silver: Finished) -> None:
    found = candidates(silver)
    assert {user for user, _, day in found if day == BEFORE} == {"early"}
    assert {user for user, _, day in found if day == EVE} == {"early", "nobody", "later"}
    assert {user for user, _, day in found if day == NEXT_EVE} == {"early", "nobody", "later", "placeholder"}


def test_candidates_are_all_items_known_that_the_user_does_not_hold(silver: Finished) -> None:
    found = candidates(silver)
    assert {item for user, item, day in found if (user, day) == ("early", BEFORE)} == {"moved", "twice"}
    assert {item for user, item, day in found if (user, day) == ("early", EVE)} == {"twice"}
    assert {item for user, item, day in found if (user, day) == ("early", date(2020, 2, 20))} == {"twice", "fund"}
    assert {item for user, item, day in found if (user, day) == ("early", NEXT_EVE)} == {"fund"}
    assert {item for user, item, day in found if (user, day) == ("nobody", NEXT_EVE)} == {"moved", "twice", "fund"}
    assert "future" not in {item for _, item, _ in found}
    assert {item for user, item, day in candidates(silver, exclude_held=False) if (user, day) == ("early", EVE)} == {
        "old",
        "moved",
        "twice",
    }


def test_a_profile_is_not_seen_before_its_timestamp(silver: Finished) -> None:
    seen = users_on(silver, "risk_tolerance")
    assert [seen["early", day] for day in GRID.dates] == ["Income", "Income", "Aggressive", "Aggressive", "Aggressive"]
    assert not any(user == "later" for user, _ in seen), "its only row is of 2021"
    assert {seen["nobody", day] for day in GRID.dates} == {None}
    events, activity = live_events(silver.lake.read(ACTIVITY), GRID), silver.lake.read(ACTIVITY)
    spending = sector_spending(events, silver.lake.read(ITEMS), GRID)
    levels = silver.settings.features.risk_levels
    found = user_features(events, activity, silver.lake.read(USERS), spending, grid=GRID, risk_levels=levels)
    levels_on = {(row["user_id"], row["as_of_date"]): row["risk_level"] for row in found.collect()}
    assert (levels_on["early", EVE], levels_on["early", NEXT_EVE], levels_on["later", NEXT_EVE]) == (2, 4, None)


def test_a_questionnaire_of_the_future_is_blank(silver: Finished) -> None:
    seen = users_on(silver, "last_questionnaire")
    assert seen["early", EVE] == "2015-04-27"
    assert {seen["early", day] for day in GRID.dates[2:]} == {None}, "2021-05-05 was written into a row of 2020"
    assert {seen["nobody", day] for day in GRID.dates} == {None}, "2000-01-01 stands for none"
    late = silver.lake.read(USERS).where(F.to_date(F.col("attributes")["last_questionnaire"]) > F.col("valid_from"))
    assert late.isEmpty()


def test_a_profile_without_a_date_tells_nothing_but_that_the_user_exists(silver: Finished) -> None:
    assert {users_on(silver, column)["placeholder", EVE] for column in ("risk_tolerance", "user_segment")} == {None}
    assert silver.lake.read(ACTIVITY).where("user_id = 'placeholder'").count() == 1


def test_items_follow_their_rows_and_the_second_of_one_date_is_in_quarantine(silver: Finished) -> None:
    seen = attributes_as_of(silver.lake.read(ITEMS), "item_id", ["sector"], GRID).withColumn("day", GRID.day(F.col("position")))
    sectors = {(row["item_id"], row["day"]): row["sector"] for row in seen.collect()}
    assert (sectors["moved", EVE], sectors["moved", NEXT_EVE]) == ("Energy", "Utilities")
    assert ("fund", EVE) not in sectors
    assert sectors["fund", NEXT_EVE] == "MTF Equity"
    held = silver.lake.read(QUARANTINE).collect()
    assert [(row["source_table"], row["reasons"]) for row in held] == [("items", ["conflicting_key"])]


def test_a_label_sees_what_began_after_the_date_and_only_when_all_of_it_is_known(silver: Finished) -> None:
    settings: Settings = silver.settings
    activity, last = silver.lake.read(ACTIVITY), date(2020, 12, 17)
    found = purchases(activity, [EVE], settings.label, grain="user_item", as_of=last)
    assert rows(found, "user_id", "item_id") == {("early", "twice"), ("placeholder", "old")}
    earlier = purchases(activity, [date(2020, 2, 6)], settings.label, grain="user_item", as_of=last)
    assert rows(earlier, "user_id", "item_id") == {
        (u, i) for u, i, *_ in rows(activity.where("event_date > '2020-02-06'"), "user_id", "item_id")
    }
    with pytest.raises(NotEnoughHistory, match="window of 2020-02-19 closes on 2020-08-16"):
        purchases(activity, [EVE], settings.label, grain="user_item", as_of=date(2020, 8, 15))


def test_features_of_the_crowd_are_there_when_they_are_turned_on_and_gone_when_they_are_off(silver: Finished, spark: SparkSession) -> None:
    """On one lake, one after the other: the table gets the columns, and what the model sees without them is what it was."""

    def features(enabled: bool) -> list[dict[str, Any]]:
        of_crowd = silver.settings.features.crowd.model_copy(update={"enabled": enabled})
        chosen = silver.settings.features.model_copy(update={"crowd": of_crowd})
        settings = silver.settings.model_copy(update={"features": chosen})
        lake = run(spark, settings, NEXT_EVE, stages=[stage_named("features")]).lake
        return sorted((row.asDict() for row in lake.read(user_item_table(settings.has_crowd)).collect()), key=repr)

    names = [feature.name for feature in features_of("crowd")]
    without, with_crowd, again = features(False), features(True), features(False)
    assert without == again
    assert list(without[0]) == USER_ITEM_FEATURES.column_names
    assert [{name: value for name, value in row.items() if name not in names} for row in with_crowd] == without
    assert all(row[name] is not None for row in with_crowd for name in ("item_owners", "item_lately_share", "co_purchase_lately"))


def test_the_benchmark_has_the_features_that_the_product_stores(silver: Finished) -> None:
    """It puts them together as matrices instead of joining them to millions of pairs."""
    grid = Grid((EVE, NEXT_EVE))
    bounds = [day + timedelta(days=1) for day in grid.dates]
    rule = silver.settings.features.crowd.model_copy(update={"min_users": 1})
    chosen = silver.settings.features.model_copy(update={"crowd": rule})
    parts = benchmark_features(silver.settings.model_copy(update={"features": chosen}), silver.lake, bounds)
    frames = {name: frame.toPandas() for name, frame in parts.items()}
    by_position = {(name, at): frame[frame["position"] == at] for name, frame in frames.items() for at in range(len(bounds))}
    acquired = silver.lake.read(ACTIVITY).select("user_id", "item_id", "event_date", "visible_date").toPandas()
    events, items = live_events(silver.lake.read(ACTIVITY), grid), silver.lake.read(ITEMS)
    owned = ownership(live_events(dated(silver.lake.read(ACTIVITY), rule), grid), grid, 3650)
    around = crowd(owned, events, silver.lake.read(USERS), grid, rule)
    known, spending = item_dates(events, items, grid), sector_spending(events, items, grid)
    stored = user_item_features(events, known, spending, grid, silver.settings.candidates, crowd=around).collect()
    names = [name for name in FEATURES if name != "recency_days"]
    compared = 0
    for bound, eve in zip(bounds, grid.dates, strict=True):
        windows = Windows(acquired, bounds, by_position)
        seen = windows.seen(bound, sorted(windows.having(bound)))
        for row in (row for row in stored if row["as_of_date"] == eve and row["item_id"] in seen.items):
            pair = seen.customers.get_loc(row["user_id"]), seen.items.get_loc(row["item_id"])
            assert seen.candidates[pair]
            expected = [np.nan if row[name] is None else row[name] for name in names]
            found = [seen.values[pair][FEATURES.index(name)] for name in names]
            assert found == pytest.approx(expected, nan_ok=True), (row["user_id"], row["item_id"], eve)
            compared += 1
    assert compared > 3
