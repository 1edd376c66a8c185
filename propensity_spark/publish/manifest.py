"""What a published run says about itself, and the check of the stored files against it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import BinaryIO

import pyarrow.parquet as pq

from propensity_spark.errors import PublishedRunInvalid
from propensity_spark.publish.store import Store

MANIFEST = "_manifest.json"
POINTER = "_CURRENT"
RUN = "run_id="
"""Folder, below that of a date, of one run."""
ATTEMPT = "_attempt="
"""Folder, beside the runs of a date, of parts that one process is writing."""
_POINTER_LINE = re.compile(rb"run_id=([0-9a-f]+)\n?")


@dataclass(frozen=True)
class Provenance:
    """Where the scores of one date come from. Versions are Delta versions by table, times UTC, as recorded in `ops/runs`."""

    dataset: str
    feature_table_versions: Mapping[str, int]
    input_table_versions: Mapping[str, int]
    config_version: str
    code_version: str
    scored_at: str


@dataclass(frozen=True)
class PartFile:
    """One stored data file. `key` is its name in the run's folder, `sha256` the hex digest of the stored bytes."""

    key: str
    bytes: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """One published run: the content of `_manifest.json`."""

    as_of_date: str
    run_id: str
    dataset: str
    grain: str
    model_name: str
    model_version: str
    feature_table_versions: Mapping[str, int]
    input_table_versions: Mapping[str, int]
    config_version: str
    code_version: str
    scored_at: str
    rows: int
    files: tuple[PartFile, ...]
    replaces: str | None = None
    """Id of the run that was current when this one was written; null for the first of its date."""

    @property
    def day(self) -> str:
        """Folder of the date."""
        return f"as_of_date={self.as_of_date}"

    @property
    def folder(self) -> str:
        """Folder of the run."""
        return f"{self.day}/run_id={self.run_id}"

    def to_json(self) -> bytes:
        """Indented UTF-8 JSON, the same bytes for the same manifest; `manifest_sha256` is the digest of all the rest."""
        fields = asdict(self)
        return _json(fields | {"manifest_sha256": hashlib.sha256(_json(fields)).hexdigest()})

    @staticmethod
    def from_json(body: bytes, where: str) -> Manifest:
        """Raises PublishedRunInvalid that names `where` and what is wrong."""
        try:
            fields = json.loads(body)
            digest = fields.pop("manifest_sha256", None)  # manifests of version 0.1.0 have none
            if digest is not None and digest != hashlib.sha256(_json(fields)).hexdigest():
                raise ValueError("its content is not what its manifest_sha256 says")
            files = tuple(PartFile(**file) for file in fields.pop("files"))
            manifest = Manifest(**fields, files=files)
            if manifest.grain not in ("user", "user_item"):
                raise ValueError(f"grain is {manifest.grain!r}, expected user or user_item")
            if sum(file.rows for file in files) != manifest.rows:
                raise ValueError(f"rows is {manifest.rows}, its files have {sum(file.rows for file in files)}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PublishedRunInvalid(f"{where}: not a manifest of a published run ({error}); publish the date again") from error
        return manifest


def current_manifest(store: Store, day: str) -> Manifest:
    """The manifest of the run that `_CURRENT` of a date's folder names. Raises PublishedRunInvalid."""
    while True:
        run_id = current_run(store, day)
        if run_id is None:
            where = store.spark_path(f"{day}/{POINTER}")
            raise PublishedRunInvalid(f"{where}: missing; nothing has been published for this date. Run the publish stage")
        try:
            return read_manifest(store, day, run_id)
        except PublishedRunInvalid:
            if current_run(store, day) == run_id:  # else the pointer moved and the run was removed between the two reads
                raise


def current_run(store: Store, day: str) -> str | None:
    """The run id in `_CURRENT`, None when there is none. Raises PublishedRunInvalid for anything else in it."""
    stored = store.read(f"{day}/{POINTER}")
    return None if stored is None else pointed_to(stored[0], store.spark_path(f"{day}/{POINTER}"))


def pointed_to(body: bytes, where: str) -> str:
    """The run id in the content of a `_CURRENT`. Raises PublishedRunInvalid that names `where`."""
    line = _POINTER_LINE.fullmatch(body)
    if line is None:
        raise PublishedRunInvalid(f"{where}: expected one line run_id=<id>, found {body[:80]!r}. Publish the date again")
    return line.group(1).decode()


def read_manifest(store: Store, day: str, run_id: str) -> Manifest:
    """The manifest of one run. Raises PublishedRunInvalid when it is missing, damaged or another run's."""
    key = f"{day}/run_id={run_id}/{MANIFEST}"
    stored = store.read(key)
    if stored is None:
        raise PublishedRunInvalid(f"{store.spark_path(key)}: missing; expected the manifest of run {run_id}. Publish the date again")
    manifest = Manifest.from_json(stored[0], store.spark_path(key))
    if (manifest.day, manifest.run_id) != (day, run_id):
        raise PublishedRunInvalid(f"{store.spark_path(key)}: expected run {run_id} of {day}, found run {manifest.run_id} of {manifest.day}")
    return manifest


def describe_part(store: Store, folder: str, name: str) -> PartFile:
    """Size, rows and SHA-256 of the bytes that are stored. Raises PublishedRunInvalid when they are not Parquet."""
    with store.open(f"{folder}/{name}") as file:
        size, digest = _hash(file)
        file.seek(0)
        try:
            rows = pq.ParquetFile(file).metadata.num_rows
        except (ValueError, OSError) as error:
            raise PublishedRunInvalid(f"{store.spark_path(folder)}/{name}: expected Parquet, found {size} other bytes ({error})") from error
    return PartFile(name, size, rows, digest)


def check_files(store: Store, manifest: Manifest, *, hashes: bool, extra: bool) -> None:
    """Hold the stored part files against the manifest: none missing, their sizes, with `hashes` their content.

    With `extra` also that there is no other part file: whoever reads by the manifest is not disturbed by one, whoever
    lists the folder is. Raises PublishedRunInvalid that names the file, what was expected and what was found.
    """
    where = store.spark_path(manifest.folder)
    sizes = {name: size for name, size in store.sizes(manifest.folder).items() if name.startswith("part-")}
    expected = {file.key: file for file in manifest.files}
    problems = [f"{name}: expected, not found" for name in sorted(expected.keys() - sizes.keys())]
    if extra:
        problems += [f"{name}: found, but not in the manifest" for name in sorted(sizes.keys() - expected.keys())]
    for name in sorted(expected.keys() & sizes.keys()):
        if sizes[name] != expected[name].bytes:
            problems.append(f"{name}: expected {expected[name].bytes} bytes, found {sizes[name]}")
        elif hashes:
            with store.open(f"{manifest.folder}/{name}") as file:
                _, digest = _hash(file)
            if digest != expected[name].sha256:
                problems.append(f"{name}: expected SHA-256 {expected[name].sha256}, found {digest}")
    if problems:
        raise PublishedRunInvalid(f"{where}: {'; '.join(problems)}. Publish the date again")


def _json(fields: Mapping[str, object]) -> bytes:
    return (json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _hash(file: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(1024 * 1024):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()
