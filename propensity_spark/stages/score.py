"""score: features as of D + the champion → gold/scores."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import GateFailed
from propensity_spark.features.matrix import assemble
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, user_item_table
from propensity_spark.models import CHAMPION, champion_version, load
from propensity_spark.privacy import as_known
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import Table, reasons_table, scores_table
from propensity_spark.score import blocked_fingerprints, eligible, scores, with_probability, with_reasons, without_new_features
from propensity_spark.stages.label import reads


def _execute(run: Run) -> Outcome:
    settings, table = run.settings, scores_table(run.settings.grain)
    model = load(settings, CHAMPION)
    candidates = _as_of(run, user_item_table(settings.has_crowd) if settings.grain == "user_item" else USER_FEATURES)
    chosen = eligible(candidates, settings.score, partial(as_known, settings))
    if chosen.isEmpty():
        raise GateFailed(
            f"score: no candidate as of {run.as_of} is left to score ({candidates.count()} before the blocked lists): check that activity "
            "up to this date was ingested and features were run; what was published before stays"
        )
    if settings.grain == "user":
        matrix = assemble(chosen)
    else:
        matrix = assemble(_as_of(run, USER_FEATURES), chosen, _as_of(run, MARKET_FEATURES) if settings.has_market else None)
    day = f"as_of_date = DATE'{run.as_of}'"
    known, new = without_new_features(matrix, model)
    scored = with_probability(known, model)
    if settings.score.reasons:
        reasons = reasons_table(settings.grain)
        explained = with_reasons(scored, model, settings.score.reasons).select(*reasons.column_names)
        run.lake.replace(explained, reasons, day)
        scored = _as_of(run, reasons)
    run.lake.replace(scores(scored, model, settings.score), table, day)
    rows = _as_of(run, table).count()
    note = f"{rows:,} rows with {model.name} version {model.version}"
    note += f", which was trained before there was {', '.join(new)}" if new else ""
    return Outcome(rows_in=candidates.count(), rows_out=rows, note=note)


def _as_of(run: Run, table: Table) -> DataFrame:
    return run.lake.read(table).where(F.col("as_of_date") == F.lit(run.as_of))


def _depends_on(run: Run) -> Mapping[str, str]:
    return {"champion": champion_version(run.settings) or "none", **blocked_fingerprints(run.spark, run.settings.score)}


STAGE = Stage(
    name="score",
    promise="every candidate once per as-of date; same inputs, same bytes",
    execute=_execute,
    reads=reads,
    writes=lambda settings: (scores_table(settings.grain), *([reasons_table(settings.grain)] if settings.score.reasons else [])),
    depends_on=_depends_on,
)
