"""Named fields → the silver columns that a source maps, typed. A value that cannot be typed is null and reported.

The expressions of conf/ run with ANSI mode off, so that `to_timestamp('x', 'yyyy')` is null instead of the end of the
job; everything after them keeps the session's own mode and casts with `try_cast`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from propensity_spark.config import MassiveSource, Source
from propensity_spark.errors import ConfigurationError
from propensity_spark.platform import setting
from propensity_spark.schemas import IS_CORRECTION, Table
from propensity_spark.validate.payload import identifiers

DERIVED = frozenset({"payload_hash", "visible_date", "session_date", "event_date", "attributes", IS_CORRECTION})
_MEANS_NULL = re.compile(r"\b(?:try_\w+|nullif|case|if)\b", re.IGNORECASE)
_DATE_ALONE, _OFFSET = r"^\s*\d{4}-\d{1,2}-\d{1,2}\s*$", r"\d(?:Z|UTC|GMT|[+-]\d{2}:?\d{2})\s*$"

_BAR = {
    "ts": "timestamp_millis(cast(_row['t'] as bigint))",
    "open": "_row['o']",
    "high": "_row['h']",
    "low": "_row['l']",
    "close": "_row['c']",
    "volume": "_row['v']",
    "vwap": "_row['vw']",
    "trade_count": "cast(_row['n'] as double)",
}
_MASSIVE: Mapping[str, Mapping[str, str]] = {
    "custom_bars": {**_BAR, "item_id": "coalesce(_row['T'], _context['ticker'])"},
    "grouped_daily": {**_BAR, "item_id": "_row['T']"},
    "tickers": {"item_id": "_row['ticker']", "name": "_row['name']", "category": "_row['type']"},
    "splits": {
        "item_id": "_row['ticker']",
        "ex_date": "_row['execution_date']",
        "action": "'split'",
        "ratio": "cast(_row['split_to'] as double) / cast(_row['split_from'] as double)",
    },
}


def expressions(source: Source) -> dict[str, str]:
    """Silver column → SQL expression: what the feed's endpoint means, with the source's own `columns` on top."""
    if not isinstance(source, MassiveSource):
        return dict(source.columns)
    bar_size = "'1m'" if source.timespan == "minute" and source.endpoint == "custom_bars" else "'1d'"
    sized = {"bar_size": bar_size} if source.endpoint in ("custom_bars", "grouped_daily") else {}
    return {**_MASSIVE[source.endpoint], **sized, **source.columns}


def map_columns(fields: DataFrame, source: Source, table: Table, date_zone: str) -> DataFrame:
    """Decoded fields → `_bronze`, `_malformed`, `_excluded`, `_problems` and every column of `table` but the derived ones.

    A column that the source does not map is null; names that are no column of `items` or `users` become free
    attributes. `date_zone`: where a date alone, given for an instant, starts. `_problems` holds `not_castable:<column>`
    for a value that is there but has no value of the column's type. An expression that means to yield null says so
    with `nullif`, `case`, `if` or `try_…`. Raises ConfigurationError for an expression that cannot be resolved.
    """
    mapped = expressions(source)
    declared = {column.name: column.type for column in table.columns if column.name not in DERIVED}
    free = {name: text for name, text in mapped.items() if name not in declared}
    if (free and "attributes" not in table.column_names) or free.keys() & DERIVED:
        raise ConfigurationError(
            f"source {source.name}: columns {sorted(free)} are not in {table.full_name}; expected some of {sorted(declared)}"
        )
    condition = getattr(source, "where", None) or "true"
    raw = _evaluate(fields, source, {**mapped, "_where": condition})
    kinds = {field.name: field.dataType for field in raw.schema.fields}
    zone = getattr(source, "time_zone", None)
    typed, problems = [], []
    for name, kind in declared.items():
        if name not in mapped:
            typed.append(F.lit(None).cast(kind).alias(name))
            continue
        # A Parquet instant says itself where it lies; only a time that was put together from text is wall clock.
        own_zone = None if _is_instant(mapped[name], fields) else zone
        value, present = _typed(F.col(f"_raw_{name}"), kinds[f"_raw_{name}"], kind, own_zone, date_zone)
        typed.append(value.alias(name))
        if not isinstance(kind, T.StringType):
            swallowed = _inputs_present(mapped[name], fields) if not _MEANS_NULL.search(mapped[name]) else F.lit(False)
            problems.append(F.when((present | swallowed) & value.isNull(), F.lit(f"not_castable:{name}")))
    attributes = F.map_from_entries(F.array(*[F.struct(F.lit(name), F.col(f"_raw_{name}").cast("string")) for name in sorted(free)]))
    if "attributes" in table.column_names:
        typed.append((attributes if free else F.lit(None).cast("map<string,string>")).alias("attributes"))
    broken = F.filter(F.array(*problems), lambda name: name.isNotNull()) if problems else F.lit(None).cast("array<string>")
    excluded = ~F.coalesce(F.col("_raw__where"), F.lit(False)) & ~F.col("_malformed")
    listed = F.when(F.col("_malformed"), F.array(F.lit("malformed_record"))).otherwise(F.coalesce(broken, F.array().cast("array<string>")))
    return raw.select("_bronze", excluded.alias("_excluded"), listed.alias("_problems"), *typed)


def _evaluate(fields: DataFrame, source: Source, texts: Mapping[str, str]) -> DataFrame:
    with setting(fields.sparkSession, "spark.sql.ansi.enabled", "false"):  # expressions take the mode in force when they are resolved
        try:
            return fields.select("*", *[F.expr(text).alias(f"_raw_{name}") for name, text in texts.items()])
        except (AnalysisException, ParseException) as error:
            found = [name for name in fields.columns if not name.startswith("_")]
            first = str(error).splitlines()[0]
            raise ConfigurationError(
                f"source {source.name}: an expression under `columns` or `where` fails: {first} Fields found: {found}"
            ) from error


def _typed(raw: Column, found: T.DataType, kind: T.DataType, zone: str | None, date_zone: str) -> tuple[Column, Column]:
    """The value in the declared type (null when it has none), and whether there is a value at all (blank text is none)."""
    if isinstance(kind, T.StringType):
        return raw.cast("string"), raw.isNotNull()
    value = F.nullif(F.trim(raw), F.lit("")) if isinstance(found, T.StringType) else raw
    if isinstance(kind, T.TimestampType):
        return _instant(value, found, zone, date_zone), value.isNotNull()
    if isinstance(kind, T.DateType) and isinstance(found, T.NumericType):
        return F.lit(None).cast("date"), value.isNotNull()
    return value.try_cast(kind), value.isNotNull()


def _instant(value: Column, found: T.DataType, zone: str | None, date_zone: str) -> Column:
    """UTC instant: text with an offset says it itself; a date alone starts in `date_zone`; else wall clock in `zone` (null: UTC)."""
    if isinstance(found, T.DateType):
        return F.to_utc_timestamp(value.cast("timestamp"), date_zone)
    if not isinstance(found, T.StringType):
        moment = value.try_cast("timestamp")
        return moment if zone is None or isinstance(found, T.NumericType) else F.to_utc_timestamp(moment, zone)
    moment = value.try_cast("timestamp")
    wall_clock = moment if zone is None else F.to_utc_timestamp(moment, zone)
    return F.when(value.rlike(_OFFSET), moment).when(value.rlike(_DATE_ALONE), F.to_utc_timestamp(moment, date_zone)).otherwise(wall_clock)


def _is_instant(text: str, fields: DataFrame) -> bool:
    return any(field.name == text.strip().strip("`") and isinstance(field.dataType, T.TimestampType) for field in fields.schema.fields)


def _inputs_present(text: str, fields: DataFrame) -> Column:
    """Whether every field that the expression names holds something; false when it names none."""
    known = {field.name.lower(): field for field in fields.schema.fields if not field.name.startswith("_")}
    named = [known[name.lower()] for name in identifiers((text,)) if name.lower() in known]
    present = F.lit(bool(named))
    for field in named:
        value = F.col(f"`{field.name}`")
        present = present & (F.trim(F.coalesce(value, F.lit(""))) != "" if isinstance(field.dataType, T.StringType) else value.isNotNull())
    return present
