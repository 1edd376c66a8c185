"""Recency, frequency, monetary value and the other features of a user (gold/user_features)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from propensity_spark.features.affinity import portfolio_diversity
from propensity_spark.features.events import VISIT_DAYS, money
from propensity_spark.features.registry import USER_FEATURES
from propensity_spark.features.windows import (
    Grid,
    Measure,
    attributes_as_of,
    by_day,
    changes,
    each_position,
    first_date_intervals,
    running_state,
    union_intervals,
    with_window_ends,
)

ORDER_DAYS = (30, 90, 365)
VIEW_DAYS = (7, 30)


def user_features(
    events: DataFrame, activity: DataFrame, users: DataFrame | None, spending: DataFrame, *, grid: Grid, risk_levels: Sequence[str]
) -> DataFrame:
    """gold/user_features: one row per user with at least one visible event, on each as-of date.

    In: `events` of `live_events`; silver/activity (only to see from which date on the source has sessions at all);
    silver/users or None; `spending` of `affinity.sector_spending`. Formulas, units and nulls: `registry.FEATURES`.
    """
    spent = {name: money(F.col(name)) for name in (f"monetary_{n}d" for n in ORDER_DAYS)}
    state = each_position(user_state(events, grid).where(F.col("living") > 0).withColumns(spent), grid)
    sessions_since = activity.where(F.col("session_id").isNotNull()).agg(F.min("visible_date").alias("sessions_since"))
    keyed = state.join(spending, ["user_id"], "left").withColumn("portfolio_diversity", portfolio_diversity()).drop("spent")
    if users is None:
        keyed = keyed.withColumn("risk_level", F.lit(None).cast("long"))
    else:
        levels = attributes_as_of(users, "user_id", ["risk_tolerance"], grid)
        keyed = keyed.join(levels, ["user_id", "position"], "left").withColumn("risk_level", risk_level(risk_levels))
    day = F.col("as_of_date")
    plain = keyed.withColumn("as_of_date", grid.day(F.col("position"))).crossJoin(F.broadcast(sessions_since))
    measured = plain.withColumns(
        {
            "day_of_week": F.weekday(day).cast("long") + 1,
            "recency_days": F.date_diff(day, F.col("last_buy")).cast("long"),
            "tenure_days": F.date_diff(day, F.col("first_event")).cast("long"),
            "sessions_30d": F.when(F.col("sessions_since") <= day, F.col("sessions_30d")),
            "avg_ticket_365d": F.try_divide(F.col("monetary_365d").cast("double"), F.col("frequency_365d").cast("double")),
        }
    )
    return with_rfm_scores(measured).select(*USER_FEATURES.column_names)


def user_state(events: DataFrame, grid: Grid) -> DataFrame:
    """Every sum, distinct count and extreme of a user on positions [position, until); `living`: number of visible events."""
    key = ["user_id"]
    buys = events.where(F.col("event_type") == "buy")
    orders = with_window_ends(first_date_intervals(buys, ["user_id", "order_id"], grid), ORDER_DAYS, grid)
    recent, end = with_window_ends(events, [VISIT_DAYS], grid), f"leaves_{VISIT_DAYS}"
    active_days = union_intervals(recent, ["user_id", "event_date"], [end], grid)
    sessions = union_intervals(recent.where(F.col("session_id").isNotNull()), ["user_id", "session_id"], [end], grid)
    parts = [
        changes(
            _days(events, grid),
            key,
            grid,
            [
                Measure("living", "events", "leaves"),
                *(Measure(f"views_{n}d", "views", f"leaves_{n}") for n in VIEW_DAYS),
                *(Measure(f"monetary_{n}d", "money", f"leaves_{n}") for n in ORDER_DAYS),
            ],
            latest=["last_buy"],
            earliest=["first_event"],
        ),
        changes(orders, key, grid, [Measure(f"frequency_{n}d", "one", f"leaves_{n}") for n in ORDER_DAYS]),
        changes(active_days, key, grid, [Measure("active_days_30d", "one", end, f"first_{end}")]),
        changes(sessions, key, grid, [Measure("sessions_30d", "one", end, f"first_{end}")]),
    ]
    sums = ["living", "active_days_30d", "sessions_30d"]
    sums += [f"views_{n}d" for n in VIEW_DAYS] + [f"monetary_{n}d" for n in ORDER_DAYS] + [f"frequency_{n}d" for n in ORDER_DAYS]
    together = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), parts)
    return running_state(together, key, grid, sums, latest=["last_buy"], earliest=["first_event"])


def _days(events: DataFrame, grid: Grid) -> DataFrame:
    """What each event adds to counts and sums, and which dates it offers, by user and day."""
    is_buy, is_view = F.col("event_type") == "buy", F.col("event_type") == "view"
    moves_money = is_buy | (F.col("event_type") == "cancel")
    rows = events.select(
        "user_id",
        "event_date",
        "enters",
        "leaves",
        F.lit(1).cast("long").alias("events"),
        is_view.cast("long").alias("views"),
        F.when(moves_money, F.col("amount")).alias("money"),
        F.when(is_buy, F.col("event_date")).alias("last_buy"),
    )
    days = by_day(rows, ["user_id"], grid, ["events", "views", "money"], ["last_buy"])
    return with_window_ends(days, [*VIEW_DAYS, *ORDER_DAYS], grid).withColumn("first_event", F.col("event_date"))


def risk_level(risk_levels: Sequence[str]) -> Column:
    """Position of risk_tolerance in the list, from 1; null when it is not in the list."""
    listed = F.array(*(F.lit(level) for level in risk_levels)).cast("array<string>")
    return F.nullif(F.array_position(listed, F.col("risk_tolerance")), F.lit(0)).cast("long")


def with_rfm_scores(rows: DataFrame) -> DataFrame:
    """Add rfm_r, rfm_f, rfm_m (1–5, 5 best) and rfm_segment; null for users without a purchase in 365 days.

    Among the n such users on a date, b of them strictly worse: 1 + floor(5·b / n).
    """
    recent = F.col("recency_days") < 365
    peers = Window.partitionBy("as_of_date", "is_recent")
    n = F.count("*").over(peers)

    def score(worst_first: Column) -> Column:
        worse = F.rank().over(peers.orderBy(worst_first)) - 1
        return F.when(F.col("is_recent"), 1 + F.floor(5 * worse / n)).cast("long")

    scored = rows.withColumn("is_recent", F.coalesce(recent, F.lit(False))).withColumns(
        {
            "rfm_r": score(F.desc("recency_days")),
            "rfm_f": score(F.asc("frequency_365d")),
            "rfm_m": score(F.asc("monetary_365d")),
        }
    )
    return scored.withColumn("rfm_segment", rfm_segment(F.col("rfm_r"), F.col("rfm_f"), F.col("rfm_m")))


def rfm_segment(r: Column, f: Column, m: Column) -> Column:
    """champions (all three ≥ 4), loyal (r ≥ 3, f ≥ 4), recent (r ≥ 4), at_risk (r ≤ 2, f ≥ 3), lost (r ≤ 2), else regular."""
    return (
        F.when(r.isNull(), None)
        .when((r >= 4) & (f >= 4) & (m >= 4), "champions")
        .when((r >= 3) & (f >= 4), "loyal")
        .when(r >= 4, "recent")
        .when((r <= 2) & (f >= 3), "at_risk")
        .when(r <= 2, "lost")
        .otherwise("regular")
    )
