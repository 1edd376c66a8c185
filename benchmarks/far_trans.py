"""Ranking assets for real investors (FAR-Trans): the product's features and its kind of model against popularity and EASE.

`python -m benchmarks.far_trans --data DIR` (make bench-far-trans DATA=DIR). On each of 14 dates t, seen from the eve of t, a customer is
evaluated who has something and for whom an acquisition of a candidate has its whole interval within [t, t + 166 days]; candidates are
all assets known by the eve that the customer does not have. Models are fitted anew for each date, on windows that had closed by it.
nDCG@10, mean over customers, then over dates; intervals by a bootstrap over customers. Everything is kept in the work folder, so a
run that was cut short goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.far_trans_model import HORIZON, OTHERS, Windows, evaluate
from benchmarks.measure import RESULTS, code, machine
from propensity_spark.config import CONF_DIR, Settings, load_settings
from propensity_spark.features.affinity import item_dates
from propensity_spark.features.crowd import crowd
from propensity_spark.features.events import live_events
from propensity_spark.features.windows import Grid
from propensity_spark.line import run_line, stage_named
from propensity_spark.schemas import ACTIVITY, ITEMS, USERS
from propensity_spark.session import get_session
from propensity_spark.tables import Lake

AS_OF = date(2020, 12, 17)
FIRST, LAST = date(2020, 1, 14), date(2020, 6, 25)  # bounds t


def main() -> None:
    """Prepare what is missing in the work folder, evaluate each date, write benchmarks/results/far_trans-<time>.json, print the table."""
    asked = _arguments()
    before = machine(sorted(os.sched_getaffinity(0)))
    work = Path(asked.work)
    settings = load_settings(
        CONF_DIR / "local.yml", "funds", [f"lake.root={work / 'lake'}", f"publish.uri={work / 'published'}", *asked.settings], asked.data
    )
    bounds = prepare(settings, work)
    results = evaluate(Windows.read(work), [bound for bound in bounds if bound >= FIRST], asked.rounds)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"far_trans-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps({"machine": before, "code": code(), **results.body()}, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{results.table()}\n\nwritten to {path}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.far_trans", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder that has far_trans/")
    parser.add_argument("--work", default="lake/far_trans_benchmark", help="where silver and features are kept between runs")
    parser.add_argument("--rounds", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--settings", nargs="*", default=[], help="key=value, as for propensity run")
    return parser.parse_args()


def prepare(settings: Settings, work: Path) -> list[date]:
    """Silver, the acquisitions, and what the product's functions know of the crowd on the eve of each bound. Returns the bounds."""
    spark = get_session(settings.spark, "far-trans")
    lake = Lake(spark, settings.lake)
    if not lake.exists(ACTIVITY):
        list(run_line(spark, settings, AS_OF, [stage_named(name) for name in ("ingest", "validate")]))
    activity = lake.read(ACTIVITY).where(F.col("item_id").isNotNull())
    acquired = activity.select("user_id", "item_id", "event_date", "visible_date").toPandas()  # 60 thousand pairs
    acquired.to_parquet(work / "acquisitions.parquet")
    bounds = sorted(day + timedelta(days=1) for day in set(acquired["visible_date"]))
    early = [bound for bound in bounds if bound < FIRST]
    bounds = [*early[::-2][::-1], *(bound for bound in bounds if FIRST <= bound <= LAST)]  # every other one will do to learn from
    (work / "bounds.json").write_text(json.dumps([str(bound) for bound in bounds]), encoding="utf-8")
    customers = pd.concat(
        pd.DataFrame({"user_id": looked_at(acquired, bound), "position": position}) for position, bound in enumerate(bounds)
    )
    for name, frame in features(spark, settings, lake, bounds, spark.createDataFrame(customers)).items():
        if not (work / name / "_SUCCESS").exists():
            frame.coalesce(4).write.mode("overwrite").parquet(str(work / name))
            sys.stderr.write(f"{name}\n")
    spark.stop()
    return bounds


def looked_at(acquired: pd.DataFrame, bound: date) -> Sequence[str]:
    """Customers with something by the eve: all who acquire something whose interval lies in the window, and some of the others."""
    eve = bound - timedelta(days=1)
    having = set(acquired[acquired["visible_date"] <= eve]["user_id"])
    active = set(acquired[(acquired["event_date"] > eve) & (acquired["visible_date"] <= eve + timedelta(days=HORIZON))]["user_id"])
    return sorted(having & active) + sorted(pd.Series(sorted(having - active), dtype=str).sample(frac=OTHERS, random_state=7))


def features(spark: SparkSession, settings: Settings, lake: Lake, bounds: Sequence[date], customers: DataFrame) -> dict[str, DataFrame]:
    """The parts of `features.crowd` on the eves, of these customers (user_id, position), and the items known; all eves at once.

    `with_crowd` would join them to every candidate, 40 million rows; they are put together as matrices instead.
    """
    grid = Grid(tuple(bound - timedelta(days=1) for bound in bounds))
    events = live_events(lake.read(ACTIVITY), grid).persist()
    around = crowd(events, lake.read(USERS), grid, settings.candidates.held_days, settings.features.crowd)
    if around.profiles is None:
        raise ValueError("funds: expected a source of users")
    looked, key = F.broadcast(customers.withColumn("position", F.col("position").cast("int"))), ["user_id", "position"]
    return {
        "known": item_dates(events, lake.read(ITEMS), grid),
        "items": around.items,
        **around.shares,
        "profiles": looked.join(around.profiles, key, "left"),
        "owners": around.owners.join(looked, key, "left_semi"),
        "pairs": around.pairs.join(looked, key, "left_semi"),
    }


if __name__ == "__main__":
    main()
