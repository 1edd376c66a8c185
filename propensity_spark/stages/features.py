"""features: silver → gold, for every as-of date that is missing or out of date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark import __version__
from propensity_spark.config import Settings
from propensity_spark.features.affinity import item_dates, sector_spending
from propensity_spark.features.candidates import user_item_features
from propensity_spark.features.carried import until
from propensity_spark.features.crowd import crowd, dated, ownership
from propensity_spark.features.events import live_events
from propensity_spark.features.market import market_features
from propensity_spark.features.pending import Change, Success, pending_dates
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, features_of, user_item_table
from propensity_spark.features.rfm import user_features
from propensity_spark.features.windows import Grid
from propensity_spark.label import looked_at
from propensity_spark.platform import keep, release
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schedule import feature_dates
from propensity_spark.schemas import ACTIVITY, BARS, CARRIED, CHANGES, CORPORATE_ACTIONS, ITEMS, RUNS, USERS, Table
from propensity_spark.stages.carrying import WORTH, Carried, carry_forward, due, events_for, few_corrections, is_true, stored

Days = Mapping[str, Mapping[date, datetime | None]]
_CROWD = tuple(feature.name for feature in features_of("crowd"))


def _execute(run: Run) -> Outcome:
    carried, days = _known(run)
    first_event = min(days.get("first event", {}), default=None)
    needed = feature_dates(run.settings, first_event, run.as_of) if first_event else []
    dates = pending(run, days, _user_tables(run.settings), needed)
    if _is_thinned(run.settings) and _is_without_everyone(run, days):
        dates = sorted({*dates, run.as_of})
    events = events_for(run, carried, dates)
    for part in _parts(run, dates):
        for table, frame in user_tables_of(run, part, events):
            _replace(run, frame, table, part)
    written = dict.fromkeys(_user_tables(run.settings), dates)
    note = f"{len(dates)} as-of dates"
    if run.settings.has_market:
        written[MARKET_FEATURES] = pending(run, days, (MARKET_FEATURES,), [*days.get("session", {}), *needed])
        if written[MARKET_FEATURES]:
            _replace(run, market_table_of(run, written[MARKET_FEATURES]), MARKET_FEATURES, written[MARKET_FEATURES])
        note += f", {len(written[MARKET_FEATURES])} market dates"
    past = due(run, carried, dates, first_event)
    counted = {"in": _visible(run, events)} if dates else {}
    counted |= {"old": until(events, past)} if past else {}
    rows = _rows(run, counted, written)
    if past and (carried or rows.get("old", 0) >= WORTH):
        carry_forward(run, carried, past, events)
    return Outcome(rows.get("in", 0), rows.get("out", 0), note=note)


def _known(run: Run) -> tuple[Carried | None, Days]:
    """What was carried forward, if it still holds, and the days that decide what is to be computed."""
    carried = stored(run)
    days = days_of(run, carried=carried)
    if carried is None or is_true(carried, days.get("change", {})):
        return carried, days
    return None, days_of(run)


def _rows(run: Run, counted: Mapping[str, DataFrame], written: Mapping[Table, Sequence[date]]) -> dict[str, int]:
    """Rows of the frames by name, and `out`, those of the dates written to each table. One query."""
    parts = [frame.select(F.lit(name).alias("rows")) for name, frame in counted.items()]
    parts += [run.lake.read(table).where(on_dates(days)).select(F.lit("out").alias("rows")) for table, days in written.items() if days]
    return dict(reduce(DataFrame.unionByName, parts).groupBy("rows").count().collect()) if parts else {}


def days_of(run: Run, new: Sequence[str] = (), carried: Carried | None = None) -> Days:
    """The days that decide what is to be computed, in one query. There is a row per day or run, so they are brought here.

    `first event`; every `session` with a visible bar; as-of dates by gold table; per as-of date the start of the last `success` (of
    features, or of a backfill) with the present settings and code, or with any code where features are `new` to the tables; per first
    changed date the last `change` announced for it. With `carried` events the first of all is known and not looked for.
    """
    parts = {}
    if carried is None:
        first_event = _visible(run, run.lake.read(ACTIVITY)).agg(F.min("event_date").alias("day")).where("day IS NOT NULL")
        parts["first event"] = first_event.withColumn("at", F.lit(None).cast("timestamp"))
    for table in (*_user_tables(run.settings), *([MARKET_FEATURES] if run.settings.has_market else [])):
        parts[table.full_name] = _dated(run.lake.read_or_empty(table, (*new, *_CROWD)), "as_of_date")
    if run.settings.has_market:
        parts["session"] = _dated(_visible(run, run.lake.read(BARS)).where(F.col("bar_size") == "1d"), "session_date")
    same = (F.col("config_hash") == run.settings.config_hash()) & (F.lit(bool(new)) | (F.col("code_version") == __version__))
    done = F.col("stage").isin("features", "backfill") & (F.col("status") == "succeeded") & same
    parts["success"] = _dated(run.lake.read_or_empty(RUNS).where(done), "as_of_date", "started_at")
    parts["change"] = _dated(run.lake.read_or_empty(CHANGES), "changed_from", "recorded_at")
    found: dict[str, dict[date, datetime | None]] = {"first event": {carried.first_event: None}} if carried else {}
    labelled = (part.select(F.lit(what).alias("what"), "day", "at") for what, part in parts.items())
    for what, day, at in reduce(DataFrame.unionByName, labelled).collect():
        found.setdefault(what, {})[day] = at
    return found


def _dated(rows: DataFrame, day: str, at: str | None = None) -> DataFrame:
    """One row per day, with the last of the moments `at`."""
    moment = F.col(at) if at else F.lit(None).cast("timestamp")
    return rows.groupBy(F.col(day).alias("day")).agg(F.max(moment).alias("at"))


def pending(run: Run, days: Days, tables: Sequence[Table], needed: Sequence[date]) -> list[date]:
    """Dates to compute."""
    stored = [set(days.get(table.full_name, {})) for table in tables]
    successes = [Success(day, at) for day, at in days.get("success", {}).items() if at]
    changes = [Change(day, at) for day, at in days.get("change", {}).items() if at]
    return pending_dates(needed, stored, run.as_of, successes, changes)


def _is_thinned(settings: Settings) -> bool:
    return settings.grain == "user_item" and settings.sampling.user_share < 1


def _is_without_everyone(run: Run, days: Days) -> bool:
    """Whether the pairs of all users are still to be made: as a training date of another run, the day has those of a share."""
    as_scored = {**days, "success": {day: at for day, at in days.get("success", {}).items() if day == run.as_of}}
    return run.as_of in pending(run, as_scored, _user_tables(run.settings), [run.as_of])


def _parts(run: Run, dates: Sequence[date]) -> list[list[date]]:
    """The dates by the users whose pairs they get: the day that is scored everyone's, the others those of `looked_at`."""
    if not _is_thinned(run.settings):
        return [list(dates)] if dates else []
    parts = [[day for day in dates if day != run.as_of], [day for day in dates if day == run.as_of]]
    return [part for part in parts if part]


def _visible(run: Run, rows: DataFrame) -> DataFrame:
    return rows.where(F.col("visible_date") <= F.lit(run.as_of))


def user_tables_of(run: Run, dates: Sequence[date], activity: DataFrame, *, everyone: bool = False) -> Iterator[tuple[Table, DataFrame]]:
    """Rows of gold/user_features and, at grain user_item, gold/user_item_features for the dates. Each is valid until the next is asked for.

    Where training looks at a share of the users, pairs are of those on dates without the scored one, unless `everyone`.
    """
    items, users = _configured(run, ITEMS), _configured(run, USERS)
    grid, rule = Grid(tuple(dates)), run.settings.features.crowd
    with few_corrections(activity) as few:
        events = keep(live_events(activity, grid, few))
        spending = keep(sector_spending(events, items, grid))
        owned = None
        if run.settings.has_crowd:
            owned = keep(ownership(live_events(dated(activity, rule), grid, few), grid, run.settings.candidates.held_days))
        try:
            levels = run.settings.features.risk_levels
            yield USER_FEATURES, user_features(events, activity, users, spending, grid=grid, risk_levels=levels)
            if run.settings.grain == "user_item":
                known = item_dates(events, items, grid)
                thinned = _is_thinned(run.settings) and run.as_of not in dates and not everyone
                of = looked_at(run.settings.sampling) if thinned else None
                around = None if owned is None else crowd(owned, events, users, grid, rule, of=of)
                chosen = events if of is None else events.where(of)
                pairs = user_item_features(chosen, known, spending, grid, run.settings.candidates, crowd=around)
                yield user_item_table(run.settings.has_crowd), pairs
        finally:
            if owned is not None:
                release(owned)
            release(spending)
            release(events)


def market_table_of(run: Run, dates: Sequence[date]) -> DataFrame:
    """The rows of gold/market_features for the dates."""
    bars, actions = _visible(run, run.lake.read(BARS)).where(F.col("bar_size") == "1d"), run.lake.read_or_empty(CORPORATE_ACTIONS)
    return market_features(bars, actions, _configured(run, ITEMS), Grid(tuple(dates)))


def _configured(run: Run, table: Table) -> DataFrame | None:
    """The silver table where the data set has a source for it, else None."""
    return run.lake.read(table) if run.settings.sources.get(table.name) else None  # type: ignore[call-overload]


def on_dates(dates: Sequence[date]) -> str:
    days = ", ".join(f"DATE'{day.isoformat()}'" for day in dates)
    return f"as_of_date IN ({days})"


def _replace(run: Run, frame: DataFrame, table: Table, dates: Sequence[date]) -> None:
    """Replace the dates in one commit. Features of the crowd may have been turned on since the table was made: it gets their columns."""
    run.lake.replace(laid_out(frame), table, on_dates(dates), widen=run.settings.has_crowd)


def laid_out(frame: DataFrame) -> DataFrame:
    """One file per date rather than one per date and task; a date with very many rows gets several."""
    return frame.hint("rebalance", "as_of_date")


def _user_tables(settings: Settings) -> tuple[Table, ...]:
    return (USER_FEATURES, user_item_table(settings.has_crowd)) if settings.grain == "user_item" else (USER_FEATURES,)


def _reads(settings: Settings) -> tuple[Table, ...]:
    silver = [ACTIVITY, *(table for table in (ITEMS, USERS) if settings.sources.get(table.name))]  # type: ignore[call-overload]
    return (*silver, BARS, CORPORATE_ACTIONS) if settings.has_market else tuple(silver)


def _writes(settings: Settings) -> tuple[Table, ...]:
    market = (MARKET_FEATURES,) if settings.has_market else ()
    return (*_user_tables(settings), *market, *(() if settings.has_crowd else (CARRIED,)))


STAGE = Stage(
    name="features",
    promise="one row per grain and as-of date; nothing from the future; incremental = full rebuild",
    execute=_execute,
    reads=_reads,
    writes=_writes,
)
