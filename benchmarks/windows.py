"""`make bench-windows`: user features of one as-of date, and counts and sums on 52 weekly ones, beside DuckDB on the same files.

Made-up events of three years in a Delta table, a hundredth of them corrected on their own day, so that DuckDB, which takes the
last version, finds what the line finds: both results are compared, and must be equal. From the Delta table to written Parquet,
every step between included, ours and DuckDB's in turn, warm; medians of the repetitions. `--users` and `--events` set the size.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from string import Template
from typing import Any

import duckdb
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.command import peak
from benchmarks.features import paths
from benchmarks.measure import Measure, code, machine, seconds_of, table, write
from propensity_spark.config import CONF_DIR, load_settings
from propensity_spark.features.affinity import sector_spending
from propensity_spark.features.events import live_events, money
from propensity_spark.features.rfm import user_features
from propensity_spark.features.windows import Grid, by_day, changes, each_position, running_state, with_window_ends
from propensity_spark.features.windows import Measure as Sum
from propensity_spark.platform import keep, release
from propensity_spark.schemas import ACTIVITY, IS_CORRECTION, ITEMS
from propensity_spark.session import get_session
from propensity_spark.stages.carrying import few_corrections
from propensity_spark.tables import Lake

SQL = Path(__file__).parent / "sql"
AS_OF = date(2024, 12, 31)
WEEKLY = tuple(AS_OF - timedelta(weeks=weeks) for weeks in range(51, -1, -1))
DAYS = (30, 90, 365)
HISTORY_DAYS, ITEM_COUNT, THREADS = 3 * 365, 500, 2


def main() -> None:
    options = _options()
    about = {"machine": machine(range(THREADS)), "code": code(), "settings": vars(options)}
    with tempfile.TemporaryDirectory(prefix="propensity-windows-", dir=options.folder) as folder:
        root = Path(folder)
        overrides = [f"spark.master=local[{THREADS}]", f"lake.root={root / 'lake'}", f"spark.driver_memory={options.memory}"]
        settings = load_settings(CONF_DIR / "local.yml", "stocks", overrides)
        spark = get_session(settings.spark)
        lake = Lake(spark, settings.lake)
        write_silver(spark, lake, options.events, options.users)
        measures = measured(lake, root, options.repeat)
        spark.stop()
    path = write(measures, about)
    sys.stdout.write(f"\n{table(measures)}\n\n{options.events:,} events of {options.users:,} users; written to {path}\n")


def write_silver(
    spark: SparkSession, lake: Lake, events: int, users: int, *, hot_user: Column | None = None, hot_item: Column | None = None
) -> None:
    """Visits of four events of a user on one day: views, purchases (two events of one order), cancellations, searches.

    `hot_user`, `hot_item`: by the number of the event (`id`), which of them are the first user's, and of the first item.
    """
    visit, known = F.expr("id DIV 4"), F.to_timestamp(F.col("event_date"))

    def drawn(name: str, of: Column | str, below: int) -> Column:
        return F.pmod(F.xxhash64(F.lit(name), of), F.lit(below))

    def named(prefix: str, value: Column) -> Column:
        return F.concat(F.lit(prefix), F.lpad(value.cast("string"), 9, "0"))

    kind = drawn("kind", F.expr("id DIV 2"), 100)
    item = F.floor(ITEM_COUNT * F.pow(drawn("item", "id", 10_000) / 10_000, 2))
    plain = spark.range(events).select(
        named("e", F.col("id")).alias("event_id"),
        named("u", F.when(F.lit(False) if hot_user is None else hot_user, 0).otherwise(drawn("user", visit, users))).alias("user_id"),
        named("i", F.when(F.lit(False) if hot_item is None else hot_item, 0).otherwise(item)).alias("item_id"),
        F.when(kind < 20, "buy").when(kind < 22, "cancel").when(kind < 90, "view").otherwise("search").alias("event_type"),
        F.date_sub(F.lit(AS_OF), drawn("day", visit, HISTORY_DAYS).cast("int")).alias("event_date"),
        named("o", F.expr("id DIV 2")).alias("order_id"),
        (F.when(kind < 20, 1).when(kind < 22, -1) * (drawn("amount", "id", 10_000_000) / 10_000)).cast("decimal(18,4)").alias("amount"),
        named("s", visit).alias("session_id"),
        drawn("corrected", "id", 1000).alias("corrected"),
    )
    first = plain.withColumns({"known_at": known, "is_deleted": F.lit(False), "payload_hash": F.lit("first")})
    again = first.where("corrected < 10").withColumns(
        {"known_at": known + F.expr("INTERVAL 1 HOUR"), "is_deleted": F.col("corrected") == 0, "payload_hash": F.lit("again")}
    )
    again = again.withColumn("amount", F.col("amount") / 2)
    both = first.unionByName(again).withColumns({"event_ts": known, "visible_date": F.col("event_date")})
    both = both.withColumn(IS_CORRECTION, F.col("payload_hash") == "again")  # as where the corrected one came later
    lake.overwrite(_filled(both, ACTIVITY.schema), ACTIVITY)
    of_item = {"item_id": named("i", F.col("id")), "sector": F.concat(F.lit("sector "), F.expr("id % 11")), "is_deleted": F.lit(False)}
    of_item |= {name: F.lit(date(2000, 1, 1)) for name in ("valid_from", "visible_date", "known_at")}
    lake.overwrite(_filled(spark.range(ITEM_COUNT).withColumns(of_item).withColumn("payload_hash", F.lit("item")), ITEMS.schema), ITEMS)


def _filled(frame: DataFrame, schema: Any) -> DataFrame:
    present = set(frame.columns)
    return frame.select(
        *((F.col(field.name) if field.name in present else F.lit(None)).cast(field.dataType).alias(field.name) for field in schema)
    )


def measured(lake: Lake, root: Path, repeat: int) -> list[Measure]:
    """One measure per target of issue 6, each beside its DuckDB; raises AssertionError where the two results differ."""
    files = {table.name: paths(lake.read(table)) for table in (ACTIVITY, ITEMS)}
    rows = lake.read(ACTIVITY).count()
    cases = {
        "user features, one date": (one_date, "user_features", 4.0),
        "counts and sums, 52 dates": (_weekly, "range_windows", 1.5),
    }
    measures = []
    for name, (work, script, target) in cases.items():
        ours, theirs = root / f"{script}-ours", root / f"{script}-theirs"
        runs = [(seconds_of(work, lake, ours), seconds_of(_duckdb, script, files, theirs)) for _ in range(repeat + 1)][1:]
        seconds, reference = (statistics.median(each) for each in zip(*runs, strict=True))
        ratio = statistics.median(one / other for one, other in runs)
        found = _compared(ours, theirs)
        measures.append(Measure(f"{name}: ratio", round(ratio, 3), "×", target=target, note="median of the pairs"))
        measures.append(Measure(name, round(seconds, 3), "s", rows, round(reference, 3), f"DuckDB, {found:,} rows out, equal", note=peak()))
    return measures


def one_date(lake: Lake, out: Path) -> None:
    grid = Grid((AS_OF,))
    activity, items = lake.read(ACTIVITY), lake.read(ITEMS)
    with few_corrections(activity) as few:
        events = keep(live_events(activity, grid, few))
        spending = keep(sector_spending(events, items, grid))
        user_features(events, activity, None, spending, grid=grid, risk_levels=()).write.mode("overwrite").parquet(str(out))
        release(spending)
        release(events)


def _weekly(lake: Lake, out: Path) -> None:
    grid, activity = Grid(WEEKLY), lake.read(ACTIVITY)
    each = [F.lit(1).cast("long").alias("events"), F.col("amount").alias("money")]
    with few_corrections(activity) as few:
        events = live_events(activity, grid, few).select("user_id", "event_date", "enters", "leaves", *each)
        events = events.where(F.col("event_date") > F.lit(WEEKLY[0] - timedelta(days=max(DAYS))))  # as DuckDB's query does
        days = by_day(events, ["user_id"], grid, ["events", "money"])
        sums = [Sum(f"{what}_{n}d", what, f"leaves_{n}") for what in ("events", "money") for n in DAYS]
        moves = changes(with_window_ends(days, DAYS, grid), ["user_id"], grid, sums)
        state = running_state(moves, ["user_id"], grid, [each.name for each in sums])
        state = state.withColumns({each.name: money(F.col(each.name)) for each in sums if each.value == "money"})
        day = grid.day(F.col("position")).alias("as_of_date")
        rows = each_position(state, grid).select("user_id", day, *(each.name for each in sums))
        rows.write.mode("overwrite").parquet(str(out))


def _duckdb(script: str, files: dict[str, list[str]], out: Path) -> None:
    out.mkdir(exist_ok=True)
    connection = duckdb.connect()
    connection.execute(f"SET threads = {THREADS}; SET enable_progress_bar = false")
    for name, each in files.items():
        connection.execute(f"CREATE VIEW silver_{name} AS SELECT * FROM read_parquet({each!r}, hive_partitioning = false)")
    words = {"as_of": AS_OF, "first": WEEKLY[0], "out": out / "all.parquet"}
    connection.execute(Template((SQL / f"{script}.sql").read_text(encoding="utf-8")).substitute(words))
    connection.close()


def _compared(ours: Path, theirs: Path) -> int:
    """Rows of both, after every value was compared: exact ones exactly, floats to a relative 1e-9."""
    connection = duckdb.connect()
    connection.execute(
        f"CREATE VIEW one AS FROM read_parquet('{ours}/*.parquet'); CREATE VIEW two AS FROM read_parquet('{theirs}/*.parquet')"
    )
    names: Sequence[str] = [row[0] for row in connection.execute("DESCRIBE two").fetchall()]
    same = " AND ".join(
        f"(one.{name} IS NOT DISTINCT FROM two.{name} OR abs(try_cast(one.{name} AS DOUBLE) - try_cast(two.{name} AS DOUBLE)) "
        f"<= 1e-9 * abs(try_cast(two.{name} AS DOUBLE)))"
        for name in names
    )
    query = f"SELECT count(*), count(*) FILTER ({same}) FROM one FULL JOIN two USING (user_id, as_of_date)"
    rows, equal = connection.execute(query).fetchall()[0]
    if rows != equal or not rows:
        raise AssertionError(f"{ours.name} and {theirs.name}: {rows - equal} of {rows} rows differ")
    return int(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-windows", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000_000, help="default: %(default)s")
    parser.add_argument("--users", type=int, default=200_000, help="default: %(default)s")
    parser.add_argument("--repeat", type=int, default=3, help="counted repetitions after one that is not (default: %(default)s)")
    parser.add_argument("--memory", default="4g", help="heap of the JVM (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder is made (default: the system's)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
