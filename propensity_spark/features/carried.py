"""What features of later dates still need of events that have left every window: few rows instead of the history.

Once the events up to a day, `before`, lie outside all windows, features ask only three things of them: who and what was seen at all, when
for the first and the last time, and whether an order of today began back then. A few events of each user (and item) answer that as well
as all of them do, and take the place of the others: the same features from less. Where that is not so any more, because a version of an
old event became visible since, or a purchase has an order that an old one may have begun (`doubts`), the user's whole history is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import CandidateSettings
from propensity_spark.features.affinity import BUYER_DAYS
from propensity_spark.features.rfm import ORDER_DAYS
from propensity_spark.features.windows import Grid, version_intervals
from propensity_spark.schemas import EVENT, IS_CORRECTION, ORDER

_EVENT = ("event_id", "user_id", "item_id", "event_type", "event_date", "order_id", "session_id")
_ORDER = ["user_id", "order_hash"]


@dataclass(frozen=True)
class Settled:
    """Events up to `before` as they were visible on the date `on`; no window of that date or a later one reaches back to them."""

    on: date
    before: date


def settled(oldest: date, candidates: CandidateSettings) -> Settled:
    """On the first day of the month of the `oldest` date that is asked for, so that the runs of a month agree on it."""
    on = oldest.replace(day=1)
    return Settled(on, on - timedelta(days=max(*ORDER_DAYS, *BUYER_DAYS, candidates.held_days, candidates.viewed_days)))


def since(activity: DataFrame, past: Settled) -> DataFrame:
    """The versions of events that a window may still reach."""
    return activity.where(F.col("event_date") > F.lit(past.before))


def until(activity: DataFrame, past: Settled) -> DataFrame:
    """The versions of events that no window reaches any more."""
    return activity.where(F.col("event_date") <= F.lit(past.before))


def still_needed(
    activity: DataFrame, past: Settled, key: Sequence[str], earlier: DataFrame | None = None, few: DataFrame | None = None
) -> DataFrame:
    """gold/carried_events but for what tells of the run: events that stand for all those up to `past.before`, and the orders begun by then.

    In: silver/activity; or, where there are `earlier` carried events, these with the versions since (`with_carried`). `key`: user_id, and
    item_id where features are of pairs. `few`: as `events.live_events` takes them. The events are, as visible on `past.on`: of each key and
    type the first and the last; and those of orders that go on after `before`. A deleted one of each user says since when versions with a
    session have been seen.
    """
    visible = activity.where(F.col("visible_date") <= F.lit(past.on))
    old = until(visible, past).withColumn("seen_on", F.col("visible_date"))
    live = version_intervals(old, ["event_id"], Grid((past.on,)), few)
    names = ["event_date", *(name for name in _EVENT if name != "event_date"), "seen_on"]
    row = F.struct(*names)
    ends = live.groupBy(*key, "event_type").agg(F.array(F.min(row), F.max(row)).alias("rows"))
    picked = ends.select(F.explode("rows").alias("row")).select("row.*")
    begun = _of_orders(live)
    going_on = begun.join(_of_orders(since(visible, past)), _ORDER, "left_semi")
    events = picked.unionByName(going_on.select(*names)).dropDuplicates(["event_id"])
    events = events.withColumn("is_deleted", F.lit(False)).unionByName(_sessions(old))
    rows = events.withColumnRenamed("seen_on", "visible_date").withColumn("what", F.lit(EVENT))
    known = begun.select(*_ORDER) if earlier is None else begun.select(*_ORDER).unionByName(_orders(earlier))
    return rows.unionByName(known.distinct().withColumn("what", F.lit(ORDER)), allowMissingColumns=True)


def _sessions(versions: DataFrame) -> DataFrame:
    """One deleted event of each user with a session: nothing but the date on which a version with one was first visible."""
    told = {"event_id": F.concat(F.lit("session of "), "user_id"), "event_type": F.lit("session"), "session_id": F.lit("one")}
    first = (
        versions.where(F.col("session_id").isNotNull())
        .groupBy("user_id")
        .agg(F.min("event_date").alias("event_date"), F.min("seen_on").alias("seen_on"))
    )
    return first.withColumns({**told, "item_id": F.lit(None).cast("string"), "order_id": F.col("user_id"), "is_deleted": F.lit(True)})


def _of_orders(events: DataFrame) -> DataFrame:
    """Purchases whose order may have others, with `order_hash`; an order with its event's own id has that one alone."""
    bought = events.where((F.col("event_type") == "buy") & (F.col("order_id") != F.col("event_id")))
    return bought.withColumn("order_hash", F.xxhash64("order_id"))


def _orders(carried: DataFrame) -> DataFrame:
    return carried.where(F.col("what") == ORDER).select(*_ORDER)


def doubts(activity: DataFrame, carried: DataFrame, past: Settled, as_of: date) -> DataFrame:
    """(user_id, event_id) of what has become visible from `past.on` to `as_of` and the carried events do not answer for.

    With event_id: another version of an old event. Without: a purchase after `before` whose order, by its hash, an old one may have begun.
    """
    news = activity.where((F.col("visible_date") > F.lit(past.on)) & (F.col("visible_date") <= F.lit(as_of)))
    late = until(news, past).select("user_id", "event_id")
    reopened = _orders(carried).join(F.broadcast(_of_orders(since(news, past)).select(*_ORDER).distinct()), _ORDER, "left_semi")
    return late.unionByName(reopened.select("user_id", F.lit(None).cast("string").alias("event_id")))


def with_carried(activity: DataFrame, carried: DataFrame, past: Settled, doubtful: DataFrame | None = None) -> DataFrame:
    """Versions from which features of `past.on` and later dates come out as from all of silver/activity, which `activity` is.

    Carried events are versions known when they became visible, without amount. Of users in `doubtful` (see `doubts`), and of those to whom
    its events belonged before, every event is there in all its versions, whosever they were.
    """
    old = until(activity, past)
    events = carried.where(F.col("what") == EVENT)
    whole = old.limit(0)
    if doubtful is not None:
        again = old.join(F.broadcast(doubtful.select("event_id").distinct()), "event_id", "left_semi")
        users = F.broadcast(doubtful.select("user_id").unionByName(again.select("user_id")).distinct())
        theirs = old.join(users, "user_id", "left_semi").select("event_id").distinct()
        whole, events = old.join(theirs, "event_id", "left_semi"), events.join(users, "user_id", "left_anti")
    given = {"known_at": F.col("visible_date").cast("timestamp"), IS_CORRECTION: F.lit(False)}
    given |= {name: F.col(name) for name in (*_EVENT, "visible_date", "is_deleted")}
    missing = F.lit(None)
    stand_ins = events.select(*(given.get(f.name, missing).cast(f.dataType).alias(f.name) for f in activity.schema))
    return since(activity, past).unionByName(whole).unionByName(stand_ins)
