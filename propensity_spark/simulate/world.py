"""The simulated world on disk: what the market, the user master, the item master and the activity feed deliver.

Everything after the end of today is written at once; the date in a file's name says when it is delivered.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from propensity_spark.config import FileSource, Settings, SimulateSettings
from propensity_spark.errors import ConfigurationError, SourceMissing
from propensity_spark.simulate.events import EVENT_TYPES, batch_events
from propensity_spark.simulate.generator import simulate_market
from propensity_spark.simulate.market import Market, market_from_bars
from propensity_spark.simulate.masters import user_rows, write_items
from propensity_spark.simulate.perception import past_of

WORLD_VERSION = 1
ROWS_PER_FILE = 2_000_000
_ACTIVITY = (
    "user int, item int, type int, event int, `order` int, session int, ts long, known long, quantity double, price long, "
    "deleted boolean, amount long, delivery int, batch int"
)
_USERS = (
    "user_id string, valid_from date, risk_tolerance string, user_segment string, country string, signup_date date, "
    "known_at timestamp, delivery date"
)


@dataclass(frozen=True)
class World:
    """Where the simulated world lies. `landing` holds the folders `activity`, `users` and `items` of the data set's YAML."""

    root: Path
    events: int

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    @property
    def market(self) -> Path:
        return self.root / "market.npz"


def simulation_of(settings: Settings) -> SimulateSettings:
    """The data set's simulation. Raises ConfigurationError when it has none."""
    if settings.simulate is None:
        raise ConfigurationError(
            f"simulate: data set {settings.dataset!r} has no simulated investors; add a section `simulate` to its YAML"
        )
    if settings.calendar is None:
        raise ConfigurationError(f"calendar: data set {settings.dataset!r} simulates a market and needs an exchange calendar such as XNYS")
    return settings.simulate


def world_root(settings: Settings) -> Path:
    """`<lake.root>/simulated`; it must be a folder, since files get their names by rename."""
    if "://" in settings.lake.root:
        raise ConfigurationError(f"lake.root {settings.lake.root!r}: a simulated world needs a folder, not an object store")
    return Path(settings.lake.root) / "simulated"


def world_hash(settings: Settings) -> str:
    """What decides every row of the world: the simulation's settings, the zone, the calendar, and where real bars are."""
    simulation = simulation_of(settings)
    parts: dict[str, object] = {
        "version": WORLD_VERSION,
        "simulate": simulation.model_dump(mode="json", exclude={"truth_users", "truth_futures"}),
        "time_zone": settings.time_zone,
        "calendar": settings.calendar,
    }
    if not simulation.market:
        parts["sources"] = [source.model_dump(mode="json") for name in ("bars", "items") for source in settings.sources[name]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load_market(settings: Settings) -> Market:
    """The market of the world that was built. Raises SourceMissing before `build_world`."""
    path = world_root(settings) / "market.npz"
    if not path.exists():
        raise SourceMissing(f"{path}: the simulated world has not been built yet; run the ingest stage first")
    return Market.load(path)


def build_world(spark: SparkSession, settings: Settings) -> World:
    """Write the world, unless a complete one of the same settings is there. A killed build starts over.

    Deterministic: every batch of users has its own generator, so the rows do not depend on the parallelism.
    """
    simulation = simulation_of(settings)
    root = world_root(settings).absolute()
    marker = root / "_WORLD.json"
    if marker.exists():
        built = json.loads(marker.read_text())
        if built["hash"] == world_hash(settings):
            return World(root, built["events"])
    shutil.rmtree(root, ignore_errors=True)
    (root / "landing").mkdir(parents=True)
    market = simulate_market(simulation, str(settings.calendar)) if simulation.market else _real_market(spark, settings)
    market.save(root / "market.npz")
    if simulation.market:
        write_items(simulation, market, root / "landing" / "items")
    _write_users(spark, settings, market, root)
    events = _write_activity(spark, settings, market, root)
    partial = root / "._WORLD.json"
    partial.write_text(json.dumps({"hash": world_hash(settings), "events": events}))
    os.replace(partial, marker)
    return World(root, events)


def activity(spark: SparkSession, settings: Settings, market: Market, market_path: Path) -> DataFrame:
    """Every delivered row of activity as the files hold it, with `delivery` (date of its file); lazy."""
    simulation, zone = simulation_of(settings), settings.time_zone
    batches = -(-simulation.users // simulation.users_per_batch)
    path = str(market_path)

    def simulate(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        market = Market.load(Path(path))
        past = past_of(market)
        for part in parts:
            for batch in part.column("id").to_pylist():
                rows = batch_events(simulation, market, past, zone, batch).assign(batch=batch)
                yield from _to_arrow(rows)

    numbers = spark.range(0, batches, 1, min(batches, 4 * spark.sparkContext.defaultParallelism))
    rows = numbers.mapInArrow(simulate, _ACTIVITY)
    items = F.array(*(F.lit(str(item)) for item in market.item_ids))
    types = F.array(*(F.lit(name) for name in EVENT_TYPES))
    batch = F.lpad(F.col("batch").cast("string"), 6, "0")

    def identity(letter: str, column: str) -> Column:
        return F.concat(F.lit(letter), batch, F.lit("-"), F.lpad(F.col(column).cast("string"), 7, "0"))

    def money(column: str) -> Column:
        exact = (F.col(column).cast("decimal(14,0)") * F.lit("0.0001").cast("decimal(5,4)")).cast("decimal(18,4)")
        return F.when(F.col("quantity").isNotNull(), exact)

    return rows.select(
        identity("E", "event").alias("event_id"),
        F.concat(F.lit("U"), F.lpad(F.col("user").cast("string"), 7, "0")).alias("user_id"),
        F.when(F.col("item") >= 0, F.get(items, F.col("item"))).alias("item_id"),
        F.get(types, F.col("type")).alias("event_type"),
        F.timestamp_micros("ts").alias("event_ts"),
        F.when(F.col("order") >= 0, identity("O", "order")).alias("order_id"),
        "quantity",
        money("price").alias("price"),
        money("amount").alias("amount"),
        identity("S", "session").alias("session_id"),
        F.timestamp_micros("known").alias("known_at"),
        F.col("deleted").alias("is_deleted"),
        F.date_add(F.lit(date(1970, 1, 1)), F.col("delivery")).alias("delivery"),
    )


def _to_arrow(rows: pd.DataFrame) -> Iterator[pa.RecordBatch]:
    kinds = {"int": pa.int32(), "long": pa.int64(), "double": pa.float64(), "boolean": pa.bool_()}
    fields = [part.strip().replace("`", "").split(" ") for part in _ACTIVITY.split(",")]
    schema = pa.schema([(name, kinds[kind]) for name, kind in fields])
    table = pa.Table.from_pandas(rows[schema.names], schema=schema, preserve_index=False)
    yield from table.to_batches(max_chunksize=50_000)


def _write_activity(spark: SparkSession, settings: Settings, market: Market, root: Path) -> int:
    simulation = simulation_of(settings)
    months = max(1.0, (simulation.end - simulation.start).days / 30.4)
    parts = int(np.ceil(simulation.users * simulation.events_per_user / months / ROWS_PER_FILE))
    rows = activity(spark, settings, market, root / "market.npz").withColumn("part", F.pmod(F.hash("user_id"), F.lit(parts)))
    _write_files(rows, root, "activity", ["known_at", "event_id", "is_deleted"], parts)
    return sum(pq.read_metadata(path).num_rows for path in (root / "landing" / "activity").glob("*.parquet"))


def _write_files(rows: DataFrame, root: Path, name: str, order: list[str], parts: int) -> None:
    """`landing/<name>/<name>_<delivery>.parquet`, or `…_partNN.parquet` where one delivery is several files.

    Spark writes them aside, one file for each delivery and part; then each gets its name.
    """
    staging, target = root / f".{name}", root / "landing" / name
    spark = rows.sparkSession
    spread = rows.repartition(2 * spark.sparkContext.defaultParallelism, "delivery", "part")
    spread.sortWithinPartitions("delivery", "part", *order).write.partitionBy("delivery", "part").parquet(str(staging))
    target.mkdir()
    for folder in sorted(staging.glob("delivery=*/part=*")):
        delivery, part = folder.parent.name.removeprefix("delivery="), int(folder.name.removeprefix("part="))
        suffix = f"_part{part:02d}" if parts > 1 else ""
        (written,) = folder.glob("*.parquet")
        os.replace(written, target / f"{name}_{delivery}{suffix}.parquet")
    shutil.rmtree(staging)


def _write_users(spark: SparkSession, settings: Settings, market: Market, root: Path) -> None:
    simulation, path = simulation_of(settings), str(root / "market.npz")
    batches = -(-simulation.users // simulation.users_per_batch)

    def draw(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        market = Market.load(Path(path))
        for frame in frames:
            for batch in frame["id"]:
                yield user_rows(simulation, market, int(batch))

    rows = spark.range(0, batches, 1, min(batches, spark.sparkContext.defaultParallelism)).mapInPandas(draw, _USERS)
    parts = -(-simulation.users // ROWS_PER_FILE)
    _write_files(rows.withColumn("part", F.pmod(F.hash("user_id"), F.lit(parts))), root, "users", ["user_id", "valid_from"], parts)


def _real_market(spark: SparkSession, settings: Settings) -> Market:
    """The market of the data set's own bars, read through the column mapping of its YAML; items without a sector are left out."""
    bars = _read(spark, settings, "bars", ["item_id", "ts", "open", "high", "low", "close", "volume"])
    frame = bars.withColumn("session_date", F.to_date("ts")).drop("ts").orderBy("session_date", "item_id").toPandas()
    items = _read(spark, settings, "items", ["item_id", "sector"]).where("sector is not null").toPandas()
    simulation = simulation_of(settings)
    frame = frame[frame["session_date"] <= simulation.end]
    return market_from_bars(frame, dict(zip(items["item_id"], items["sector"], strict=True)), simulation, str(settings.calendar))


def _read(spark: SparkSession, settings: Settings, target: str, columns: list[str]) -> DataFrame:
    source = settings.sources[target][0]  # type: ignore[index]
    if not isinstance(source, FileSource) or source.format != "csv":
        raise ConfigurationError(
            f"sources.{target}: simulate.market: false needs bars and items from CSV files, found kind {source.kind!r}"
        )
    found = sorted(Path(source.path).glob(source.pattern))
    if not found:
        raise SourceMissing(f"{source.path}/{source.pattern}: no such files; expected the CSV files of {target} (is --data right?)")
    raw = spark.read.csv([str(path) for path in found], header=True, sep=source.delimiter, encoding=source.encoding)
    return raw.select(*(F.expr(source.columns[name]).alias(name) for name in columns))
