"""Deaths for tests: every write of the line is a named point after which it can be made to die. The package knows nothing of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlflow

from propensity_spark.config import Settings
from propensity_spark.features.registry import USER_FEATURES, training_set_table
from propensity_spark.logs import current_fields
from propensity_spark.models import CHALLENGER, CHAMPION, version_of
from propensity_spark.publish import verify
from propensity_spark.publish.manifest import Manifest, current_manifest
from propensity_spark.publish.store import open_store
from propensity_spark.schemas import ACTIVITY, BRONZE, CHANGES, DELIVERIES, DRIFT, QUARANTINE, VALIDATED, Table, reasons_table, scores_table
from propensity_spark.tables import Lake

OF_A_RUN = {"ingested_at", "run_id", "batch_id", "recorded_at"}  # differ from run to run by their meaning
TABLES = (
    *(BRONZE["activity"], ACTIVITY, QUARANTINE, USER_FEATURES, training_set_table("user", False), reasons_table("user")),
    *(scores_table("user"), DRIFT, VALIDATED),
)
LOGS = (DELIVERIES, CHANGES)  # say a thing again when a run that died after saying it is repeated
WRITES = {
    Lake: ("_save", "merge", "delete"),
    os: ("replace", "rename"),
    mlflow.MlflowClient: (
        *("create_registered_model", "create_model_version", "set_registered_model_alias"),
        *("create_run", "log_batch", "set_terminated"),
    ),
}
"""MLflow puts an artifact on a disk in its place by os.replace."""


@contextmanager
def watched(before: Callable[[], None], after: Callable[[str], None]) -> Iterator[None]:
    """Call `before` and `after` around every write inside; `after` with its name, such as `validate: merge silver/activity #1`."""
    counted: Counter[str] = Counter()

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **options: Any) -> Any:
            before()
            result = original(*args, **options)
            subject = next((part.full_name for part in args if isinstance(part, Table)), "")
            place = f"{current_fields().get('stage')}: {original.__name__} {subject}"
            counted[place] += 1
            after(f"{place} #{counted[place]}")
            return result

        return write

    with ExitStack() as patches:
        for owner, methods in WRITES.items():
            for method in methods:
                patches.enter_context(patch.object(owner, method, around(getattr(owner, method))))
        yield


def left_behind(lake: Lake, chosen: Settings) -> dict[str, object]:
    """What the line is for: every row of its tables, its models, and the published run by the pages of each of its files."""
    rows = {table.full_name: sorted(_rows(lake, table)) for table in TABLES}  # a lake of a test is small
    said = {table.full_name: sorted(set(_rows(lake, table))) for table in LOGS}
    (published,) = verify(chosen.publish.uri)
    manifest = current_manifest(open_store(chosen.publish.uri), f"as_of_date={published.as_of_date}")
    files = sorted((file.rows, file.bytes, _pages(chosen, manifest, file.key)) for file in manifest.files)
    models = {alias: version_of(chosen, alias) for alias in (CHAMPION, CHALLENGER)}
    return {**rows, **said, **models, "published": (published.run_id, published.rows, files)}


def _pages(chosen: Settings, manifest: Manifest, key: str) -> str:
    """SHA-256 of a Parquet file up to its footer.

    Parquet's writer lists a column's encodings there in the order of a hash set of enum constants, whose hashes are identities: the same
    rows written by two JVMs have equal pages, and footers of equal length that may name PLAIN and RLE the other way round.
    """
    stored = (Path(chosen.publish.uri) / manifest.folder / key).read_bytes()
    footer = int.from_bytes(stored[-8:-4], "little")
    return sha256(stored[: -8 - footer]).hexdigest()


def _rows(lake: Lake, table: Table) -> list[str]:
    return [repr(row) for row in lake.read(table).drop(*OF_A_RUN).collect()]
