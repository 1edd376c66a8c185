"""Days of a run after a long history: carried events instead of it, and the same gold as from all of it."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from shop import settings
from silver_data import event, frame
from validate_support import run

from propensity_spark.config import Settings
from propensity_spark.features.registry import USER_FEATURES, USER_ITEM_FEATURES
from propensity_spark.line import run_line
from propensity_spark.run import Outcome
from propensity_spark.schemas import ACTIVITY, CARRIED, CHANGES
from propensity_spark.stages import features as features_stage
from propensity_spark.stages.carrying import stored
from propensity_spark.stages.features import STAGE
from propensity_spark.tables import Lake, local_frame

FIRST_DAY = date(2024, 5, 20)  # a Monday: the day after has no new training date
LONG_AGO = FIRST_DAY - timedelta(days=800)
OLD = [
    event(f"e{number}", f"u{number % 3}", f"i{number % 2}", kind, LONG_AGO + timedelta(days=number), "5.00" if kind == "buy" else None)
    for number, kind in enumerate(["view", "buy", "search"] * 60)
]
RECENT = [
    event(f"r{ago}", f"u{ago % 4}", "i1", "buy", FIRST_DAY - timedelta(days=ago), "7.50", order_id=f"o{ago}") for ago in range(1, 120, 3)
]


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(features_stage, "WORTH", 100)
    return settings(tmp_path, tmp_path / "data", "grain=user_item", "schedule.dates=4")


@pytest.fixture
def lake(spark: SparkSession, chosen: Settings) -> Lake:
    lake = Lake(spark, chosen.lake)
    lake.append(frame(spark, [*OLD, *RECENT], ACTIVITY), ACTIVITY)
    return lake


def features(lake: Lake, chosen: Settings, ahead: int) -> Outcome:
    """The stage on a day so many after the first, recorded as the line does."""
    ((_, outcome, _),) = run_line(lake.spark, chosen, FIRST_DAY + timedelta(days=ahead), [STAGE])
    assert outcome is not None
    return outcome


def gold(lake: Lake, chosen: Settings, ahead: int) -> list[list[str]]:
    day = FIRST_DAY + timedelta(days=ahead)
    tables = (USER_FEATURES, USER_ITEM_FEATURES) if chosen.grain == "user_item" else (USER_FEATURES,)
    return [sorted(map(repr, lake.read(table).where(f"as_of_date = DATE'{day}'").collect())) for table in tables]


def from_everything(lake: Lake, chosen: Settings, ahead: int) -> list[list[str]]:
    """What the day's gold is when nothing is carried."""
    shutil.rmtree(lake.location(CARRIED))
    for table in (USER_FEATURES, USER_ITEM_FEATURES):
        if lake.exists(table):
            lake.delete(table, f"as_of_date = DATE'{FIRST_DAY + timedelta(days=ahead)}'")
    features(lake, chosen, ahead)
    return gold(lake, chosen, ahead)


def add(lake: Lake, *rows: dict[str, Any]) -> None:
    lake.append(frame(lake.spark, list(rows), ACTIVITY), ACTIVITY)


def test_a_day_reads_what_windows_reach_and_what_was_carried(lake: Lake, chosen: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    features(lake, chosen, 0)
    assert not lake.exists(CARRIED), "the first run asks for training dates, too: it has to read everything"
    with monkeypatch.context() as patched:
        patched.setattr(features_stage, "WORTH", len(OLD) + 1)
        whole = features(lake, chosen, 1).rows_in
    assert whole == len(OLD) + len(RECENT)
    assert not lake.exists(CARRIED), "few old events are not worth it"
    features(lake, chosen, 2)
    version = lake.version(CARRIED)
    few = features(lake, chosen, 3).rows_in
    assert len(RECENT) < few < len(RECENT) + 30
    assert lake.version(CARRIED) == version, "once a month"
    found = gold(lake, chosen, 3)
    assert len(found[0]) == 4
    assert found == from_everything(lake, chosen, 3)


def test_what_is_of_a_later_day_or_of_other_settings_is_not_used(lake: Lake, chosen: Settings) -> None:
    features(lake, chosen, 0)
    features(lake, chosen, 1)
    longer = chosen.model_copy(update={"candidates": chosen.candidates.model_copy(update={"held_days": 3000})})
    assert stored(run(lake, chosen, as_of=FIRST_DAY)) is not None
    assert stored(run(lake, chosen, as_of=FIRST_DAY - timedelta(days=200))) is None
    assert stored(run(lake, longer, as_of=FIRST_DAY)) is None


def test_what_carried_events_do_not_answer_for_is_read_again(lake: Lake, chosen: Settings) -> None:
    add(lake, event("long ago", "u2", "i1", "buy", LONG_AGO, "1.00", order_id="long"))
    features(lake, chosen, 0)
    features(lake, chosen, 1)
    day = FIRST_DAY + timedelta(days=2)
    deleted = event("e0", "u0", "i0", "view", OLD[0]["event_date"], known=day, moment=1, deleted=True)
    of_another = event("e1", "u5", "i1", "buy", OLD[1]["event_date"], "9.00", known=day, moment=1)
    of_an_old_order = event("goes on", "u2", "i1", "buy", day, "9.00", order_id="long")
    add(lake, deleted, of_another, of_an_old_order)
    features(lake, chosen, 2)
    found = gold(lake, chosen, 2)
    assert len(found[0]) == 5
    assert found == from_everything(lake, chosen, 2)


def test_events_carried_before_silver_changed_are_not_used(lake: Lake, chosen: Settings) -> None:
    features(lake, chosen, 0)
    features(lake, chosen, 1)
    add(lake, event("unheard of", "u5", "i0", "view", LONG_AGO))  # visible for years already, as after a source was loaded anew
    lake.append(local_frame(lake.spark, [("validate", ACTIVITY.name, LONG_AGO, datetime.now(UTC))], CHANGES.schema), CHANGES)
    features(lake, chosen, 2)  # reads everything anyway: training dates have to be computed again
    features(lake, chosen, 3)
    found = gold(lake, chosen, 3)
    assert len(found[0]) == 5
    assert found == from_everything(lake, chosen, 3)


def test_the_next_month_goes_on_from_what_was_carried(lake: Lake, chosen: Settings) -> None:
    for ahead in (0, 1):
        features(lake, chosen, ahead)
    version = lake.version(CARRIED)
    features(lake, chosen, 36)
    features(lake, chosen, 37)
    assert lake.version(CARRIED) > version
    assert lake.read(CARRIED).select("settled_on").distinct().count() == 1
    assert gold(lake, chosen, 37) == from_everything(lake, chosen, 37)
