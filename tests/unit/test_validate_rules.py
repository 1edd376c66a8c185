"""Rules: what each rejects and warns of, severities, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from validate_support import (
    BAR_COLUMNS,
    EVENT_COLUMNS,
    batch_of,
    deliver,
    quarantined,
    reasons,
    rows_of,
    run,
    settings,
    source,
    validate_table,
)

from propensity_spark.config import RuleSettings
from propensity_spark.errors import ConfigurationError, SchemaMismatch
from propensity_spark.schemas import ACTIVITY, BARS, CORPORATE_ACTIONS, ITEMS, SILVER, Table
from propensity_spark.tables import Lake, local_frame
from propensity_spark.validate import rules as rules_module
from propensity_spark.validate.batch import judge
from propensity_spark.validate.profile import profile
from propensity_spark.validate.rules import RULES, broken, check_columns, rejudged, rules_for

BAR = {"item_id": "A", "bar_size": "1d", "ts": "2024-01-02", "open": 10, "high": 12, "low": 9, "close": 11, "volume": 5}
BAR_AT_CLOSE = tuple(name for name in BAR_COLUMNS if name not in ("known_at", "is_deleted"))
EVENT = {
    "event_id": "e",
    "user_id": "u",
    "item_id": "A",
    "event_type": "buy",
    "event_ts": "2024-01-02T10:00:00Z",
    "quantity": 2,
    "price": 5,
    "known_at": "2024-01-02T10:00:00Z",
}


def verdicts(lake: Lake, table: Table, rows: list[dict[str, Any]], **options: Any) -> dict[str, list[str]]:
    """Reasons by the row's `label`, for rows of one delivery; fine rows are left out."""
    columns = {"bars": BAR_AT_CLOSE, "activity": EVENT_COLUMNS}[table.name]
    deliver(lake, table.name, rows)
    chosen = settings(lake, {table.name: source(table.name, columns)}, **options)
    settled, _ = judge(run(lake, chosen), batch_of(run(lake, chosen), table))
    held = settled.where("outcome = 'rejected'")
    return {
        row["label"]: row["reasons"] for row in held.select(F.get_json_object("payload", "$.label").alias("label"), "reasons").collect()
    }


def test_bars_that_break_a_rule(lake: Lake) -> None:
    found = verdicts(
        lake,
        BARS,
        [
            {**BAR, "label": "fine"},
            {**BAR, "label": "high below close", "ts": "2024-01-03", "high": 10.5},
            {**BAR, "label": "low above open", "ts": "2024-01-04", "low": 10.5},
            {**BAR, "label": "zero", "ts": "2024-01-05", "low": 0},
            {**BAR, "label": "nan", "ts": "2024-01-08", "close": "NaN", "high": "NaN"},
            {**BAR, "label": "infinite", "ts": "2024-01-09", "volume": "Infinity"},
            {**BAR, "label": "volume", "ts": "2024-01-10", "volume": -1},
            {**BAR, "label": "holiday", "ts": "2024-01-01"},
            {**BAR, "label": "size", "ts": "2024-01-11", "bar_size": "1h"},
            {**BAR, "label": "missing", "ts": "2024-01-12", "open": None, "item_id": " "},
            {**BAR, "label": "text", "ts": "2024-01-16", "volume": "many"},
            {**BAR, "label": "future", "ts": "2024-07-01"},
            {**BAR, "label": "no volume", "ts": "2024-01-17", "volume": 0},
        ],
        calendar="XNYS",
        time_zone="America/New_York",
    )
    assert found == {
        "high below close": ["ohlc_inconsistent"],
        "low above open": ["ohlc_inconsistent"],
        "zero": ["price_not_positive"],
        "nan": ["not_finite"],
        "infinite": ["not_finite"],
        "volume": ["negative_volume"],
        "holiday": ["not_a_session"],
        "size": ["unknown_bar_size"],
        "missing": ["null:item_id", "null:open"],
        "text": ["not_castable:volume"],
        "future": ["in_the_future"],
    }


def test_events_that_break_a_rule(lake: Lake) -> None:
    found = verdicts(
        lake,
        ACTIVITY,
        [
            {**EVENT, "label": "fine", "event_id": "1"},
            {**EVENT, "label": "cancel", "event_id": "2", "event_type": "cancel", "quantity": -2},
            {"label": "view", "event_id": "3", "user_id": "u", "event_type": "view", "event_ts": "2024-01-02", "known_at": "2024-01-02"},
            {**EVENT, "label": "no item", "event_id": "4", "item_id": None},
            {**EVENT, "label": "no price", "event_id": "5", "price": None},
            {**EVENT, "label": "free", "event_id": "6", "price": 0},
            {**EVENT, "label": "negative buy", "event_id": "7", "quantity": -1},
            {**EVENT, "label": "positive cancel", "event_id": "8", "event_type": "cancel"},
            {**EVENT, "label": "early", "event_id": "9", "known_at": "2024-01-01T00:00:00Z"},
            {**EVENT, "label": "future", "event_id": "10", "event_ts": "2024-06-01T00:00:01Z", "known_at": "2024-06-02T00:00:00Z"},
            {**EVENT, "label": "nobody", "event_id": "11", "user_id": ""},
        ],
    )
    assert found == {
        "no item": ["trade_incomplete"],
        "no price": ["trade_incomplete"],
        "free": ["trade_price_not_positive"],
        "negative buy": ["trade_sign"],
        "positive cancel": ["trade_sign"],
        "early": ["known_before_it_happened"],
        "future": ["in_the_future"],
        "nobody": ["null:user_id"],
    }


def test_bad_prints_jumps_and_splits(lake: Lake) -> None:
    def bars(item: str, *closes: float) -> list[dict[str, Any]]:
        days = ("2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05")
        flat = [
            {**BAR, "item_id": item, "ts": day, "open": close, "high": close, "low": close, "close": close}
            for day, close in zip(days, closes, strict=False)
        ]
        return [{**row, "label": f"{item}{number}"} for number, row in enumerate(flat)]

    action = {"item_id": "SPLIT", "ex_date": "2024-01-03", "action": "split", "ratio": 2}
    deliver(
        lake,
        "corporate_actions",
        [action, {**action, "ratio": 0, "ex_date": "2024-01-04"}, {**action, "action": "dividend", "ratio": None}],
    )
    rows = bars("BAD", 100, 180, 101) + bars("SPLIT", 100, 50, 99) + bars("JUMP", 100, 180, 175) + bars("DOWN", 100, 60, 99, 100)
    deliver(lake, "bars", rows)
    chosen = settings(
        lake,
        {"bars": source("bars", BAR_AT_CLOSE), "corporate_actions": source("corporate_actions", ("item_id", "ex_date", "action", "ratio"))},
    )
    validate_table(run(lake, chosen), CORPORATE_ACTIONS)
    found = validate_table(run(lake, chosen), BARS)
    assert found is not None
    assert reasons(lake, "corporate_actions") == {"split_ratio": 1}
    assert [(payload.split('"label": "')[1][:-2], names) for payload, names in quarantined(lake, "bars")] == [
        ("BAD1", ["bad_print"]),
        ("DOWN1", ["bad_print"]),
    ]
    assert found.measures["warn:price_jump"] == 4  # JUMP up, SPLIT up the day after, and BAD and DOWN back from their bad prints


def test_unknown_users_and_items_are_judged_again_when_they_come(lake: Lake) -> None:
    sources = {
        "users": source("users", ("user_id",)),
        "items": source("items", ("item_id",), static=True),
        "activity": source("activity", EVENT_COLUMNS),
    }
    chosen = settings(lake, sources)
    rows = [
        {**EVENT, "event_id": "1"},
        {**EVENT, "event_id": "2", "item_id": "B"},
        {**EVENT, "event_id": "3", "item_id": None, "event_type": "search"},
    ]
    deliver(lake, "activity", [*rows, {**EVENT, "event_id": "4", "price": None}])
    deliver(lake, "items", [{"item_id": "A"}])
    deliver(lake, "users", [{"user_id": "u"}])
    validate_table(run(lake, chosen, "r1"), ITEMS)
    with pytest.raises(Exception, match="rows_kept is 0"):
        validate_table(run(lake, chosen, "r1"), ACTIVITY)
    assert reasons(lake, "activity") == {"unknown_user": 3, "unknown_item": 1, "trade_incomplete": 1}
    assert not lake.exists(ACTIVITY)
    validate_table(run(lake, chosen, "r2"), SILVER["users"])
    validate_table(run(lake, chosen, "r2"), ACTIVITY)
    assert rows_of(lake, ACTIVITY, "event_id") == [("1",), ("3",)]
    assert reasons(lake, "activity") == {"unknown_item": 1, "trade_incomplete": 1}
    deliver(lake, "items", [{"item_id": "B"}], batch="b2")
    validate_table(run(lake, chosen, "r3"), ITEMS)
    validate_table(run(lake, chosen, "r3"), ACTIVITY)
    assert rows_of(lake, ACTIVITY, "event_id") == [("1",), ("2",), ("3",)]
    assert reasons(lake, "activity") == {"trade_incomplete": 1}


def test_severity_is_a_setting(lake: Lake) -> None:
    rows = [{**EVENT, "event_id": "1", "price": 0}, {**EVENT, "event_id": "2", "quantity": -1}]
    severity = {"trade_price_not_positive": "warn", "trade_sign": "off"}
    deliver(lake, "activity", rows)
    chosen = settings(lake, {"activity": source("activity", EVENT_COLUMNS)}, validation={"rules": {"severity": severity}})
    limits = chosen.validation.rules
    settled, _ = judge(run(lake, chosen), batch_of(run(lake, chosen), ACTIVITY))
    assert [(row["outcome"], row["warnings"]) for row in settled.orderBy("event_id").collect()] == [
        ("valid", ["trade_price_not_positive"]),
        ("valid", []),
    ]
    assert "trade_sign" not in [rule.name for rule in rules_for(ACTIVITY, limits)]


@pytest.mark.parametrize("name", ["no_such_rule", "null:user_id", "conflicting_key"])
def test_a_severity_for_no_rule_names_those_there_are(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}.*bad_print"):
        rules_for(ACTIVITY, RuleSettings(severity={name: "warn"}))


def test_a_rule_that_names_a_missing_column_stops(spark: SparkSession) -> None:
    frame = local_frame(spark, [], "open double, high double, low double, close double")
    chosen = [rule for rule in RULES if rule.name in ("ohlc_inconsistent", "not_finite", "bad_print")]
    with pytest.raises(SchemaMismatch, match="rule not_finite needs volume: no such column"):
        check_columns(frame, chosen, "row")
    check_columns(frame, chosen[:1], "row")


def test_a_null_condition_is_kept_and_no_rule_gives_an_empty_list(spark: SparkSession) -> None:
    frame = local_frame(spark, [(None,), (-1.0,)], "volume double")
    negative = [rule for rule in RULES if rule.name == "negative_volume"]
    found = frame.select(broken(negative, "reject", "row", RuleSettings()), broken(negative, "warn", "row", RuleSettings())).collect()
    assert [tuple(row) for row in found] == [([], []), (["negative_volume"], [])]


def test_names_are_unique_per_table_and_set_rules_are_judged_again() -> None:
    for table in SILVER.values():
        names = [rule.name for rule in rules_for(table, RuleSettings())]
        assert len(names) == len(set(names))
    assert rejudged() == ["bad_print", "conflicting_key", "event_date_changed", "price_jump", "unknown_item", "unknown_user"]


def test_more_rules_are_no_more_jobs(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(lake, "activity", [{**EVENT, "event_id": str(number)} for number in range(3)])
    chosen = settings(lake, {"activity": source("activity", EVENT_COLUMNS)})

    def jobs(group: str) -> int:
        context = lake.spark.sparkContext
        context.setJobGroup(group, group)
        batch = batch_of(run(lake, chosen), ACTIVITY)
        settled = judge(run(lake, chosen), batch)[0].persist()
        profile(run(lake, chosen), settled, batch, None)
        settled.unpersist()
        context.setJobGroup("", "")
        return len(context.statusTracker().getJobIdsForGroup(group))

    jobs("warm-up")  # the first look at a table costs Delta jobs of its own
    few = jobs("few rules")
    template = next(rule for rule in RULES if rule.name == "trade_price_not_positive")
    many = RULES + tuple(replace(template, name=f"copy_{number}") for number in range(40))
    monkeypatch.setattr(rules_module.rules_for, "__defaults__", (many,))
    monkeypatch.setattr(rules_module, "RULES", many)
    assert len(rules_for(ACTIVITY, chosen.validation.rules)) > 40
    assert jobs("many rules") == few > 0
