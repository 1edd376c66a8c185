"""Versions, repeated rows, conflicts, what a broken-off run leaves, replays and announcements."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from delta.tables import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from validate_support import (
    BAR_COLUMNS,
    EVENT_COLUMNS,
    INGESTED,
    LENIENT,
    batch_of,
    deliver,
    delivery,
    quarantined,
    reasons,
    rows_of,
    run,
    settings,
    source,
    validate_table,
)

from propensity_spark.config import Settings
from propensity_spark.errors import ConfigurationError, RowsUnaccounted
from propensity_spark.schemas import ACTIVITY, BARS, BRONZE, CHANGES, DELIVERIES, ITEMS, PROFILES, QUARANTINE, VALIDATED
from propensity_spark.stages.validate import STAGE
from propensity_spark.tables import Lake, local_frame
from propensity_spark.validate import silver as silver_module
from propensity_spark.validate import table as table_module
from propensity_spark.validate.batch import judge
from propensity_spark.validate.nearby import ranges_around
from propensity_spark.validate.table import replay

VIEW = {"event_type": "view", "user_id": "u", "item_id": "A"}


def event(name: str, day: int, known: int | None = None, **values: Any) -> dict[str, Any]:
    known_at = f"2024-03-{known or day:02}T12:00:00Z"
    return {**VIEW, "event_id": name, "event_ts": f"2024-03-{day:02}T10:00:00Z", "known_at": known_at, **values}


def bar(day: int, close: float, item: str = "A", known: int | None = None) -> dict[str, Any]:
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    known_at = f"2024-01-{known or day:02}T23:59:59Z"
    return {"item_id": item, "bar_size": "1d", "ts": f"2024-01-{day:02}", "volume": 1, "known_at": known_at, **prices}


def activity(lake: Lake, **options: Any) -> Settings:
    return settings(lake, {"activity": source("activity", EVENT_COLUMNS, **options)})


def test_versions_stay_and_identical_deliveries_are_one_row(lake: Lake) -> None:
    chosen = activity(lake)
    deliver(lake, "activity", [event("e1", 1), event("e1", 1), event("e1", 1, 3, quantity=2), event("e1", 1, 5, is_deleted=True)])
    found = validate_table(run(lake, chosen, "r1"), ACTIVITY)
    assert found is not None
    assert [found.rows(name) for name in ("in", "valid", "repeated", "rejected")] == [4, 3, 1, 0]
    assert [row[:3] for row in rows_of(lake, ACTIVITY, "visible_date", "is_deleted", "quantity")] == [
        (date(2024, 3, 1), False, None),
        (date(2024, 3, 3), False, 2.0),
        (date(2024, 3, 5), True, None),
    ]
    assert rows_of(lake, CHANGES, "run_id", "table_name", "changed_from") == [("r1", "activity", date(2024, 3, 1))]

    assert validate_table(run(lake, chosen, "r2"), ACTIVITY) is None
    deliver(lake, "activity", [event("e1", 1), event("e1", 1, 3, quantity="2.00")], batch="b2")
    found = validate_table(run(lake, chosen, "r3"), ACTIVITY)
    assert found is not None
    assert (found.rows("valid"), found.rows("repeated"), found.changed_from) == (0, 2, None)
    assert len(rows_of(lake, ACTIVITY)) == 3
    assert rows_of(lake, VALIDATED, "batch_id", "run_id") == [("b1", "r1"), ("b2", "r3")]
    assert len(rows_of(lake, CHANGES)) == 1


def test_only_batches_that_are_ingested_and_new_are_read(lake: Lake) -> None:
    chosen = activity(lake)
    begun = delivery("activity", [event("begun", 1)], "begun")
    planned = ("activity", "activity", "begun.file", begun[0][2], 1, INGESTED, 1, {}, "planned", None, "begun", INGESTED, "ingest")
    lake.append(local_frame(lake.spark, [planned], DELIVERIES.schema), DELIVERIES)
    lake.append(local_frame(lake.spark, begun, BRONZE["activity"].schema), BRONZE["activity"])  # its ingestion broke off here
    assert validate_table(run(lake, chosen, "r1"), ACTIVITY) is None
    deliver(lake, "activity", [event("old", 1)], "old")
    validate_table(run(lake, chosen, "r2"), ACTIVITY)
    deliver(lake, "activity", [event("new", 1), event("other", 1)], "new")
    batch = batch_of(run(lake, chosen, "r3"), ACTIVITY)
    assert (batch.ids, batch.rows) == (("new",), 2)
    assert all("batch_id=new" in file for file in batch.delivered.inputFiles())
    assert rows_of(lake, ACTIVITY, "event_id") == [("old",)]


def test_of_conflicting_rows_the_greater_payload_hash_stays_whoever_came_first(lake: Lake) -> None:
    chosen = activity(lake)
    states = []
    for number, first in enumerate((5, 6)):
        place = Lake(lake.spark, lake.settings.model_copy(update={"root": f"{lake.root}{number}"}))
        deliver(place, "activity", [event("e", 1, quantity=first)], batch="b1")
        validate_table(run(place, chosen, "r1"), ACTIVITY)
        deliver(place, "activity", [event("e", 1, quantity=11 - first), event("other", 1)], batch="b2")
        validate_table(run(place, chosen, "r2"), ACTIVITY)
        assert reasons(place, "activity") == {"conflicting_key": 1}
        states.append((rows_of(place, ACTIVITY), rows_of(place, QUARANTINE, "source_uri", "payload", "payload_hash", "reasons")))
    assert states[0][0] == states[1][0]
    assert [row[1:] for row in states[0][1]] == [row[1:] for row in states[1][1]]
    assert states[0][0][0][-1] > states[0][1][0][2]


def test_a_later_version_may_not_move_an_event_to_another_date(lake: Lake) -> None:
    chosen = activity(lake)
    deliver(lake, "activity", [event("e", 2, 4)])
    validate_table(run(lake, chosen, "r1"), ACTIVITY)
    deliver(lake, "activity", [event("e", 1, 3)], batch="b2")  # known earlier, so it decides
    found = validate_table(run(lake, chosen, "r2"), ACTIVITY)
    assert rows_of(lake, ACTIVITY, "event_date", "visible_date") == [(date(2024, 3, 1), date(2024, 3, 3))]
    assert reasons(lake, "activity") == {"event_date_changed": 1}
    assert found is not None
    assert dict(found.changes) == {"insert": 1, "update": 0, "remove": 1}
    assert found.changed_from == date(2024, 3, 3)


@pytest.mark.parametrize("batches", [((3,), (4,), (6,)), ((6,), (3, 4)), ((4,), (6,), (3,)), ((3, 4, 6),)])
def test_a_version_is_a_correction_when_another_was_known_before_whichever_came_first(
    lake: Lake, batches: tuple[tuple[int, ...], ...]
) -> None:
    chosen = activity(lake)
    for number, known in enumerate(batches):
        deliver(lake, "activity", [event("e", 2, day) for day in known] + [event(f"alone {number}", 2)], batch=f"b{number}")
        validate_table(run(lake, chosen, f"r{number}"), ACTIVITY)
    told = {row[:2] for row in rows_of(lake, ACTIVITY, "event_id", "known_at", "is_correction") if row[2]}
    assert {(name, known.day) for name, known in told} == {("e", 4), ("e", 6)}
    assert not any(row[0] is None for row in rows_of(lake, ACTIVITY, "is_correction"))


def test_a_version_is_no_correction_any_more_when_the_one_before_it_goes(lake: Lake) -> None:
    chosen = activity(lake)
    deliver(lake, "activity", [event("e", 2, 3), event("e", 2, 5)])
    validate_table(run(lake, chosen, "r1"), ACTIVITY)
    deliver(lake, "activity", [event("e", 1, 2)], batch="b2")  # known earlier, so its date decides: both others go
    validate_table(run(lake, chosen, "r2"), ACTIVITY)
    assert rows_of(lake, ACTIVITY, "event_date", "is_correction") == [(date(2024, 3, 1), False)]


def test_an_activity_table_made_before_corrections_were_told_apart_is_read_and_grows(lake: Lake) -> None:
    chosen = activity(lake)
    deliver(lake, "activity", [event("e", 2, 3), event("e", 2, 5), event("f", 2, 4)])
    validate_table(run(lake, chosen, "r1"), ACTIVITY)
    before = lake.read(ACTIVITY).drop("is_correction").localCheckpoint()
    before.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(lake.location(ACTIVITY))
    assert rows_of(lake, ACTIVITY, "is_correction") == [(None,)] * 3
    deliver(lake, "activity", [event("g", 9)], batch="b2")
    validate_table(run(lake, chosen, "r2"), ACTIVITY)
    assert [row[0] for row in rows_of(lake, ACTIVITY, "is_correction") if row[0] is not None] == [False]
    deliver(lake, "activity", [event("f", 2, 3), event("e", 2, 6)], batch="b3")
    validate_table(run(lake, chosen, "r3"), ACTIVITY)  # a MERGE: "f" of before is a correction now
    known = {(row[0], row[1].day): row[2] for row in rows_of(lake, ACTIVITY, "event_id", "known_at", "is_correction")}
    assert known == {("e", 3): None, ("e", 5): True, ("e", 6): True, ("f", 3): False, ("f", 4): True, ("g", 9): False}


def test_a_batch_is_held_against_silver_of_its_dates_alone(lake: Lake) -> None:
    """Without ids of the source's own, an event's id is a hash of its line, its moment included."""
    chosen = settings(lake, {"activity": source("activity", [name for name in EVENT_COLUMNS if name != "event_id"])})
    for day in (1, 20):
        deliver(lake, "activity", [event("", day), event("", day, quantity=2)], batch=f"b{day}")
        assert validate_table(run(lake, chosen, f"r{day}"), ACTIVITY) is not None
    deliver(lake, "activity", [event("", 20), event("", 20, quantity=3), event("", 20, quantity=2, is_deleted=True, known=21)], batch="b3")
    settled, near = judge(run(lake, chosen), batch_of(run(lake, chosen), ACTIVITY))
    assert near.ranges == ((date(2024, 3, 19), date(2024, 3, 21)),)
    assert len(_silver_files(settled)) == 1 < len(_silver_files(lake.read(ACTIVITY)))
    found = validate_table(run(lake, chosen, "r3"), ACTIVITY)
    assert found is not None
    assert [found.rows(name) for name in ("in", "valid", "repeated", "rejected")] == [3, 2, 1, 0]


def test_a_moved_event_is_seen_as_far_away_as_versions_are_looked_for(lake: Lake) -> None:
    near_by = source("activity", EVENT_COLUMNS)
    chosen = settings(lake, {"activity": near_by}, validation={"gate": LENIENT, "rules": {"versions_within_days": 5}})
    deliver(lake, "activity", [event("near", 2), event("far", 2), event("same", 2)])
    validate_table(run(lake, chosen, "r1"), ACTIVITY)
    deliver(lake, "activity", [event("far", 20)], batch="b2")
    validate_table(run(lake, chosen, "r2"), ACTIVITY)
    assert reasons(lake, "activity") == {}  # between 15 and 25 there was none
    deliver(lake, "activity", [event("near", 7), event("same", 2, 7, quantity=2)], batch="b3")
    validate_table(run(lake, chosen, "r3"), ACTIVITY)
    assert reasons(lake, "activity") == {"event_date_changed": 1}
    assert [row[0] for row in rows_of(lake, ACTIVITY, "event_id")] == ["far", "far", "near", "same", "same"]
    everywhere = settings(lake, {"activity": near_by})
    deliver(lake, "activity", [event("near", 21), event("other", 21)], batch="b4")
    validate_table(run(lake, everywhere, "r4"), ACTIVITY)
    assert reasons(lake, "activity") == {"event_date_changed": 2}


def test_a_correction_looks_for_its_row_in_files_of_its_date_alone(lake: Lake) -> None:
    chosen = settings(lake, {"bars": source("bars", BAR_COLUMNS)})
    deliver(lake, "bars", [bar(2, 100), bar(3, 100), bar(31, 100)])
    validate_table(run(lake, chosen, "r1"), BARS)
    deliver(lake, "bars", [bar(3, 101)], batch="b2")
    deliver(lake, "bars", [bar(2, 100.0, known=2)], batch="b3")
    validate_table(run(lake, chosen, "r2"), BARS)
    (last,) = DeltaTable.forPath(lake.spark, lake.location(BARS)).history(1).collect()
    assert last["operation"] == "MERGE"
    assert "session_date" in last["operationParameters"]["predicate"]


@pytest.mark.parametrize(
    ("dates", "most", "ranges"),
    [
        ([], 30, ()),
        ([date.min, date.max], 30, ((date.min, date(1, 1, 2)), (date(9999, 12, 30), date.max))),
        ([date(2024, 3, 5), date(2024, 3, 2)], 30, ((date(2024, 3, 1), date(2024, 3, 6)),)),
        ([date(2024, 3, 2), date(2024, 3, 9)], 30, ((date(2024, 3, 1), date(2024, 3, 3)), (date(2024, 3, 8), date(2024, 3, 10)))),
        ([date(2024, 3, 2), date(2024, 3, 9)], 1, ((date(2024, 3, 1), date(2024, 3, 10)),)),
    ],
)
def test_dates_become_ranges(dates: list[date], most: int, ranges: tuple[tuple[date, date], ...]) -> None:
    assert ranges_around(dates, 1, most) == ranges


def _silver_files(frame: DataFrame) -> list[str]:
    return [file for file in frame.inputFiles() if "/silver/activity/" in file]


def test_a_bar_becomes_a_bad_print_when_its_neighbour_comes_and_fine_when_that_is_corrected(lake: Lake) -> None:
    chosen = settings(lake, {"bars": source("bars", BAR_COLUMNS)})
    deliver(lake, "bars", [bar(2, 100), bar(3, 200), bar(3, 200, "B"), bar(16, 100, "B")])
    validate_table(run(lake, chosen, "r1"), BARS)
    assert len(rows_of(lake, BARS)) == 4
    deliver(lake, "bars", [bar(4, 101), bar(2, 100, "B")], batch="b2")
    validate_table(run(lake, chosen, "r2"), BARS)
    assert sorted((name, str(day)) for name, day in rows_of(lake, BARS, "item_id", "session_date")) == [
        ("A", "2024-01-02"),
        ("A", "2024-01-04"),
        ("B", "2024-01-02"),
        ("B", "2024-01-03"),  # its next bar is too far away to say anything
        ("B", "2024-01-16"),
    ]
    assert reasons(lake, "bars") == {"bad_print": 1}
    deliver(lake, "bars", [bar(4, 199, known=5)], batch="b3")
    validate_table(run(lake, chosen, "r3"), BARS)
    assert reasons(lake, "bars") == {}
    assert len(rows_of(lake, BARS)) == 7


def test_a_large_write_is_split_by_ranges_of_dates(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silver_module, "ROWS_PER_FILE", 20)
    deliver(lake, "activity", [event(f"e{number}", 1 + number % 25) for number in range(100)])
    validate_table(run(lake, activity(lake), "r1"), ACTIVITY)
    by_file = lake.read(ACTIVITY).groupBy(F.input_file_name()).agg(F.min("event_date"), F.max("event_date"))
    ranges = sorted((first, last) for _, first, last in by_file.collect())
    assert len(ranges) == 5
    assert all(last < first for (_, last), (first, _) in pairwise(ranges))


WRITES = ("quarantine", "announce", "write_silver", "release", "write_profiles", "mark_validated")


def test_runs_that_die_after_each_of_the_writes_are_made_good_by_the_last(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = activity(lake)
    first = [event("e1", 1), event("e2", 2, 4), event("bad", 1, user_id=None), event("e3", 1, quantity=1)]
    second = [event("e2", 1, 3), event("e3", 1, quantity=2), event("e3", 1, quantity=3), event("worse", 1, event_ts="?")]
    deliver(lake, "activity", first)
    validate_table(run(lake, chosen, "r1"), ACTIVITY)
    deliver(lake, "activity", second, batch="b2")
    for last in WRITES:
        original: Callable[..., None] = getattr(table_module, last)

        def die_afterwards(*args: Any, write: Callable[..., None] = original, **options: Any) -> None:
            write(*args, **options)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(table_module, last, die_afterwards)
            with pytest.raises(KeyboardInterrupt):
                validate_table(run(lake, chosen, f"dies after {last}"), ACTIVITY)
    assert validate_table(run(lake, chosen, "r3"), ACTIVITY) is not None  # only to judge the quarantined rows again

    assert rows_of(lake, ACTIVITY, "event_id", "event_date") == [
        ("e1", date(2024, 3, 1)),
        ("e2", date(2024, 3, 1)),
        ("e3", date(2024, 3, 1)),
    ]
    assert reasons(lake, "activity") == {"null:user_id": 1, "event_date_changed": 1, "conflicting_key": 2, "not_castable:event_ts": 1}
    assert [batch for (batch,) in rows_of(lake, VALIDATED, "batch_id")] == ["b1", "b2"]
    assert {day for (day,) in rows_of(lake, CHANGES, "changed_from")} >= {date(2024, 3, 1)}


def test_rejected_rows_are_looked_for_in_quarantine_only_where_they_can_be_there(lake: Lake) -> None:
    chosen = activity(lake)
    for number in (1, 2):
        deliver(lake, "activity", [event(f"fine{number}", number), event("bad", number, user_id=None)], batch=f"b{number}")
        validate_table(run(lake, chosen, f"r{number}"), ACTIVITY)
    deliver(lake, "activity", [event("bad", 3, user_id=None), event("other", 3)], batch="b3", ingested_at=INGESTED + timedelta(days=1))
    begun = batch_of(run(lake, chosen, "r3"), ACTIVITY)
    assert (begun.since, begun.is_begun, begun.again is None) == (datetime(2024, 6, 2), False, True)
    operations = [row["operation"] for row in DeltaTable.forPath(lake.spark, lake.location(QUARANTINE)).history().collect()]
    assert operations == ["WRITE", "WRITE"]
    assert reasons(lake, "activity") == {"null:user_id": 2}


def test_what_a_mended_mapping_makes_fine_leaves_quarantine(lake: Lake) -> None:
    broken_mapping = {name: name for name in EVENT_COLUMNS} | {"event_ts": "to_timestamp(event_ts, 'yyyy/MM/dd')"}
    wrong = settings(lake, {"activity": source("activity", broken_mapping)})
    deliver(lake, "activity", [event("e1", 1), event("e2", 1, user_id=None), event("e3", 1, event_type="")])
    deliver(lake, "activity", [event("e4", 1, event_ts="2024/03/01")], uri="other")
    validate_table(run(lake, wrong, "r1"), ACTIVITY)
    assert [name for (name,) in rows_of(lake, ACTIVITY, "event_id")] == ["e4"]
    chosen = activity(lake)
    assert replay(run(lake, chosen, "r2"), "activity", "no such reason") is None
    found = replay(run(lake, chosen, "r3"), "activity", "not_castable:event_ts")
    assert found is not None
    assert found.changes["insert"] == 1
    assert found.rows("in") == 0
    assert [name for (name,) in rows_of(lake, ACTIVITY, "event_id")] == ["e1", "e4"]
    assert reasons(lake, "activity") == {"null:user_id": 1, "null:event_type": 1}
    found = replay(run(lake, chosen, "r4"), "activity")
    assert found is not None
    assert len(quarantined(lake, "activity")) == 2
    with pytest.raises(ConfigurationError, match="no source feeds 'bars'"):
        replay(run(lake, chosen), "bars")


def test_the_stage_accounts_for_every_row(lake: Lake) -> None:
    sources = {
        "items": source("items", ("item_id",), static=True),
        "activity": source("activity", EVENT_COLUMNS, where="event_type <> 'noise'"),
    }
    chosen = settings(lake, sources)
    deliver(lake, "items", [{"item_id": "A"}])
    rows = [event("e1", 1), event("e1", 1), event("e2", 1, event_type="noise"), event("e3", 1, item_id="B"), "{"]
    deliver(lake, "activity", rows)
    outcome = STAGE.execute(run(lake, chosen, "r1"))
    assert (outcome.rows_in, outcome.rows_out, outcome.rows_rejected) == (5, 2, 2)
    assert outcome.note == (
        "items 1 valid, 0 repeated, 0 rejected; activity 1 valid, 1 repeated, 2 rejected (malformed_record 1, unknown_item 1)"
    )
    profiles = rows_of(lake, PROFILES, "table_name", "measure", "value")
    measured = {measure: value for name, measure, value in profiles if name == "activity"}
    assert (measured["rows_excluded"], measured["rejected_share"], measured["age_days"]) == (1.0, 0.5, 91.0)
    assert STAGE.execute(run(lake, chosen, "r2")).note == "nothing new"  # e3 is judged again, and still unknown
    assert len(rows_of(lake, ITEMS)) == 1
    assert [table.full_name for table in STAGE.reads(chosen)] == ["bronze/items", "bronze/activity", DELIVERIES.full_name]
    assert [table.full_name for table in STAGE.writes(chosen)] == ["silver/items", "silver/activity", QUARANTINE.full_name]

    renamed = settings(lake, {"activity": source("other_name", EVENT_COLUMNS)})
    deliver(lake, "activity", [event("e9", 1)], batch="b2")
    with pytest.raises(RowsUnaccounted, match="1 rows were delivered but 0 accounted for"):
        validate_table(run(lake, renamed, "r3"), ACTIVITY)


def test_nothing_new_is_success(lake: Lake) -> None:
    outcome = STAGE.execute(run(lake, activity(lake)))
    assert (outcome.rows_in, outcome.note) == (0, "nothing new")
