"""Files that the lake owns, written anew without some of their rows. Files outside its root are their owner's: only named."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from propensity_spark.erase.find import HoldingFile
from propensity_spark.ingest.batches import forms_of, sources_by_name
from propensity_spark.ingest.deliveries import Delivery, record
from propensity_spark.ingest.files import local_path, modification_times
from propensity_spark.ingest.records import Form, read_records
from propensity_spark.run import Run
from propensity_spark.schemas import DELIVERIES, TOUCHED


def is_own(delivery: Delivery) -> bool:
    """Whether the file lies in the lake's own folder (then its name there is a relative one) and can be written."""
    return ":/" not in delivery.uri and local_path(delivery.path) is not None


def rewrite(run: Run, files: Iterable[HoldingFile]) -> int:
    """Take the persons' lines out of files of the lake. Returns how many files were written.

    What was ingested stays ingested: the file's new bytes are recorded as known, so that its other rows are not taken twice. A death
    in between means that they are, and validate then counts them as repeated.
    """
    forms, taken = forms_of(sources_by_name(run)), _ingested(run)
    known: list[tuple[Delivery, str, str | None]] = []
    count = 0
    for file in files:
        delivery, path = file.delivery, Path(str(local_path(file.delivery.path)))
        form = forms[delivery.source]
        (_rewrite_parquet if form.format == "parquet" else _rewrite_text)(run, path, form, file.lines)
        count += 1
        if (delivery.source, delivery.uri) in taken:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            modified = modification_times(run.spark, [delivery.path])[delivery.path]
            rows = delivery.rows - len(file.lines)
            now = replace(delivery, delivery_id=digest, bytes=path.stat().st_size, modified=modified, rows=rows)
            known.append((now, "ingested", TOUCHED))
    record(run.lake, known, datetime.now(UTC), run.run_id)
    return count


def rewrite_truth(root: Path, users: Collection[str]) -> int:
    """Take simulated persons out of what the simulator knows of them. Returns how many files were written."""
    count = 0
    for path in sorted((root / "simulated" / "truth").glob("as_of_date=*/*.parquet")):
        rows = pq.ParquetFile(path).read()
        kept = rows.filter(pc.invert(pc.is_in(rows["user_id"], value_set=_texts(users))))
        if kept.num_rows < rows.num_rows:
            aside = path.with_name(f".{path.name}.new")
            pq.write_table(kept, aside)
            path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
            os.replace(aside, path)
            count += 1
    return count


def _texts(users: Collection[str]):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    return pa.array(sorted(users), pa.string())


def _ingested(run: Run) -> set[tuple[str, str]]:
    log = run.lake.read_or_empty(DELIVERIES).where(F.col("status") == "ingested").select("source", "source_uri").distinct()
    return {(row["source"], row["source_uri"]) for row in log.collect()}


def _rewrite_text(run: Run, path: Path, form: Form, lines: frozenset[int]) -> None:
    with path.open("rb") as stream:
        header, records = read_records(stream, form, path.name)
        kept = [record for line, record in enumerate(records) if line not in lines]
    body = "".join(f"{record}\n" for record in ([header] if header is not None else []) + kept).encode(form.encoding)
    with path.open("rb") as stream:
        body = gzip.compress(body, mtime=0) if stream.read(2) == b"\x1f\x8b" else body
    aside = path.with_name(f".{path.name}.new")
    aside.write_bytes(body)
    os.replace(aside, path)


def _rewrite_parquet(run: Run, path: Path, form: Form, lines: frozenset[int]) -> None:
    """By Spark, so that every type stays what it was (a nanosecond library would give other timestamps)."""
    aside = path.with_name(f".{path.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    rows = run.spark.read.parquet(f"file:{path}")
    (rows.where(~F.col("_metadata.row_index").isin(sorted(lines))).coalesce(1).write.parquet(f"file:{aside}"))
    (written,) = aside.glob("*.parquet")
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
    os.replace(written, path)
    shutil.rmtree(aside)
