"""Labels against a slow oracle that walks over events in plain Python."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from propensity_spark.config import LabelSettings
from propensity_spark.label import purchases
from propensity_spark.schemas import ACTIVITY
from propensity_spark.tables import local_frame

pytestmark = pytest.mark.usefixtures("compiled")

START = date(2024, 1, 1)
DATES = [START + timedelta(days=n) for n in (0, 3, 10)]
HORIZON = 4
AS_OF = START + timedelta(days=16)

VERSIONS = st.fixed_dictionaries(
    {
        "event_id": st.integers(0, 12),
        "item_id": st.sampled_from(["a", "b", None]),
        "event_type": st.sampled_from(["buy", "buy", "cancel", "view"]),
        "day": st.integers(0, 16),
        "order_id": st.sampled_from(["1", "2"]),
        "quantity": st.sampled_from([1.0, 2.0, 3.0, None]),
        "known": st.integers(0, 20),
        "is_deleted": st.sampled_from([False, False, False, True]),
    }
)
CASES = st.lists(st.lists(VERSIONS, max_size=14), min_size=30, max_size=30)


def rows_of(case: list[dict[str, Any]], user: str) -> list[dict[str, Any]]:
    """Versions of events as silver promises them: one per (event_id, known_at), event_date the same in all of them."""
    day_of: dict[int, int] = {}
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for version in case:
        day = day_of.setdefault(version["event_id"], version["day"])
        known = max(day, version["known"])
        sign = -1.0 if version["event_type"] == "cancel" else 1.0
        rows[version["event_id"], known] = version | {
            "event_id": f"{user}-{version['event_id']}",
            "user_id": user,
            "event_date": START + timedelta(days=day),
            "event_ts": datetime(2024, 1, 1) + timedelta(days=day),
            "known_at": datetime(2024, 1, 1) + timedelta(days=known),
            "visible_date": START + timedelta(days=known),
            "quantity": None if version["quantity"] is None else sign * version["quantity"],
            "payload_hash": "h",
        }
    return list(rows.values())


def oracle(rows: list[dict[str, Any]], grain: str) -> set[tuple[Any, ...]]:
    """Keys with a purchase, found one date and one order at a time."""
    final: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["known_at"]):
        if row["visible_date"] <= AS_OF:
            final[row["event_id"]] = row
    positives = set()
    for day in DATES:
        orders: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for row in final.values():
            if not row["is_deleted"] and day < row["event_date"] <= day + timedelta(days=HORIZON) and row["event_type"] != "view":
                item = (row["item_id"],) if grain == "user_item" else ()
                if item != (None,):
                    orders[(row["user_id"], *item, day, row["order_id"])].append(row)
        for order, events in orders.items():
            buys = [event for event in events if event["event_type"] == "buy"]
            cancels = [event for event in events if event["event_type"] == "cancel"]
            left = sum(1.0 if event["quantity"] is None else event["quantity"] for event in buys)
            for cancel in cancels:
                left = left + cancel["quantity"] if cancel["quantity"] is not None else float("-inf")
            if buys and not (cancels and left <= 0):
                positives.add(order[:-1])
    return positives


@given(cases=CASES)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_purchases_equal_the_oracle(spark: SparkSession, cases: list[list[dict[str, Any]]]) -> None:
    rows = [row for number, case in enumerate(cases) for row in rows_of(case, f"u{number}")]
    frame = local_frame(spark, [tuple(row.get(name) for name in ACTIVITY.column_names) for row in rows], ACTIVITY.schema)
    for grain in ("user_item", "user"):
        found = purchases(frame, DATES, LabelSettings(horizon_days=HORIZON), grain=grain, as_of=AS_OF).collect()
        assert len(found) == len(set(found))
        assert {tuple(row) for row in found} == oracle(rows, grain)
