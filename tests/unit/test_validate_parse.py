"""Bronze text → typed candidates: formats, mappings, zones, known_at and visible_date."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import Row, SparkSession
from validate_support import INGESTED, source

from propensity_spark.config import FileSource, MassiveSource, Source
from propensity_spark.errors import ConfigurationError
from propensity_spark.schemas import ACTIVITY, BARS, BRONZE, CORPORATE_ACTIONS, ITEMS, USERS, Table
from propensity_spark.tables import local_frame
from propensity_spark.validate.parse import Clock, parse
from propensity_spark.validate.payload import header_names, identifiers

NEW_YORK = Clock("America/New_York", "America/New_York", "XNYS", date(2024, 12, 31))
TOKYO_EVENTS = Clock("Asia/Tokyo", "Asia/Tokyo", None, date(2024, 12, 31))


def parsed(
    spark: SparkSession,
    table: Table,
    origin: Source,
    payloads: Iterable[str | Mapping[str, Any]],
    clock: Clock = NEW_YORK,
    context: Mapping[str, str] | None = None,
) -> list[Row]:
    texts = [payload if isinstance(payload, str) else json.dumps(payload) for payload in payloads]
    rows = [(origin.name, "file", "d", line, text, str(line), dict(context or {}), INGESTED, "b") for line, text in enumerate(texts)]
    bronze = local_frame(spark, rows, BRONZE[table.name].schema).drop("batch_id")
    return parse(bronze, table, (origin,), clock).orderBy("line").collect()


def utc(*parts: int) -> datetime:
    return datetime(*parts)  # type: ignore[arg-type]  # Spark gives naive UTC back


def test_csv_is_read_by_its_header_and_bad_records_are_marked(spark: SparkSession) -> None:
    origin = FileSource(
        kind="files",
        name="lines",
        path="x",
        delimiter=";",
        columns={
            "user_id": "nullif(User, '')",
            "event_type": "'buy'",
            "event_ts": "to_timestamp(`When it was`, 'yyyy-MM-dd HH:mm')",
            "quantity": "cast(Q as double)",
            "price": "P",
            "order_id": "No",
        },
        where="No <> 'skip'",
        time_zone="Europe/London",
    )
    rows = parsed(
        spark,
        ACTIVITY,
        origin,
        [
            '1;"a;""b""";2024-07-01 09:30;2;1.25',
            "2;;2024-01-01 09:30;two;1.25",
            "3;u;not a time;1;x",
            "4;u;2024-01-01 09:30;1",
            "skip;u;2024-01-01 09:30;1;1",
            "5;u;2024-01-01 09:30;;",
        ],
        context={"header": "No;User;When it was;Q;P"},
    )
    assert rows[0]["user_id"] == 'a;"b"'
    assert rows[0]["event_ts"] == utc(2024, 7, 1, 8, 30)  # London is an hour ahead in summer
    assert (rows[0]["price"], rows[0]["amount"], rows[0]["order_id"]) == (Decimal("1.2500"), Decimal("2.5000"), "1")
    assert rows[0]["known_at"] == rows[0]["event_ts"]
    assert [row["problems"] for row in rows] == [
        [],
        ["not_castable:quantity"],
        ["not_castable:event_ts", "not_castable:price"],
        ["malformed_record"],
        [],
        [],
    ]
    assert [row["excluded"] for row in rows] == [False, False, False, False, True, False]
    assert (rows[1]["user_id"], rows[5]["quantity"], rows[5]["price"]) == (None, None, None)


def test_a_batch_without_a_row_is_no_row_and_one_without_its_header_an_error(spark: SparkSession) -> None:
    columns = {"user_id": "who", "event_type": "'buy'", "event_ts": "to_timestamp(at)", "quantity": "cast(n as double)"}
    origin = FileSource(kind="files", name="lines", path="x", columns=columns)
    assert parsed(spark, ACTIVITY, origin, []) == []
    with pytest.raises(ConfigurationError, match="source lines: bronze has CSV rows without a header"):
        parsed(spark, ACTIVITY, origin, ["u1,2024-01-01,1"])


def test_equal_lines_stay_apart_within_a_file_and_are_the_same_in_another(spark: SparkSession) -> None:
    columns = ("user_id", "event_type", "event_ts")
    line = {"user_id": "u", "event_type": "view", "event_ts": "2024-01-01T00:00:00.000001Z"}
    other = {**line, "event_ts": "2024-01-01T00:00:00.000002Z"}
    kept = parsed(spark, ACTIVITY, source("s", columns), [line, line, other])
    collapsed = parsed(spark, ACTIVITY, source("s", columns, repeated_lines="collapse"), [line, line, other])
    assert len({row["event_id"] for row in kept}) == 3
    assert len({row["event_id"] for row in collapsed}) == 2
    assert kept[0]["event_id"] == collapsed[0]["event_id"] == kept[0]["order_id"]


def test_json_text_with_offsets_local_times_and_dates_alone(spark: SparkSession) -> None:
    origin = source("s", ("event_id", "event_ts", "known_at", "quantity", "is_deleted"), time_zone="Asia/Tokyo")
    rows = parsed(
        spark,
        ACTIVITY,
        origin,
        [
            {"event_id": 1, "event_ts": "2024-01-01T00:30:00+01:00", "known_at": "2024-01-02", "quantity": 1.5, "is_deleted": True},
            {"event_id": "2", "event_ts": "2024-01-01 20:00:00", "known_at": "2024-01-01T15:00:00Z", "quantity": " "},
            '{"event_id": ',
            "[1]",
        ],
        TOKYO_EVENTS,
    )
    assert (rows[0]["event_id"], rows[0]["quantity"], rows[0]["is_deleted"]) == ("1", 1.5, True)
    assert (rows[0]["event_ts"], rows[0]["event_date"]) == (utc(2023, 12, 31, 23, 30), date(2024, 1, 1))
    assert (rows[0]["known_at"], rows[0]["visible_date"]) == (utc(2024, 1, 1, 15), date(2024, 1, 2))
    assert (rows[1]["event_ts"], rows[1]["quantity"], rows[1]["problems"]) == (utc(2024, 1, 1, 11), None, [])
    assert rows[1]["visible_date"] == date(2024, 1, 2)  # known at midnight in Tokyo: not before the end of the 1st
    assert [row["problems"] for row in rows[2:]] == [["malformed_record"]] * 2
    assert rows[2]["is_deleted"] is False


def test_parquet_rows_keep_their_own_types(spark: SparkSession) -> None:
    origin = source(
        "s",
        {"event_id": "id", "event_ts": "at", "known_at": "local", "price": "price", "quantity": "if(price > 10, 1.0, 2.0)"},
        format="parquet",
        time_zone="America/New_York",
    )
    schema = {"schema": "`id` bigint, `at` timestamp, `local` timestamp_ntz, `price` decimal(18,4)"}
    payload = '{"id":7,"at":"2024-03-01T10:00:00.000001Z","local":"2024-03-01T06:00:00.000000","price":12345678901234.5678}'
    (row,) = parsed(spark, ACTIVITY, origin, [payload], context=schema)
    assert (row["event_id"], row["event_ts"], row["known_at"]) == ("7", utc(2024, 3, 1, 10, 0, 0, 1), utc(2024, 3, 1, 11))
    assert (row["price"], row["quantity"], row["problems"]) == (Decimal("12345678901234.5678"), 1.0, [])


def test_bars_are_dated_by_the_exchange(spark: SparkSession) -> None:
    columns = ("item_id", "bar_size", "ts", "close")
    bars = [
        {"item_id": "A", "bar_size": "1d", "ts": "2024-07-03", "close": 1},  # a half day
        {"item_id": "A", "bar_size": "1d", "ts": "2024-07-04", "close": 1},  # a holiday
        {"item_id": "A", "bar_size": "1m", "ts": "2024-01-02T14:30:00Z", "close": 1},
        {"item_id": "A", "bar_size": "1d", "ts": "1995-01-02", "close": 1},  # before the calendar begins
    ]
    rows = parsed(spark, BARS, source("s", columns, known_at={"kind": "event", "delay_minutes": 20}), bars)
    assert [row["ts"] for row in rows[:3]] == [utc(2024, 7, 3, 4), utc(2024, 7, 4, 4), utc(2024, 1, 2, 14, 30)]
    assert [row["known_at"] for row in rows[:3]] == [utc(2024, 7, 3, 17, 20), utc(2024, 7, 5, 4, 19, 59, 999999), utc(2024, 1, 2, 14, 51)]
    assert [row["is_session"] for row in rows] == [True, False, True, True]
    assert [str(row["session_date"]) for row in rows] == ["2024-07-03", "2024-07-04", "2024-01-02", "1995-01-02"]
    (always,) = parsed(spark, BARS, source("s", columns), bars[1:2], TOKYO_EVENTS)
    assert (always["is_session"], always["visible_date"], always["ts"]) == (True, date(2024, 7, 4), utc(2024, 7, 3, 15))


def test_the_feed_needs_no_mapping(spark: SparkSession) -> None:
    def feed(endpoint: str, **options: Any) -> MassiveSource:
        return MassiveSource.model_validate(
            {"kind": "massive", "name": "feed", "base_url": "local", "endpoint": endpoint, "start": "2020-01-01", **options}
        )

    page = '{"v":26000.5,"vw":1.5,"o":1,"c":2,"h":2.5,"l":1,"t":1704171600000,"n":12}'
    (bar,) = parsed(spark, BARS, feed("custom_bars"), [page], context={"ticker": "AAPL", "bar_size": "1d"})
    assert (bar["item_id"], bar["bar_size"], bar["ts"], bar["trade_count"]) == ("AAPL", "1d", utc(2024, 1, 2, 5), 12)
    assert (bar["open"], bar["high"], bar["low"], bar["close"], bar["volume"], bar["vwap"]) == (1.0, 2.5, 1.0, 2.0, 26000.5, 1.5)
    assert bar["known_at"] == utc(2024, 1, 2, 21, 15)
    grouped = '{"T":"MSFT","v":1,"o":1,"c":1,"h":1,"l":1,"t":1704229200000}'
    (bar,) = parsed(spark, BARS, feed("grouped_daily"), [grouped])
    assert (bar["item_id"], bar["bar_size"], bar["session_date"], bar["vwap"]) == ("MSFT", "1d", date(2024, 1, 2), None)
    (minute,) = parsed(spark, BARS, feed("custom_bars", timespan="minute"), [page], context={"ticker": "A"})
    assert minute["bar_size"] == "1m"
    splits = ['{"ticker":"GOOGL","execution_date":"2022-07-18","split_from":1,"split_to":20}', '{"ticker":"X","split_from":0,"split_to":1}']
    rows = parsed(spark, CORPORATE_ACTIONS, feed("splits"), splits)
    assert (rows[0]["item_id"], rows[0]["ex_date"], rows[0]["action"], rows[0]["ratio"]) == ("GOOGL", date(2022, 7, 18), "split", 20.0)
    assert (rows[0]["known_at"], rows[0]["visible_date"]) == (utc(2022, 7, 18, 4, 15), date(2022, 7, 18))
    assert (rows[1]["ratio"], rows[1]["ex_date"]) == (None, None)
    (item,) = parsed(spark, ITEMS, feed("tickers", columns={"sector": "sic_description"}), ['{"ticker":"A","name":"Agilent","type":"CS"}'])
    assert (item["item_id"], item["name"], item["category"], item["sector"]) == ("A", "Agilent", "CS", None)
    assert item["known_at"] == INGESTED.replace(tzinfo=None)


def test_items_and_users_have_validity_and_free_attributes(spark: SparkSession) -> None:
    rows = parsed(spark, ITEMS, source("s", {"item_id": "id", "beta": "beta"}, static=True), [{"id": "A", "beta": 1.2}])
    assert (rows[0]["valid_from"], rows[0]["visible_date"], rows[0]["attributes"]) == (date(1900, 1, 1), date(1900, 1, 1), {"beta": "1.2"})
    assert rows[0]["known_at"] == utc(1900, 1, 1)
    (user,) = parsed(spark, USERS, source("s", ("user_id", "known_at")), [{"user_id": "u", "known_at": "2024-01-01T02:00:00Z"}])
    assert (user["valid_from"], user["visible_date"]) == (date(2023, 12, 31), date(2023, 12, 31))
    (dated,) = parsed(spark, USERS, source("s", ("user_id", "valid_from")), [{"user_id": "u", "valid_from": "2024-02-01"}])
    assert (dated["known_at"], dated["visible_date"]) == (utc(2024, 2, 1, 5), date(2024, 2, 1))
    (live,) = parsed(spark, USERS, source("s", ("user_id",), known_at={"kind": "ingestion"}), [{"user_id": "u"}])
    assert live["known_at"] == INGESTED.replace(tzinfo=None)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (source("s", {"event_id": "no_such_function(x)"}), "source s: an expression"),
        (source("s", {"colour": "c"}), "columns \\['colour'\\] are not in silver/activity"),
        (source("s", ("event_id",), known_at={"kind": "column"}), "maps no known_at"),
        (source("s", ("event_id",), format="csv"), "without a header"),
    ],
)
def test_a_mapping_that_cannot_work_is_named(spark: SparkSession, origin: FileSource, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parsed(spark, ACTIVITY, origin, [{"event_id": "1"}])
    assert spark.conf.get("spark.sql.ansi.enabled") == "true"


def test_names_in_expressions_and_headers() -> None:
    assert identifiers(("cast(a as double) + `b c`", "to_date(A, 'yyyy-MM')", "_row['x']")) == ["a", "as", "double", "b c"]
    assert header_names('a,"b,c",', ",") == ["a", "b,c", "_c2"]
