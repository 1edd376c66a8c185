"""What the crowd does: what is had together, what those who have an item purchase lately, what people of one kind purchase lately.

Every count is a sum of entries and exits on the grid of as-of dates: nothing of the future is in it, late data need no special case,
and one more day costs that day's changes. Item–item counts come from users with at most `max_items` items, count from `min_users`
users on, and the `neighbours` strongest of each item stay: items × neighbours numbers a date, however many items there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from propensity_spark.config import CrowdSettings
from propensity_spark.features.windows import (
    Grid,
    Measure,
    attributes_as_of,
    changes,
    each_position,
    running_state,
    with_window_ends,
)

LATELY_DAYS = (30, 90, 180, 365)
PROFILE_SHARES = {"risk_tolerance": "risk_lately_share", "user_segment": "segment_lately_share"}
PRIOR = 20  # what is mixed into the share of a few: so many purchases by everyone
CROWD_TYPES = {
    **dict.fromkeys(("item_lately_share", "co_purchase_cosine", "co_purchase_lately", *PROFILE_SHARES.values()), "double"),
    **dict.fromkeys(("item_age_days", "item_idle_days"), "long"),
}


@dataclass(frozen=True)
class Crowd:
    """What `with_crowd` joins to candidates: by (item_id, position); (user_id, position); (user_id, item_id, position).

    `profiles`: the attributes of a user by (user_id, position); `shares`: by attribute, item and position, see `profile_shares`.
    """

    items: DataFrame
    owners: DataFrame
    pairs: DataFrame
    profiles: DataFrame | None
    shares: Mapping[str, DataFrame]


def crowd(events: DataFrame, users: DataFrame | None, grid: Grid, held_days: int, settings: CrowdSettings) -> Crowd:
    """In: `events` of `live_events` of all users; silver/users or None."""
    owned = ownership(events, grid, held_days)
    links, strengths = item_links(owned, grid, settings)
    mine = each_position(owned.withColumnsRenamed({"enters": "position", "leaves": "until"}), grid)
    owners = mine.join(strengths, ["item_id", "position"], "left").groupBy("user_id", "position")
    pairs = mine.join(links, ["item_id", "position"], "inner").groupBy("user_id", F.col("other_id").alias("item_id"), "position")
    profiles = None if users is None else attributes_as_of(users, "user_id", list(PROFILE_SHARES), grid)
    return Crowd(
        items=item_state(events, mine, grid),
        owners=owners.agg(F.count("*").alias("items_held"), ordered_sum("strength").alias("strength")),
        pairs=pairs.agg(ordered_sum("cosine").alias("cosine"), ordered_sum("lately_link").alias("lately_link")),
        profiles=profiles,
        shares={} if profiles is None else {attribute: profile_shares(mine, profiles, attribute) for attribute in PROFILE_SHARES},
    )


def ownership(events: DataFrame, grid: Grid, held_days: int) -> DataFrame:
    """(user_id, item_id, enters, leaves, lately): stretches on which a user has an item, a `buy` in `held_days`.

    `lately` is 1, and 1 more for each of the `LATELY_DAYS` windows with a `buy` of the pair: a weight that falls with age from 5 to 1.
    """
    key = ["user_id", "item_id"]
    buys = events.where((F.col("event_type") == "buy") & F.col("item_id").isNotNull()).withColumn("one", F.lit(1).cast("long"))
    days = sorted({held_days, *LATELY_DAYS})
    measures = [Measure(f"in_{n}d", "one", f"leaves_{n}") for n in days]
    moves = changes(with_window_ends(buys, days, grid), key, grid, measures)
    state = running_state(moves, key, grid, [measure.name for measure in measures])
    recent = [F.when(F.col(f"in_{n}d") > 0, 1).otherwise(0) for n in LATELY_DAYS]
    return state.where(F.col(f"in_{held_days}d") > 0).select(
        *key,
        F.col("position").alias("enters"),
        F.col("until").alias("leaves"),
        reduce(Column.__add__, recent, F.lit(1).cast("long")).alias("lately"),
    )


def item_links(owned: DataFrame, grid: Grid, settings: CrowdSettings) -> tuple[DataFrame, DataFrame]:
    """(item_id, other_id, position, cosine, lately_link), and (item_id, position, strength): the lately_link to all others together.

    With n(i) the users who have item i, and n(i, j) those who have both: cosine = n(i, j) / √(n(i)·n(j)); lately_link = the sum of
    `lately` of j over the users who have both / √n(i). `strength` counts every other item, also those left out as too weak.
    """
    lives = _of_few(owned, grid, settings.max_items).withColumn("one", F.lit(1).cast("long"))
    other = lives.select(
        "user_id", *(F.col(name).alias(f"other_{name}") for name in ("enters", "leaves")), "lately", F.col("item_id").alias("other_id")
    )
    both = (
        lives.drop("lately")
        .join(other, ["user_id"], "inner")
        .where(F.col("item_id") != F.col("other_id"))
        .withColumns({"enters": F.greatest("enters", "other_enters"), "leaves": F.least("leaves", "other_leaves")})
        .where(F.col("enters") < F.col("leaves"))
    )
    key = ["item_id", "other_id"]
    together = [Measure("both", "one", "leaves"), Measure("lately", "lately", "leaves")]
    counts = each_position(running_state(changes(both, key, grid, together), key, grid, ["both", "lately"]), grid)
    having = [Measure("users", "one", "leaves")]
    users = each_position(running_state(changes(lives, ["item_id"], grid, having), ["item_id"], grid, ["users"]), grid)
    others = users.select(F.col("item_id").alias("other_id"), "position", F.col("users").alias("other_users"))
    links = (
        counts.where(F.col("both") > 0)
        .join(users, ["item_id", "position"], "inner")
        .join(others, ["other_id", "position"], "inner")
        .withColumns(
            {
                "cosine": F.col("both") / F.sqrt(F.col("users") * F.col("other_users")),
                "lately_link": F.col("lately") / F.sqrt("users"),
            }
        )
    )
    strengths = links.groupBy("item_id", "position").agg((F.sum("lately") / F.sqrt(F.max("users"))).alias("strength"))
    return _strongest(links.where(F.col("both") >= settings.min_users), settings.neighbours), strengths


def _of_few(owned: DataFrame, grid: Grid, max_items: int) -> DataFrame:
    """`owned` on the positions on which its user has at most `max_items` items."""
    having = [Measure("items", "one", "leaves")]
    moves = changes(owned.withColumn("one", F.lit(1).cast("long")), ["user_id"], grid, having)
    few = running_state(moves, ["user_id"], grid, ["items"]).where(F.col("items").between(1, max_items)).drop("items")
    return (
        owned.join(few, ["user_id"], "inner")
        .withColumns({"enters": F.greatest("enters", "position"), "leaves": F.least("leaves", "until")})
        .where(F.col("enters") < F.col("leaves"))
        .drop("position", "until")
    )


def _strongest(links: DataFrame, neighbours: int) -> DataFrame:
    """The links that are among the first `neighbours` of their item by either measure, ties by `other_id`."""

    def place(measure: str) -> Column:
        return F.row_number().over(Window.partitionBy("item_id", "position").orderBy(F.desc(measure), "other_id"))

    placed = links.withColumns({"by_cosine": place("cosine"), "by_lately": place("lately_link")})
    near = placed.where(F.least("by_cosine", "by_lately") <= neighbours)
    return near.select("item_id", "other_id", "position", "cosine", "lately_link")


def item_state(events: DataFrame, mine: DataFrame, grid: Grid) -> DataFrame:
    """(item_id, position, item_lately_share, item_first_buy, item_last_buy) of every item that somebody has."""
    everything = Window.partitionBy("position")
    weights = mine.groupBy("item_id", "position").agg(F.sum("lately").alias("lately"))
    shares = weights.withColumn("item_lately_share", F.col("lately") / F.sum("lately").over(everything)).drop("lately")
    buys = events.where((F.col("event_type") == "buy") & F.col("item_id").isNotNull())
    both = (F.col("event_date").alias("item_first_buy"), F.col("event_date").alias("item_last_buy"))
    dated = buys.select("item_id", "enters", "leaves", *both).distinct()
    moves = changes(dated, ["item_id"], grid, latest=["item_last_buy"], earliest=["item_first_buy"])
    dates = each_position(running_state(moves, ["item_id"], grid, [], latest=["item_last_buy"], earliest=["item_first_buy"]), grid)
    return shares.join(dates, ["item_id", "position"], "inner")


def profile_shares(mine: DataFrame, profiles: DataFrame, attribute: str) -> DataFrame:
    """(attribute, item_id, position, share): how much of what users with one value of the attribute acquire lately is the item.

    (w(value, item) + PRIOR·w(item) / w) / (w(value) + PRIOR), where w sums `lately`; every item that somebody has, for every value.
    """
    weights = mine.join(profiles, ["user_id", "position"], "inner").where(F.col(attribute).isNotNull())
    of_value = weights.groupBy(attribute, "position").agg(F.sum("lately").alias("of_value"))
    of_both = weights.groupBy(attribute, "item_id", "position").agg(F.sum("lately").alias("of_both"))
    of_item = mine.groupBy("item_id", "position").agg(F.sum("lately").alias("of_item"))
    of_item = of_item.withColumn("base", PRIOR * F.col("of_item") / F.sum("of_item").over(Window.partitionBy("position")))
    every = of_value.join(of_item, ["position"], "inner").join(of_both, [attribute, "item_id", "position"], "left")
    share = (F.coalesce("of_both", F.lit(0)) + F.col("base")) / (F.col("of_value") + PRIOR)
    return every.select(attribute, "item_id", "position", share.alias(PROFILE_SHARES[attribute]))


def with_crowd(rows: DataFrame, found: Crowd | None) -> DataFrame:
    """Candidate `rows` (user_id, item_id, position, as_of_date) with the features of the crowd; all null when there is none."""
    if found is None:
        return rows.withColumns({name: F.lit(None).cast(kind) for name, kind in CROWD_TYPES.items()})
    rows = rows.join(F.broadcast(found.items), ["item_id", "position"], "left")
    rows = rows.join(found.owners, ["user_id", "position"], "left").join(found.pairs, ["user_id", "item_id", "position"], "left")
    rows = rows if found.profiles is None else rows.join(found.profiles, ["user_id", "position"], "left")
    for attribute, share in PROFILE_SHARES.items():
        if found.profiles is None:
            rows = rows.withColumn(share, F.lit(None).cast("double"))
        else:
            rows = rows.join(F.broadcast(found.shares[attribute]), [attribute, "item_id", "position"], "left")
            rows = rows.withColumn(share, F.when(F.col(attribute).isNotNull(), F.coalesce(share, "item_lately_share", F.lit(0.0))))
    linked = F.coalesce("lately_link", F.lit(0.0))
    return rows.withColumns(
        {
            "item_lately_share": F.coalesce("item_lately_share", F.lit(0.0)),
            "item_age_days": F.date_diff("as_of_date", "item_first_buy").cast("long"),
            "item_idle_days": F.date_diff("as_of_date", "item_last_buy").cast("long"),
            "co_purchase_cosine": F.coalesce("cosine", F.lit(0.0)) / F.col("items_held"),
            "co_purchase_lately": F.when(F.col("strength") > 0, linked / F.col("strength")),
        }
    )


def ordered_sum(column: str) -> Column:
    """The sum of doubles in the order of their size, so that it is the same to the last bit whatever the partitions; null when empty."""
    values = F.array_sort(F.collect_list(column))
    return F.when(F.size(values) > 0, F.aggregate(values, F.lit(0.0), lambda total, value: total + value))
