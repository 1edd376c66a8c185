"""evaluate: challenger and champion on held-out time → report, promotion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import ChallengerRefused
from propensity_spark.evaluate import context, report
from propensity_spark.evaluate.folds import Fold, time_folds
from propensity_spark.evaluate.heldout import assess
from propensity_spark.evaluate.record import record, reports_folder
from propensity_spark.evaluate.segments import USER_SEGMENT
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, training_set_table
from propensity_spark.features.windows import Grid, attributes_as_of
from propensity_spark.label import looked_at, purchases
from propensity_spark.models import CHALLENGER, SPEED, best_params, champion_version, is_rolled_back, load, logged, promote, version_of
from propensity_spark.platform import keep, release
from propensity_spark.predictor import PropensityModel
from propensity_spark.privacy import as_known
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import ACTIVITY, DRIFT, PROFILES, QUARANTINE, RUNS, USERS
from propensity_spark.simulate.truth import write_truth


def _execute(run: Run) -> Outcome:
    settings, lake = run.settings, run.lake
    challenger = load(settings, CHALLENGER)
    rival = context.rival(reports_folder(run), run.as_of, challenger.version, champion_version(settings))
    training_set = lake.read(training_set_table(settings.grain, settings.has_market, settings.has_crowd))
    test_dates = training_set.where("split = 'test'").select("as_of_date").distinct().orderBy("as_of_date")
    dates = [row["as_of_date"] for row in test_dates.collect()]
    population = lake.read(USER_FEATURES).select("user_id", "as_of_date")
    bought = purchases(lake.read(ACTIVITY), dates, settings.label, grain=settings.grain, as_of=run.as_of)
    every = keep(bought if settings.grain == "user" else bought.where(looked_at(settings.sampling)))
    bought = keep(every.join(population, ["user_id", "as_of_date"], "left_semi"))
    champion = load(settings, rival) if rival else None
    truth = _truth(run, dates)
    sections, decision = assess(
        training_set,
        bought,
        challenger=challenger,
        champion=champion,
        settings=settings,
        truth=truth,
        user_segments=_user_segments(run, dates),
        folds=_folds(run, training_set, challenger),
        rows_per_second=logged(settings, challenger.version)[1].get(SPEED),
        rolled_back=is_rolled_back(settings, challenger.version),
    )
    found = sections["evaluation"]
    numbers = {
        "head": context.head(settings, challenger, run.as_of),
        **sections,
        "splits": context.slices(training_set),
        "stages": context.stage_rows(lake.read_or_empty(RUNS), run.as_of),
        "quality": context.quality(lake.read_or_empty(QUARANTINE), lake.read_or_empty(PROFILES)),
        "drift": context.drift(lake.read_or_empty(DRIFT), run.as_of),
        "items_together": context.items_together(lake.read(MARKET_FEATURES), bought, run.as_of) if settings.has_market else None,
        "notes": context.notes(settings, found, every.count() - bought.count()),
    }
    release(every)
    release(bought)
    where = record(run, numbers, challenger.version)
    if decision.promotes:  # last, so that a run killed before it decides again on the same ground
        promote(settings, challenger.version)
    elif decision.outcome == "kept" and settings.evaluate.refused == "fail":
        raise ChallengerRefused(f"{decision.sentence}. Report: {where}")
    facts = report.facts(numbers) | {"champion": decision.sentence, "report": where}
    return Outcome(found["rows"], found["rows"], note=decision.sentence, facts=facts)


def _folds(run: Run, training_set: DataFrame, challenger: PropensityModel) -> list[Fold]:
    settings = run.settings
    if not settings.evaluate.time_folds:
        return []
    return time_folds(training_set, challenger, best_params(settings, challenger.version), settings)


def _user_segments(run: Run, dates: Sequence[date]) -> DataFrame | None:
    """(user_id, as_of_date, user_segment) as known on each of the dates; None where no source tells of users."""
    if not run.settings.sources.get("users"):
        return None
    grid = Grid(tuple(dates))
    known = attributes_as_of(run.lake.read(USERS), "user_id", [USER_SEGMENT], grid)
    return known.select("user_id", grid.day(F.col("position")).alias("as_of_date"), USER_SEGMENT)


def _truth(run: Run, dates: Sequence[date]) -> DataFrame | None:
    """The truth of the test dates, made when it is not there; None without simulated investors or for labels it does not know."""
    settings = run.settings
    if settings.simulate is None or settings.label.event_types != ("buy",) or reports_folder(run) is None:
        return None
    root = run.lake.root.removeprefix("file://")
    write_truth(run.spark, settings, root, dates)
    truth = run.spark.read.option("basePath", f"{root}/simulated/truth").parquet(
        *[f"{root}/simulated/truth/as_of_date={day}" for day in dates]
    )
    return as_known(settings, truth)


STAGE = Stage(
    name="evaluate",
    promise="metrics with confidence intervals, gates, champion and challenger",
    execute=_execute,
    reads=lambda settings: (training_set_table(settings.grain, settings.has_market, settings.has_crowd),),
    depends_on=lambda run: {"challenger": version_of(run.settings, CHALLENGER) or "none"},
)
