"""What silver holds of a feed that is asked again and again: each change of what it says about a bar, known from its ingestion on."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from validate_support import deliver_all, delivery, rows_of, run, validate_table
from validate_support import settings as make_settings

from propensity_spark.config import LakeSettings, MassiveSource
from propensity_spark.schemas import BARS
from propensity_spark.tables import Lake

_FOLDERS = itertools.count()
FIRST, RUNS, BACK = date(2024, 3, 4), 4, 3
SOURCE = MassiveSource.model_validate(
    {"kind": "massive", "name": "feed", "base_url": "local", "endpoint": "custom_bars", "start": str(FIRST - timedelta(days=5))}
)
Answer = dict[tuple[str, date], float]


def history(chance: random.Random) -> list[Answer]:
    """What the feed says in each run about the days asked for: new bars, and the last three days again, changed or not, or not there."""
    answers: list[Answer] = []
    for number in range(RUNS):
        start = SOURCE.start if number == 0 else FIRST + timedelta(days=number - BACK)
        days = [start + timedelta(days=n) for n in range((FIRST + timedelta(days=number) - start).days + 1)]
        said = {key: value for earlier in answers for key, value in earlier.items()}
        answer = {}
        for key in itertools.product("AB", days):
            value = said.get(key, 100.0) if chance.random() < 0.5 else chance.choice([100.0, 101.0])
            if chance.random() < 0.85:
                answer[key] = value
        answers.append(answer)
    return answers


def versions(answers: list[Answer]) -> list[tuple[Any, ...]]:
    """By a second look, answer after answer: (item, session, known_at, close)."""
    last: Answer = {}
    found = []
    for number, answer in enumerate(answers):
        for (item, day), close in answer.items():
            is_new = number == 0 or day == FIRST + timedelta(days=number)
            end = datetime.combine(day + timedelta(days=1), time(0, 15), UTC) - timedelta(microseconds=1)
            if last.get((item, day)) != close:
                found.append((item, day, end if is_new else ingested(number), close))
            last[item, day] = close
    return sorted(found, key=str)


def ingested(number: int) -> datetime:
    return datetime.combine(FIRST + timedelta(days=number + 1), time(2), UTC)


def delivered(number: int, answer: Answer) -> list[tuple[Any, ...]]:
    """What a run takes from an answer, a page for each item."""
    found = []
    new_from = SOURCE.start if number == 0 else FIRST + timedelta(days=number)
    for item in "AB":
        rows = []
        for (name, day), close in answer.items():
            start = int(datetime.combine(day, time(), UTC).timestamp() * 1000)
            if name == item:
                rows.append({"t": start, "o": close, "h": close, "l": close, "c": close, "v": 10.0})
        context = {"ticker": item, "new_from": str(new_from)}
        found += delivery("bars", rows, f"run{number}", "feed", context, f"{item}-{number}", ingested(number))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("history")


@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000))
def test_silver_holds_every_change_once_however_runs_are_batched(spark: SparkSession, folder: Path, seed: int) -> None:
    answers = history(random.Random(seed))
    expected = versions(answers)
    for steps in ([RUNS], [1, 1, 2]):
        lake = Lake(spark, LakeSettings(root=str(folder / f"lake{next(_FOLDERS)}")))
        chosen = make_settings(lake, {"bars": SOURCE})
        upcoming = iter(enumerate(answers))
        for step, count in enumerate(steps):
            deliver_all(lake, "bars", [delivered(number, answer) for number, answer in itertools.islice(upcoming, count)])
            validate_table(run(lake, chosen, f"validate{step}", FIRST + timedelta(days=RUNS)), BARS)
        found = [
            (item, day, known.replace(tzinfo=UTC), close)
            for item, day, known, close in rows_of(lake, BARS, "item_id", "session_date", "known_at", "close")
        ]
        assert sorted(found, key=str) == expected
