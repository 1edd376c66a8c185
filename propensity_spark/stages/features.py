"""features: silver → gold, for every as-of date that is missing or out of date."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark import __version__
from propensity_spark.config import Settings
from propensity_spark.features.affinity import item_dates, sector_spending
from propensity_spark.features.candidates import user_item_features
from propensity_spark.features.events import live_events
from propensity_spark.features.market import market_features
from propensity_spark.features.pending import Change, Success, pending_dates
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES
from propensity_spark.features.rfm import user_features
from propensity_spark.features.windows import Grid
from propensity_spark.platform import keep, release
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schedule import feature_dates
from propensity_spark.schemas import ACTIVITY, BARS, CHANGES, CORPORATE_ACTIONS, ITEMS, RUNS, USERS, Table


def _execute(run: Run) -> Outcome:
    visible = F.col("visible_date") <= F.lit(run.as_of)
    first_event = run.lake.read(ACTIVITY).where(visible).agg(F.min("event_date")).first()
    needed = feature_dates(run.settings, first_event[0], run.as_of) if first_event and first_event[0] else []
    dates = _pending(run, _user_tables(run.settings), needed)
    rows_out = _write_user_tables(run, dates) if dates else 0
    note = f"{len(dates)} as-of dates"
    if run.settings.has_market:
        bars = run.lake.read(BARS).where(visible & (F.col("bar_size") == "1d"))
        sessions = [row[0] for row in bars.select("session_date").distinct().collect()]
        market_dates = _pending(run, (MARKET_FEATURES,), [*sessions, *needed])
        rows_out += _write_market(run, bars, market_dates) if market_dates else 0
        note += f", {len(market_dates)} market dates"
    rows_in = run.lake.read(ACTIVITY).where(visible).count() if dates else 0
    return Outcome(rows_in, rows_out, note=note)


def _pending(run: Run, tables: Sequence[Table], needed: Sequence[date]) -> list[date]:
    """Dates to compute. Days, runs and announcements are few: one row per day or run, so they are brought here."""
    stored = [{row[0] for row in run.lake.read_or_empty(table).select("as_of_date").distinct().collect()} for table in tables]
    same = (F.col("config_hash") == run.settings.config_hash()) & (F.col("code_version") == __version__)
    done = run.lake.read_or_empty(RUNS).where((F.col("stage") == "features") & (F.col("status") == "succeeded") & same)
    successes = [Success(*row) for row in done.groupBy("as_of_date").agg(F.max("started_at")).collect()]
    announced = run.lake.read_or_empty(CHANGES).groupBy("changed_from").agg(F.max("recorded_at"))
    return pending_dates(needed, stored, run.as_of, successes, [Change(*row) for row in announced.collect()])


def _write_user_tables(run: Run, dates: Sequence[date]) -> int:
    """Write gold/user_features and, at grain user_item, gold/user_item_features for the dates; the rows written."""
    activity, items, users = run.lake.read(ACTIVITY), _configured(run, ITEMS), _configured(run, USERS)
    grid = Grid(tuple(dates))
    events = keep(live_events(activity, grid))
    spending = keep(sector_spending(events, items, grid))
    try:
        levels = run.settings.features.risk_levels
        _replace(run, user_features(events, activity, users, spending, grid=grid, risk_levels=levels), USER_FEATURES, dates)
        if run.settings.grain == "user_item":
            known = item_dates(events, items, grid)
            _replace(run, user_item_features(events, known, spending, grid, run.settings.candidates), USER_ITEM_FEATURES, dates)
    finally:
        release(spending)
        release(events)
    return sum(_count(run, table, dates) for table in _user_tables(run.settings))


def _write_market(run: Run, bars: DataFrame, dates: Sequence[date]) -> int:
    actions = run.lake.read_or_empty(CORPORATE_ACTIONS)
    _replace(run, market_features(bars, actions, _configured(run, ITEMS), Grid(tuple(dates))), MARKET_FEATURES, dates)
    return _count(run, MARKET_FEATURES, dates)


def _configured(run: Run, table: Table) -> DataFrame | None:
    """The silver table where the data set has a source for it, else None."""
    return run.lake.read(table) if run.settings.sources.get(table.name) else None  # type: ignore[call-overload]


def _on(dates: Sequence[date]) -> str:
    days = ", ".join(f"DATE'{day.isoformat()}'" for day in dates)
    return f"as_of_date IN ({days})"


def _replace(run: Run, frame: DataFrame, table: Table, dates: Sequence[date]) -> None:
    """Replace the dates in one commit, one file per date rather than one per date and task."""
    run.lake.replace(frame.repartition("as_of_date"), table, _on(dates))


def _count(run: Run, table: Table, dates: Sequence[date]) -> int:
    return run.lake.read(table).where(_on(dates)).count()


def _user_tables(settings: Settings) -> tuple[Table, ...]:
    return (USER_FEATURES, USER_ITEM_FEATURES) if settings.grain == "user_item" else (USER_FEATURES,)


def _reads(settings: Settings) -> tuple[Table, ...]:
    silver = [ACTIVITY, *(table for table in (ITEMS, USERS) if settings.sources.get(table.name))]  # type: ignore[call-overload]
    return (*silver, BARS, CORPORATE_ACTIONS) if settings.has_market else tuple(silver)


STAGE = Stage(
    name="features",
    promise="one row per grain and as-of date; nothing from the future; incremental = full rebuild",
    execute=_execute,
    reads=_reads,
    writes=lambda settings: (*_user_tables(settings), MARKET_FEATURES) if settings.has_market else _user_tables(settings),
)
