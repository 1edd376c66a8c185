"""Publish the scores of one date: Parquet by Spark, manifest, then `_CURRENT`, in this order."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import NothingToPublish, PublishConflict, PublishedRunInvalid
from propensity_spark.publish.manifest import (
    ATTEMPT,
    MANIFEST,
    POINTER,
    Manifest,
    Provenance,
    check_files,
    describe_part,
    pointed_to,
    read_manifest,
)
from propensity_spark.publish.store import Store, open_store
from propensity_spark.schemas import published_table


@dataclass(frozen=True)
class Published:
    """A run that `_CURRENT` points to. `is_new` is false when its files were there already and stayed untouched."""

    location: str
    run_id: str
    rows: int
    is_new: bool


def publish_scores(scores: DataFrame, uri: str, as_of: date, *, grain: str, provenance: Provenance, files: int) -> Published:
    """Make `scores` (gold/scores of one date) the current run of `as_of` at `uri`, in at most `files` part files.

    Readers see the run that was current before, complete, until the pointer moves; then this one, complete. A run that
    is stored already is left as it is and only made current. Each user's rows are in one file, in order of rank.
    Raises NothingToPublish for no rows, PublishConflict when somebody else moved the pointer meanwhile.
    """
    scores = scores.select(*published_table(grain).column_names)
    return publish_run(open_store(uri), plan_run(scores, as_of, grain, provenance), part_writer(scores, files))


def publish_run(store: Store, planned: Manifest, write_parts: Callable[[str], None]) -> Published:
    """Store the planned run (a manifest without files), unless it is there, and make it current.

    `write_parts` puts `planned.rows` rows as part-*.parquet into the empty folder it is given. Several processes may publish
    at once: of the same run one's files count and all succeed; of two runs one becomes current, the other is a PublishConflict.
    """
    with store.lock(planned.day):
        before = store.read(f"{planned.day}/{POINTER}")
        manifest = replace(planned, replaces=_run_before(before, planned))
        is_new = not is_stored(store, manifest) and write_run(store, manifest, write_parts)
        point_to(store, planned.day, planned.run_id, before)
    return Published(store.spark_path(planned.folder), planned.run_id, planned.rows, is_new)


def point_to(store: Store, day: str, run_id: str, before: tuple[bytes, str] | None) -> None:
    """Make a stored run current, if `_CURRENT` is still what was read `before` (content and version; None: not there).

    Raises PublishConflict when it is not, or when the run was removed while the pointer moved, which then moves back.
    """
    pointer = f"{day}/{POINTER}"
    store.write(pointer, f"run_id={run_id}\n".encode(), before[1] if before else None)
    try:
        read_manifest(store, day, run_id)
    except PublishedRunInvalid as error:
        moved = store.read(pointer)
        if before and moved:
            store.write(pointer, before[0], moved[1])
        raise PublishConflict(
            f"{store.spark_path(pointer)}: run {run_id} was removed while it was made current. Run publish again"
        ) from error


def part_writer(scores: DataFrame, files: int) -> Callable[[str], None]:
    """What puts `scores` as at most `files` part files into a folder: each user's rows in one file, in order of rank."""
    order = [name for name in ("user_id", "rank") if name in scores.columns]

    def write_parts(location: str) -> None:
        (
            scores.repartition(files, "user_id")
            .sortWithinPartitions(*order)
            .write.option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
            .option("compression", "snappy")
            .parquet(location)
        )

    return write_parts


def plan_run(scores: DataFrame, as_of: date, grain: str, provenance: Provenance) -> Manifest:
    """The manifest, still without files. One job: rows, the one model, and a digest of the content.

    The digest (count, sum and xor of row hashes) does not depend on the order of rows.
    """
    hashed = scores.select("model_name", "model_version", F.xxhash64(*scores.columns).alias("row_hash"))
    # By model, not with min and max of it: Spark sorts rows to find the least of strings, and here adds up numbers alone.
    digest = (F.count("*").alias("rows"), *map(_sum_of_quarter, _QUARTERS), F.bit_xor("row_hash").alias("xor"))
    by_model = hashed.groupBy("model_name", "model_version").agg(*digest).orderBy("model_name", "model_version").limit(2).collect()
    if not by_model:
        raise NothingToPublish(
            f"gold/scores: expected at least one row for as_of_date={as_of}, found none. What was published before stays. "
            "Run the score stage for this date, or look why it had no candidates"
        )
    models = [(found["model_name"], found["model_version"]) for found in by_model]
    if len(models) > 1:
        raise PublishConflict(
            f"gold/scores: expected the scores of one model for as_of_date={as_of}, found {models[0]} and {models[1]}. "
            "Run the score stage for this date again"
        )
    found, (name, version) = by_model[0], models[0]
    total = sum(found[f"sum_{bits}"] << bits for bits in _QUARTERS)
    return Manifest(
        as_of_date=as_of.isoformat(),
        run_id=_run_id(f"{found['rows']}:{total}:{found['xor']}", as_of, grain, models[0], provenance),
        dataset=provenance.dataset,
        grain=grain,
        model_name=name,
        model_version=version,
        feature_table_versions=dict(provenance.feature_table_versions),
        input_table_versions=dict(provenance.input_table_versions),
        config_version=provenance.config_version,
        code_version=provenance.code_version,
        scored_at=provenance.scored_at,
        rows=found["rows"],
        files=(),
    )


_QUARTERS = (48, 32, 16, 0)
"""Bits below each quarter of a hash. Sums of quarters are longs, for 10¹⁴ rows; that of hashes would be a decimal, twice the time."""


def _sum_of_quarter(bits: int) -> Column:
    quarter = F.shiftright("row_hash", bits)
    return F.sum(quarter if bits == _QUARTERS[0] else quarter.bitwiseAND(F.lit(0xFFFF))).alias(f"sum_{bits}")  # the first has the sign


def _run_id(digest: str, as_of: date, grain: str, model: tuple[str, str], provenance: Provenance) -> str:
    """First 16 hex digits of SHA-256 over scored content, model, code, configuration, data set, grain and date.

    Inputs enter by the content they led to, not by Delta's version numbers: those also move when another date is added
    or an interrupted stage runs again, and the same scores would then be another run. The numbers are in the manifest.
    """
    parts = [digest, as_of.isoformat(), grain, *model, provenance.dataset, provenance.config_version, provenance.code_version]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _run_before(before: tuple[bytes, str] | None, planned: Manifest) -> str | None:
    """The run in the `_CURRENT` read before, for `replaces`; None also when it is this one, or a damaged line."""
    try:
        run_id = pointed_to(before[0], POINTER) if before else None
    except PublishedRunInvalid:
        return None
    return run_id if run_id != planned.run_id else None


def is_stored(store: Store, manifest: Manifest) -> bool:
    """Whether the run is there, complete and undamaged; then only strays beside it go. One that is not has no readers."""
    try:
        stored = read_manifest(store, manifest.day, manifest.run_id)
        check_files(store, stored, hashes=True, extra=False)
    except PublishedRunInvalid:
        return False
    store.settle(manifest.folder, [MANIFEST, *(file.key for file in stored.files)])
    return True


def write_run(store: Store, manifest: Manifest, write_parts: Callable[[str], None]) -> bool:
    """Write the parts into a folder of this attempt's own, move them into the run's, then write the manifest of their bytes.

    False when another process that published the same run had its manifest there first: its files count, ours go.
    """
    key = f"{manifest.folder}/{MANIFEST}"
    damaged = store.read(key)
    attempt = f"{manifest.day}/{ATTEMPT}{uuid.uuid4().hex}"
    write_parts(store.spark_path(attempt))
    names = sorted(name for name in store.sizes(attempt) if name.startswith("part-"))
    parts = tuple(describe_part(store, attempt, name) for name in names)
    stored = sum(part.rows for part in parts)
    if stored != manifest.rows:
        store.clear(attempt)
        raise PublishConflict(
            f"{store.spark_path(manifest.folder)}: expected {manifest.rows} rows, found {stored} in {len(parts)} files: "
            "the table changed meanwhile. Run publish again"
        )
    store.move(attempt, manifest.folder, names)
    try:
        store.write(key, replace(manifest, files=parts).to_json(), damaged[1] if damaged else None)
        store.settle(manifest.folder, [MANIFEST, *names])
        is_ours = True
    except PublishConflict:
        if not is_stored(store, manifest):
            raise
        is_ours = False
    store.clear(attempt)
    return is_ours
