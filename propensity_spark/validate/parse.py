"""Bronze → candidates: one row per delivered row with every silver column, its provenance and what could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from propensity_spark.calendars import exchange_zone, session_frame
from propensity_spark.config import FileSource, KnownAt, MassiveSource, Settings, Source
from propensity_spark.errors import ConfigurationError
from propensity_spark.privacy import NOBODY, Identities
from propensity_spark.schemas import IS_CORRECTION, Table
from propensity_spark.tables import local_frame
from propensity_spark.validate.mapping import DERIVED, expressions, map_columns
from propensity_spark.validate.payload import decode, written_as

DELIVERY = ("source", "source_uri", "delivery_id")
ROW = (*DELIVERY, "line")
"""What tells one delivered row from all others, in bronze and in quarantine."""
SAME_ROW = " AND ".join(f"t.{name} = s.{name}" for name in ROW)
PROVENANCE = (*ROW, "payload", "payload_hash", "context", "ingested_at")
FLAGS = ("excluded", "problems", "starts_at", "happened_at", "asked_again")
SESSIONS_FROM = date(1998, 1, 1)  # the earliest year that every exchange calendar knows; older dates count as sessions
STATIC_FROM = date(1900, 1, 1)  # an undated snapshot holds, and was known, from here on


@dataclass(frozen=True)
class Clock:
    """How instants become business dates: the data set's zone, the exchange's zone and its sessions (null: no exchange)."""

    zone: str
    exchange_zone: str
    calendar: str | None
    last: date

    @classmethod
    def of(cls, settings: Settings, as_of: date) -> Clock:
        zone = exchange_zone(settings.calendar) if settings.calendar else settings.time_zone
        return cls(settings.time_zone, zone, settings.calendar, as_of + timedelta(days=366))

    def local_date(self, instant: Column) -> Column:
        return F.to_date(F.from_utc_timestamp(instant, self.zone))

    def sessions(self, spark: SparkSession) -> DataFrame:
        """session_date, close_ts and running number of every session; empty without a calendar."""
        if self.calendar is None:
            return local_frame(spark, [], "session_date date, close_ts timestamp, session_number int")
        found = session_frame(spark, self.calendar, SESSIONS_FROM, self.last)
        number = F.row_number().over(Window.orderBy("session_date"))
        return found.select("session_date", "close_ts", number.alias("session_number"))


def parse(bronze: DataFrame, table: Table, sources: tuple[Source, ...], clock: Clock, who: Identities = NOBODY) -> DataFrame:
    """Delivered rows (PROVENANCE and any further columns, which stay) → candidates for `table`.

    Adds every column of `table`, `excluded` (the source's `where` leaves it out), `problems` (malformed_record or
    not_castable:<column>), `starts_at` and `happened_at` (event; start and end of the bar; ex-date; null for items and users),
    `asked_again` (a feed was asked for the row's date before), for bars the session's running number and `is_session`. One row
    in, one row out; users are called as `who` says. Rows of a source that is no longer configured are left out, and the stage's accounting
    then stops the run.
    """
    written = _written(bronze, sources)
    parts = [_parse_source(bronze, table, source, columns, clock, who=who) for source in sources for columns in written[source.name]]
    return reduce(DataFrame.unionByName, parts)


def _written(bronze: DataFrame, sources: tuple[Source, ...]) -> dict[str, list[str | None]]:
    """Distinct CSV headers or Parquet schemas by source; [None] where rows need none, [""] where there is no row. At most one small job."""
    keys = {source.name: key for source in sources if (key := written_as(source)) is not None}
    found: dict[str, list[str | None]] = {source.name: [None] for source in sources}
    if keys:
        context = F.coalesce(F.col("context")["header"], F.col("context")["schema"])
        rows = bronze.where(F.col("source").isin(list(keys))).select("source", context.alias("columns")).distinct().collect()
        for name in keys:
            found[name] = sorted({row["columns"] for row in rows if row["source"] == name}, key=str) or [""]
    return found


def _parse_source(bronze: DataFrame, table: Table, source: Source, columns: str | None, clock: Clock, *, who: Identities) -> DataFrame:
    if source.known_at.kind == "column" and "known_at" not in expressions(source):
        raise ConfigurationError(f"source {source.name}: known_at.kind is `column`, but `columns` maps no known_at; map it or use `event`")
    rows = bronze.where(F.col("source") == source.name)
    key = written_as(source)
    if key is not None:
        rows = rows.where(F.col("context")[key].eqNullSafe(F.lit(columns)))
    fields = decode(rows, source, columns, (*expressions(source).values(), getattr(source, "where", None) or ""))
    date_zone = clock.exchange_zone if table.name in ("bars", "corporate_actions") else (getattr(source, "time_zone", None) or clock.zone)
    typed = map_columns(fields, source, table, date_zone)
    business = [name for name in table.column_names if name not in DERIVED and name not in ("known_at", "is_deleted")]
    flat = typed.select("_bronze.*", F.col("_excluded").alias("excluded"), F.col("_problems").alias("problems"), *business, *_rest(table))
    flat = who.named(flat) if "user_id" in table.column_names else flat
    flat = flat.withColumns({"is_deleted": F.coalesce("is_deleted", F.lit(False)), "asked_again": _asked_again(table, source, clock)})
    return _DATED[table.name](flat, source, clock).select(*bronze.columns, *_added(table), *FLAGS, *extra_columns(table))


def _asked_again(table: Table, source: Source, clock: Clock) -> Column:
    """Whether an earlier request of a feed covered the row's date (context `new_from`). False where the source itself says `known_at`."""
    dates = {"bars": F.to_date(F.from_utc_timestamp("ts", clock.exchange_zone)), "corporate_actions": F.col("ex_date")}
    if not isinstance(source, MassiveSource) or source.known_at.kind == "column" or table.name not in dates:
        return F.lit(False)
    return F.coalesce(dates[table.name] < F.col("context")["new_from"].try_cast("date"), F.lit(False))


def _rest(table: Table) -> list[str]:
    return ["known_at", "is_deleted", *(["attributes"] if "attributes" in table.column_names else [])]


def _added(table: Table) -> list[str]:
    return [name for name in table.column_names if name not in ("payload_hash", IS_CORRECTION)]


def extra_columns(table: Table) -> list[str]:
    """Columns of candidates for `table` alone."""
    return ["session_number", "is_session"] if table.name == "bars" else []


def _date_bars(rows: DataFrame, source: Source, clock: Clock) -> DataFrame:
    """A bar has happened when its session closes (1m: a minute after its start); without a session, at the end of its date."""
    rows = rows.withColumn("session_date", F.to_date(F.from_utc_timestamp("ts", clock.exchange_zone)))
    rows = rows.join(F.broadcast(clock.sessions(rows.sparkSession)), "session_date", "left")
    unjudged = F.lit(clock.calendar is None) | (F.col("session_date") < F.lit(SESSIONS_FROM))
    rows = rows.withColumn("is_session", F.col("session_number").isNotNull() | unjudged)
    end_of_date = F.to_utc_timestamp(F.date_add("session_date", 1).cast("timestamp"), clock.exchange_zone) - F.expr(
        "interval 1 microsecond"
    )
    daily = F.coalesce("close_ts", end_of_date)
    ends = F.when(F.col("bar_size") == "1m", F.col("ts") + F.expr("interval 1 minute")).otherwise(daily)
    return _known(rows, source, clock, F.col("ts"), ends)


def _date_actions(rows: DataFrame, source: Source, clock: Clock) -> DataFrame:
    starts = F.to_utc_timestamp(F.col("ex_date").cast("timestamp"), clock.exchange_zone)
    return _known(rows, source, clock, starts, starts)


def _date_activity(rows: DataFrame, source: Source, clock: Clock) -> DataFrame:
    mapped = [name for name in expressions(source) if name not in ("known_at", "is_deleted")]
    if "event_id" not in mapped:
        rows = rows.withColumn("event_id", _event_id(sorted(mapped), source))
    amount = (F.col("quantity") * F.col("price").cast("double")).try_cast("decimal(18,4)")
    return _known(
        rows.withColumn("order_id", F.coalesce("order_id", "event_id"))
        .withColumn("amount", F.col("amount") if "amount" in mapped else amount)
        .withColumn("event_date", clock.local_date(F.col("event_ts"))),
        source,
        clock,
        F.col("event_ts"),
        F.col("event_ts"),
    )


def _event_id(mapped: list[str], source: Source) -> Column:
    """SHA-256 of the mapped columns and of the occurrence among equal lines of the same delivery (collapse: always the first)."""
    content = F.to_json(F.struct(*[F.col(name).cast("string").alias(name) for name in mapped]), {"ignoreNullFields": "false"})
    if isinstance(source, FileSource) and source.repeated_lines == "collapse":
        return F.sha2(F.concat(content, F.lit("#1")), 256)
    equal_lines = Window.partitionBy("source", "source_uri", "delivery_id", *mapped).orderBy("line")
    return F.sha2(F.concat(content, F.lit("#"), F.row_number().over(equal_lines).cast("string")), 256)


def _date_attributes(rows: DataFrame, source: Source, clock: Clock) -> DataFrame:
    """Items and users. Without `valid_from` in the source they hold from the local date of `known_at`.

    That is then the moment of ingestion, unless the source has it as a column. A static source is of 1900.
    """
    nothing = F.lit(None).cast("timestamp")
    if getattr(source, "static", False):
        start, instant = F.lit(STATIC_FROM), F.lit(STATIC_FROM).cast("timestamp")
        dates = {"valid_from": start, "known_at": instant, "visible_date": start}
        return rows.withColumns({**dates, "starts_at": nothing, "happened_at": nothing})
    mapped = "valid_from" in expressions(source)
    if not mapped and source.known_at.kind == "event":  # there is no event to date it by
        source = source.model_copy(update={"known_at": KnownAt(kind="ingestion")})
    started = F.to_utc_timestamp(F.col("valid_from").cast("timestamp"), clock.zone)
    dated = _known(rows, source, clock, started, started).withColumns({"starts_at": nothing, "happened_at": nothing})
    dated = dated.withColumn("visible_date", clock.local_date(F.col("known_at")))
    return dated if mapped else dated.withColumn("valid_from", F.col("visible_date"))


def _known(rows: DataFrame, source: Source, clock: Clock, starts_at: Column, happened_at: Column) -> DataFrame:
    """Add starts_at, happened_at, known_at as the source's `known_at` says, and visible_date.

    What a feed says when it is asked again cannot have been known with the event: it is known from its ingestion on.
    """
    known: KnownAt = source.known_at
    in_time = F.col("happened_at") + F.expr(f"interval {known.delay_minutes} minutes")
    instants = {
        "column": F.col("known_at"),
        "event": F.when(F.col("asked_again"), F.col("ingested_at")).otherwise(in_time),
        "ingestion": F.col("ingested_at"),
    }
    dated = rows.withColumns({"starts_at": starts_at, "happened_at": happened_at}).withColumn("known_at", instants[known.kind])
    return dated.withColumn("visible_date", clock.local_date(F.greatest("happened_at", "known_at")))


_DATED = {
    "bars": _date_bars,
    "corporate_actions": _date_actions,
    "activity": _date_activity,
    "items": _date_attributes,
    "users": _date_attributes,
}
