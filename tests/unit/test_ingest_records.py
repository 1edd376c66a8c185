"""From the bytes of a delivery to its records, without Spark."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from propensity_spark.ingest.records import Form, column_names, examine, read_records

CSV, JSONL, PAGE, PARQUET = Form("csv"), Form("jsonl"), Form("page"), Form("parquet")


def records(body: bytes, form: Form, name: str = "x") -> tuple[str | None, list[str]]:
    header, found = read_records(io.BytesIO(body), form, name)
    return header, list(found)


def refusal(body: bytes, form: Form, name: str = "x") -> str | None:
    return examine(io.BytesIO(body), form, name).reason


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"a,b\n1,2\n3,4\n", ["1,2", "3,4"]),
        (b"a,b\r\n1, 2 \r\n", ["1, 2 "]),
        (b"a,b\n1,2", ["1,2"]),
        (b"a,b\n\n1,2\n\n", ["1,2"]),
        (b"\xef\xbb\xbfa,b\n1,2\n", ["1,2"]),
        (b'a,b\n1,"x\ny"\n2,z\n', ['1,"x\ny"', "2,z"]),
        (b'a,b\n1,"x\r\n\r\ny"\r\n', ['1,"x\r\n\r\ny"']),
        (b'a,b\n1,"say ""hi""\n"\n', ['1,"say ""hi""\n"']),
        (b'a,b\n1,5" pipe\n2,7" pipe\n', ['1,5" pipe', '2,7" pipe']),
        (b"a,b\n1,2,3\n4\n", ["1,2,3", "4"]),
        (b"a,b\n", []),
        ("a,b\n1,é€\n".encode(), ["1,é€"]),
    ],
)
def test_csv_records_keep_their_exact_text(body: bytes, expected: list[str]) -> None:
    assert records(body, CSV) == ("a,b", expected)
    assert records(gzip.compress(body, mtime=0), CSV, "x.csv.gz") == ("a,b", expected)
    assert examine(io.BytesIO(body), CSV, "x").rows == len(expected)


def test_csv_with_another_delimiter_and_encoding() -> None:
    assert records("a;b\n1;ü\n".encode("latin-1"), Form("csv", ";", "latin-1")) == ("a;b", ["1;ü"])
    assert column_names('"a;x";b', ";") == ("a;x", "b")


def test_records_agree_with_the_csv_module_on_real_text() -> None:
    rows = [["1", 'a "b"', "c,d"], ["2", "line\nbreak", ""], ["3", "", "\r\n"], ["", '"', "x"]] * 50
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([["a", "b", "c"], *rows])
    _, found = records(text.getvalue().encode(), CSV)
    assert [next(csv.reader(io.StringIO(record, newline=""))) for record in found] == rows


def test_json_lines() -> None:
    assert records(b'{"a": 1.50}\r\n\n  \n{"a":2}', JSONL) == (None, ['{"a": 1.50}', '{"a":2}'])
    assert examine(io.BytesIO(b""), JSONL, "x").reason is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"status":"OK","results":[{"c":1.500, "s":"],}"},{"c":2e3},[1],"x",null],"resultsCount":5}',
        b' {\n "results" : [\n {"c":1.500, "s":"],}"} ,\n{"c":2e3},[1] , "x", null\n ] , "nested": {"results": [9]} }\n',
    ],
)
def test_page_records_are_the_elements_byte_for_byte(body: bytes) -> None:
    assert records(body, PAGE) == (None, ['{"c":1.500, "s":"],}"}', '{"c":2e3}', "[1]", '"x"', "null"])


@pytest.mark.parametrize("body", [b"{}", b'{"results":[]}', b'{"results":null,"resultsCount":0}'])
def test_a_page_without_results_has_no_records(body: bytes) -> None:
    assert records(body, PAGE) == (None, [])


@pytest.mark.parametrize(
    ("body", "form", "name", "reason"),
    [
        (gzip.compress(b"a,b\n" + b"1,2\n" * 1000, mtime=0)[:-9], CSV, "x.csv.gz", "truncated gzip"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:10] + b"\x07" * 40, CSV, "x.csv.gz", "broken gzip"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-8] + b"\x00" * 8, CSV, "x.csv.gz", "broken gzip"),
        (b"a,b\n1,2\n", CSV, "x.csv.gz", "is named .gz and is no gzip file"),
        (b"", CSV, "x.csv", "is empty: expected a header line"),
        (b"\n\n", CSV, "x.csv", "is empty: expected a header line"),
        (b"a,b\n1,\xff\n", CSV, "x.csv", "is not utf-8 text"),
        (b'a,b\n1,"open\n2,x\n', CSV, "x.csv", "a quoted field is never closed"),
        (b'{"results":[1', PAGE, "x", "is no whole JSON object"),
        (b'{"results":[1 2]}', PAGE, "x", "expected a comma or ]"),
        (b"[1]", PAGE, "x", "is no JSON object"),
        (b"", PAGE, "x", "is no whole JSON object"),
        (b"not parquet", PARQUET, "x", "truncated or broken Parquet"),
        (b"", PARQUET, "x", "truncated or broken Parquet"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_raised(body: bytes, form: Form, name: str, reason: str) -> None:
    found = refusal(body, form, name)
    assert found is not None
    assert reason in found


def test_parquet_is_read_to_its_last_page(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(5000)), "b": [f"text {n}" for n in range(5000)]})
    pq.write_table(table, tmp_path / "x.parquet", compression="snappy", write_page_checksum=True)
    body = (tmp_path / "x.parquet").read_bytes()
    whole = examine(io.BytesIO(body), PARQUET, "x")
    assert (whole.rows, whole.reason, len(whole.delivery_id)) == (5000, None, 64)
    assert "truncated" in str(refusal(body[:-100], PARQUET))
    assert "truncated" in str(refusal(body[:1000] + bytes(50) + body[1050:], PARQUET)), "a damaged page under a good footer"


def test_an_unreadable_stream_is_a_finding() -> None:
    class Broken(io.BytesIO):
        def readinto(self, buffer: object) -> int:
            raise OSError(5, "Input/output error")

        def getbuffer(self) -> memoryview:
            raise OSError(5, "Input/output error")

    assert examine(Broken(b"x"), CSV, "x").reason == "cannot be read: Input/output error"


def test_the_delivery_id_is_the_hash_of_the_delivered_bytes() -> None:
    assert examine(io.BytesIO(b"a\n1\n"), CSV, "x").delivery_id == hashlib.sha256(b"a\n1\n").hexdigest()


def test_page_records_agree_with_json() -> None:
    rows = [{"c": n / 7, "t": n, "s": 'é\\"]'} for n in range(300)]
    body = json.dumps({"status": "OK", "results": rows}, ensure_ascii=False).encode()
    assert [json.loads(record) for record in records(body, PAGE)[1]] == rows
