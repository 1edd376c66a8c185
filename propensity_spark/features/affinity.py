"""Sectors of items, what users spend on them, how popular items are, and the features of a (user, item) pair."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from propensity_spark.features.events import money
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

UNKNOWN_SECTOR, ALL_SECTORS = "\u0000unknown", "\u0000all"  # no source has sectors of these names
BUYER_DAYS = (7, 30, 90)
VIEW_DAYS = (7, 30)


def item_dates(events: DataFrame, items: DataFrame | None, grid: Grid) -> DataFrame:
    """(item_id, position) for every item known on each as-of date, with sector (null: unknown) and `item_buyers_<N>d`.

    Known: visible in silver/items on that date where the data set has that table, else seen in a visible event.
    """
    buys = with_window_ends(events.where((F.col("event_type") == "buy") & F.col("item_id").isNotNull()), BUYER_DAYS, grid)
    deals = union_intervals(buys, ["user_id", "item_id"], [f"leaves_{n}" for n in BUYER_DAYS], grid)
    measures = [Measure(f"item_buyers_{n}d", "one", f"leaves_{n}", f"first_leaves_{n}") for n in BUYER_DAYS]
    buyers = [measure.name for measure in measures]
    sold = each_position(running_state(changes(deals, ["item_id"], grid, measures), ["item_id"], grid, buyers), grid)
    if items is None:
        known = _seen_items(events, grid).withColumn("sector", F.lit(None).cast("string"))
    else:
        known = attributes_as_of(items, "item_id", ["sector"], grid)
    return known.join(sold, ["item_id", "position"], "left").fillna(0, buyers)


def _seen_items(events: DataFrame, grid: Grid) -> DataFrame:
    seen = events.where(F.col("item_id").isNotNull()).groupBy("item_id", "enters", "leaves").agg(F.count("*").alias("events"))
    moves = changes(seen, ["item_id"], grid, [Measure("living", "events", "leaves")])
    state = each_position(running_state(moves, ["item_id"], grid, ["living"]), grid)
    return state.where(F.col("living") > 0).select("item_id", "position")


def sector_intervals(items: DataFrame, grid: Grid) -> DataFrame:
    """(item_id, sector, sector_from, sector_until): the stretches of positions on which an item has one sector.

    In: silver/items. On positions where an item of the table is not known its sector is `UNKNOWN_SECTOR`, or null.
    """
    positions = F.sequence(F.lit(0), F.lit(grid.size - 1))
    order = Window.partitionBy("item_id").orderBy("position")
    known = attributes_as_of(items, "item_id", ["sector"], grid)
    if grid.is_one:  # the stretch is the one position, and an item that is not known there need not be listed
        return known.select("item_id", "sector", F.lit(0).alias("sector_from"), F.lit(1).alias("sector_until"))
    every = items.select("item_id").distinct().withColumn("position", F.explode(positions))
    filled = every.join(known, ["item_id", "position"], "left").fillna(UNKNOWN_SECTOR, ["sector"])
    starts = filled.withColumn("before", F.lag("sector").over(order)).where(~F.col("sector").eqNullSafe(F.col("before")))
    return starts.select(
        "item_id", "sector", F.col("position").alias("sector_from"), F.lead("position", 1, grid.size).over(order).alias("sector_until")
    )


def sector_spending(events: DataFrame, items: DataFrame | None, grid: Grid) -> DataFrame:
    """What each user spent (`amount` of `buy`) in 365 days by the items' sector as of each date, and in all.

    Out: one row per user with any purchase; `spent`, a map from sector to an array by position. Items without a sector
    count as `UNKNOWN_SECTOR`; the sum over all is at `ALL_SECTORS`.
    """
    key = ["user_id", "sector"]
    buys = events.where(F.col("event_type") == "buy").select("user_id", "item_id", "event_date", "enters", "leaves", "amount")
    spent = with_window_ends(by_day(buys, ["user_id", "item_id"], grid, ["amount"]), [365], grid)
    spent = spent.where(F.col("enters") < F.col("leaves_365"))
    if items is None:
        spent = spent.withColumn("sector", F.lit(UNKNOWN_SECTOR))
    else:
        spent = spent.join(F.broadcast(sector_intervals(items, grid)), ["item_id"], "left").withColumns(
            {
                "sector": F.coalesce("sector", F.lit(UNKNOWN_SECTOR)),
                "enters": F.greatest("enters", "sector_from"),
                "leaves_365": F.least("leaves_365", "sector_until"),
            }
        )
    spent = spent.withColumn("sector", F.explode(F.array("sector", F.lit(ALL_SECTORS))))
    state = running_state(changes(spent, key, grid, [Measure("amount", "amount", "leaves_365")]), key, grid, ["amount"])
    amount = money(F.col("amount")).cast("double").alias("amount")
    stretches = F.sort_array(F.collect_list(F.struct("position", "until", amount)))
    by_sector = state.groupBy(*key).agg(stretches.alias("stretches"))
    before = F.array_repeat(F.lit(0.0), F.get("stretches", F.lit(0))["position"])
    after = F.flatten(F.transform("stretches", lambda part: F.array_repeat(part["amount"], part["until"] - part["position"])))
    entry = F.struct("sector", F.concat(before, after).alias("amounts"))
    return by_sector.groupBy("user_id").agg(F.map_from_entries(F.sort_array(F.collect_list(entry))).alias("spent"))


def spent_in(sector: Column) -> Column:
    """Amount of `spent` in a sector at `position`; null where there is no such sector."""
    return F.get(F.try_element_at("spent", sector), F.col("position"))


def portfolio_diversity() -> Column:
    """1 − Σ share² over the sectors of `spent` at `position`, null unless the total is positive.

    Computed as 2 · Σ share·share' over pairs of sectors, in which nothing cancels.
    """
    total = spent_in(F.lit(ALL_SECTORS))
    start = F.struct(F.lit(0.0).alias("sum"), F.lit(0.0).alias("pairs"))
    amounts = F.map_values(F.map_filter("spent", lambda sector, _: sector != ALL_SECTORS))

    def add(so_far: Column, by_position: Column) -> Column:
        share = F.get(by_position, F.col("position")) / total
        return F.struct((so_far["sum"] + share).alias("sum"), (so_far["pairs"] + so_far["sum"] * share).alias("pairs"))

    return F.when(total > 0, F.aggregate(amounts, start, add, lambda sums: 2 * sums["pairs"]))


def favourite_sectors() -> Column:
    """The known sectors of `spent` with a positive amount at `position`, the largest first, ties by name."""
    known = F.map_entries(F.map_filter("spent", lambda sector, _: ~sector.isin(UNKNOWN_SECTOR, ALL_SECTORS)))

    def ranked(entry: Column) -> Column:
        return F.struct((-F.get(entry["value"], F.col("position"))).alias("least_first"), entry["key"].alias("sector"))

    amounts = F.transform(known, ranked)
    return F.sort_array(F.filter(amounts, lambda entry: entry["least_first"] < 0))


def pair_changes(events: DataFrame, grid: Grid, viewed_days: int, held_days: int) -> list[DataFrame]:
    """What enters and leaves for each (user, item): views, purchases, last dates; `viewed` and `held` in their own windows."""
    key = ["user_id", "item_id"]
    is_buy, is_view = F.col("event_type") == "buy", F.col("event_type") == "view"
    with_item = events.where(F.col("item_id").isNotNull() & (is_buy | is_view))
    rows = with_item.select(
        *key,
        "event_date",
        "enters",
        "leaves",
        is_view.cast("long").alias("views"),
        is_buy.cast("long").alias("buys"),
        F.when(is_view, F.col("event_date")).alias("last_view"),
        F.when(is_buy, F.col("event_date")).alias("last_buy"),
    )
    days = by_day(rows, key, grid, ["views", "buys"], ["last_view", "last_buy"])
    days = with_window_ends(days, [*VIEW_DAYS, viewed_days, held_days], grid)
    orders = with_window_ends(first_date_intervals(with_item.where(is_buy), [*key, "order_id"], grid), [365], grid)
    measures = [
        *(Measure(f"item_views_{n}d", "views", f"leaves_{n}") for n in VIEW_DAYS),
        Measure("viewed", "views", f"leaves_{viewed_days}"),
        Measure("held", "buys", f"leaves_{held_days}"),
    ]
    bought = [Measure("item_purchases_365d", "one", "leaves_365")]
    return [
        changes(days, key, grid, measures, latest=["last_view", "last_buy"]),
        changes(orders, key, grid, bought),
    ]
