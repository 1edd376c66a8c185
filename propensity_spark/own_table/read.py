"""Read the file: CSV, Parquet or Delta, told by its name or what lies in it."""

from __future__ import annotations

from pathlib import Path

from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from propensity_spark.errors import SourceMissing, TableRefused

_CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")


def read_input(spark: SparkSession, path: str, *, as_text: tuple[str, ...] | None) -> DataFrame:
    """The rows of `path`: a CSV (with a header; .tsv: by tabs), a Parquet file or folder, or a Delta table.

    A CSV has no types: they are inferred in a pass of their own, except for the columns `as_text`, which stay as written (an id such as
    007 is no number); None: all columns stay text. Raises SourceMissing where nothing is there, TableRefused for
    what is no table.
    """
    if "://" not in path and not Path(path).exists():
        raise SourceMissing(
            f"--input {path}: no such file or folder; expected a CSV with a header, a Parquet file or folder, or a Delta table"
        )
    try:
        return _frame(spark, path, as_text)
    except AnalysisException as error:
        raise TableRefused(f"--input {path}: cannot be read as a table: {str(error).splitlines()[0]}") from error


def column(name: str) -> Column:
    """A column by a name that may hold dots, spaces, quotes or backticks."""
    return F.col(f"`{name.replace('`', '``')}`")


def _frame(spark: SparkSession, path: str, as_text: tuple[str, ...] | None) -> DataFrame:
    if path.lower().endswith(_CSV):
        separator = "\t" if ".tsv" in path.lower()[-7:] else ","
        reader = spark.read.options(header=True, sep=separator, escape='"', multiLine=False, encoding="UTF-8")
        plain = reader.csv(path)
        if as_text is None:
            return plain
        types = {field.name: field.dataType.simpleString() for field in reader.option("inferSchema", True).csv(path).schema.fields}
        kept = ", ".join(f"`{name.replace('`', '``')}` {'string' if name in as_text else types[name]}" for name in plain.columns)
        return reader.schema(kept).csv(path)
    if DeltaTable.isDeltaTable(spark, path):
        return spark.read.format("delta").load(path)
    return spark.read.parquet(path)
