"""How often the defaults of monitoring are right: `python -m benchmarks.monitoring alarms`.

The `stocks` world, smaller. At each of a few dates a model is trained as the line does it; then every session after it is scored
and monitored with the defaults: once as the world went on (every alert is a false one), and once for each planted drift:

- crash: from the day on prices fall by 30% within ten sessions and jump about from session to session, twice the volume is traded
- views stop: the feed delivers no `view` event any more
- behaviour: every purchase is of another item, drawn by a hash, so that nothing the model learnt holds

Realised performance is judged for every third scored day, to save time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.measure import Measure, say
from propensity_spark.calendars import sessions
from propensity_spark.config import Settings
from propensity_spark.features.affinity import item_dates, sector_spending
from propensity_spark.features.candidates import user_item_features
from propensity_spark.features.events import live_events
from propensity_spark.features.market import market_features
from propensity_spark.features.matrix import assemble
from propensity_spark.features.rfm import user_features
from propensity_spark.features.windows import Grid
from propensity_spark.label import purchases
from propensity_spark.line import run_line, stage_named
from propensity_spark.models import CHALLENGER, load
from propensity_spark.monitor.alerts import Seen, holding, seen_drift, seen_performance
from propensity_spark.monitor.drift import HISTOGRAM, counts, drift, verdict, volume
from propensity_spark.monitor.performance import Estimate, Performance, estimates, fallen, judged, matured, realised
from propensity_spark.predictor import PropensityModel
from propensity_spark.schemas import ACTIVITY, BARS, CORPORATE_ACTIONS, ITEMS, USERS, Table
from propensity_spark.score import PROBABILITY, with_probability
from propensity_spark.tables import Lake

Silver = dict[Table, DataFrame]


def crash(silver: Silver, start: date) -> Silver:
    bars = silver[BARS]
    ahead = F.date_diff("session_date", F.lit(start))
    unit = F.pmod(F.xxhash64("item_id", "session_date"), F.lit(1_000_003)) / 1_000_003
    level = F.exp(-0.36 * F.least((ahead + 1) / 14, F.lit(1.0)) + 0.1 * (unit - 0.5))
    factors = {"open": level, "close": level, "vwap": level, "high": level * 1.02, "low": level * 0.98, "volume": F.lit(2.0)}
    after = (ahead >= 0) & (F.col("bar_size") == "1d")
    changed = {
        name: F.when(after, F.col(name) * factor).otherwise(F.col(name)).cast(bars.schema[name].dataType)
        for name, factor in factors.items()
    }
    return silver | {BARS: bars.withColumns(changed)}


def views_stop(silver: Silver, start: date) -> Silver:
    gone = (F.col("event_type") == "view") & (F.col("event_date") >= F.lit(start))
    return silver | {ACTIVITY: silver[ACTIVITY].where(~gone)}


def behaviour(silver: Silver, start: date) -> Silver:
    activity = silver[ACTIVITY]
    known = silver[ITEMS].agg(F.sort_array(F.collect_set("item_id")).alias("known"))
    other = F.element_at("known", (F.pmod(F.xxhash64("order_id"), F.size("known")) + 1).cast("int"))
    moved = F.col("event_type").isin("buy", "cancel") & (F.col("event_date") >= F.lit(start))
    changed = activity.crossJoin(F.broadcast(known)).withColumn("item_id", F.when(moved, other).otherwise(F.col("item_id")))
    return silver | {ACTIVITY: changed.drop("known")}


DRIFTS: dict[str, Callable[[Silver, date], Silver]] = {
    "none": lambda silver, start: silver,
    "crash": crash,
    "views stop": views_stop,
    "behaviour": behaviour,
}


@dataclass(frozen=True)
class Plan:
    """Which drift sets in on which of the days."""

    drift: str
    days: tuple[date, ...]
    start: date


@dataclass(frozen=True)
class Watched:
    """Per day the rules that told something, whether retraining was asked for, and the reason."""

    plan: Plan
    told: Mapping[date, tuple[str, ...]]
    retrain: Mapping[date, bool]
    reasons: Mapping[date, str]


def alarms(spark: SparkSession, settings: Settings, root: Path, days: int, models: Sequence[date]) -> list[Measure]:
    """The world is delivered up to each model's date in turn, so that each is trained on what was known then."""
    trained = {}
    for at in models:
        _line(spark, settings, at, ("ingest", "validate", "features", "label", "train"))
        trained[at] = load(settings, CHALLENGER)
    assert settings.simulate is not None
    _line(spark, settings, settings.simulate.end, ("ingest", "validate"))
    lake = Lake(spark, settings.lake)
    silver: Silver = {one: lake.read(one) for one in (ACTIVITY, USERS, ITEMS, BARS, CORPORATE_ACTIONS)}
    watched = []
    for at, model in trained.items():
        after = [day for day in sessions(str(settings.calendar), at, at + timedelta(days=3 * days)) if day > at][:days]
        for name, plant in DRIFTS.items():
            plan = Plan(name, tuple(after), after[days // 4])
            clock = time.monotonic()
            watched.append(watch(settings, plant(silver, plan.start), model, plan, root / f"{at}-{name.replace(' ', '-')}"))
            say(f"{at} {name}: {time.monotonic() - clock:.0f} s; {_story(watched[-1])}")
    return [*_false_alarms(settings, watched), *_power(watched)]


def watch(settings: Settings, silver: Silver, model: PropensityModel, plan: Plan, aside: Path) -> Watched:
    """Score and count all days in one pass each, as the stages do; then go day by day with what is known by then."""
    scored = with_probability(_matrix(settings, silver, plan.days), model).withColumn("sample_weight", F.lit(1.0))
    scored.write.partitionBy("as_of_date").parquet(str(aside))
    rows = scored.sparkSession.read.parquet(str(aside)).withColumn("as_of_date", F.col("as_of_date").cast("date"))
    counted = counts(rows, model.baseline)
    worth = _worth(settings, silver, rows, plan.days[::3])
    limits, gain = settings.monitor, model.gain()
    history: list[Seen] = []
    performance: list[Performance] = []
    alerted: dict[str, date] = {}
    told, retrain, reasons = {}, {}, {}
    earlier: tuple[date, float] | None = None
    for day in plan.days:
        of_day = {subject: bins for subject, bins in counted[day].items() if subject != HISTOGRAM}
        waiting = settings.label.horizon_days + limits.label_delay_days
        for old in matured(worth, {row.scored for row in performance}, day, waiting):
            performance += judged((day, old), model.version, worth[old], estimates(counted[old][HISTOGRAM]), limits)
        measures = [*drift(model.baseline, of_day, limits), *volume(sum(of_day[PROBABILITY]), earlier)]
        measures += verdict(measures, gain, limits, fallen(performance, model.version, limits))
        earlier = (day, sum(of_day[PROBABILITY]))
        history += seen_drift(measures, day)
        held = [one for one in holding(limits.alerts, [*history, *seen_performance(performance)], day, alerted) if not one.cooling]
        alerted |= {alert.rule.name: day for alert in held}
        told[day] = tuple(alert.rule.name for alert in held)
        retrain[day], reasons[day] = measures[-1].breached, measures[-1].note or ""
    return Watched(plan, told, retrain, reasons)


def _matrix(settings: Settings, silver: Silver, days: Sequence[date]) -> DataFrame:
    grid = Grid(tuple(days))
    events = live_events(silver[ACTIVITY], grid)
    spending = sector_spending(events, silver[ITEMS], grid)
    levels = settings.features.risk_levels
    users = user_features(events, silver[ACTIVITY], silver[USERS], spending, grid=grid, risk_levels=levels)
    pairs = user_item_features(events, item_dates(events, silver[ITEMS], grid), spending, grid, settings.candidates)
    bars = silver[BARS].where(F.col("bar_size") == "1d")
    return assemble(users, pairs, market_features(bars, silver[CORPORATE_ACTIONS], silver[ITEMS], grid))


def _worth(settings: Settings, silver: Silver, rows: DataFrame, days: Sequence[date]) -> dict[date, dict[str, Estimate]]:
    """Realised measures of the days, with the labels as visible when they matured."""
    found = {}
    horizon = timedelta(days=settings.label.horizon_days)
    for day in days:
        visible = day + horizon + timedelta(days=settings.monitor.label_delay_days)
        near = silver[ACTIVITY].where(F.col("event_date").between(F.lit(day), F.lit(day + horizon)))
        every = purchases(near, [day], settings.label, grain="user_item", as_of=visible)
        of_day = rows.where(F.col("as_of_date") == F.lit(day)).select("user_id", "item_id", "as_of_date", PROBABILITY)
        bought = every.join(of_day.select("user_id").distinct(), "user_id", "left_semi")
        found[day] = realised(of_day, bought, "user_item", settings.evaluate)
    return found


def _false_alarms(settings: Settings, watched: Sequence[Watched]) -> list[Measure]:
    calm = [one for one in watched if one.plan.drift == "none"]
    days = sum(len(one.plan.days) for one in calm)
    measures = []
    for rule in settings.monitor.alerts:
        fired = sum(rule.name in told for one in calm for told in one.told.values())
        measures.append(Measure(f"false alarms: {rule.name}", 100 * fired / days, "per 100 days", days, note=f"{fired} alerts"))
    asked = sum(sum(one.retrain.values()) for one in calm)
    return [*measures, Measure("false: retrain", 100 * asked / days, "% of days", days, note=f"{asked} days")]


def _power(watched: Sequence[Watched]) -> list[Measure]:
    """For each drift: of how many models an alert was told at all, after how many sessions, and by which rule; retraining likewise."""
    measures = []
    for name in DRIFTS:
        ours = [one for one in watched if one.plan.drift == name and name != "none"]
        for what in ("any alert", "retrain"):
            after = []
            for one in ours:
                off = [day >= one.plan.start and bool(one.told[day] if what == "any alert" else one.retrain[day]) for day in one.plan.days]
                after += [off.index(True) - one.plan.days.index(one.plan.start)] if any(off) else []
            rules = sorted({rule for one in ours for day in one.plan.days if day >= one.plan.start for rule in one.told[day]})
            share = 100 * len(after) / max(1, len(ours))
            middle = f"after {statistics.median(after):g} sessions (median)" if after else "never"
            if ours:
                measures.append(
                    Measure(f"{name}: {what}", share, "% of models", note=middle + (f"; {', '.join(rules)}" if what == "any alert" else ""))
                )
    return measures


def _story(one: Watched) -> str:
    told = "; ".join(f"{day} {', '.join(rules)}" for day, rules in one.told.items() if rules)
    asked = [day for day, wanted in one.retrain.items() if wanted]
    words = f" (first {asked[0]}: {one.reasons[asked[0]]})" if asked else ""
    return f"from {one.plan.start}: {told or 'nothing told'}; retrain on {len(asked)} of {len(one.plan.days)} days{words}"


def _line(spark: SparkSession, settings: Settings, as_of: date, stages: Sequence[str]) -> None:
    for stage, _, seconds in run_line(spark, settings, as_of, [stage_named(name) for name in stages]):
        say(f"{as_of} {stage.name}: {seconds:.0f} s")
