"""ops/erasures: who was asked for, by keyed hash, and what was proved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from pyspark.sql import functions as F

from propensity_spark.privacy import PrivacyKey
from propensity_spark.run import Run
from propensity_spark.schemas import ERASURES
from propensity_spark.tables import local_frame

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def asked_before(run: Run, key: PrivacyKey, users: Sequence[str]) -> dict[str, datetime | None]:
    """Those of the users who were asked for before, with the moment at which the last of their rows was gone; null: not yet."""
    user_of = {key.hash(user): user for user in users}
    hashes = local_frame(run.spark, [(one,) for one in user_of], "user_hash string")
    log = run.lake.read_or_empty(ERASURES).join(hashes, "user_hash", "left_semi").groupBy("user_hash")
    gone = F.max(F.when(F.col("status") == "erased", F.unix_micros("recorded_at")))
    rows = log.agg(gone.alias("gone")).collect()
    return {user_of[row["user_hash"]]: None if row["gone"] is None else _EPOCH + timedelta(microseconds=row["gone"]) for row in rows}


def note_down(
    run: Run,
    key: PrivacyKey,
    users: Sequence[str],
    status: str,
    *,
    proof: Mapping[str, str] | None = None,
    purge_from: datetime | None = None,
) -> None:
    """Append one change of state for each of the users."""
    body = None if proof is None else json.dumps(dict(proof), ensure_ascii=False)
    now = datetime.now(UTC)
    rows = [(key.hash(user), key.check, status, purge_from, body, now, run.run_id) for user in users]
    run.lake.append(local_frame(run.spark, rows, ERASURES.schema), ERASURES)
