"""Momentum, volatility, volume and drawdown of an item from its daily bars (gold/market_features).

Every formula compares bars of one item with each other, so prices are made comparable by the splits between them: a
bar's price times, and its volume divided by, the product of the ratios of all splits up to its session.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from propensity_spark.features.registry import MARKET_FEATURES, MOMENTUM_SESSIONS
from propensity_spark.features.rolling import Rolling, with_rolling
from propensity_spark.features.windows import Grid, attributes_as_of, version_intervals

STALE_AFTER_DAYS = 7
VOLATILITY, VOLUME, WEEK, DRAWDOWN = 21, 30, 5, 252
_AS_KNOWN_LAST = -1  # the series that is no position's own
_OF_BAR = [
    "return_1d",
    *(f"momentum_{n}d" for n in MOMENTUM_SESSIONS),
    "momentum_12_1",
    "volatility_21d",
    "avg_volume_30d",
    "volume_ratio_30d",
    "volume_ratio_5d_30d",
    "range_1d",
    "drawdown_252d",
]


def market_features(bars: DataFrame, corporate_actions: DataFrame, items: DataFrame | None, grid: Grid) -> DataFrame:
    """gold/market_features: one row per item with a daily bar visible by D, on each as-of date D.

    In: silver/bars (only `1d` is used), silver/corporate_actions (only splits), silver/items or None. All but
    day_of_week and last_session_date is null when the last visible bar is more than 7 days older than D.
    Formulas, units and nulls: `registry.FEATURES`.
    """
    rows = features_by_position(daily_bars(bars, grid), split_lives(corporate_actions, grid), grid)
    day = grid.day(F.col("position"))
    fresh = F.date_diff(day, F.col("session_date")) <= STALE_AFTER_DAYS
    in_shares_of_the_day = F.col("avg_volume_30d") * _product(F.filter("splits", lambda split: split["ex_date"] <= day))
    rows = rows.withColumns({"as_of_date": day, "last_session_date": F.col("session_date"), "avg_volume_30d": in_shares_of_the_day})
    rows = rows.withColumns({name: F.when(fresh, F.col(name)) for name in _OF_BAR})
    return (
        with_sector_momentum(rows, items, grid)
        .withColumn("day_of_week", F.weekday(day).cast("long") + 1)
        .select(*MARKET_FEATURES.column_names)
    )


def daily_bars(bars: DataFrame, grid: Grid) -> DataFrame:
    """One row per visible version of a daily bar: item_id, session_date, prices, volume, positions [enters, leaves)."""
    daily = bars.where(F.col("bar_size") == "1d")
    columns = ["item_id", "ts", "session_date", "high", "low", "close", "volume", "known_at", "visible_date", "is_deleted"]
    by_item = daily.select(*columns).repartition("item_id")  # so that no window that follows shuffles again
    return version_intervals(by_item, ["item_id", "ts"], grid).drop("ts")


def split_lives(corporate_actions: DataFrame, grid: Grid) -> DataFrame:
    """One row per visible version of a split: item_id, ex_date, ratio, positions [enters, leaves)."""
    splits = corporate_actions.where(F.col("action") == "split")
    columns = ["item_id", "ex_date", "ratio", "known_at", "visible_date", "is_deleted"]
    return version_intervals(splits.select(*columns), ["item_id", "ex_date"], grid)


def odd_dates(lives: DataFrame, splits: DataFrame, grid: Grid) -> DataFrame:
    """(item_id, position) where an item's history was not simply the beginning of what is known in the end.

    That is: a version of a bar was visible that has been replaced since; a bar was visible while an earlier one was not
    yet; a split was past its ex_date but not visible yet, or visible in a version that has been replaced since.
    """
    last = F.col("leaves") == grid.size
    bars = with_complete_from(lives.where(last)).select("item_id", "enters", F.col("complete_from").alias("leaves"))
    replaced = lives.where(~last).select("item_id", "enters", "leaves")
    split = splits.select(
        "item_id",
        F.when(last, grid.position(F.col("ex_date"))).otherwise(F.col("enters")).alias("enters"),
        F.when(last, F.col("enters")).otherwise(F.col("leaves")).alias("leaves"),
    )
    stretches = bars.unionByName(replaced).unionByName(split).where(F.col("enters") < F.col("leaves"))
    return stretches.select("item_id", F.explode(F.sequence("enters", F.col("leaves") - 1)).alias("position")).distinct()


def with_complete_from(lives: DataFrame) -> DataFrame:
    """Add `complete_from`: the position from which this bar and all earlier ones of the item are visible."""
    upto = Window.partitionBy("item_id").orderBy("session_date").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    return lives.withColumn("complete_from", F.max("enters").over(upto))


def features_by_position(lives: DataFrame, splits: DataFrame, grid: Grid) -> DataFrame:
    """(item_id, position, session_date, splits, features) of the last bar visible on each position.

    One series per item holds each version that is visible in the end, as if known from its own session on; it gives
    every position but the odd ones. Each odd position has a series of its own: the history as it was visible then. One
    date alone is never odd.
    """
    key, last = ["item_id", "series"], F.col("leaves") == grid.size
    alive = (F.col("enters") <= F.col("series")) & (F.col("series") < F.col("leaves"))
    bars = with_complete_from(lives.where(last)).withColumn("series", F.lit(_AS_KNOWN_LAST))
    splits_by_series = splits.where(last).withColumn("series", F.lit(_AS_KNOWN_LAST))
    if not grid.is_one:
        odd = odd_dates(lives, splits, grid).withColumnRenamed("position", "series")
        known_then = lives.join(odd, ["item_id"], "inner").where(alive).withColumn("complete_from", F.col("series"))
        bars = bars.unionByName(known_then)
        splits_by_series = splits_by_series.unionByName(splits.join(odd, ["item_id"], "inner").where(alive))
    series = with_splits(bars, splits_by_series, key)
    order = Window.partitionBy(*key).orderBy("session_date")
    rows = bar_features(series, key).withColumn("until", F.lead("complete_from", 1).over(order))
    then, is_newest = F.col("series") != _AS_KNOWN_LAST, F.col("until").isNull()
    end = F.when(then, F.col("series") + is_newest.cast("int")).otherwise(F.coalesce("until", F.lit(grid.size)))
    rows = rows.withColumn("until", end).where(F.col("complete_from") < F.col("until"))
    rows = rows.withColumn("position", F.explode(F.sequence("complete_from", F.col("until") - 1)))
    if not grid.is_one:
        marked = odd.select("item_id", F.col("series").alias("position"), F.lit(True).alias("is_odd"))
        rows = rows.join(marked, ["item_id", "position"], "left").where(then | F.col("is_odd").isNull())
    return rows.select("item_id", "position", "session_date", "splits", *_OF_BAR)


def _product(splits: Column) -> Column:
    return F.aggregate(splits, F.lit(1.0), lambda product, split: product * split["ratio"])


def with_splits(series: DataFrame, splits: DataFrame, key: Sequence[str]) -> DataFrame:
    """Add `splits` (array of ex_date, ratio in order; empty: none) and `factor`, their product up to the bar's session."""
    listed = splits.groupBy(*key).agg(F.sort_array(F.collect_list(F.struct("ex_date", "ratio"))).alias("splits"))
    none = F.array().cast("array<struct<ex_date:date,ratio:double>>")
    rows = series.join(listed, list(key), "left").withColumn("splits", F.coalesce("splits", none))
    session = F.col("session_date")
    past = _product(F.filter("splits", lambda split: split["ex_date"] <= session))
    return rows.withColumn("factor", F.when(F.size("splits") == 0, 1.0).otherwise(past))


def bar_features(series: DataFrame, key: Sequence[str]) -> DataFrame:
    """Add the features of each bar from its series (bars of one `key` in the order of session_date).

    `avg_volume_30d` is in the shares before any split; the caller turns it into the shares of its date.
    """
    order = Window.partitionBy(*key).orderBy("session_date")
    price = F.col("price")

    def earlier(sessions: int) -> Column:
        return F.lag("price", sessions).over(order)

    rows = series.withColumns(
        {"price": F.col("close") * F.col("factor"), "shares": F.col("volume") / F.col("factor"), "row": F.row_number().over(order)}
    )
    rows = rows.withColumns(
        {
            "change": F.ln(F.try_divide(price, earlier(1))),
            "returns": F.col("row") - 1,
            "return_1d": F.try_divide(price, earlier(1)) - 1,
            **{f"momentum_{n}d": F.try_divide(price, earlier(n)) - 1 for n in MOMENTUM_SESSIONS},
            "momentum_12_1": F.try_divide(earlier(21), earlier(252)) - 1,
            "range_1d": F.try_divide(F.col("high") - F.col("low"), F.col("close")),
        }
    )
    moments = {"n": F.count("change"), "mean": F.avg("change"), "variance": F.var_pop("change")}
    windows = [
        Rolling("row", DRAWDOWN, {"peak": F.max("price")}),
        Rolling("row", VOLUME, {"month": F.sum("shares")}),
        Rolling("row", WEEK, {"week": F.sum("shares")}),
        Rolling("returns", VOLATILITY, moments),
    ]
    rows = with_rolling(rows, key, windows)
    mean_volume = F.lag(F.col("month_head") + F.coalesce("month_tail", F.lit(0.0))).over(order) / VOLUME
    rows = rows.withColumn("avg_volume_30d", F.when(F.col("row") > VOLUME, mean_volume))
    week = (F.col("week_head") + F.coalesce("week_tail", F.lit(0.0))) / WEEK
    return rows.withColumns(
        {
            "volume_ratio_30d": F.try_divide(F.col("shares"), F.col("avg_volume_30d")),
            "volume_ratio_5d_30d": F.try_divide(week, F.col("avg_volume_30d")),
            "drawdown_252d": F.when(F.col("row") >= DRAWDOWN, F.try_divide(price, F.greatest("peak_head", "peak_tail")) - 1),
            "volatility_21d": F.when(F.col("returns") >= VOLATILITY, _deviation()),
        }
    )


def _deviation() -> Column:
    """Sample standard deviation from the moments of head and tail (Chan, Golub, LeVeque 1979): nothing cancels."""
    n, m = F.col("n_head"), F.coalesce("n_tail", F.lit(0))
    gap = F.col("mean_head") - F.coalesce("mean_tail", F.col("mean_head"))
    squares = n * F.col("variance_head") + m * F.coalesce("variance_tail", F.lit(0.0)) + gap * gap * (n * m / (n + m))
    return F.sqrt(squares / (VOLATILITY - 1))


def with_sector_momentum(rows: DataFrame, items: DataFrame | None, grid: Grid) -> DataFrame:
    """Add the exact median of momentum_21d over the items of the sector on D, and the item's own minus it."""
    if items is None:
        return rows.withColumns({name: F.lit(None).cast("double") for name in ("sector_momentum_21d", "relative_momentum_21d")})
    sectors = attributes_as_of(items, "item_id", ["sector"], grid).where(F.col("sector").isNotNull())
    placed = rows.join(sectors, ["item_id", "position"], "left")
    medians = (
        placed.where(F.col("sector").isNotNull()).groupBy("sector", "position").agg(F.median("momentum_21d").alias("sector_momentum_21d"))
    )
    own = F.col("momentum_21d") - F.col("sector_momentum_21d")
    return placed.join(medians, ["sector", "position"], "left").withColumn("relative_momentum_21d", own)
