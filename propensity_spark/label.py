"""Labels: was there a purchase in (D, D + H] that was not wholly undone? And the training set that joins them to features."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from propensity_spark.config import LabelSettings, SamplingSettings
from propensity_spark.errors import NotEnoughHistory, OneClassOnly
from propensity_spark.schemas import grain_key
from propensity_spark.tables import local_frame

SAMPLED = ("train", "validation")
_BUCKETS = 1_000_000


def purchases(activity: DataFrame, dates: Sequence[date], label: LabelSettings, *, grain: str, as_of: date) -> DataFrame:
    """Every positive of the dates, candidate or not: one row per grain key, (user_id, item_id, as_of_date) or (user_id, as_of_date).

    `activity` is silver/activity. The last version of each event visible by the end of `as_of` counts, deleted ones do
    not. An order is wholly undone when cancellations of it fall in the same window (D, D + H] and the quantities of its
    purchases and cancellations there sum to 0 or less; at grain `user_item` each item of an order stands alone. A
    purchase without a quantity counts as 1, a cancellation without one undoes the whole order.
    Raises NotEnoughHistory for a date whose window has not closed by `as_of`.
    """
    open_dates = [day for day in dates if day + timedelta(days=label.closing_days) > as_of]
    if open_dates:
        closes = max(open_dates) + timedelta(days=label.closing_days)
        raise NotEnoughHistory(
            f"label: the window of {max(open_dates)} closes on {closes}, after the as-of date {as_of}; label earlier dates"
        )
    # The date of an event never changes, so versions of other dates need not be put in order, nor their files be read.
    in_windows = (F.col("event_date") > F.lit(min(dates))) & (F.col("event_date") <= F.lit(max(dates) + timedelta(days=label.horizon_days)))
    events = final_events(activity.where(in_windows), as_of).where(F.col("event_type").isin(*label.event_types, "cancel"))
    if grain == "user_item":
        events = events.where(F.col("item_id").isNotNull())
    is_cancel = (F.col("event_type") == "cancel") & ~F.lit("cancel" in label.event_types)
    quantity = F.coalesce("quantity", F.when(is_cancel, float("-inf")).otherwise(1.0))
    key = grain_key(grain)
    return (
        events.join(F.broadcast(_windows(activity, dates, label.horizon_days)), "event_date", "inner")
        .groupBy(*key, "order_id")
        .agg(
            F.bool_or(~is_cancel).alias("purchased"),
            F.bool_or(is_cancel).alias("cancelled"),
            F.sum(quantity).alias("quantity"),
        )
        .where(F.col("purchased") & ~(F.col("cancelled") & (F.col("quantity") <= 0)))
        .select(*key)
        .distinct()
    )


def labels(keys: DataFrame, bought: DataFrame, grain: str) -> DataFrame:
    """`keys` and `label` (int): 1 when the key is among the `purchases` given as `bought`, else 0. As many rows as `keys`."""
    key = list(grain_key(grain))
    marked = bought.select(*key, F.lit(1).alias("bought"))
    return keys.join(marked, key, "left").withColumn("label", F.coalesce("bought", F.lit(0)).cast("int")).drop("bought")


def sampled(labelled: DataFrame, slice_of: Column, sampling: SamplingSettings, grain: str) -> DataFrame:
    """Rows with `split` and `sample_weight`; negatives of train and validation are thinned.

    `slice_of` names the slice of a row; rows in none (those of purged dates) are left out. A negative is kept by a hash of
    its key and the seed, so the choice does not depend on order, partitions or other rows. Its weight is
    1 / `negative_share`; positives, and every row of calibration and test, have weight 1.
    """
    thinned = F.col("split").isin(*SAMPLED) & (F.col("label") == 0)
    bucket = F.pmod(F.xxhash64(*grain_key(grain), F.lit(sampling.seed)), F.lit(_BUCKETS))
    return (
        labelled.withColumn("split", slice_of)
        .where(F.col("split").isNotNull() & (~thinned | (bucket < round(sampling.negative_share * _BUCKETS))))
        .withColumn("sample_weight", F.when(thinned, 1.0 / sampling.negative_share).otherwise(1.0))
    )


def looked_at(sampling: SamplingSettings) -> Column:
    """Whether a user (`user_id`) is one of the share that training dates look at: by a hash, so always the same users."""
    bucket = F.pmod(F.xxhash64("user_id", F.lit("looked at"), F.lit(sampling.seed)), F.lit(_BUCKETS))
    return bucket < round(sampling.user_share * _BUCKETS)


def require_both_classes(training_set: DataFrame) -> dict[str, int]:
    """Rows per slice. Raises OneClassOnly that names the slices, and their dates, that hold zeros only or ones only."""
    counted = (
        training_set.groupBy("split")
        .agg(F.count("*").alias("n"), F.sum("label").alias("ones"), F.min("as_of_date").alias("first"), F.max("as_of_date").alias("last"))
        .collect()
    )
    if not counted:
        raise OneClassOnly("gold/training_set is empty: no candidate on any training date; run features for these dates")
    single = [
        f"{row['split']} ({row['first']} to {row['last']}) holds {row['n']} rows, all with label {1 if row['ones'] else 0}"
        for row in sorted(counted, key=lambda row: str(row["first"]))
        if row["ones"] in (0, row["n"])
    ]
    if single:
        raise OneClassOnly(
            f"gold/training_set: {'; '.join(single)}. Both classes are needed in each slice: widen it to more dates "
            "(split.*_dates), lengthen label.horizon_days or check label.event_types"
        )
    return {row["split"]: int(row["n"]) for row in counted}


def final_events(activity: DataFrame, as_of: date) -> DataFrame:
    """The last version, visible by the end of `as_of`, of each event; deleted events are left out.

    Greatest known_at wins, and among equal ones the greater payload hash.
    """
    newest_first = Window.partitionBy("event_id").orderBy(F.col("known_at").desc(), F.col("payload_hash").desc())
    return (
        activity.where(F.col("visible_date") <= F.lit(as_of))
        .withColumn("version", F.row_number().over(newest_first))
        .where((F.col("version") == 1) & ~F.col("is_deleted"))
        .drop("version")
    )


def _windows(activity: DataFrame, dates: Sequence[date], horizon_days: int) -> DataFrame:
    """(as_of_date, event_date) for every event date in (D, D + H] of every D: small enough to broadcast."""
    pairs = [(day, day + timedelta(days=ahead)) for day in dates for ahead in range(1, horizon_days + 1)]
    return local_frame(activity.sparkSession, pairs, "as_of_date date, event_date date")
