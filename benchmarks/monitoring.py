"""`python -m benchmarks.monitoring speed|alarms`: what monitoring costs, and how often its defaults are right (benchmarks/alarms.py).

`speed`: one scoring day of made-up rows in gold tables; seconds to count them against a baseline beside seconds to read the same
matrix into a sink that keeps nothing, both from the gold tables (with their joins) and from one flat table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.alarms import alarms
from benchmarks.measure import Measure, code, machine, seconds_of, table, write
from propensity_spark.config import CONF_DIR, Settings, load_settings
from propensity_spark.features.matrix import assemble
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES, model_features
from propensity_spark.monitor.drift import counts
from propensity_spark.predictor import ReferenceBins
from propensity_spark.schemas import scores_table
from propensity_spark.score import PROBABILITY
from propensity_spark.session import get_session
from propensity_spark.tables import Lake
from propensity_spark.train.reference import feature_bins

DAY = date(2024, 12, 31)


def main() -> None:
    options = _options()
    about = {"machine": machine([0, 1]), "code": code(), "settings": vars(options)}
    with tempfile.TemporaryDirectory(prefix="propensity-monitoring-", dir=options.folder) as folder:
        root = Path(folder)
        overrides = ["spark.master=local[2]", f"lake.root={root / 'lake'}", f"publish.uri={root / 'published'}"]
        if options.what == "speed":
            settings = load_settings(CONF_DIR / "local.yml", "stocks", overrides)
            measures = speed(get_session(settings.spark), settings, root, options.rows)
        else:
            overrides += [f"simulate.users={options.users}", "evaluate.auc_margin_over_baseline=-1.0"]
            overrides += [f"simulate.seed={options.seed}"] if options.seed is not None else []
            settings = load_settings(CONF_DIR / "local.yml", "stocks", [*overrides, "evaluate.bootstrap_rounds=100"])
            measures = alarms(
                get_session(settings.spark), settings, root, options.days, [date.fromisoformat(day) for day in options.models]
            )
    path = write(measures, about)
    sys.stdout.write(f"\n{table(measures)}\n\nwritten to {path}\n")


def speed(spark: SparkSession, settings: Settings, root: Path, rows: int) -> list[Measure]:
    """Best of three each, so that neither the first reading of the files nor compiling decides."""
    lake = Lake(spark, settings.lake)
    _write_gold(spark, lake, rows)
    features = [feature.name for feature in model_features("user_item", has_market=True)]

    def joined() -> DataFrame:
        scores = lake.read(scores_table("user_item")).select(
            "user_id", "item_id", "as_of_date", PROBABILITY, F.lit(1.0).alias("sample_weight")
        )
        pairs = lake.read(USER_ITEM_FEATURES).join(scores, ["user_id", "item_id", "as_of_date"], "inner")
        return assemble(lake.read(USER_FEATURES), pairs, lake.read(MARKET_FEATURES), (PROBABILITY, "sample_weight"))

    joined().write.parquet(str(root / "flat"))
    sample = joined().where(F.pmod(F.xxhash64("user_id", "item_id"), F.lit(max(1, rows // 100_000))) == 0)
    baseline = feature_bins(sample, features, 10) | {PROBABILITY: ReferenceBins(tuple(i / 10 for i in range(1, 10)), (0.1,) * 10, 0.0)}
    measures = []
    for name, matrix in (("gold tables, joined", joined), ("one flat table", lambda: spark.read.parquet(str(root / "flat")))):
        reading = _best(lambda matrix=matrix: matrix().write.format("noop").mode("overwrite").save())  # type: ignore[misc]
        counting = _best(lambda matrix=matrix: counts(matrix(), baseline))  # type: ignore[misc]
        note = f"{len(features)} features and the score; {counting / reading:.2f} times the reading"
        measures.append(Measure(f"monitoring, {name}", counting, "s", rows, reading, "reading the same rows", 2 * reading, note))
    return measures


def _best(work: Callable[[], object]) -> float:
    return round(min(seconds_of(work) for _ in range(3)), 2)


def _write_gold(spark: SparkSession, lake: Lake, rows: int) -> None:
    """Gold tables of one day: 500 items, 100 candidates a user, every column drawn by a hash of its row, a tenth of it null."""
    items, per_user = 500, 100
    users = rows // per_user

    def drawn(name: str, kind: str) -> Column:
        unit = F.pmod(F.xxhash64(F.lit(name), *(F.col(key) for key in keys)), F.lit(1_000_003)) / 1_000_003
        value = F.floor(unit * 5) if kind == "bigint" else unit
        text = F.element_at(F.array(*(F.lit(word) for word in ("loyal", "lost", "regular"))), (F.floor(unit * 3) + 1).cast("int"))
        return F.when(unit > 0.1, text if kind == "string" else value).cast(kind)

    user_ids, item_ids = spark.range(users).select(_name("id", "u")), spark.range(items).select(_name("id", "i", "item_id"))
    pairs = spark.range(users * per_user, numPartitions=16).select(
        _name("id DIV 100", "u"), _name(f"pmod(id DIV 100 + (id % 100) * 5, {items})", "i", "item_id")
    )
    for table_, keyed in ((USER_FEATURES, user_ids), (MARKET_FEATURES, item_ids), (USER_ITEM_FEATURES, pairs)):
        keys = keyed.columns
        columns = {
            c.name: drawn(c.name, c.type.simpleString()) for c in table_.columns if c.name not in (*keys, "as_of_date", "last_session_date")
        }
        dated = keyed.withColumns({"as_of_date": F.lit(DAY), "last_session_date": F.lit(DAY), "candidate_source": F.lit("viewed")})
        lake.overwrite(
            dated.withColumns({k: v for k, v in columns.items() if k != "candidate_source"}).select(*table_.column_names), table_
        )
    keys = pairs.columns
    scored = pairs.withColumns(
        {
            "as_of_date": F.lit(DAY),
            PROBABILITY: F.pmod(F.xxhash64("user_id", "item_id"), F.lit(1_000_003)) / 1_000_003,
            "predicted_purchase": F.lit(False),
            "segment": F.lit("Low"),
            "rank": F.lit(1),
            "model_name": F.lit("m"),
            "model_version": F.lit("1"),
        }
    )
    lake.overwrite(scored.select(*scores_table("user_item").column_names), scores_table("user_item"))


def _name(number: str, letter: str, column: str = "user_id") -> Column:
    return F.concat(F.lit(letter), F.lpad(F.expr(number).cast("string"), 8, "0")).alias(column)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "alarms"])
    parser.add_argument("--rows", type=int, default=10_000_000, help="speed: scored rows")
    parser.add_argument("--users", type=int, default=1500, help="alarms: simulated users")
    parser.add_argument("--seed", type=int, default=None, help="alarms: of the simulated world (default: that of conf/datasets/stocks.yml)")
    parser.add_argument(
        "--days", type=int, default=32, help="alarms: sessions watched after each model's date; drifts start after a quarter"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=["2024-06-30", "2024-10-25"],
        help="alarms: dates at which a model is trained; before October activity comes by the month",
    )
    parser.add_argument("--folder", default=None, help="where the temporary folder is made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
