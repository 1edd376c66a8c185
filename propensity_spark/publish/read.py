"""Read what was published."""

from __future__ import annotations

from datetime import date

from pyspark.sql import DataFrame, SparkSession

from propensity_spark.errors import ConfigurationError
from propensity_spark.publish.manifest import check_files, current_manifest
from propensity_spark.publish.store import open_store
from propensity_spark.schemas import published_table


def read_published(uri: str, as_of_date: date | str, *, hashes: bool = True) -> DataFrame:
    """The current complete run of a date at `uri`: the published columns, one row per scored candidate.

    Exactly the files of its manifest are read, after a check that they hold the very bytes it names. For that they pass
    through the driver once, one at a time; with `hashes=False` only their presence and sizes are checked. Uses the active
    Spark session. Raises PublishedRunInvalid when there is no such run or it does not agree with its manifest.
    """
    store = open_store(uri)
    manifest = current_manifest(store, day_folder(as_of_date))
    check_files(store, manifest, hashes=hashes, extra=False)
    spark = SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()
    files = [store.spark_path(f"{manifest.folder}/{file.key}") for file in manifest.files]
    return spark.read.schema(published_table(manifest.grain).schema).parquet(*files)


def day_folder(as_of_date: date | str) -> str:
    """`as_of_date=YYYY-MM-DD`. Raises ConfigurationError for a text that is not an ISO date."""
    try:
        return f"as_of_date={date.fromisoformat(str(as_of_date)).isoformat()}"
    except ValueError as error:
        raise ConfigurationError(f"as_of_date: expected YYYY-MM-DD, found {as_of_date!r}") from error
