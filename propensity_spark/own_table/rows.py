"""From a file's rows to the training set that train and evaluate know, refusing what would make a model that looks good and is not."""

from __future__ import annotations

from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import TableRefused
from propensity_spark.own_table.columns import Columns, values
from propensity_spark.own_table.read import column
from propensity_spark.own_table.slices import Slices

KEY = ("user_id", "as_of_date")
_SHOWN = 6


def labelled(frame: DataFrame, columns: Columns, as_of: date) -> DataFrame:
    """(user_id, as_of_date, label, `instant`, features): one row per customer, not yet divided.

    `as_of_date` is the month of the row's time, or `as_of` where the table knows none. `instant`: its time in seconds, or null.
    """
    when = column(columns.time).try_cast("timestamp") if columns.time else F.lit(None).cast("timestamp")
    day = F.trunc(when, "month") if columns.time else F.lit(as_of)
    return frame.select(
        column(columns.id).cast("string").alias("user_id"),
        day.alias("as_of_date"),
        _label(columns).alias("label"),
        when.cast("double").alias("instant"),
        *values(columns, frame.columns, when if columns.time else F.lit(as_of)),
    )


def require_fit(frame: DataFrame, columns: Columns, as_of: date) -> None:
    """Raise TableRefused for labels that are not 0 or 1, one class, a customer twice or without id, a time that is missing or to come.

    One Spark pass, and one more to name the labels when they are wrong.
    """
    id, label = column(columns.id), _label(columns)
    when = column(columns.time).try_cast("timestamp") if columns.time else F.lit(0)
    row = frame.agg(
        F.count("*").alias("rows"),
        F.count_if(label.isNull()).alias("bad"),
        F.coalesce(F.sum(label), F.lit(0)).alias("ones"),
        F.count_if(id.isNull()).alias("nobody"),
        F.count_distinct(id).alias("customers"),
        F.count_if(when.isNull()).alias("timeless"),
        F.count_if(when > F.lit(as_of).cast("timestamp") + F.expr("INTERVAL 1 DAY") if columns.time else F.lit(False)).alias("future"),
    ).first()
    assert row is not None  # an aggregate without keys has one row
    if row["rows"] == 0:
        raise TableRefused("the table has no row; expected one per customer")
    if row["bad"]:
        seen = [str(one[0]) for one in frame.select(column(columns.label)).distinct().limit(_SHOWN + 1).collect()]
        found = f"more than {_SHOWN} values" if len(seen) > _SHOWN else ", ".join(sorted(seen))  # a column of ids is not repeated
        raise TableRefused(f"--label {columns.label}: expected 0 or 1 (true, false) in every row; {row['bad']:,} have others, in {found}")
    if row["ones"] in (0, row["rows"]):
        raise TableRefused(
            f"--label {columns.label}: expected customers who ordered and others, found {row['ones']:,} of {row['rows']:,} with 1"
        )
    if row["nobody"]:
        raise TableRefused(f"--id {columns.id}: {row['nobody']:,} rows have none; expected one in every row")
    if row["customers"] < row["rows"]:
        raise TableRefused(
            f"--id {columns.id}: expected one row per customer, found {row['rows']:,} rows of {row['customers']:,}: a customer in two "
            "slices would be trained and tested on. Keep one row each, or choose the column that names the row"
        )
    if row["timeless"]:
        raise TableRefused(f"--time {columns.time}: {row['timeless']:,} rows have no date or moment there; expected one in every row")
    if row["future"]:
        raise TableRefused(f"--time {columns.time}: {row['future']:,} rows lie after {as_of} (--as-of): what is to come is not known yet")


def divided(rows: DataFrame, columns: Columns, slices: Slices) -> DataFrame:
    """The training set, as gold/training_set has it: key, features, `label`, `sample_weight` (1: nothing is sampled) and `split`."""
    split = slices.of_row(F.col("label"), F.col("user_id"), F.col("instant"))
    return rows.select(*KEY, *columns.names, "label", F.lit(1.0).alias("sample_weight"), split.alias("split"))


def _label(columns: Columns) -> Column:
    """0 or 1; null for anything else."""
    written = column(columns.label)
    number = F.coalesce(written.try_cast("double"), written.try_cast("boolean").cast("double"))
    return F.when(number.isin(0.0, 1.0), number.cast("int"))
