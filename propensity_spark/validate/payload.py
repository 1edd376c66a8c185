"""Bronze payload text → named fields. Nothing is typed here and nothing raises: an unreadable row is marked."""

from __future__ import annotations

import csv
import re

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import FileSource, Source
from propensity_spark.errors import ConfigurationError

_CORRUPT = "_corrupt"
_LITERAL = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"")
_IDENTIFIER = re.compile(r"`([^`]+)`|([A-Za-z_]\w*)(?!\w|\s*\()")


def written_as(source: Source) -> str | None:
    """Key of bronze's `context` that says which columns a row has: CSV its header line, Parquet its schema; else null."""
    if not isinstance(source, FileSource):
        return None
    return {"csv": "header", "parquet": "schema", "jsonl": None}[source.format]


def decode(rows: DataFrame, source: Source, columns: str | None, expressions: tuple[str, ...]) -> DataFrame:
    """Bronze rows of one source and of one header or schema (`columns`) → struct `_bronze`, `_malformed`, and one column per field.

    CSV: fields are text; a record with more or fewer values than the header, or with an open quote, is malformed.
    Parquet rows (in bronze as JSON): fields have their own types again. Other JSON (lines, the feed's rows): fields are text, those
    that `expressions` name; one that a row does not have is null; text that is not one object is malformed. `_context`
    and (other JSON) `_row` are maps of text, for what bronze knows beside the row and for names that differ in letter case alone.
    `columns` null: the source's rows need none; empty: there is no row. Raises ConfigurationError when a CSV row came without a header.
    """
    bronze, context = F.struct(*rows.columns).alias("_bronze"), F.col("context").alias("_context")
    if columns is None and written_as(source) == "header":
        raise ConfigurationError(f"source {source.name}: bronze has CSV rows without a header; expected the header line in their context")
    if not columns:
        parsed = rows.select(bronze, context, F.from_json("payload", "map<string,string>").alias("_row"))
        fields = [F.col("_row")[name].alias(name) for name in identifiers(expressions)]
        return parsed.select("_bronze", "_context", "_row", F.col("_row").isNull().alias("_malformed"), *fields)
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": _CORRUPT}
    if written_as(source) == "schema":
        record = F.from_json("payload", f"{columns}, {_CORRUPT} string", options)
    else:
        delimiter = getattr(source, "delimiter", ",")
        schema = ", ".join(f"{_quoted(name)} string" for name in [*header_names(columns, delimiter), _CORRUPT])
        record = F.from_csv("payload", schema, {**options, "sep": delimiter, "escape": '"'})
    parsed = rows.select(bronze, context, record.alias("parsed"))
    corrupt = F.col("parsed").isNull() | F.col(f"parsed.{_CORRUPT}").isNotNull()
    return parsed.select("_bronze", "_context", corrupt.alias("_malformed"), "parsed.*").drop(_CORRUPT)


def header_names(header: str, delimiter: str = ",") -> list[str]:
    """Column names of a CSV header line; an unnamed column n is `_cn`."""
    return [name or f"_c{position}" for position, name in enumerate(next(csv.reader([header], delimiter=delimiter)))]


def identifiers(expressions: tuple[str, ...]) -> list[str]:
    """Names in SQL expressions that may be fields (a superset: keywords stay), each once whatever its letter case."""
    names: dict[str, str] = {}
    for text in expressions:
        for quoted, plain in _IDENTIFIER.findall(_LITERAL.sub(" ", text)):
            name = quoted or plain
            if not name.startswith("_"):
                names.setdefault(name.lower(), name)
    return list(names.values())


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"
