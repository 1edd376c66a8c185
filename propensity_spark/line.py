"""The line: nine stages in order, and the one place that runs them, records them and skips what is up to date."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import traceback
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, date, datetime

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from propensity_spark import __version__
from propensity_spark.config import Settings
from propensity_spark.logs import log_fields
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import RUNS
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
) -> tuple[Outcome | None, float]:
    """Run one stage and record it in `ops/runs`. Returns (None, seconds) when it was up to date already.

    `last`: the record of its last success (see last_successes); without it the stage is not up to date. Whatever the
    stage raises is recorded and raised again.
    """
    lake = Lake(spark, settings.lake)
    started = datetime.now(UTC)
    clock = time.monotonic()
    run = Run(spark, settings, lake, as_of, f"{stage.name}-{uuid.uuid4().hex[:12]}", started, say)
    with log_fields(run_id=run.run_id, stage=stage.name, as_of=as_of.isoformat()):
        inputs = dict(lake.versions(stage.reads(settings)))
        fingerprint = _fingerprint(run, stage, inputs)
        if not stage.always and _is_up_to_date(run, stage, fingerprint, last):
            log.info("up to date")
            return None, time.monotonic() - clock
        log.info("started", extra={"inputs": inputs})
        try:
            outcome = stage.execute(run)
        except BaseException as error:
            log.error("failed: %s", error)
            _record(run, stage, fingerprint, inputs, outcome=Outcome(0, 0), seconds=time.monotonic() - clock, error=error)
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
    last = last_successes(Lake(spark, settings.lake))
    for stage in stages:
        outcome, seconds = run_stage(spark, settings, stage, as_of, say, last=last.get(stage.name))
        yield stage, outcome, seconds


def last_successes(lake: Lake) -> dict[str, Row]:
    """Stage → its last success in `ops/runs`: one row a stage."""
    succeeded = lake.read_or_empty(RUNS).where(F.col("status") == "succeeded")
    newest = succeeded.groupBy("stage").agg(F.max_by(F.struct(*RUNS.column_names), "started_at").alias("last"))
    return {row["stage"]: row["last"] for row in newest.collect()}


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
