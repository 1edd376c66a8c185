"""What the crowd does: what those who have an item acquire lately, what users like this one acquire lately, how wanted an item is.

Every count is a sum of entries and exits on the grid of as-of dates: nothing of the future is in it, late data need no special case,
and one more day costs that day's changes. Items are linked by users with at most `max_items` items, from `min_users` users on, and the
`neighbours` strongest links of each item stay: items × neighbours numbers a date, however many items there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from propensity_spark.config import CrowdSettings
from propensity_spark.features.registry import LATELY_DAYS, PRIOR, SIZES
from propensity_spark.features.windows import (
    Grid,
    Measure,
    attributes_as_of,
    changes,
    each_position,
    running_state,
    with_window_ends,
)

LINK_UNITS = 1_000_000  # of a link, in one: as whole numbers their sums are the same whatever the partitions
ALIKE = {"size": "size_lately_share", "risk_tolerance": "risk_lately_share"}  # what makes users alike, and the feature it makes


@dataclass(frozen=True)
class Crowd:
    """What `with_crowd` joins to candidates: by (item_id, position); (user_id, position); (user_id, item_id, position)."""

    items: DataFrame
    people: DataFrame
    pairs: DataFrame


def crowd(
    owned: DataFrame, events: DataFrame, users: DataFrame | None, grid: Grid, settings: CrowdSettings, *, of: Column | None = None
) -> Crowd:
    """In: `owned` of `ownership` and `events` of `live_events`, both of all users; silver/users or None.

    `of`: the users whose pairs are wanted (None: all).
    """
    mine = each_position(owned.withColumnsRenamed({"enters": "position", "leaves": "until"}), grid)
    people = traits(mine, users, grid)
    return Crowd(
        items=item_state(events, mine.join(people, ["user_id", "position"], "inner"), grid),
        people=people,
        pairs=pair_links(mine if of is None else mine.where(of), item_links(owned, grid, settings)),
    )


def dated(activity: DataFrame, settings: CrowdSettings) -> DataFrame:
    """silver/activity with the date from which the age of a purchase is counted as its `event_date`."""
    return activity if settings.age_from == "event" else activity.withColumn("event_date", F.col("visible_date"))


def ownership(events: DataFrame, grid: Grid, held_days: int) -> DataFrame:
    """(user_id, item_id, enters, leaves, lately): stretches on which a user has an item, a `buy` in `held_days`.

    In: `events` of `live_events`, of activity that was `dated`. `lately` is 1, and 1 more for each of the `LATELY_DAYS` windows with a
    `buy` of the pair: a weight that falls with age from 8 to 1.
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


def item_links(owned: DataFrame, grid: Grid, settings: CrowdSettings) -> DataFrame:
    """(item_id, other_id, position, link): from an item to those that its owners acquire lately, the strongest `neighbours` of them.

    link = Σ `lately` of the other item over the users who have both / √(users who have the item), in `LINK_UNITS`.
    Normalised as in item-based collaborative filtering (Deshpande and Karypis, 2004), with weights of time in place of ratings.
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
    having = changes(lives, ["item_id"], grid, [Measure("owners", "one", "leaves")])
    owners = each_position(running_state(having, ["item_id"], grid, ["owners"]), grid)
    link = (F.lit(LINK_UNITS) * F.col("lately") / F.sqrt("owners")).cast("long")
    links = counts.where(F.col("both") >= settings.min_users).join(owners, ["item_id", "position"], "inner").withColumn("link", link)
    strongest = Window.partitionBy("item_id", "position").orderBy(F.desc("link"), "other_id")
    near = links.withColumn("place", F.row_number().over(strongest)).where(F.col("place") <= settings.neighbours)
    return near.select("item_id", "other_id", "position", "link")


def _of_few(owned: DataFrame, grid: Grid, max_items: int) -> DataFrame:
    """`owned` on the positions on which its user has at most `max_items` items."""
    moves = changes(owned.withColumn("one", F.lit(1).cast("long")), ["user_id"], grid, [Measure("items", "one", "leaves")])
    few = running_state(moves, ["user_id"], grid, ["items"]).where(F.col("items").between(1, max_items)).drop("items")
    return (
        owned.join(few, ["user_id"], "inner")
        .withColumns({"enters": F.greatest("enters", "position"), "leaves": F.least("leaves", "until")})
        .where(F.col("enters") < F.col("leaves"))
        .drop("position", "until")
    )


def traits(mine: DataFrame, users: DataFrame | None, grid: Grid) -> DataFrame:
    """(user_id, position, items_held, size, risk_tolerance) of users who have something or have a profile; null for what they lack."""
    people = mine.groupBy("user_id", "position").agg(F.count("*").alias("items_held"))
    larger = [F.when(F.col("items_held") > size, 1).otherwise(0) for size in SIZES]
    people = people.withColumn("size", reduce(Column.__add__, larger))
    if users is None:
        return people.withColumn("risk_tolerance", F.lit(None).cast("string"))
    return people.join(attributes_as_of(users, "user_id", ["risk_tolerance"], grid), ["user_id", "position"], "full")


def item_state(events: DataFrame, mine: DataFrame, grid: Grid) -> DataFrame:
    """(item_id, position, item_first_buy, item_last_buy, and `_weights` of the item and of all) of every item that somebody has.

    In: `mine`, who has what on each position, with the user's traits.
    """
    key = ["item_id", "position"]
    cells = mine.groupBy(*key, *ALIKE).agg(F.count("*").alias("owners"), F.sum("lately").alias("lately"))
    buys = events.where((F.col("event_type") == "buy") & F.col("item_id").isNotNull())
    both = (F.col("event_date").alias("item_first_buy"), F.col("event_date").alias("item_last_buy"))
    days = buys.select("item_id", "enters", "leaves", *both).distinct()
    moves = changes(days, ["item_id"], grid, latest=["item_last_buy"], earliest=["item_first_buy"])
    dates = each_position(running_state(moves, ["item_id"], grid, [], latest=["item_last_buy"], earliest=["item_first_buy"]), grid)
    of_all = cells.groupBy("position", *ALIKE).agg(*(F.sum(name).alias(name) for name in ("owners", "lately")))
    items = _weights(cells, key, "item").join(dates, key, "inner")
    return items.join(F.broadcast(_weights(of_all, ["position"], "all")), ["position"], "inner")


def _weights(cells: DataFrame, key: list[str], of: str) -> DataFrame:
    """Per key `<of>_owners`, `<of>_lately`, and for each trait of ALIKE `<of>_<trait>`: its values to the `lately` of their users.

    In: at most one cell per key and combination of traits.
    """
    together = cells.groupBy(*key).agg(
        F.sum("owners").alias(f"{of}_owners"),
        F.sum("lately").alias(f"{of}_lately"),
        F.collect_list(F.struct(*ALIKE, "lately")).alias("cells"),
    )

    def by_value(trait: str) -> Column:
        values = F.array_compact(F.array_distinct(F.transform("cells", lambda cell: cell[trait])))

        def weight(value: Column) -> Column:
            of_value = F.filter("cells", lambda cell: cell[trait] == value)
            return F.aggregate(of_value, F.lit(0).cast("long"), lambda total, cell: total + cell["lately"])

        return F.map_from_arrays(values, F.transform(values, weight))

    return together.withColumns({f"{of}_{trait}": by_value(trait) for trait in ALIKE}).drop("cells")


def pair_links(mine: DataFrame, links: DataFrame) -> DataFrame:
    """(user_id, item_id, position, link, reach): all links to an item from those that the user has, and all their links together."""
    reached = mine.join(links, ["item_id", "position"], "inner")
    pairs = reached.groupBy("user_id", F.col("other_id").alias("item_id"), "position").agg(F.sum("link").alias("link"))
    return pairs.withColumn("reach", F.sum("link").over(Window.partitionBy("user_id", "position")))


def with_crowd(rows: DataFrame, found: Crowd) -> DataFrame:
    """Candidate `rows` (user_id, item_id, position, as_of_date) with the features of the crowd: formulas, nulls in `registry.FEATURES`."""
    rows = rows.join(F.broadcast(found.items), ["item_id", "position"], "left")
    rows = rows.join(found.people, ["user_id", "position"], "left").join(found.pairs, ["user_id", "item_id", "position"], "left")

    def of(name: str, trait: str) -> Column:
        return F.coalesce(F.try_element_at(f"{name}_{trait}", F.col(trait)), F.lit(0))

    def share(trait: str) -> Column:
        alike = (of("item", trait) + PRIOR * F.col("item_lately_share")) / (of("all", trait) + PRIOR)
        return F.when(F.col(trait).isNotNull(), F.coalesce(alike, F.lit(0.0)))

    everyone = {
        "item_owners": F.coalesce("item_owners", F.lit(0)),
        "item_lately_share": F.coalesce(F.col("item_lately") / F.col("all_lately"), F.lit(0.0)),
    }
    return rows.withColumns(everyone).withColumns(
        {
            "item_age_days": F.date_diff("as_of_date", "item_first_buy").cast("long"),
            "item_idle_days": F.date_diff("as_of_date", "item_last_buy").cast("long"),
            "items_held": F.coalesce("items_held", F.lit(0)),
            "co_purchase_lately": F.coalesce(F.col("link") / F.col("reach"), F.lit(0.0)),
            **{name: share(trait) for trait, name in ALIKE.items()},
        }
    )
