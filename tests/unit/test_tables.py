"""Delta tables: what may be written, what one commit replaces, what MERGE does."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from propensity_spark.config import LakeSettings
from propensity_spark.errors import SchemaMismatch, TableMissing
from propensity_spark.schemas import Column, Table
from propensity_spark.tables import Lake, conform, local_frame

BOXES = Table(
    "silver",
    "boxes",
    "one box on one day",
    ("box", "day"),
    (
        Column("box", T.StringType(), "which"),
        Column("day", T.LongType(), "when"),
        Column("weight", T.DoubleType(), "kg; null: not weighed", nullable=True),
    ),
)
BY_DAY = Table("silver", "boxes_by_day", BOXES.grain, BOXES.key, BOXES.columns, partition_by=("day",))
Row = tuple[str | None, int | None, float | None]


def frame(spark: SparkSession, *rows: Row) -> DataFrame:
    return local_frame(spark, rows, BOXES.schema)


def rows(lake: Lake, table: Table = BOXES) -> list[Row]:
    return sorted(tuple(row) for row in lake.read(table).collect())


def test_conform_puts_the_columns_in_declared_order(spark: SparkSession) -> None:
    assert conform(frame(spark, ("a", 1, 2.0)).select("weight", "box", "day"), BOXES).columns == ["box", "day", "weight"]


def test_conform_lists_everything_that_is_wrong_at_once(spark: SparkSession) -> None:
    wrong = local_frame(spark, [(1, "a", 2.0)], "day int, colour string, weight double")
    with pytest.raises(SchemaMismatch) as caught:
        conform(wrong, BOXES)
    message = str(caught.value)
    assert message.startswith("silver/boxes: ")
    assert "missing box (string)" in message
    assert "extra colour" in message
    assert "day is int, expected bigint" in message
    assert "weight" not in message


@pytest.mark.parametrize("how", ["append", "replace", "overwrite", "merge"])
def test_a_null_in_a_column_that_allows_none_fails_the_write_and_names_table_and_column(spark: SparkSession, lake: Lake, how: str) -> None:
    lake.append(frame(spark, ("a", 1, 1.0)), BOXES)
    bad = frame(spark, ("b", None, 1.0))
    writes = {
        "append": lambda: lake.append(bad, BOXES),
        "replace": lambda: lake.replace(bad, BOXES, "day = 2"),
        "overwrite": lambda: lake.overwrite(bad, BOXES),
        "merge": lambda: lake.merge(bad, BOXES, "t.box = s.box"),
    }
    with pytest.raises(SchemaMismatch, match=r"silver/boxes\.day: a row to be written is null"):
        writes[how]()
    assert rows(lake) == [("a", 1, 1.0)]


def test_a_null_is_kept_where_it_means_something(spark: SparkSession, lake: Lake) -> None:
    lake.append(frame(spark, ("a", 1, None)), BOXES)
    assert rows(lake) == [("a", 1, None)]


def test_a_failure_that_is_not_about_nulls_stays_what_it_was(spark: SparkSession, lake: Lake) -> None:
    broken = frame(spark, ("a", 1, 1.0)).withColumn("weight", F.raise_error(F.lit("the scales are broken")).cast("double"))
    with pytest.raises(Exception, match="the scales are broken") as caught:
        lake.append(broken, BOXES)
    assert not isinstance(caught.value, SchemaMismatch)


def test_reading_a_table_that_no_stage_has_written(spark: SparkSession, lake: Lake) -> None:
    with pytest.raises(TableMissing, match=r"silver/boxes: no such table at .*silver/boxes; run the stage"):
        lake.read(BOXES)
    empty = lake.read_or_empty(BOXES)
    assert (empty.columns, empty.count()) == (["box", "day", "weight"], 0)
    assert lake.version(BOXES) == -1
    lake.delete(BOXES, "day = 1")
    assert not lake.exists(BOXES)


def test_every_write_is_one_version(spark: SparkSession, lake: Lake) -> None:
    for day in range(12):  # beyond the tenth commit Delta adds a checkpoint
        lake.append(frame(spark, ("a", day, 1.0)), BOXES)
    lake.create(BOXES)
    assert lake.versions((BOXES, BY_DAY)) == {"silver/boxes": 11, "silver/boxes_by_day": -1}
    elsewhere = Lake(spark, LakeSettings(root=f"file:{lake.root}"))  # not a folder by its name: asked of the history
    assert elsewhere.version(BOXES) == 11


@pytest.mark.parametrize("table", [BOXES, BY_DAY], ids=["plain", "partitioned"])
def test_replace_exchanges_one_slice_in_one_commit(spark: SparkSession, lake: Lake, table: Table) -> None:
    lake.replace(frame(spark, ("a", 1, 1.0), ("a", 2, 1.0), ("b", 2, 1.0)), table, "day IN (1, 2)")
    lake.replace(frame(spark, ("c", 2, 9.0)), table, "day = 2")
    assert rows(lake, table) == [("a", 1, 1.0), ("c", 2, 9.0)]
    assert lake.version(table) == 1
    lake.replace(frame(spark), table, "day = 2")
    assert rows(lake, table) == [("a", 1, 1.0)]


def test_replace_refuses_rows_outside_its_slice(spark: SparkSession, lake: Lake) -> None:
    lake.append(frame(spark, ("a", 1, 1.0), ("b", 2, 1.0)), BOXES)
    with pytest.raises(Exception, match="day = 2"):
        lake.replace(frame(spark, ("c", 3, 1.0)), BOXES, "day = 2")
    assert rows(lake) == [("a", 1, 1.0), ("b", 2, 1.0)]


def test_overwrite_replaces_schema_too(spark: SparkSession, lake: Lake) -> None:
    lake.append(frame(spark, ("a", 1, 1.0)), BOXES)
    smaller = Table("silver", "boxes", "one box", ("box",), BOXES.columns[:1])
    lake.overwrite(local_frame(spark, [("z",)], smaller.schema), smaller)
    assert rows(lake, smaller) == [("z",)]


def test_delete_removes_the_rows_for_which_the_predicate_holds(spark: SparkSession, lake: Lake) -> None:
    lake.append(frame(spark, ("a", 1, 1.0), ("b", 2, None)), BOXES)
    lake.delete(BOXES, "day = 1")
    assert rows(lake) == [("b", 2, None)]


MERGE_ON = "t.box = s.box AND t.day = s.day"


def test_merge_inserts_and_leaves_matched_rows_alone_unless_told(spark: SparkSession, lake: Lake) -> None:
    lake.merge(frame(spark, ("a", 1, 1.0)), BOXES, MERGE_ON)
    lake.merge(frame(spark, ("a", 1, 5.0), ("b", 1, 2.0)), BOXES, MERGE_ON)
    assert rows(lake) == [("a", 1, 1.0), ("b", 1, 2.0)]


def test_merge_updates_where_the_condition_holds(spark: SparkSession, lake: Lake) -> None:
    lake.append(frame(spark, ("a", 1, 1.0), ("b", 1, 1.0)), BOXES)
    lake.merge(frame(spark, ("a", 1, 5.0), ("b", 1, 0.5), ("c", 1, 9.0)), BOXES, MERGE_ON, update_when="s.weight > t.weight", insert=False)
    assert rows(lake) == [("a", 1, 5.0), ("b", 1, 1.0)]


def test_merge_deletes_by_a_column_the_table_does_not_have(spark: SparkSession, lake: Lake) -> None:
    lake.append(frame(spark, ("a", 1, 1.0), ("b", 1, 1.0)), BOXES)
    told = frame(spark, ("a", 1, 2.0), ("b", 1, 2.0), ("c", 1, 2.0), ("d", 1, 2.0)).withColumn("gone", F.col("box").isin("a", "c"))
    lake.merge(told, BOXES, MERGE_ON, update_when="true", delete_when="s.gone")
    assert rows(lake) == [("b", 1, 2.0), ("d", 1, 2.0)]


def test_merge_twice_is_merge_once(spark: SparkSession, lake: Lake) -> None:
    for _ in range(2):
        lake.merge(frame(spark, ("a", 1, 1.0), ("b", 1, None)), BOXES, MERGE_ON, update_when="true")
    assert rows(lake) == [("a", 1, 1.0), ("b", 1, None)]


def test_tables_of_a_catalog_are_named_not_placed(spark: SparkSession) -> None:
    lake = Lake(spark, LakeSettings(root="somewhere/", catalog="main", schema_name="shop"))
    assert lake.location(BOXES) == "main.shop.silver_boxes"
    assert Lake(spark, LakeSettings(root="somewhere/")).location(BOXES) == "somewhere/silver/boxes"


def test_a_catalog_table_is_written_and_read_by_name(spark: SparkSession) -> None:
    spark.sql("CREATE DATABASE IF NOT EXISTS shelf")
    lake = Lake(spark, LakeSettings(root="unused", catalog="spark_catalog", schema_name="shelf"))
    lake.append(frame(spark, ("a", 1, 1.0)), BOXES)
    lake.merge(frame(spark, ("b", 1, 1.0)), BOXES, MERGE_ON)
    lake.overwrite(lake.read(BOXES).where("box = 'b'"), BOXES)
    assert rows(lake) == [("b", 1, 1.0)]
    assert lake.version(BOXES) == 2
    spark.sql("DROP DATABASE shelf CASCADE")
