"""How the bytes of one delivery become records. Runs on the workers; knows nothing of Spark or the lake."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

_JSON = json.JSONDecoder()
_MAGIC = {"gzip": b"\x1f\x8b", "parquet": b"PAR1"}


@dataclass(frozen=True)
class Form:
    """How a delivery is written. `page`: an answer of the market feed, whose records are the elements of `results`."""

    format: Literal["csv", "jsonl", "parquet", "page"]
    delimiter: str = ","
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Finding:
    """What a delivery holds. `columns`: CSV its header line, Parquet its Arrow schema. `reason`: why it is refused."""

    delivery_id: str = ""
    rows: int = 0
    columns: str | None = None
    reason: str | None = None


def examine(stream: IO[bytes], form: Form, name: str) -> Finding:
    """Read a delivery to its last byte. Nothing is raised for bad content: the reason is in the finding."""
    try:
        delivery_id = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        return Finding(reason=f"cannot be read: {error.strerror or error}")
    stream.seek(0)
    try:
        rows, columns = _examine_parquet(stream) if form.format == "parquet" else _examine_text(stream, form, name)
    except (EOFError, OSError, ValueError, zlib.error, csv.Error, pa.ArrowException) as error:
        return Finding(delivery_id, reason=_reason(error, form))
    return Finding(delivery_id, rows, columns)


def _reason(error: Exception, form: Form) -> str:
    if form.format == "parquet" and type(error) is not ValueError:
        return f"truncated or broken Parquet: {str(error).splitlines()[0][:200]}"
    if isinstance(error, EOFError):
        return "truncated gzip: it ends before its end-of-stream mark"
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        return f"broken gzip: {error}"
    if isinstance(error, UnicodeError):
        return f"is not {form.encoding} text: {error}"
    return str(error)


def read_records(stream: IO[bytes], form: Form, name: str) -> tuple[str | None, Iterator[str]]:
    """The CSV header (else None) and the records, each with its exact text, without the line end. Blank lines are none.

    Raises ValueError and the errors of gzip, csv and text decoding, some of them only while the records are read.
    """
    is_gzip = stream.read(2) == _MAGIC["gzip"]
    stream.seek(0)
    if name.endswith(".gz") and not is_gzip:
        raise ValueError("is named .gz and is no gzip file")
    plain: IO[bytes] = gzip.GzipFile(fileobj=stream) if is_gzip else stream  # type: ignore[assignment]
    encoding = "utf-8-sig" if form.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else form.encoding
    lines = io.TextIOWrapper(plain, encoding=encoding, newline="")
    if form.format == "page":
        return None, _page_records(lines.read())
    if form.format == "jsonl":
        return None, (line.rstrip("\r\n") for line in lines if line.strip())
    records = _csv_records(lines, form.delimiter)
    header = next(records, None)
    if header is None:
        raise ValueError("is empty: expected a header line")
    return header, records


def column_names(header: str, delimiter: str = ",") -> tuple[str, ...]:
    """Column names of a CSV header line."""
    return tuple(next(csv.reader([header], delimiter=delimiter)))


def _csv_records(lines: Iterator[str], delimiter: str) -> Iterator[str]:
    """Records as written: a quoted line break stays inside its record."""
    taken: list[str] = []

    def feed() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    reader = csv.reader(feed(), delimiter=delimiter)
    for fields in reader:
        text = "".join(taken)
        if len(taken) > 1 and text.count('"') % 2:
            raise ValueError(f"a quoted field is never closed, in the record that begins at line {reader.line_num - len(taken) + 1}")
        taken.clear()
        if fields:
            yield text.rstrip("\r\n")


def _page_records(text: str) -> Iterator[str]:
    """The elements of `results`, byte for byte (numbers are not reformatted)."""
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        raise ValueError("is no JSON object")
    position = _skip(text, position + 1)
    while text[position : position + 1] != "}":
        name, position = _JSON.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)  # over the colon
        if name == "results" and text[position] == "[":
            position = _skip(text, position + 1)
            while text[position] != "]":
                start = position
                _, position = _JSON.raw_decode(text, start)
                yield text[start:position]
                position = _over_comma(text, position, "]")
            position += 1
        else:
            _, position = _JSON.raw_decode(text, position)
        position = _over_comma(text, position, "}")


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\n", "\r", "\t"):
        position += 1
    if position >= len(text):
        raise ValueError("is no whole JSON object: it ends too early")
    return position


def _over_comma(text: str, position: int, closing: str) -> int:
    position = _skip(text, position)
    if text[position] not in (",", closing):
        raise ValueError(f"is no whole JSON object: expected a comma or {closing} at character {position}")
    return _skip(text, position + 1) if text[position] == "," else position


def _examine_text(stream: IO[bytes], form: Form, name: str) -> tuple[int, str | None]:
    columns, records = read_records(stream, form, name)
    return sum(1 for _ in records), columns


def _examine_parquet(stream: IO[bytes]) -> tuple[int, str]:
    """Decode every page: a footer alone does not tell a file that was cut and patched."""
    file = pq.ParquetFile(stream, page_checksum_verification=True)
    nanoseconds = [c.path for c in map(file.schema.column, range(len(file.schema))) if "nanoseconds" in str(c.logical_type)]
    if nanoseconds:
        raise ValueError(f"{', '.join(nanoseconds)}: nanoseconds, which Spark cannot read; write microseconds")
    rows = sum(batch.num_rows for batch in file.iter_batches(batch_size=65536))
    if rows != file.metadata.num_rows:
        raise ValueError(f"its footer promises {file.metadata.num_rows} rows, its pages hold {rows}")
    return rows, file.schema_arrow.remove_metadata().to_string()
