"""Hold published runs against their manifests, with nothing but the stored bytes: no Spark, one file at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from propensity_spark.errors import PublishedRunInvalid
from propensity_spark.publish.manifest import POINTER, Manifest, check_files, current_manifest
from propensity_spark.publish.read import day_folder
from propensity_spark.publish.store import Store, open_store
from propensity_spark.schemas import published_table

_PARQUET_NAMES = {"string": "string", "double": "double", "bool": "boolean", "int32": "int"}


@dataclass(frozen=True)
class Verified:
    """A published run that agrees with its manifest."""

    as_of_date: str
    run_id: str
    model_name: str
    model_version: str
    rows: int
    files: int
    bytes: int


def verify(uri: str, as_of_date: date | str | None = None) -> list[Verified]:
    """Check the current run of a date, or of every published date, and say what it holds, oldest date first.

    Checked: pointer, manifest, files present and none beside them, bytes, SHA-256, rows, columns and types, no nulls,
    probabilities in [0, 1], the one model, each user in one file, unique keys, ranks 1, 2, 3 … within each user.
    A date whose first publication was interrupted has no pointer and no run: it is passed over unless asked for.
    Raises PublishedRunInvalid that names the file, what was expected and what was found.
    """
    store = open_store(uri)
    if as_of_date is not None:
        return [verify_run(store, current_manifest(store, day_folder(as_of_date)))]
    days = [day for day in store.days() if store.read(f"{day}/{POINTER}") is not None]
    if not days:
        raise PublishedRunInvalid(f"{uri}: expected as_of_date=YYYY-MM-DD folders with a _CURRENT, found none. Run the publish stage")
    return [verify_run(store, current_manifest(store, day)) for day in days]


def verify_run(store: Store, manifest: Manifest) -> Verified:
    """Hold the stored files of one run against its manifest. Raises PublishedRunInvalid."""
    check_files(store, manifest, hashes=True, extra=True)
    users: set[str] = set()
    for file in manifest.files:
        where = store.spark_path(f"{manifest.folder}/{file.key}")
        with store.open(f"{manifest.folder}/{file.key}") as stored:
            table = _read_part(pq.ParquetFile(stored), manifest, file.rows, where)
        _check_values(table, manifest, where)
        own_users = set(pc.unique(table["user_id"]).to_pylist())
        if users & own_users:
            raise PublishedRunInvalid(f"{where}: {len(users & own_users)} users are in another file too; expected each user in one file")
        users |= own_users
    return Verified(
        manifest.as_of_date,
        manifest.run_id,
        manifest.model_name,
        manifest.model_version,
        manifest.rows,
        len(manifest.files),
        sum(file.bytes for file in manifest.files),
    )


def _read_part(part: pq.ParquetFile, manifest: Manifest, rows: int, where: str) -> pa.Table:
    """The part's rows, after a check of columns, types and row count."""
    found = {field.name: _PARQUET_NAMES.get(str(field.type), str(field.type)) for field in part.schema_arrow}
    expected = {column.name: column.type.simpleString() for column in published_table(manifest.grain).columns}
    if list(found.items()) != list(expected.items()):
        raise PublishedRunInvalid(f"{where}: expected columns {expected}, found {found}")
    if part.metadata.num_rows != rows:
        raise PublishedRunInvalid(f"{where}: expected {rows} rows, found {part.metadata.num_rows}")
    return part.read()


def _check_values(table: pa.Table, manifest: Manifest, where: str) -> None:
    for name in table.column_names:
        if table[name].null_count:
            raise PublishedRunInvalid(f"{where}: expected no null in {name}, found {table[name].null_count}")
    probability = table["purchase_probability"]
    outside = pc.invert(pc.and_(pc.greater_equal(probability, 0.0), pc.less_equal(probability, 1.0)))
    if pc.any(outside).as_py():
        found = probability.filter(outside)[0].as_py()
        raise PublishedRunInvalid(f"{where}: expected purchase_probability in [0, 1], found {found}")
    for name, expected in (("model_name", manifest.model_name), ("model_version", manifest.model_version)):
        if pc.unique(table[name]).to_pylist() != [expected]:
            raise PublishedRunInvalid(f"{where}: expected {name} {expected!r}, found {pc.unique(table[name]).to_pylist()[:5]}")
    _check_keys(table, manifest, where)


def _check_keys(table: pa.Table, manifest: Manifest, where: str) -> None:
    """Unique keys; at user_item grain also ranks 1 … n without gaps within each user."""
    key = list(published_table(manifest.grain).key)
    counts = table.group_by(key).aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts["count_all"], 1))
    if repeated.num_rows:
        raise PublishedRunInvalid(f"{where}: expected unique {key}, found {repeated.num_rows} keys in more than one row")
    if "rank" not in table.column_names:
        return
    ranks = table.group_by("user_id").aggregate([("rank", "min"), ("rank", "max"), ("rank", "count_distinct"), ("rank", "count")])
    contiguous = pc.and_(
        pc.and_(pc.equal(ranks["rank_min"], 1), pc.equal(ranks["rank_max"], ranks["rank_count"])),
        pc.equal(ranks["rank_count_distinct"], ranks["rank_count"]),
    )
    if not pc.all(contiguous).as_py():
        found = ranks.filter(pc.invert(contiguous)).slice(0, 1).drop_columns("user_id").to_pylist()[0]
        raise PublishedRunInvalid(f"{where}: expected ranks 1 … n for each user, found {found}")
