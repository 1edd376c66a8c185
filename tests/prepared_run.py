"""Published runs whose parts are made beforehand, so that a test pays no Spark job for each."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from propensity_spark.publish.manifest import Manifest
from propensity_spark.publish.s3 import S3Store
from propensity_spark.publish.store import Store
from propensity_spark.publish.write import Published, publish_run

DAY = "2024-12-31"
FILES, USERS = 3, 40


def planned(number: int) -> Manifest:
    """The run of a number: its users all have the probability number / 1000."""
    run_id = hashlib.sha256(str(number).encode()).hexdigest()[:16]
    rows = FILES * USERS
    return Manifest(DAY, run_id, "shop", "user", "m", str(number), {"gold/user_features": 1}, {}, "c", "0.1.0", "2025-01-01", rows, ())


def parts(number: int) -> dict[str, bytes]:
    """File name → Parquet; the name is new with every call, as Spark's are with every write."""
    found = {}
    for part in range(FILES):
        users = [f"u{part}-{user}" for user in range(USERS)]
        columns = {
            "user_id": users,
            "purchase_probability": [number / 1000] * USERS,
            "predicted_purchase": [False] * USERS,
            "segment": ["Low"] * USERS,
            "model_name": ["m"] * USERS,
            "model_version": [str(number)] * USERS,
        }
        body = io.BytesIO()
        pq.write_table(pa.table(columns), body)
        found[f"part-{part:05}.parquet"] = body.getvalue()
    return found


def writer(store: Store, number: int, name: str = "") -> Callable[[str], None]:
    """What publish_run calls for the parts; `name` tells apart those of two processes."""

    def write(location: str) -> None:
        for file, body in parts(number).items():
            unique = file.replace(".parquet", f"-{name or hashlib.sha256(location.encode()).hexdigest()[:8]}.parquet")
            if isinstance(store, S3Store):
                key = location.removeprefix(f"s3a://{store.bucket}/")
                store.client.put_object(Bucket=store.bucket, Key=f"{key}/{unique}", Body=body)
            else:
                Path(location).mkdir(parents=True, exist_ok=True)
                (Path(location) / unique).write_bytes(body)

    return write


def publish(store: Store, number: int, day: str = DAY) -> Published:
    """Publish the run of a number, as a process of its own would."""
    return publish_run(store, replace(planned(number), as_of_date=day), writer(store, number))
