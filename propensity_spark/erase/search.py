"""The last proof: is a person still in any file? Tables' old versions, logs, reports, models, notes of every kind."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from propensity_spark.erase.find import People, rows_in
from propensity_spark.ingest.files import list_files
from propensity_spark.run import Run
from propensity_spark.schemas import Table

_WORD = r"[A-Za-z0-9_]"
_CHUNK = 16 * 1024 * 1024


@dataclass(frozen=True)
class Searched:
    """How many files were searched, which hold a person, and which merely hold a number that equals a short id."""

    files: int
    holding: tuple[str, ...]
    doubtful: tuple[str, ...]

    def __add__(self, other: Searched) -> Searched:
        return Searched(self.files + other.files, self.holding + other.holding, self.doubtful + other.doubtful)


def old_files(run: Run, table: Table) -> list[str] | None:
    """Data files of a table that are on the disk and not part of its present version; None where nobody can list them."""
    if run.settings.lake.catalog is not None:
        return None
    present = {path.rpartition("/")[2] for path in run.lake.read(table).inputFiles()}
    listed = list_files(run.spark, run.lake.location(table), "*.parquet", table.full_name)
    return sorted(path for path, _, _ in listed if path.rpartition("/")[2] not in present)


def rows_in_old_files(run: Run, table: Table, people: People) -> int:
    """The persons' rows in files that only older versions of the table need. Partition columns are in paths, and not asked for."""
    files = old_files(run, table)
    if not files:
        return 0
    root = run.lake.location(table)
    rows = run.spark.read.schema(table.schema).option("basePath", root).parquet(*files)
    return rows_in(run, table, people, rows).count()


def search(root: Path, names: Sequence[str], skip: Sequence[Path]) -> Searched:
    """Look for the names in every file under `root`, whole values in Parquet, whole words elsewhere; gzip is opened.

    `skip`: folders whose rows are proved otherwise. A short name of digits alone is a number that stands in many places: where it is
    a word of a text, nobody can say whose; such files are doubtful. (Data pages of Parquet are decoded, never searched as bytes:
    compression hides text and makes up short words.)
    """
    found: dict[bool, list[str]] = {True: [], False: []}
    count = 0
    sure = [name for name in names if not (name.isdigit() and len(name) < 8)]
    for path in _files(root, skip):
        count += 1
        shown = path.relative_to(root).as_posix()
        if path.suffix == ".parquet" and (values := _in_parquet(path, names)) is not None:
            found[True] += [shown] if values else []
        elif _in_text(path, sure):
            found[True].append(shown)
        elif _in_text(path, names):
            found[False].append(shown)
    return Searched(count, tuple(found[True]), tuple(found[False]))


def _files(root: Path, skip: Sequence[Path]) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        is_checksum = path.name.startswith(".") and path.name.endswith(".crc")
        if path.is_file() and not is_checksum and not any(path.is_relative_to(folder) for folder in skip):
            yield path


def _in_parquet(path: Path, names: Sequence[str]) -> bool | None:
    """Whether a text column, at any depth, has one of the names as a value; None: it cannot be read."""
    wanted = pa.array(list(names), pa.string())
    try:
        batches = pq.ParquetFile(path).iter_batches()
        return any(pc.any(pc.is_in(values, value_set=wanted)).as_py() for batch in batches for c in batch.columns for values in _texts(c))
    except pa.ArrowException:
        return None


def _texts(array: pa.Array) -> Iterator[pa.Array]:
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        yield array.cast(pa.string())
    elif pa.types.is_struct(array.type):
        for child in array.flatten():
            yield from _texts(child)
    elif pa.types.is_map(array.type):
        yield from _texts(array.keys)
        yield from _texts(array.items)
    elif pa.types.is_list(array.type):
        yield from _texts(array.flatten())


def _in_text(path: Path, names: Sequence[str]) -> bool:
    if not names:
        return False
    either = "|".join(re.escape(name) for name in names).encode()
    word = re.compile(rb"(?<!" + _WORD.encode() + rb")(?:" + either + rb")(?!" + _WORD.encode() + rb")")
    overlap = max(len(name.encode()) for name in names) + 1
    with path.open("rb") as plain:
        is_gzip = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        stream = gzip.GzipFile(fileobj=plain) if is_gzip else plain
        tail = b""
        while chunk := stream.read(_CHUNK):
            if word.search(tail + chunk):
                return True
            tail = chunk[-overlap:]
    return False
