"""Which (user, item) pairs are worth scoring on each as-of date, and their features (gold/user_item_features)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from propensity_spark.config import CandidateSettings
from propensity_spark.features.affinity import ALL_SECTORS, UNKNOWN_SECTOR, VIEW_DAYS, favourite_sectors, pair_changes, spent_in
from propensity_spark.features.crowd import Crowd, with_crowd
from propensity_spark.features.registry import user_item_table
from propensity_spark.features.windows import Grid, Measure, changes, each_position, running_state

_STATE = [*(f"item_views_{n}d" for n in VIEW_DAYS), "viewed", "held", "item_purchases_365d", "affine", "popular", "all"]


def user_item_features(
    events: DataFrame,
    item_dates: DataFrame,
    spending: DataFrame,
    grid: Grid,
    settings: CandidateSettings,
    *,
    crowd: Crowd | None = None,
) -> DataFrame:
    """gold/user_item_features: one row per candidate pair and as-of date, for users with at least one visible event.

    A pair is a candidate because it is held (a `buy` in `held_days`), viewed (in `viewed_days`), affine (one of the
    `items_per_affine_sector` most bought items of one of the user's `affine_sectors` sectors by spending in 365 days),
    popular (one of the `popular_items` most bought) or all (`all_items`); `candidate_source` is the first of these that
    applies. Most bought: by item_buyers_30d, at least one, ties by item_id. Only items known on the date. With `exclude_held`
    held pairs are left out. With a `crowd` its features are there too.
    """
    key = ["user_id", "item_id"]
    parts = [
        *pair_changes(events, grid, settings.viewed_days, settings.held_days),
        offer_changes(events, item_dates, spending, grid, settings),
    ]
    together = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), parts)
    state = running_state(together, key, grid, _STATE, latest=["last_view", "last_buy"])
    reasons = ["viewed", "affine", "popular", "all"]
    source = candidate_source(["held", *reasons])
    if settings.exclude_held:
        source = F.when(F.col("held") == 0, candidate_source(reasons))
    chosen = state.withColumn("candidate_source", source).where(F.col("candidate_source").isNotNull())
    rows = each_position(chosen.join(spending, ["user_id"], "left"), grid)
    rows = rows.join(F.broadcast(item_dates), ["item_id", "position"], "inner").withColumn("as_of_date", grid.day(F.col("position")))
    rows = rows if crowd is None else with_crowd(rows, crowd)
    total = spent_in(F.lit(ALL_SECTORS))
    share = F.coalesce(spent_in(F.coalesce("sector", F.lit(UNKNOWN_SECTOR))), F.lit(0.0)) / total
    day = F.col("as_of_date")
    return rows.withColumns(
        {
            "days_since_item_view": F.date_diff(day, F.col("last_view")).cast("long"),
            "days_since_item_purchase": F.date_diff(day, F.col("last_buy")).cast("long"),
            "sector_affinity_365d": F.when(total > 0, share),
            "item_buyers_trend": F.try_divide(F.col("item_buyers_7d") * F.lit(30.0) / F.lit(7.0), F.col("item_buyers_30d")),
        }
    ).select(*user_item_table(crowd is not None).column_names)


def candidate_source(names: Sequence[str]) -> Column:
    """The first of these counts that is positive, by name; null when none is."""
    return F.coalesce(*(F.when(F.col(name) > 0, name) for name in names))


def offer_changes(events: DataFrame, item_dates: DataFrame, spending: DataFrame, grid: Grid, settings: CandidateSettings) -> DataFrame:
    """When an item becomes (+1) and ceases to be (−1) affine, popular or one of all for a user with a visible event."""
    order = Window.partitionBy("user_id").orderBy("position")
    nothing = F.array().cast("array<string>")
    offers = population(events, grid).join(spending, ["user_id"], "left")
    offers = offers.join(F.broadcast(offered_items(item_dates, settings)), ["position"], "left")

    def of_sector(entry: Column) -> Column:
        return F.coalesce(F.try_element_at("by_sector", entry["sector"]), nothing)

    affine = F.flatten(F.transform(F.slice(favourite_sectors(), 1, settings.affine_sectors), of_sector))
    lists = {"affine": affine, "popular": F.col("popular"), "all": F.col("all")}
    offers = offers.select(
        "user_id",
        "position",
        *(F.when(F.col("living") > 0, F.coalesce(offered, nothing)).otherwise(nothing).alias(name) for name, offered in lists.items()),
    )
    before = {f"{name}_before": nothing if grid.is_one else F.coalesce(F.lag(name).over(order), nothing) for name in lists}
    offers = offers.withColumns(before)

    def change(name: str, sign: int) -> Column:
        listed, other = (name, f"{name}_before") if sign > 0 else (f"{name}_before", name)
        counts = [F.lit(sign if each == name else 0).cast("long").alias(each) for each in lists]
        return F.transform(F.array_except(listed, other), lambda item: F.struct(item.alias("item_id"), *counts))

    moves = F.concat(*(change(name, sign) for name in lists for sign in (1, -1)))
    return offers.select("user_id", "position", F.explode(moves).alias("change")).select("user_id", "position", "change.*")


def population(events: DataFrame, grid: Grid) -> DataFrame:
    """(user_id, position, living): every position from a user's first visible event on, with the number visible there."""
    seen = events.groupBy("user_id", "enters", "leaves").agg(F.count("*").alias("events"))
    moves = changes(seen, ["user_id"], grid, [Measure("living", "events", "leaves")])
    return each_position(running_state(moves, ["user_id"], grid, ["living"]), grid)


def offered_items(item_dates: DataFrame, settings: CandidateSettings) -> DataFrame:
    """One row per position: `popular` and `all` (arrays of item_id) and `by_sector`, a map from sector to its popular items."""
    best_first = [F.desc("item_buyers_30d"), F.asc("item_id")]
    ranked = item_dates.withColumns(
        {
            "place": F.row_number().over(Window.partitionBy("position").orderBy(*best_first)),
            "place_in_sector": F.row_number().over(Window.partitionBy("position", "sector").orderBy(*best_first)),
        }
    )
    bought = F.col("item_buyers_30d") > 0
    popular = bought & (F.col("place") <= settings.popular_items)
    affine = bought & (F.col("place_in_sector") <= settings.items_per_affine_sector) & F.col("sector").isNotNull()
    by_sector = ranked.groupBy("position", "sector").agg(
        F.collect_list(F.when(popular, F.col("item_id"))).alias("popular"),
        F.collect_list(F.when(affine, F.col("item_id"))).alias("affine"),
        F.collect_list("item_id" if settings.all_items else F.lit(None).cast("string")).alias("all"),
    )
    sectors = F.collect_list(F.when(F.size("affine") > 0, F.struct("sector", "affine")))
    return by_sector.groupBy("position").agg(
        F.flatten(F.collect_list("popular")).alias("popular"),
        F.flatten(F.collect_list("all")).alias("all"),
        F.map_from_entries(sectors).alias("by_sector"),
    )
