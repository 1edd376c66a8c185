"""Write the archive of classes that `propensity_spark.session` starts its JVM with (part of `make setup`).

Up to Spark's first answer a JVM spends a third of the time on finding, reading and verifying some twenty thousand classes. Class data
sharing (CDS) keeps them as they are in memory: one JVM does here what every run does, and leaves its classes when it ends; others map them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pyspark import SparkContext
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from propensity_spark.config import LakeSettings, SparkSettings
from propensity_spark.schemas import RUNS
from propensity_spark.session import CLASS_ARCHIVES, get_session, spark_conf
from propensity_spark.tables import Lake, local_frame

OPTIONS = "spark.driver.extraJavaOptions"


def main() -> int:
    """Replaces the archive; exit code 1 when the JVM ended without one."""
    home = Path(sys.prefix)
    for old in home.glob(CLASS_ARCHIVES.format(size="*")):
        old.unlink()
    partial = home / CLASS_ARCHIVES.format(size="partial")
    options = spark_conf(SparkSettings())[OPTIONS]
    with tempfile.TemporaryDirectory() as folder:
        conf = {OPTIONS: f"{options} -XX:ArchiveClassesAtExit={partial}", "spark.sql.warehouse.dir": folder}
        spark = get_session(SparkSettings(master="local[2]", driver_memory="2g", shuffle_partitions=2, conf=conf), "class archive")
        load_classes(spark, folder)
        spark.stop()
        gateway = SparkContext._gateway
        assert gateway is not None
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait()
    if not partial.is_file():
        return 1
    partial.replace(home / CLASS_ARCHIVES.format(size=partial.stat().st_size))
    return 0


def load_classes(spark: SparkSession, folder: str) -> None:
    """What all stages have in common: files in, Delta written, replaced, merged and read, windows, joins, rows as Arrow."""
    rows = spark.range(200).select(
        F.concat(F.lit("u"), F.col("id") % 20).alias("user_id"),
        F.date_add(F.lit("2024-01-01"), (F.col("id") % 7).cast("int")).alias("day"),
        (F.col("id") / 3).alias("amount"),
        F.array(F.struct(F.lit("name").alias("name"), F.col("id").cast("string").alias("text"))).alias("payload"),
    )
    for kind in ("json", "parquet"):
        rows.write.format(kind).save(f"{folder}/{kind}")
    rows.drop("payload").write.option("header", True).csv(f"{folder}/csv")
    read_back = [spark.read.option("header", True).csv(f"{folder}/csv"), spark.read.json(f"{folder}/json")]
    read_back[0].join(read_back[1].select("user_id").distinct(), "user_id", "left_semi").collect()
    table = f"{folder}/table"
    for _ in range(2):
        spark.read.parquet(f"{folder}/parquet").write.format("delta").partitionBy("day").mode("append").save(table)
    one_day = spark.read.format("delta").load(table).where("day = DATE'2024-01-03'")
    one_day.write.format("delta").mode("overwrite").option("replaceWhere", "day = DATE'2024-01-03'").save(table)
    from_windows(spark.read.format("delta").load(table)).toPandas()
    lake = Lake(spark, LakeSettings(root=f"{folder}/lake"))
    empty = local_frame(spark, [], RUNS.schema)
    lake.merge(empty, RUNS, "t.run_id = s.run_id AND t.stage = s.stage", update_when="true")
    lake.delete(RUNS, "stage = 'none'")
    lake.read(RUNS).count()


def from_windows(rows: DataFrame) -> DataFrame:
    by_user = Window.partitionBy("user_id").orderBy("day")
    running = rows.withColumns({"total": F.sum("amount").over(by_user), "last": F.row_number().over(by_user)})
    sums = running.groupBy("user_id").agg(F.max_by("total", "last"), F.sort_array(F.collect_set("day")), F.percentile_approx("amount", 0.5))
    return sums.join(F.broadcast(rows.select("user_id", F.hash("amount")).distinct()), "user_id", "left")


if __name__ == "__main__":
    sys.exit(main())
