"""publish: gold/scores of the as-of date → files that others read."""

from __future__ import annotations

import logging
from dataclasses import asdict

from pyspark.sql import functions as F

from propensity_spark.errors import TableMissing
from propensity_spark.publish import Provenance, Tidied, publish_scores, tidy
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import RUNS, scores_table

log = logging.getLogger(__name__)


def _execute(run: Run) -> Outcome:
    settings = run.settings
    scores = run.lake.read(scores_table(settings.grain)).where(F.col("as_of_date") == F.lit(run.as_of))
    published = publish_scores(
        scores, settings.publish.uri, run.as_of, grain=settings.grain, provenance=_provenance(run), files=settings.publish.files
    )
    tidied = tidy(settings.publish.uri, settings.publish)
    if tidied != Tidied():
        log.info("tidied", extra=asdict(tidied))
    state = "published" if published.is_new else "was published already, unchanged"
    return Outcome(
        rows_in=published.rows,
        rows_out=published.rows,
        note=f"{published.rows:,} rows, run_id={published.run_id} {state}: {published.location}",
        facts={"run_id": published.run_id, "published": published.location},
    )


def _provenance(run: Run) -> Provenance:
    """What the last successful score run of the date read, and what the features run before it read."""
    scored_at = F.date_format("started_at", "yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'").alias("scored_at")
    done = (
        run.lake.read(RUNS)
        .where((F.col("status") == "succeeded") & (F.col("as_of_date") == F.lit(run.as_of)) & F.col("stage").isin("features", "score"))
        .groupBy("stage")
        .agg(F.max_by(F.struct("input_versions", "config_hash", "code_version", scored_at), "started_at").alias("last"))
        .collect()
    )
    last = {row["stage"]: row["last"] for row in done}
    if "score" not in last:
        raise TableMissing(f"ops/runs: expected a successful score run for as_of_date={run.as_of}, found none. Run the score stage first")
    score = last["score"]
    return Provenance(
        dataset=run.settings.dataset,
        feature_table_versions=score["input_versions"],
        input_table_versions=last["features"]["input_versions"] if "features" in last else {},
        config_version=score["config_hash"],
        code_version=score["code_version"],
        scored_at=score["scored_at"],
    )


STAGE = Stage(
    name="publish",
    promise="readers see the old complete run or the new complete run, never a mixture",
    execute=_execute,
    reads=lambda settings: (scores_table(settings.grain),),
    always=True,  # what it writes is not a table of the lake: only looking there tells whether it is up to date
)
