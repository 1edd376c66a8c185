"""One and the same silver and quarantine, whatever the order of arrival and however deliveries are batched."""

from __future__ import annotations

import itertools
import random
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from validate_support import BAR_COLUMNS, EVENT_COLUMNS, LENIENT, deliver_all, delivery, rows_of, run, source
from validate_support import settings as make_settings

from propensity_spark.config import LakeSettings
from propensity_spark.schemas import ACTIVITY, BARS, CORPORATE_ACTIONS, QUARANTINE, SILVER, USERS
from propensity_spark.tables import Lake
from propensity_spark.validate.table import validate_tables

_FOLDERS = itertools.count()
ACTION_COLUMNS = ("item_id", "ex_date", "action", "ratio", "known_at", "is_deleted")


def _bars(chance: random.Random) -> list[str]:
    """Bars of a few items with gaps, bad prints, corrections, deletions, conflicts and the same thing written differently."""
    rows = []
    for item in "ABCD":
        day = date(2024, 1, 2)
        for _ in range(chance.randint(4, 14)):
            day += timedelta(days=chance.choice([1, 1, 1, 2, 9, 11]))
            for version in range(chance.choice([1, 1, 1, 2])):
                for _ in range(chance.choice([1, 1, 1, 2])):
                    close = chance.choice([100, 100, 100, 101, 180, 100.0])
                    known = f"{day + timedelta(days=version)}T22:00:00Z"
                    deleted = version == 1 and chance.random() < 0.2
                    row = (
                        f'{{"item_id":"{item}","bar_size":"1d","ts":"{day}","open":{close},"high":{close},"low":{close},"close":{close},'
                        f'"volume":{chance.choice(["10", "10.0"])},"known_at":"{known}","is_deleted":{str(deleted).lower()}}}'
                    )
                    rows += [row] * chance.choice([1, 1, 2])
    return rows


def _events(chance: random.Random) -> list[str]:
    """Events with corrections, moved dates (one always), conflicts, repeated lines and users who are not known yet."""
    moved = (
        '{"event_id":"moved","user_id":"u1","item_id":"A","event_type":"view",'
        '"event_ts":"2024-03-0%sT10:00:00Z","known_at":"2024-03-0%sT00:00:00Z"}'
    )
    rows = [moved % (4, 5), moved % (5, 7)]
    for number in range(25):
        for _ in range(chance.choice([1, 1, 2, 3])):
            day = chance.choice([4, 4, 4, 5])
            known = f"2024-03-0{chance.choice([5, 6, 7])}T00:00:00Z"
            quantity = chance.choice(["1", "1.0", "2"])
            user = chance.choice(["u1", "u2", "u2", "u3", "nobody"])
            row = (
                f'{{"event_id":"e{number}","user_id":"{user}","item_id":"A","event_type":"buy","event_ts":"2024-03-0{day}T10:00:00Z",'
                f'"quantity":{quantity},"price":5,"known_at":"{known}","is_deleted":false}}'
            )
            rows += [row] * chance.choice([1, 1, 2])
    return rows


def _actions(chance: random.Random) -> list[str]:
    """Splits on dates on which bars jump, with other ratios later, deletions and conflicts."""
    rows = []
    for item in "ABCD":
        for day in {date(2024, 1, 3) + timedelta(days=chance.randint(0, 20)) for _ in range(3)}:
            for _ in range(chance.choice([1, 2, 3])):
                known = f"{day + timedelta(days=chance.choice([0, 0, 4]))}T12:00:00Z"
                rows.append(
                    f'{{"item_id":"{item}","ex_date":"{day}","action":"split","ratio":{chance.choice(["2", "2.0", "3"])},'
                    f'"known_at":"{known}","is_deleted":{str(chance.random() < 0.2).lower()}}}'
                )
    return rows


def _users() -> list[str]:
    return [f'{{"user_id":"u{number}","valid_from":"2024-01-01","known_at":"2024-01-01T00:00:00Z"}}' for number in (1, 2, 3)]


def _anchor(target: str, number: int) -> str:
    """A row that is always fine, so that the gate never sees a batch with nothing but rejected rows."""
    if target == "corporate_actions":
        return (
            f'{{"item_id":"Z{number}","ex_date":"2024-01-02","action":"split","ratio":2,"known_at":"2024-01-02T00:00:00Z",'
            '"is_deleted":false}'
        )
    if target == "bars":
        return (
            f'{{"item_id":"Z{number}","bar_size":"1d","ts":"2024-01-02","open":1,"high":1,"low":1,"close":1,"volume":1,'
            '"known_at":"2024-01-03T00:00:00Z","is_deleted":false}'
        )
    return (
        f'{{"event_id":"z{number}","user_id":"u0","item_id":"A","event_type":"view","event_ts":"2024-03-01T10:00:00Z",'
        '"known_at":"2024-03-02T00:00:00Z","is_deleted":false}'
    )


def _state(lake: Lake) -> tuple[object, ...]:
    held = rows_of(lake, QUARANTINE, "source_table", "source", "source_uri", "delivery_id", "line", "reasons")
    return rows_of(lake, BARS), rows_of(lake, ACTIVITY), rows_of(lake, USERS), held, rows_of(lake, CORPORATE_ACTIONS)


def _lake(spark: SparkSession, folder: Path) -> Lake:
    return Lake(spark, LakeSettings(root=str(folder / f"lake{next(_FOLDERS)}")))


def _deliver(lake: Lake, deliveries: list[tuple[str, str, list[str]]], batch: str) -> None:
    for target in sorted({target for target, _, _ in deliveries}):
        deliver_all(lake, target, [delivery(target, rows, batch, uri=uri) for name, uri, rows in deliveries if name == target])


def _validate(lake: Lake, run_id: str) -> None:
    sources = {
        "corporate_actions": source("corporate_actions", ACTION_COLUMNS),
        "bars": source("bars", BAR_COLUMNS),
        "activity": source("activity", EVENT_COLUMNS),
        "users": source("users", ("user_id", "valid_from", "known_at")),
    }
    # No event is moved further, so silver is looked at around the dates of a batch alone.
    chosen = make_settings(lake, sources, validation={"gate": LENIENT, "rules": {"versions_within_days": 1}})
    validate_tables(run(lake, chosen, run_id), [SILVER[name] for name in ("users", "corporate_actions", "bars", "activity")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("order")


@settings(
    max_examples=2, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(seed=st.integers(0, 10_000))
def test_silver_and_quarantine_do_not_depend_on_order_or_batching(spark: SparkSession, folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    deliveries: list[tuple[str, str, list[str]]] = [("users", f"users{number}", [row]) for number, row in enumerate(_users())]
    deliveries.append(("users", "users-base", ['{"user_id":"u0","valid_from":"2024-01-01","known_at":"2024-01-01T00:00:00Z"}']))
    for target, rows in (("bars", _bars(chance)), ("activity", _events(chance)), ("corporate_actions", _actions(chance))):
        chance.shuffle(rows)
        for number in range(4):
            deliveries.append((target, f"{target}{number}", [_anchor(target, number), *rows[number::4]]))

    at_once = _lake(spark, folder)
    _deliver(at_once, deliveries, "all")
    _validate(at_once, "once")

    bit_by_bit = _lake(spark, folder)
    order = deliveries[:]
    chance.shuffle(order)
    order.sort(key=lambda delivery: delivery[1] != "users-base")
    for number in range(3):
        _deliver(bit_by_bit, order[number::3], f"batch{number}")
        _validate(bit_by_bit, f"run{number}")

    once, bits = _state(at_once), _state(bit_by_bit)
    assert once == bits
    found = {reason for *_, reasons in once[3] for reason in reasons}  # type: ignore[attr-defined]
    assert {"conflicting_key", "unknown_user", "event_date_changed"} <= found
    if seed == 0:
        assert "bad_print" in found
