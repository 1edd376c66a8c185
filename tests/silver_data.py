"""Small silver tables for the feature tests: drawn by Hypothesis, or written out, and turned into frames."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from propensity_spark.schemas import Table
from propensity_spark.tables import local_frame

Row = dict[str, Any]
DATES = [date(2023, 6, 30), date(2023, 7, 7), date(2023, 7, 14), date(2023, 8, 13), date(2024, 2, 29), date(2024, 7, 12)]
EDGES = [0, 1, 2, 6, 7, 8, 29, 30, 31, 89, 90, 91, 364, 365, 366, 400]


def frame(spark: SparkSession, rows: list[Row], table: Table) -> DataFrame:
    """The rows as the table; what a row leaves out is null."""
    return local_frame(spark, [tuple(row.get(name) for name in table.column_names) for row in rows], table.schema)


def version(row: Row, happened: date, known: date, moment: int = 0, *, deleted: bool = False) -> Row:
    """A version of a row that is known on a day, `moment` minutes past noon."""
    known_at = datetime.combine(known, time(12), UTC) + timedelta(minutes=moment)
    return {**row, "known_at": known_at, "is_deleted": deleted, "visible_date": max(happened, known), "payload_hash": "hash"}


def event(name: str, user: str, item: str | None, kind: str, day: date, amount: str | None = None, **more: Any) -> Row:
    """An event known on its own day; `known` (a date), `moment` and `deleted` make it another version."""
    known, moment, deleted = more.pop("known", day), more.pop("moment", 0), more.pop("deleted", False)
    row = {
        "event_id": name,
        "user_id": user,
        "item_id": item,
        "event_type": kind,
        "event_ts": datetime.combine(day, time(10), UTC),
        "event_date": day,
        "order_id": name,
        "amount": None if amount is None else Decimal(amount).quantize(Decimal("0.0001")),
        **more,
    }
    return version(row, day, known, moment, deleted=deleted)


def told(rows: list[Row]) -> list[Row]:
    """Versions of events with `is_correction`, as validate writes it: whether another version was known before."""
    first = {row["event_id"]: min(other["known_at"] for other in rows if other["event_id"] == row["event_id"]) for row in rows}
    return [{**row, "is_correction": row["known_at"] > first[row["event_id"]]} for row in rows]


@st.composite
def activity(draw: st.DrawFn, events: int = 90) -> list[Row]:
    """Events on and around the edges of every window, with late arrivals, corrections, deletions and split orders."""
    rows: list[Row] = []
    sessions = draw(st.booleans())
    for number in range(draw(st.integers(1, events))):
        day = draw(st.sampled_from(DATES)) - timedelta(days=draw(st.sampled_from(EDGES)) - draw(st.sampled_from([0, 0, 0, 1])))
        user = f"u{draw(st.integers(0, 7))}"
        order = draw(st.sampled_from([None, None, "o1", "o2"]))
        known = day
        for repeat in range(draw(st.sampled_from([1, 1, 1, 1, 2, 2, 3]))):
            kind = draw(st.sampled_from(["buy", "buy", "view", "view", "cancel", "search"]))
            cents = draw(st.integers(-300, 20_000)) if kind == "buy" else -draw(st.integers(0, 9_000))
            known += timedelta(days=draw(st.sampled_from([0, 0, 0, 1, 5, 7, 40])) if repeat or draw(st.booleans()) else 0)
            rows.append(
                event(
                    f"e{number}",
                    f"u{draw(st.integers(0, 7))}" if repeat and draw(st.integers(0, 4)) == 0 else user,
                    draw(st.sampled_from(["i0", "i1", "i2", "i3", "i4", None])),
                    kind,
                    day,
                    f"{cents / 100:.2f}" if kind in ("buy", "cancel") else None,
                    order_id=f"{user}-{order}" if order else f"e{number}",
                    session_id=f"s{draw(st.integers(0, 3))}" if sessions and draw(st.booleans()) else None,
                    known=known,
                    moment=repeat,
                    deleted=repeat > 0 and draw(st.integers(0, 2)) == 0,
                )
            )
    return rows


def _attribute(entity: str, name: str, values: list[str | None], owners: list[str]) -> st.SearchStrategy[list[Row]]:
    @st.composite
    def rows(draw: st.DrawFn) -> list[Row]:
        found: list[Row] = []
        for owner in owners:
            for start in draw(st.lists(st.sampled_from([date(2020, 1, 1), date(2023, 7, 1), *DATES[1:4]]), max_size=3, unique=True)):
                ends = [None, None, start + timedelta(days=1), DATES[2], DATES[4]]
                known = draw(st.sampled_from([date(2019, 1, 1), start, DATES[1], DATES[2]]))
                for repeat in range(draw(st.sampled_from([1, 1, 1, 2]))):
                    known += timedelta(days=7 * repeat)
                    row = {entity: owner, "valid_from": start, "valid_to": draw(st.sampled_from(ends)), name: draw(st.sampled_from(values))}
                    found.append(version(row, start, known, repeat, deleted=repeat > 0 and draw(st.booleans())))
        return found

    return rows()


def items() -> st.SearchStrategy[list[Row]]:
    return _attribute("item_id", "sector", ["tech", "tech", "food", None], ["i0", "i1", "i2", "i3"])


def users() -> st.SearchStrategy[list[Row]]:
    return _attribute("user_id", "risk_tolerance", ["low", "medium", "high", "odd", None], [f"u{n}" for n in range(6)])


@st.composite
def market(draw: st.DrawFn) -> tuple[list[Row], list[Row]]:
    """Bars of four items over 290 sessions with halts, late, corrected and deleted bars, and splits known early and late."""
    random = Random(draw(st.integers(0, 2**32)))  # one draw, not thousands: Hypothesis limits the size of an example
    days = [day for n in range(420) if (day := date(2023, 1, 2) + timedelta(days=n)).weekday() < 5][:290]
    bars: list[Row] = []
    for number, item in enumerate(["i0", "i1", "i2", "i3"]):
        price = 100.0
        listed = draw(st.sampled_from([0, 0, 37, 258]))
        halted = draw(st.sampled_from([(0, 0), (200, 210), (268, 274)]))
        for index, day in enumerate(days[listed:], start=listed):
            price *= 1.0 + random.uniform(-0.03, 0.03)
            if halted[0] <= index < halted[1]:
                continue
            row = _bar(item, day, price, float(random.randrange(0 if number == 2 else 1, 5) * 1000))
            late = 0 if random.random() > 0.01 else random.choice([1, 3, 30])
            bars.append(version(row, day, day + timedelta(days=late)))
            if random.random() < 0.01:
                later = day + timedelta(days=late + random.choice([0, 1, 9, 60]))
                again = _bar(item, day, price * 1.1, 500.0)
                bars.append(version(again, day, later, 1, deleted=random.random() < 0.4))
    actions = []
    for item, ratio in draw(st.lists(st.tuples(st.sampled_from(["i0", "i1", "i3"]), st.sampled_from([2.0, 7.0, 0.1])), max_size=4)):
        day = draw(st.sampled_from(days[150:289]))
        known = day + timedelta(days=draw(st.sampled_from([-9, 0, 1, 12])))
        if all((action["item_id"], action["ex_date"]) != (item, day) for action in actions):
            row = {"item_id": item, "ex_date": day, "action": "split", "ratio": ratio}
            actions.append(version(row, day, known))
            if draw(st.integers(0, 2)) == 0:
                actions.append(version({**row, "ratio": 3.0}, day, known + timedelta(days=10), 1, deleted=draw(st.booleans())))
    return bars, actions


def _bar(item: str, day: date, close: float, volume: float) -> Row:
    prices = {"open": close, "high": close * 1.02, "low": close * 0.97, "close": close}
    return {"item_id": item, "bar_size": "1d", "ts": datetime.combine(day, time(), UTC), "session_date": day, **prices, "volume": volume}
