"""The line: nine stages in order, and the one place that runs them, records them and skips what is up to date."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from propensity_spark import __version__
from propensity_spark.config import Settings
from propensity_spark.errors import PropensityError
from propensity_spark.failures import explained
from propensity_spark.locks import alone_on
from propensity_spark.logs import log_fields
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import CHANGES, RUNS, VALIDATED
from propensity_spark.stages import evaluate, features, ingest, label, monitor, publish, score, train, validate
from propensity_spark.tables import Lake, local_frame

log = logging.getLogger(__name__)

STAGES: tuple[Stage, ...] = (
    ingest.STAGE,
    validate.STAGE,
    features.STAGE,
    label.STAGE,
    train.STAGE,
    evaluate.STAGE,
    score.STAGE,
    publish.STAGE,
    monitor.STAGE,
)


_TRUSTED = (RUNS, CHANGES, VALIDATED)
"""Tables that decide what a stage does, besides those it reads and writes."""


def stage_named(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


def run_stage(
    spark: SparkSession,
    settings: Settings,
    stage: Stage,
    as_of: date,
    say: Callable[[str], None] = lambda message: None,
    *,
    last: Row | None = None,
    recorded: Mapping[str, tuple[int, datetime]] | None = None,
) -> tuple[Outcome | None, float]:
    """Run one stage and record it in `ops/runs`. Returns (None, seconds) when it was up to date already.

    `last`: the record of its last success (see last_successes); without it the stage is not up to date. `recorded`: the version
    that each table is known to have had (see recorded_versions). Raises LakeBusy when another process runs a stage on this lake, and
    TableDamaged before the stage starts when one of its tables has lost commits. Whatever the stage raises is recorded and raised again.
    """
    lake = Lake(spark, settings.lake)
    run = Run(spark, settings, lake, as_of, f"{stage.name}-{uuid.uuid4().hex[:12]}", datetime.now(UTC), say)
    with alone_on(settings.lake, stage.name):
        return _run_alone(run, stage, last, recorded or {})


def _run_alone(run: Run, stage: Stage, last: Row | None, recorded: Mapping[str, tuple[int, datetime]]) -> tuple[Outcome | None, float]:
    settings, lake, clock = run.settings, run.lake, time.monotonic()
    with log_fields(run_id=run.run_id, stage=stage.name, as_of=run.as_of.isoformat()):
        for table in {*stage.reads(settings), *stage.writes(settings), *_TRUSTED}:
            lake.require_whole(table, recorded.get(table.full_name))
        inputs = dict(lake.versions(stage.reads(settings)))
        fingerprint = _fingerprint(run, stage, inputs)
        if not stage.always and _is_up_to_date(run, stage, fingerprint, last):
            log.info("up to date")
            return None, time.monotonic() - clock
        log.info("started", extra={"inputs": inputs})
        try:
            outcome = stage.execute(run)
        except BaseException as error:
            reason = explained(error, lake)
            log.error("failed: %s", reason or error, exc_info=error if reason else None, extra={"kind": type(reason or error).__name__})
            _record_failure(run, stage, fingerprint, inputs, seconds=time.monotonic() - clock, error=reason or error)
            if reason:
                raise reason from error
            raise
        seconds = time.monotonic() - clock
        _record(run, stage, fingerprint, inputs, outcome=outcome, seconds=seconds, error=None)
        log.info("succeeded", extra={"seconds": round(seconds, 3), "outcome": asdict(outcome)})
    return outcome, seconds


def run_line(
    spark: SparkSession,
    settings: Settings,
    as_of: date,
    stages: Iterable[Stage] = STAGES,
    say: Callable[[str], None] = lambda message: None,
) -> Iterable[tuple[Stage, Outcome | None, float]]:
    """Run the stages in order, yielding each with its outcome (None: up to date) and seconds."""
    lake = Lake(spark, settings.lake)
    lake.require_whole(RUNS)
    newest = newest_runs(lake)
    last = {row["stage"]: row for row in newest if row["status"] == "succeeded"}
    recorded = recorded_versions(newest)
    for stage in stages:
        outcome, seconds = run_stage(spark, settings, stage, as_of, say, last=last.get(stage.name), recorded=recorded)
        yield stage, outcome, seconds


def last_successes(lake: Lake) -> dict[str, Row]:
    """Stage → its last success in `ops/runs`: one row a stage."""
    return {row["stage"]: row for row in newest_runs(lake) if row["status"] == "succeeded"}


def newest_runs(lake: Lake) -> list[Row]:
    """The last success and the last failure of each stage in `ops/runs`."""
    by_end = lake.read_or_empty(RUNS).groupBy("stage", "status")
    newest = by_end.agg(F.max_by(F.struct(*RUNS.column_names), "started_at").alias("last"))
    return [row["last"] for row in newest.collect()]


def recorded_versions(runs: Iterable[Row]) -> dict[str, tuple[int, datetime]]:
    """Table → the version that the youngest of these runs saw or left, and when that was."""
    versions: dict[str, tuple[int, datetime]] = {}
    for run in sorted(runs, key=lambda run: run["started_at"]):
        ended = run["started_at"].replace(tzinfo=UTC) + timedelta(seconds=run["seconds"])
        versions |= {table: (version, ended) for table, version in {**run["input_versions"], **run["output_versions"]}.items()}
    return versions


def outcome_of(success: Row) -> Outcome:
    """What a recorded success did."""
    return Outcome(success["rows_in"], success["rows_out"], success["rows_rejected"], success["note"] or "", json.loads(success["facts"]))


def _fingerprint(run: Run, stage: Stage, inputs: dict[str, int]) -> str:
    parts = {
        "stage": stage.name,
        "as_of": run.as_of.isoformat(),
        "config": run.settings.config_hash(),
        "publish": run.settings.publish.model_dump(mode="json") if stage.name == "publish" else None,
        "code": __version__,
        "inputs": inputs,
        "other": dict(stage.depends_on(run)),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _is_up_to_date(run: Run, stage: Stage, fingerprint: str, last: Row | None) -> bool:
    """True when the stage's last success had the same inputs and nobody has written its outputs since."""
    if last is None or last["fingerprint"] != fingerprint:
        return False
    return dict(last["output_versions"]) == dict(run.lake.versions(stage.writes(run.settings)))


def _record_failure(run: Run, stage: Stage, fingerprint: str, inputs: dict[str, int], *, seconds: float, error: BaseException) -> None:
    """Record a failure; where that is impossible too (a full disk), the failure itself is still what is raised."""
    try:
        _record(run, stage, fingerprint, inputs, outcome=Outcome(0, 0), seconds=seconds, error=error)
    except (PropensityError, PySparkException, Py4JError, OSError) as unrecorded:
        log.error("the failure could not be recorded in ops/runs: %s", str(unrecorded).partition("\n")[0])


def _record(
    run: Run, stage: Stage, fingerprint: str, inputs: dict[str, int], *, outcome: Outcome, seconds: float, error: BaseException | None
) -> None:
    row = {
        "run_id": run.run_id,
        "stage": stage.name,
        "dataset": run.settings.dataset,
        "as_of_date": run.as_of,
        "fingerprint": fingerprint,
        "input_versions": inputs,
        "output_versions": dict(run.lake.versions(stage.writes(run.settings))),
        "rows_in": outcome.rows_in,
        "rows_out": outcome.rows_out,
        "rows_rejected": outcome.rows_rejected,
        "seconds": round(seconds, 3),
        "config_hash": run.settings.config_hash(),
        "code_version": __version__,
        "status": "failed" if error else "succeeded",
        "note": outcome.note or None,
        "facts": json.dumps(dict(outcome.facts), ensure_ascii=False),
        "error": "".join(traceback.format_exception_only(error))[:4000] if error else None,
        "started_at": run.started_at,
    }
    run.lake.append(local_frame(run.spark, [tuple(row[name] for name in RUNS.column_names)], RUNS.schema), RUNS)
