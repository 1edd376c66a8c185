"""A table of one's own: what its columns become, what is refused, which rows test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import roc_auc_score

from propensity_spark.cli import main
from propensity_spark.config import CONF_DIR, TableSettings, load_table_settings
from propensity_spark.errors import ConfigurationError, OneClassOnly, SourceMissing, TableRefused
from propensity_spark.evaluate.metrics import binned_auc
from propensity_spark.own_table.columns import Columns, Feature, find_columns, from_json, unreadable, values
from propensity_spark.own_table.read import read_input
from propensity_spark.own_table.rows import divided, labelled, require_fit
from propensity_spark.own_table.slices import Slices, find_slices, require_both_classes
from propensity_spark.own_table.slices import from_json as slices_from_json

AS_OF = date(2026, 6, 30)


def csv(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def found(frame: DataFrame, **options: object) -> Columns:
    return find_columns(frame, id="id", label="y", **options)  # type: ignore[arg-type]


def test_a_csv_keeps_its_ids_and_gets_types(spark: SparkSession, tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", 'id,a b,"c, ""d""",when,flag,y', '007,1.5,"x, y",2026-01-31,true,1', "08,,z,2026-02-01,false,0")
    frame = read_input(spark, path, as_text=("id",))
    assert [(one.name, one.dataType.simpleString()) for one in frame.schema.fields] == [
        *[("id", "string"), ("a b", "double"), ('c, "d"', "string"), ("when", "date"), ("flag", "boolean"), ("y", "int")]
    ]
    assert [row["id"] for row in frame.collect()] == ["007", "08"]
    assert {kind for _, kind in read_input(spark, path, as_text=None).dtypes} == {"string"}


def test_parquet_and_delta_are_told_apart(spark: SparkSession, tmp_path: Path) -> None:
    rows = spark.createDataFrame([("a", 1)], "id string, y int")
    rows.write.parquet(str(tmp_path / "p"))
    rows.write.format("delta").save(str(tmp_path / "d"))
    rows.limit(0).write.format("delta").mode("overwrite").save(str(tmp_path / "d"))  # its old file still lies there
    assert [read_input(spark, str(tmp_path / name), as_text=()).count() for name in "pd"] == [1, 0]


def test_what_is_no_table_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no such file"):
        read_input(spark, str(tmp_path / "none.csv"), as_text=())
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableRefused, match="cannot be read as a table"):
        read_input(spark, str(tmp_path / "empty"), as_text=())


def test_each_column_has_a_kind_and_a_safe_name(spark: SparkSession) -> None:
    frame = spark.createDataFrame(
        [(f"u{n}", n % 2, n, "red" if n < 6 else "blue", f"text {n}", 1, None, date(2026, 1, n + 1), [n], n % 3 == 0) for n in range(9)],
        "id string, y int, `a.b c` int, `it's` string, free string, same int, none double, day date, list array<int>, `a b c` boolean",
    )
    columns = found(frame, max_categories=5)
    assert [(one.column, one.name, one.kind) for one in columns.features] == [
        *[("a.b c", "a_b_c", "number"), ("it's", "it_s", "category"), ("day", "day", "moment"), ("a b c", "a_b_c_2", "number")]
    ]
    assert columns.features[1].categories == ("red", "blue")
    assert columns.ignored == {
        "list": "of type array<int>",
        "free": "names its rows (9 values in 9 rows)",
        "same": "the same value throughout",
        "none": "null throughout",
    }
    assert from_json(columns.as_json()) == columns


def test_a_column_that_is_called_as_one_of_ours_gets_another_name(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(1, 1, 2, 3, 4), (2, 0, 3, 4, 5)], "id int, y int, Label int, purchase_probability int, `label!` int")
    assert found(frame).names == ("Label_2", "purchase_probability_2", "label_3")


def test_ten_thousand_categories_are_kept_to_the_most_frequent(spark: SparkSession) -> None:
    often = spark.range(30_000).select((F.col("id") % 3).cast("string").alias("shop"))
    rare = spark.range(10_000).select((F.col("id") + 10).cast("string").alias("shop"))
    frame = often.unionByName(rare).select("*", F.monotonically_increasing_id().alias("id"), F.lit(1).alias("y"))
    (shop,) = found(frame, max_categories=4).features
    assert shop.categories[:3] == ("0", "1", "2")
    assert (len(shop.categories), shop.has_more) == (4, True)


def test_what_is_asked_for_wins(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(1, 1, 3, 2.0), (2, 0, 4, 3.0)], "id int, y int, shop int, spend double")
    columns = found(frame, kinds={"shop": "category"}, interactions=[("spend", "spend")])
    assert columns.xgboost_types == ("c", "q", "q")
    assert columns.names == ("shop", "spend", "spend_x_spend")
    assert found(frame, kinds={"shop": "ignore"}).ignored == {"shop": "set to ignore"}
    for options, says in (
        ({"kinds": {"shops": "ignore"}}, "no column 'shops'"),
        ({"kinds": {"shop": "category"}, "interactions": [("shop", "spend")]}, "expected two of the numbers"),
        ({"interactions": [("spend", "nothing")]}, "nothing"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            found(frame, **options)


def test_a_table_without_label_id_or_feature_is_refused(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(1, 1)], "id int, y int")
    with pytest.raises(TableRefused, match=r"--id who: no such column; the table has id, y"):
        find_columns(frame, id="who", label="y")
    with pytest.raises(TableRefused, match="no feature is left"):
        found(frame)


COLUMNS = Columns(
    *("id", "y", None),
    (
        Feature("n", "n", "number", "double"),
        Feature("colour", "colour", "category", "string", ("red", "blue")),
        Feature("day", "day", "moment", "date"),
        Feature("flag", "flag", "number", "boolean"),
    ),
    (("n", "day"),),
)


def as_model_sees(frame: DataFrame, **options: bool) -> list[tuple[float | None, ...]]:
    return [tuple(row) for row in frame.select(*values(COLUMNS, frame.columns, F.lit(AS_OF), **options)).collect()]


def test_values_are_what_the_model_was_trained_on(spark: SparkSession) -> None:
    typed = spark.createDataFrame(
        [
            (2.0, "red", date(2026, 6, 28), True),
            (0.0, "green", None, False),
            (math.nan, None, AS_OF, None),
            (math.inf, "blue", AS_OF, True),
        ],
        "n double, colour string, day date, flag boolean",
    )
    expected = [(2.0, 0.0, 2.0, 1.0, 4.0), (0.0, 2.0, None, 0.0, None), (None, None, 0.0, None, None), (None, 1.0, 0.0, 1.0, None)]
    assert as_model_sees(typed) == expected
    written = typed.select(*(F.col(name).cast("string").alias(name) for name in typed.columns))
    assert as_model_sees(written) == expected


def test_a_category_is_the_same_text_in_a_table_of_types_and_in_a_file_of_text(spark: SparkSession) -> None:
    typed = spark.createDataFrame([(1, 0, True, 1.0), (2, 1, False, 2.0)], "id int, y int, flag boolean, size double")
    columns = found(typed, kinds={"flag": "category", "size": "category"})
    text = spark.createDataFrame([("False", "1"), ("TRUE", "2.0")], "flag string, size string")
    seen = [tuple(row) for row in text.select(*values(columns, text.columns, F.lit(AS_OF))).collect()]
    flags, sizes = (one.categories for one in columns.features)
    assert [(flags[int(flag)], sizes[int(size)]) for flag, size in seen] == [("false", "1.0"), ("true", "2.0")]


def test_what_the_file_lacks_is_missing_or_zero(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(1.0,)], "n double")
    assert as_model_sees(frame) == [(1.0, None, None, None, None)]
    assert as_model_sees(frame, absent_as_zero=True) == [(1.0, 2.0, 0.0, 0.0, 0.0)]


def test_values_of_another_type_are_counted(spark: SparkSession) -> None:
    frame = spark.createDataFrame([("1.5", "31/01/2026"), ("many", "2026-01-31"), (None, None)], "n string, day string")
    assert unreadable(frame, COLUMNS) == {"n": 1, "day": 1}
    assert as_model_sees(frame)[1][0] is None


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no row"),
        ([("a", "1", "2026-06-01"), ("b", "maybe", "2026-06-01")], "expected 0 or 1 .* 1 have others, in 1, maybe"),
        ([("a", "1", "2026-06-01"), ("b", None, "2026-06-01")], "1 have others, in 1, None"),
        ([(f"{n}", f"{n}0", "2026-06-01") for n in range(8)], "7 have others, in more than 6 values"),
        ([("a", "1", "2026-06-01"), ("b", "true", "2026-06-01")], "found 2 of 2 with 1"),
        ([("a", "1", "2026-06-01"), (None, "0", "2026-06-01")], "1 rows have none"),
        ([("a", "1", "2026-06-01"), ("a", "0", "2026-06-01")], "one row per customer, found 2 rows of 1"),
        ([("a", "1", "2026-06-01"), ("b", "0", "June")], "1 rows have no date"),
        ([("a", "1", "2026-06-01"), ("b", "0", "2026-07-02")], "1 rows lie after 2026-06-30"),
    ],
)
def test_rows_that_make_no_honest_model_are_refused(spark: SparkSession, rows: list[tuple[str, str, str]], says: str) -> None:
    frame = spark.createDataFrame(rows, "id string, y string, day string")
    columns = Columns("id", "y", "day", (Feature("n", "n", "number", "double"),))
    with pytest.raises(TableRefused, match=says):
        require_fit(frame, columns, AS_OF)


def test_rows_that_are_fine_pass(spark: SparkSession) -> None:
    frame = spark.createDataFrame([("a", "true", "2026-06-30"), ("b", "0.0", "2025-01-01")], "id string, y string, day string")
    require_fit(frame, Columns("id", "y", "day", ()), AS_OF)
    require_fit(frame, Columns("id", "y", None, ()), AS_OF)


def customers(spark: SparkSession, number: int) -> DataFrame:
    label = (F.col("id") % 20 == 0).cast("int")
    day = F.date_sub(F.lit(AS_OF), (F.col("id") % 100).cast("int"))
    return spark.range(number).select(F.col("id").cast("string").alias("id"), label.alias("y"), day.alias("day"), F.lit(1.0).alias("n"))


def test_every_slice_has_its_share_of_either_class(spark: SparkSession) -> None:
    columns = Columns("id", "y", None, (Feature("n", "n", "number", "double"),))
    rows = labelled(customers(spark, 4000), columns, AS_OF)
    slices = find_slices(rows, TableSettings())
    assert slices.by == "customers"
    training_set = divided(rows, columns, slices)
    counts = {(row["split"], row["label"]): row["count"] for row in training_set.groupBy("split", "label").count().collect()}
    assert {key: counts[key] for key in counts if key[1] == 1} == pytest.approx(
        {("test", 1): 40, ("calibration", 1): 30, ("validation", 1): 20, ("train", 1): 110}, abs=1
    )
    assert counts["test", 0] == pytest.approx(760, abs=2)
    assert sum(require_both_classes(training_set).values()) == 4000
    # The rule belongs to the customer: it says the same of half the file, and read back from the model.
    again = divided(labelled(customers(spark, 4000).where("id < 2000"), columns, AS_OF), columns, slices_from_json(slices.as_json()))
    assert again.join(training_set.withColumnRenamed("split", "before"), "user_id").where("split <> before").count() == 0


def test_where_there_is_a_time_the_latest_rows_test(spark: SparkSession) -> None:
    columns = Columns("id", "y", "day", (Feature("n", "n", "number", "double"),))
    rows = labelled(customers(spark, 4000), columns, AS_OF)
    slices = find_slices(rows, TableSettings())
    assert slices.by == "time"
    parts = divided(rows, columns, slices).join(rows.select("user_id", "instant"), "user_id")
    spans = {
        row[0]: (row[1], row[2], row[3]) for row in parts.groupBy("split").agg(F.min("instant"), F.max("instant"), F.count("*")).collect()
    }
    order = ["train", "validation", "calibration", "test"]
    assert all(spans[earlier][1] < spans[later][0] for earlier, later in pairwise(order))
    assert [spans[name][2] for name in order] == pytest.approx([2200, 400, 600, 800], abs=40)
    assert divided(rows, columns, slices).select("as_of_date").distinct().count() == 4  # months


def test_a_slice_of_one_class_is_named(spark: SparkSession) -> None:
    columns = Columns("id", "y", None, (Feature("n", "n", "number", "double"),))
    rows = labelled(customers(spark, 40), columns, AS_OF)
    with pytest.raises(OneClassOnly, match=r"validation: 0 of \d"):
        require_both_classes(divided(rows, columns, Slices("customers", 1, {0: (0.2, 0.4, 0.6), 1: (0.5, 0.5, 0.5)})))


def test_auc_of_bins_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    rows, share = rng.integers(1, 9, 30), rng.random(30)
    positives = rng.binomial(rows, share)
    scores = np.repeat(np.arange(30), rows)
    labels = np.concatenate([[1] * hits + [0] * (number - hits) for hits, number in zip(positives, rows, strict=True)])
    assert binned_auc(positives.astype(float), (rows - positives).astype(float)) == pytest.approx(roc_auc_score(labels, scores))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--input", "t.csv", "--label", "y"], "expected --id"),
        (["score", "--input", "t.csv", "--output", "o.csv"], "expected --name"),
        (["evaluate", "--input", "t.csv", "--label", "y"], "--label belong to train"),
        (["train", "--input", "t.csv", "--label", "y", "--id", "i", "--output", "o"], "belong to score"),
        (["evaluate", "--input", "t.csv", "--name", "../up"], "letters, digits"),
        (["evaluate", "--input", "t.csv", "--set", "table.folds=2"], "table.folds"),
    ],
)
def test_options_that_do_not_fit_are_errors_of_the_caller(words: Sequence[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", *words]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_the_name_is_that_of_the_file() -> None:
    settings = load_table_settings(CONF_DIR / "local.yml", "shop")
    assert (settings.dataset, settings.grain, settings.lake.root) == ("shop", "user", "tables/shop")
    assert settings.mlflow.model_name == "propensity-shop"
