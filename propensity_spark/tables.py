"""The only module that reads or writes Delta: by path, or by Unity Catalog name."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pyarrow as pa
from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import DateType, StructType, TimestampType

from propensity_spark.config import VACUUM_DAYS, LakeSettings
from propensity_spark.delta_log import damage, list_log, read_commit
from propensity_spark.errors import CatalogMissing, ConfigurationError, SchemaMismatch, TableDamaged, TableMissing, WriteConflict
from propensity_spark.schemas import Column, Table

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often a write is tried that other writers keep overtaking."""
_CONFLICT = re.compile(r"(?:io\.)?delta\.exceptions\.\w+Exception|DELTA_(?:CONCURRENT_\w+|PROTOCOL_CHANGED|METADATA_CHANGED)")


@dataclass(frozen=True)
class Lake:
    """The tables of one data set. `catalog` and `schema_name` set: Unity Catalog; else folders under `root`.

    `pinned`: tables that are read as they were at an earlier Delta version.
    """

    spark: SparkSession
    settings: LakeSettings
    pinned: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def root(self) -> str:
        return self.settings.root.rstrip("/")

    @property
    def folder(self) -> Path | None:
        """The root as a folder that Python reads and writes; None where it is elsewhere, such as `s3a://`."""
        root = self.root.removeprefix("file://")
        return None if "://" in root else Path(root)

    def location(self, table: Table) -> str:
        """`<root>/<layer>/<table>`, or `<catalog>.<schema>.<layer>_<table>`."""
        if self.settings.catalog:
            return f"{self._schema}.{table.layer}_{table.name}"
        return f"{self.root}/{table.layer}/{table.name}"

    @property
    def _schema(self) -> str:
        return ".".join(f"`{name}`" if "-" in name else name for name in (self.settings.catalog or "", self.settings.schema_name or ""))

    def require_schema(self) -> None:
        """Raises CatalogMissing when the configured Unity Catalog schema is not there, or is not for us to use."""
        if self.settings.catalog is None:
            return
        reason = "it does not exist, or USE CATALOG and USE SCHEMA are not granted"
        try:
            if self.spark.catalog.databaseExists(self._schema):
                return
        except PySparkException as error:
            reason = str(error).splitlines()[0]
        raise CatalogMissing(
            f"{self._schema} (lake.catalog, lake.schema_name): expected a schema of Unity Catalog, and {reason}; the catalog is an "
            "administrator's to create, the schema is created by `databricks bundle deploy`"
        )

    def exists(self, table: Table) -> bool:
        if self.settings.catalog:
            return self.spark.catalog.tableExists(self.location(table))
        return bool(DeltaTable.isDeltaTable(self.spark, self.location(table)))

    def read(self, table: Table, without: Sequence[str] = ()) -> DataFrame:
        """The table's declared columns but those in `without`.

        Raises TableMissing when no stage has written it yet, SchemaMismatch when it was written before one of the columns was declared.
        """
        if not self.exists(table):
            raise TableMissing(f"{table.full_name}: no such table at {self.location(table)}; run the stage that writes it first")
        frame = self._load(table)
        wanted = [name for name in table.column_names if name not in without]
        found = {name: F.col(name) for name in frame.columns}
        found = {c.name: F.lit(None).cast(c.type).alias(c.name) for c in table.columns if c.later} | found
        if missing := [name for name in wanted if name not in found]:
            features = " ".join(f"--feature {name}" for name in missing)
            backfill = f"`propensity backfill {features}` adds new features, `propensity label` makes the training set anew"
            advice = backfill if table.layer == "gold" else self.way_back(table)
            raise SchemaMismatch(
                f"{table.full_name} at {self.location(table)}: expected {', '.join(missing)}, which it was made without; {advice}"
            )
        return frame.select(*(found[name] for name in wanted))

    def read_or_empty(self, table: Table, without: Sequence[str] = ()) -> DataFrame:
        """As `read`; an empty frame of the declared schema when the table does not exist yet."""
        return self.read(table, without) if self.exists(table) else local_frame(self.spark, [], table.schema).drop(*without)

    def version(self, table: Table) -> int:
        """Delta version of the table, -1 when it does not exist.

        In a folder or on S3 it is the last commit's number; the history, which a catalog is asked for, costs a Spark job.
        """
        if not self.settings.catalog:
            found = list_log(self.spark, self.location(table))
            return found.version if found else -1
        if not self.exists(table):
            return -1
        row = self._delta(table).history(1).select("version").first()
        return int(row["version"]) if row else -1

    def require_whole(self, table: Table, recorded: tuple[int, datetime] | None = None) -> None:
        """Raise TableDamaged when the table's log is torn, has a gap, or ends before the version it is known to have had.

        `recorded`: that version and the moment it was read; a table made after that moment is another one, and one that is not there at
        all is for the stage that reads it. One listing and one small file. In Unity Catalog nothing is looked at: its logs are its own.
        """
        if self.settings.catalog or (found := list_log(self.spark, self.location(table))) is None:
            return
        wrong = damage(found, read_commit(self.spark, self.location(table), found.version) if found.version >= 0 else "")
        if wrong is None and recorded and found.version < recorded[0] and not found.is_younger_than(recorded[1]):
            held = f"found version {found.version}" if found.commits else "found no commit"
            wrong = f"{held}, expected at least {recorded[0]}, which a run left: commits were lost or rolled back"
        if wrong:
            raise TableDamaged(f"{table.full_name} at {self.location(table)}: {wrong}. {self.way_back(table)}")

    def way_back(self, table: Table) -> str:
        """What to do about a table that lost rows: what is above it in the line is made from it, what is below it is its source."""
        again = {
            "gold": f"remove {self.location(table)}",
            "silver": f"remove {self.root}/silver and {self.root}/ops/validated_batches",
        }.get(table.layer, f"remove {self.root}/bronze, /silver, /gold and /ops (keep {self.root}/landing)")
        return f"Put the file back from a copy of the lake; without one {again} and run the line again, which makes it anew from its source"

    def append(self, frame: DataFrame, table: Table) -> None:
        """Add rows; the caller has made sure that they are not there yet."""
        self._write(frame, table, None)

    def replace(self, frame: DataFrame, table: Table, where: str, *, widen: bool = False) -> None:
        """Replace, in one commit, the rows for which the predicate `where` holds by `frame` (all of whose rows fulfil it).

        `widen`: in the same commit the table gets the declared columns that it does not have yet.
        """
        self._write(frame, table, where, widen)

    def overwrite(self, frame: DataFrame, table: Table) -> None:
        """Replace the whole table in one commit, schema included."""
        conformed = conform(frame, table)
        _overtaking(
            lambda: self._save(self._layout(conformed, table).mode("overwrite").option("overwriteSchema", "true"), table),
            table,
        )

    def merge(
        self,
        frame: DataFrame,
        table: Table,
        on: str,
        *,
        update_when: str | None = None,
        delete_when: str | None = None,
        insert: bool = True,
    ) -> None:
        """MERGE `frame` (alias s) into the table (alias t) on the condition `on`.

        A matched row is deleted when `delete_when` holds, else updated when `update_when` holds; an unmatched one is
        inserted when `insert`. `delete_when` may use columns of `frame` that the table does not have.
        """
        self.create(table)
        values = {column.name: _not_null(F.col(f"s.{column.name}"), column, table) for column in table.columns}

        def once() -> None:
            builder = self._delta(table).alias("t").merge(frame.alias("s"), on)
            if table.grows:
                builder = builder.withSchemaEvolution()
            if delete_when is not None:
                builder = builder.whenMatchedDelete(delete_when)
            if update_when is not None:
                builder = builder.whenMatchedUpdate(update_when, values)
            if insert:
                builder = builder.whenNotMatchedInsert(delete_when and f"NOT ({delete_when})", values)
            with _null_refused():
                builder.execute()

        _overtaking(once, table)

    def delete(self, table: Table, where: str) -> None:
        """Delete the rows for which the predicate holds."""
        if self.exists(table):
            _overtaking(lambda: self._delta(table).delete(where), table)

    def vacuum(self, table: Table, days: int) -> None:
        """Remove data files that no version of the last `days` days needs.

        The table's own property says how long (from Delta 4.3 and Databricks Runtime 18 on, VACUUM goes by nothing else); where it says
        something else it is changed first, which makes a version. Raises ConfigurationError below VACUUM_DAYS (a younger file may belong
        to a write or a reader that is still at work), and where Delta's own check of that age is turned off.
        """
        if days < VACUUM_DAYS:
            raise ConfigurationError(f"{table.full_name}: VACUUM after {days} days is refused, expected at least {VACUUM_DAYS}")
        key = "spark.databricks.delta.retentionDurationCheck.enabled"
        if str(self.spark.conf.get(key, "true")).lower() != "true":
            raise ConfigurationError(
                f"{key}: expected true, found {self.spark.conf.get(key)}: a vacuum could take files that somebody reads; unset it"
            )
        if not self.exists(table):
            return
        delta, wanted = self._delta(table), _retention(days, max(days, self.settings.log_days))
        stored = delta.detail().select("properties").first()
        if stored is None or any(stored["properties"].get(name) != value for name, value in wanted.items()):
            name = self.location(table) if self.settings.catalog else f"delta.`{self.location(table)}`"
            pairs = ", ".join(f"'{key}' = '{value}'" for key, value in wanted.items())
            self.spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ({pairs})")
        delta.vacuum(24 * days)

    def days_since_replaced(self, table: Table, version: int) -> int:
        """Days, rounded up, since the next version took the place of this one; 0 when it is the newest, or when the log does not tell."""
        following = self._delta(table).history().where(F.col("version") == version + 1).select("timestamp").first()
        if following is None:
            return 0
        replaced: datetime = following["timestamp"]
        return (datetime.now(UTC) - replaced.astimezone(UTC)).days + 1

    def create(self, table: Table) -> None:
        """Create the empty table when it does not exist."""
        if not self.exists(table):
            self._write(local_frame(self.spark, [], table.schema), table, None)

    def versions(self, tables: tuple[Table, ...]) -> Mapping[str, int]:
        return {table.full_name: self.version(table) for table in tables}

    def _load(self, table: Table) -> DataFrame:
        reader = self.spark.read.format("delta")
        if table.full_name in self.pinned:
            reader = reader.option("versionAsOf", self.pinned[table.full_name])
        return reader.table(self.location(table)) if self.settings.catalog else reader.load(self.location(table))

    def _delta(self, table: Table) -> DeltaTable:
        if self.settings.catalog:
            return DeltaTable.forName(self.spark, self.location(table))
        return DeltaTable.forPath(self.spark, self.location(table))

    def _write(self, frame: DataFrame, table: Table, where: str | None, widen: bool = False) -> None:
        conformed = conform(frame, table)

        def once() -> None:  # whether the table is there is asked at each attempt: somebody else may have made it
            writer = self._layout(conformed, table).option("mergeSchema", widen or table.grows)
            slice_of_it = where is not None and self.exists(table)
            self._save(writer.mode("overwrite").option("replaceWhere", str(where)) if slice_of_it else writer.mode("append"), table)

        _overtaking(once, table)

    def _save(self, writer: DataFrameWriter, table: Table) -> None:
        with _null_refused():
            if self.settings.catalog:
                writer.saveAsTable(self.location(table))
            else:
                writer.save(self.location(table))

    def _layout(self, frame: DataFrame, table: Table) -> DataFrameWriter:
        writer = frame.write.format("delta").options(**_properties(table, self.settings))
        return writer.partitionBy(*table.partition_by) if table.partition_by else writer


def local_frame(spark: SparkSession, rows: Iterable[tuple[object, ...]], schema: StructType | str) -> DataFrame:
    """A frame of the driver's few rows, which are tuples in the order of `schema`.

    They travel as Arrow and become part of the plan: no Python worker, and an empty frame is planned away. (From a list
    alone, Spark 4.1 sends every row through a Python worker.) Raises pyarrow.ArrowInvalid for a value of another type.
    """
    declared = cast(StructType, StructType.fromDDL(schema)) if isinstance(schema, str) else schema
    types = to_arrow_schema(declared)
    columns = list(zip(*rows, strict=True)) or [()] * len(types)
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types.types, strict=True)]
    return spark.createDataFrame(pa.Table.from_arrays(arrays, schema=types), declared)


def conform(frame: DataFrame, table: Table) -> DataFrame:
    """Select the declared columns in order; a null where the table allows none fails the write, lazily, without a job of its own.

    Raises SchemaMismatch that lists every missing, extra and mistyped column.
    """
    found = {field.name: field.dataType for field in frame.schema.fields}
    declared = {column.name: column.type for column in table.columns}
    problems = [f"missing {name} ({kind.simpleString()})" for name, kind in declared.items() if name not in found]
    problems += [f"extra {name}" for name in found if name not in declared]
    problems += [
        f"{name} is {found[name].simpleString()}, expected {kind.simpleString()}"
        for name, kind in declared.items()
        if name in found and found[name].simpleString() != kind.simpleString()
    ]
    if problems:
        raise SchemaMismatch(f"{table.full_name}: {'; '.join(problems)}. Select or cast the frame to the declared columns (schemas.py)")
    return frame.select(*(_not_null(F.col(column.name), column, table).alias(column.name) for column in table.columns))


def _not_null(value: SparkColumn, column: Column, table: Table) -> SparkColumn:
    if column.nullable:
        return value
    return F.coalesce(value, F.raise_error(F.lit(f"null refused in {table.full_name}.{column.name};")).cast(column.type))


def _retention(days: int, log_days: int) -> dict[str, str]:
    """How long a table keeps files that its newest version does not need, and remembers its versions."""
    return {"delta.deletedFileRetentionDuration": f"interval {days} days", "delta.logRetentionDuration": f"interval {log_days} days"}


def _properties(table: Table, settings: LakeSettings) -> dict[str, str]:
    """Delta properties of a new table. In one that holds persons, what tells them stays in data files, and goes when rows go.

    Delta writes the smallest and the greatest value of each file's columns into its log, which outlives the rows by weeks: here those
    of dates and instants alone. Deletion vectors would leave deleted rows in a file that is in use.
    """
    kept = _retention(settings.vacuum_days, max(settings.vacuum_days, settings.log_days))
    if not table.is_personal:
        return kept
    told = [c.name for c in table.columns if isinstance(c.type, DateType | TimestampType) and c.name not in table.partition_by]
    shown = {"delta.dataSkippingStatsColumns": ",".join(told)} if told else {"delta.dataSkippingNumIndexedCols": "0"}
    return {**kept, **shown, "delta.enableDeletionVectors": "false"}


@contextmanager
def _null_refused() -> Iterator[None]:
    """Turn the failure of `_not_null`, which arrives as a failed Spark job, into SchemaMismatch."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:  # a failed MERGE comes as the latter
        if found := re.search(r"null refused in (\S+);", str(error)):
            raise SchemaMismatch(f"{found.group(1)}: a row to be written is null, and the column is not nullable (schemas.py)") from error
        raise


def _overtaking(write: Callable[[], None], table: Table) -> None:
    """Do a write; when another writer was faster and Delta refused it whole, do it again on what that one left, as if it came second.

    Raises WriteConflict after ATTEMPTS. Delta has let the attempts before change nothing, so no row is there twice.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return write()
        except (PySparkException, Py4JJavaError) as error:
            if not (conflict := _CONFLICT.search(f"{type(error).__module__}.{type(error).__name__}: {error}")):
                raise
            log.warning("%s: another writer was faster (%s), attempt %d of %d", table.full_name, conflict[0], attempt, ATTEMPTS)
            if attempt == ATTEMPTS:
                raise WriteConflict(
                    f"{table.full_name}: expected to write it within {ATTEMPTS} attempts, and other writers changed it during each one "
                    f"({conflict[0]}); nothing of this write is there. Let the other run end, then run again"
                ) from error
    return None
