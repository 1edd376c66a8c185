"""Bronze payload text → named fields. Nothing is typed here and nothing raises: an unreadable row is marked."""

from __future__ import annotations

import csv
import re

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import FileSource, Source
from propensity_spark.errors import ConfigurationError

HEADER = "header"  # key in bronze's context: the header line of a CSV file, as delivered
_CORRUPT = "_corrupt"
_LITERAL = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"")
_IDENTIFIER = re.compile(r"`([^`]+)`|([A-Za-z_]\w*)(?!\w|\s*\()")


def decode(rows: DataFrame, source: Source, header: str | None, expressions: tuple[str, ...]) -> DataFrame:
    """Bronze rows of one source (and, for CSV, of one header) → `bronze` struct, `malformed`, and one string column per field.

    CSV: a record with more or fewer values than the header, or with an open quote, is malformed. JSON (lines, pages of
    the feed, the JSON form of Parquet rows): text that is not one object is. Fields of JSON are those that
    `expressions` name; a field that a row does not have is null. `_row` (JSON) and `_context` are maps of text, for
    names that differ in letter case alone. Raises ConfigurationError when no header is known.
    """
    bronze = F.struct(*rows.columns).alias("_bronze")
    context = F.col("context").alias("_context")
    if isinstance(source, FileSource) and source.format == "csv":
        names = header_names(source, header)
        schema = ", ".join(f"{_quoted(name)} string" for name in [*names, _CORRUPT])
        options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": _CORRUPT, "sep": source.delimiter, "escape": '"'}
        parsed = rows.select(bronze, context, F.from_csv("payload", schema, options).alias("parsed"))
        return parsed.select("_bronze", "_context", F.col(f"parsed.{_CORRUPT}").isNotNull().alias("_malformed"), *_fields("parsed", names))
    parsed = rows.select(bronze, context, F.from_json("payload", "map<string,string>").alias("_row"))
    fields = [F.col("_row")[name].alias(name) for name in identifiers(expressions)]
    return parsed.select("_bronze", "_context", "_row", F.col("_row").isNull().alias("_malformed"), *fields)


def header_names(source: FileSource, header: str | None) -> list[str]:
    """Column names of a CSV file: its header line, else the configured `header`; an unnamed column n is `_cn`."""
    if header is None and source.header is None:
        raise ConfigurationError(
            f"source {source.name}: its CSV files came without a header line and conf/ names no `header`; list the column names there"
        )
    delivered = next(csv.reader([header], delimiter=source.delimiter)) if header is not None else list(source.header or ())
    return [name.strip().lstrip("\ufeff") or f"_c{position}" for position, name in enumerate(delivered)]


def identifiers(expressions: tuple[str, ...]) -> list[str]:
    """Names in SQL expressions that may be fields (a superset: keywords stay), each once whatever its letter case."""
    names: dict[str, str] = {}
    for text in expressions:
        for quoted, plain in _IDENTIFIER.findall(_LITERAL.sub(" ", text)):
            name = quoted or plain
            if not name.startswith("_"):
                names.setdefault(name.lower(), name)
    return list(names.values())


def _fields(parent: str, names: list[str]) -> list[Column]:
    return [F.col(f"{parent}.{_quoted(name)}") for name in names]


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"
