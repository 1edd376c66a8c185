"""Labels, their windows, the sampling of negatives and the one-class check."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest
from pyspark.sql import DataFrame, SparkSession

from propensity_spark.config import LabelSettings, SamplingSettings, SplitSettings
from propensity_spark.errors import NotEnoughHistory, OneClassOnly
from propensity_spark.label import labels, looked_at, purchases, require_both_classes, sampled
from propensity_spark.schemas import ACTIVITY
from propensity_spark.tables import local_frame
from propensity_spark.train.split import slice_of

D = date(2024, 3, 1)
WEEK = LabelSettings(horizon_days=7)
AS_OF = date(2024, 4, 30)


def activity(spark: SparkSession, *events: dict[str, object]) -> DataFrame:
    """Rows of silver/activity from what a case says; the rest is filled in."""
    rows = []
    for number, event in enumerate(events):
        day = event.get("event_date", D + timedelta(days=1))
        assert isinstance(day, date)
        row = {
            "event_id": f"e{number}",
            "user_id": "u",
            "item_id": "i",
            "event_type": "buy",
            "event_ts": datetime(day.year, day.month, day.day, 12),
            "event_date": day,
            "order_id": "o",
            "quantity": 1.0,
            "known_at": datetime(day.year, day.month, day.day, 12),
            "is_deleted": False,
            "visible_date": day,
            "payload_hash": "h",
        } | event
        rows.append(tuple(row.get(name) for name in ACTIVITY.column_names))
    return local_frame(spark, rows, ACTIVITY.schema)


def bought(frame: DataFrame, label: LabelSettings = WEEK, grain: str = "user_item", as_of: date = AS_OF) -> list[tuple[str, ...]]:
    return sorted(tuple(row)[:-1] for row in purchases(frame, [D], label, grain=grain, as_of=as_of).collect())


def test_window_is_open_at_d_and_closed_at_the_horizon(spark: SparkSession) -> None:
    days = {"on": 0, "first": 1, "last": 7, "after": 8}
    frame = activity(spark, *({"item_id": item, "order_id": item, "event_date": D + timedelta(days=n)} for item, n in days.items()))
    assert bought(frame) == [("u", "first"), ("u", "last")]


def test_cancelled_wholly_partly_and_too_late(spark: SparkSession) -> None:
    def order(name: str, quantity: float, cancelled: float | None, day: int, kind: str = "cancel") -> list[dict[str, object]]:
        same = {"item_id": name, "order_id": name}
        return [same | {"quantity": quantity}, same | {"event_type": kind, "quantity": cancelled, "event_date": D + timedelta(days=day)}]

    frame = activity(
        spark,
        *order("wholly", 2.0, -2.0, 7),
        *order("partly", 2.0, -1.0, 7),
        *order("late", 2.0, -2.0, 8),
        *order("no_quantity", 2.0, None, 2),
        *order("two_purchases", 1.0, 1.0, 3, kind="buy"),
    )
    assert bought(frame) == [("u", "late"), ("u", "partly"), ("u", "two_purchases")]


def test_cancel_counts_for_its_own_order_and_item(spark: SparkSession) -> None:
    frame = activity(
        spark,
        {"item_id": "a", "order_id": "1"},
        {"item_id": "a", "order_id": "2", "event_type": "cancel", "quantity": -1.0},
        {"item_id": "b", "order_id": "3"},
        {"item_id": "c", "order_id": "3"},
        {"item_id": "c", "order_id": "3", "event_type": "cancel", "quantity": -1.0},
    )
    assert bought(frame) == [("u", "a"), ("u", "b")]
    assert bought(frame, grain="user") == [("u",)]


def test_a_purchase_without_quantity_counts(spark: SparkSession) -> None:
    frame = activity(spark, {"event_type": "subscribe", "quantity": None}, {"event_type": "view", "item_id": "other", "quantity": None})
    assert bought(frame, LabelSettings(event_types=("subscribe",), horizon_days=7)) == [("u", "i")]
    assert bought(frame) == []


def test_events_without_an_item_count_at_user_grain_only(spark: SparkSession) -> None:
    frame = activity(spark, {"item_id": None})
    assert bought(frame) == []
    assert bought(frame, grain="user") == [("u",)]


def test_the_last_visible_version_counts(spark: SparkSession) -> None:
    later = datetime(2024, 3, 20)
    frame = activity(
        spark,
        {"event_id": "gone", "item_id": "gone", "order_id": "1"},
        {"event_id": "gone", "item_id": "gone", "order_id": "1", "is_deleted": True, "known_at": later, "visible_date": date(2024, 3, 20)},
        {"event_id": "moved", "item_id": "old", "order_id": "2", "payload_hash": "a"},
        {"event_id": "moved", "item_id": "new", "order_id": "2", "payload_hash": "b"},
    )
    assert bought(frame) == [("u", "new")]
    assert bought(frame, as_of=date(2024, 3, 19)) == [("u", "gone"), ("u", "new")]


def test_labels_keep_every_key_once(spark: SparkSession) -> None:
    frame = activity(spark, {"item_id": "i"}, {"item_id": "outside"})
    keys = spark.createDataFrame(
        [("u", "i", D), ("v", "i", D), ("u", "i", D - timedelta(days=7))], "user_id string, item_id string, as_of_date date"
    )
    found = labels(keys, purchases(frame, [D], WEEK, grain="user_item", as_of=AS_OF), "user_item")
    assert sorted((row.user_id, row.item_id, row.label) for row in found.collect()) == [("u", "i", 0), ("u", "i", 1), ("v", "i", 0)]
    assert found.schema["label"].dataType.simpleString() == "int"


def test_an_open_window_is_refused(spark: SparkSession) -> None:
    with pytest.raises(NotEnoughHistory, match="window of 2024-03-01 closes on 2024-03-08, after the as-of date 2024-03-07"):
        purchases(activity(spark), [D], WEEK, grain="user", as_of=date(2024, 3, 7))


def test_negatives_are_thinned_in_train_and_validation_only(spark: SparkSession) -> None:
    slices = {name: [D + timedelta(weeks=n)] for n, name in enumerate(("train", "validation", "calibration", "test"))}
    days = [*(days[0] for days in slices.values()), D + timedelta(weeks=9)]
    rows = [(f"u{n}", day, int(n % 10 == 0)) for n in range(1000) for day in days]
    labelled = local_frame(spark, rows, "user_id string, as_of_date date, label int")
    by_date = slice_of(slices, SplitSettings(), 3)
    kept = sampled(labelled, by_date, SamplingSettings(negative_share=0.25, seed=3), "user")
    found = {
        (row.split, row.label, row.sample_weight): row["count"] for row in kept.groupBy("split", "label", "sample_weight").count().collect()
    }
    for name in ("train", "validation"):
        assert found.pop((name, 1, 1.0)) == 100
        assert 0.8 * 900 < 4.0 * found.pop((name, 0, 4.0)) < 1.2 * 900
    assert found == {(name, label, 1.0): n for name in ("calibration", "test") for label, n in ((0, 900), (1, 100))}
    again = sampled(labelled.repartition(7, "label"), by_date, SamplingSettings(negative_share=0.25, seed=3), "user")
    assert sorted(map(tuple, again.collect())) == sorted(map(tuple, kept.collect()))


def test_what_becomes_known_late_keeps_the_window_open(spark: SparkSession) -> None:
    late = LabelSettings(horizon_days=7, delay_days=3)
    with pytest.raises(NotEnoughHistory, match="window of 2024-03-01 closes on 2024-03-11, after the as-of date 2024-03-10"):
        purchases(activity(spark), [D], late, grain="user", as_of=date(2024, 3, 10))
    assert purchases(activity(spark), [D], late, grain="user", as_of=date(2024, 3, 11)).count() == 0


def test_users_divide_the_training_dates_and_test_lies_later(spark: SparkSession) -> None:
    later, purged = D + timedelta(weeks=30), D + timedelta(weeks=9)
    slices = {name: [D] for name in ("train", "validation", "calibration")} | {"test": [later]}
    rows = [(f"u{n}", day) for n in range(2000) for day in (D, later, purged)]
    frame = local_frame(spark, rows, "user_id string, as_of_date date")
    users = SplitSettings(by="users", calibration_users=0.3, validation_users=0.1)
    found = frame.withColumn("split", slice_of(slices, users, 5)).groupBy("split", "as_of_date").count().collect()
    counts = {(row["split"], row["as_of_date"]): row["count"] for row in found}
    assert (counts.pop((None, purged)), counts.pop(("test", later))) == (2000, 2000)
    shares = {name: n / 2000 for (name, day), n in counts.items() if day == D}
    assert shares == pytest.approx({"train": 0.6, "validation": 0.1, "calibration": 0.3}, abs=0.05)
    assert len(counts) == 3
    assert frame.where(
        looked_at(SamplingSettings(user_share=0.3)) & (slice_of(slices, users, 5) == "calibration")
    ).count() == pytest.approx(0.3 * 0.3 * 2000, rel=0.3), "who is looked at has nothing to do with the slice"


def test_one_class_only_names_slice_and_dates(spark: SparkSession) -> None:
    schema = "split string, as_of_date date, label int"
    both = [("train", D, 0), ("train", D, 1)]
    assert require_both_classes(local_frame(spark, both, schema)) == {"train": 2}
    with pytest.raises(OneClassOnly, match=r"test \(2024-03-01 to 2024-03-02\) holds 2 rows, all with label 0"):
        require_both_classes(local_frame(spark, [*both, ("test", D, 0), ("test", D + timedelta(days=1), 0)], schema))
    with pytest.raises(OneClassOnly, match="all with label 1"):
        require_both_classes(local_frame(spark, [("train", D, 1)], schema))
    with pytest.raises(OneClassOnly, match="empty"):
        require_both_classes(local_frame(spark, [], schema))
