"""Sectors of items, what users spend on them, how popular items are, and the features of a (user, item) pair."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from propensity_spark.features.registry import MONEY_SUM
from propensity_spark.features.windows import (
    Grid,
    Measure,
    attributes_as_of,
    each_position,
    entries_and_exits,
    extremes,
    first_date_intervals,
    running_state,
    union_intervals,
    with_window_ends,
)

UNKNOWN_SECTOR = "\u0000unknown"  # no source can have a sector of this name
BUYER_DAYS = (7, 30, 90)
VIEW_DAYS = (7, 30)


def item_dates(events: DataFrame, items: DataFrame | None, grid: Grid) -> DataFrame:
    """(item_id, position) for every item known on each as-of date, with sector (null: unknown) and `item_buyers_<N>d`.

    Known: visible in silver/items on that date where the data set has that table, else seen in a visible event.
    """
    deals = union_intervals(
        with_window_ends(events.where((F.col("event_type") == "buy") & F.col("item_id").isNotNull()), BUYER_DAYS, grid),
        ["user_id", "item_id"],
        [f"leaves_{n}" for n in BUYER_DAYS],
    ).withColumn("one", F.lit(1).cast("long"))
    measures = [Measure(f"item_buyers_{n}d", "one", f"leaves_{n}", f"first_leaves_{n}") for n in BUYER_DAYS]
    buyers = [measure.name for measure in measures]
    sold = each_position(running_state(entries_and_exits(deals, ["item_id"], measures, grid), ["item_id"], grid, buyers))
    if items is None:
        known = _seen_items(events, grid).withColumn("sector", F.lit(None).cast("string"))
    else:
        known = attributes_as_of(items, "item_id", ["sector"], grid)
    return known.join(sold, ["item_id", "position"], "left").fillna(0, buyers)


def _seen_items(events: DataFrame, grid: Grid) -> DataFrame:
    seen = events.where(F.col("item_id").isNotNull()).groupBy("item_id", "enters", "leaves").agg(F.count("*").alias("events"))
    changes = entries_and_exits(seen, ["item_id"], [Measure("living", "events", "leaves")], grid)
    state = each_position(running_state(changes, ["item_id"], grid, ["living"]))
    return state.where(F.col("living") > 0).select("item_id", "position")


def sector_intervals(items: DataFrame, grid: Grid) -> DataFrame:
    """(item_id, sector, sector_from, sector_until): the stretches of positions on which an item has one sector.

    In: silver/items. On positions where an item of the table is not known its sector is `UNKNOWN_SECTOR`.
    """
    positions = F.sequence(F.lit(0), F.lit(grid.size - 1))
    order = Window.partitionBy("item_id").orderBy("position")
    known = attributes_as_of(items, "item_id", ["sector"], grid)
    every = items.select("item_id").distinct().withColumn("position", F.explode(positions))
    filled = every.join(known, ["item_id", "position"], "left").fillna(UNKNOWN_SECTOR, ["sector"])
    starts = filled.withColumn("before", F.lag("sector").over(order)).where(~F.col("sector").eqNullSafe(F.col("before")))
    return starts.select(
        "item_id", "sector", F.col("position").alias("sector_from"), F.lead("position", 1, grid.size).over(order).alias("sector_until")
    )


def sector_spending(events: DataFrame, items: DataFrame | None, grid: Grid) -> DataFrame:
    """What each user spent (`amount` of `buy`) in 365 days by the items' sector as of the date.

    Out: one row per user and position from the first purchase on: `total` and `spending`, an array of (sector, amount)
    in the order of sector; items without a sector count as `UNKNOWN_SECTOR`.
    """
    key = ["user_id", "sector"]
    buys = events.where(F.col("event_type") == "buy").groupBy("user_id", "item_id", "event_date", "enters", "leaves")
    spent = with_window_ends(buys.agg(F.sum("amount").cast(MONEY_SUM).alias("amount")), [365], grid)
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
    changes = entries_and_exits(spent, key, [Measure("amount", "amount", "leaves_365")], grid)
    by_sector = each_position(running_state(changes, key, grid, ["amount"]))
    return by_sector.groupBy("user_id", "position").agg(
        F.sum("amount").cast(MONEY_SUM).alias("total"),
        F.sort_array(F.collect_list(F.struct("sector", F.col("amount").cast(MONEY_SUM).alias("amount")))).alias("spending"),
    )


def sector_shares(spending: DataFrame) -> DataFrame:
    """One row per user: `shares`, a map from position to (map from sector to share); no entry where the total is not positive."""

    def share(entry: Column) -> Column:
        return F.struct(entry["sector"], entry["amount"].cast("double") / F.col("total").cast("double"))

    shares = F.map_from_entries(F.transform("spending", share))
    positive = spending.where(F.col("total") > 0)
    return positive.groupBy("user_id").agg(F.map_from_entries(F.collect_list(F.struct("position", shares))).alias("shares"))


def pair_changes(events: DataFrame, grid: Grid, viewed_days: int, held_days: int) -> list[DataFrame]:
    """What enters and leaves for each (user, item): views, purchases, last dates; `viewed` and `held` in their own windows."""
    key = ["user_id", "item_id"]
    is_buy, is_view = F.col("event_type") == "buy", F.col("event_type") == "view"
    with_item = events.where(F.col("item_id").isNotNull() & (is_buy | is_view))
    days = with_item.groupBy(*key, "event_date", "enters", "leaves").agg(
        F.count_if(is_view).alias("views"),
        F.count_if(is_buy).alias("buys"),
        F.max(F.when(is_view, F.col("event_date"))).alias("last_view"),
        F.max(F.when(is_buy, F.col("event_date"))).alias("last_buy"),
    )
    days = with_window_ends(days, [*VIEW_DAYS, viewed_days, held_days], grid)
    orders = with_window_ends(first_date_intervals(with_item.where(is_buy), [*key, "order_id"]), [365], grid)
    measures = [
        *(Measure(f"item_views_{n}d", "views", f"leaves_{n}") for n in VIEW_DAYS),
        Measure("viewed", "views", f"leaves_{viewed_days}"),
        Measure("held", "buys", f"leaves_{held_days}"),
    ]
    bought = [Measure("item_purchases_365d", "one", "leaves_365")]
    return [
        entries_and_exits(days, key, measures, grid),
        entries_and_exits(orders.withColumn("one", F.lit(1).cast("long")), key, bought, grid),
        extremes(days, key, ["last_view", "last_buy"], grid),
    ]
