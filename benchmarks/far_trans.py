"""Ranking assets for real investors (FAR-Trans): a model of the product's features beside popularity and EASE.

`python -m benchmarks.far_trans --data DIR` (make bench-far-trans DATA=DIR). On each of 14 dates t, seen from the eve of t, a customer is
evaluated who has something and for whom an acquisition of something new has its whole interval within [t, t + 166 days]; candidates are
all assets known by the eve that the customer does not have. Models are fitted anew for each date, on intervals that had ended by it.
nDCG@10, mean over customers, then over dates; intervals by a bootstrap over customers. The 15th date is not in the mean, and is shown
beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from time import monotonic

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.far_trans_model import Windows, evaluate
from benchmarks.measure import code, machine, write_body
from propensity_spark.config import CONF_DIR, Settings, load_settings
from propensity_spark.features.affinity import item_dates
from propensity_spark.features.crowd import ALIKE, crowd, dated, item_links, ownership
from propensity_spark.features.events import live_events
from propensity_spark.features.windows import Grid
from propensity_spark.line import run_line, stage_named
from propensity_spark.schemas import ACTIVITY, ITEMS, USERS
from propensity_spark.session import get_session
from propensity_spark.tables import Lake

AS_OF = date(2020, 12, 17)
FIRST, LAST, LATER = date(2020, 1, 14), date(2020, 6, 25), date(2020, 7, 8)  # bounds t


def main() -> None:
    """Make silver and the features, evaluate each date, write benchmarks/results/far_trans-<time>.json, print the table."""
    asked, started = _arguments(), monotonic()
    before = machine(sorted(os.sched_getaffinity(0)))
    work = Path(asked.work)
    places = [f"lake.root={work / 'lake'}", f"publish.uri={work / 'published'}"]
    settings = load_settings(CONF_DIR / "local.yml", "funds", [*places, *asked.settings], asked.data)
    bounds = prepare(settings, work)
    prepared = monotonic() - started
    dates = [bound for bound in bounds if FIRST <= bound <= LAST]
    # The monotone features of funds are counts of buyers, which are not looked at here.
    results = evaluate(Windows.read(work), dates, LATER, asked.rounds, settings.train.model_copy(update={"monotone": {}}))
    seconds = {"features": round(prepared), "models": round(monotonic() - started - prepared)}
    path = write_body({"machine": before, "code": code(), "seconds": seconds, **results.body()}, "far_trans-")
    sys.stdout.write(f"{results.table()}\n\nseconds: {seconds}; written to {path}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.far_trans", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder that has far_trans/")
    parser.add_argument("--work", default="lake/far_trans_benchmark", help="where silver and features are kept")
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
    (work / "bounds.json").write_text(json.dumps([str(bound) for bound in bounds]), encoding="utf-8")
    for name, frame in features(settings, lake, [bound for bound in bounds if bound <= LATER]).items():
        frame.coalesce(4).write.mode("overwrite").parquet(str(work / name))
    spark.stop()
    return bounds


def features(settings: Settings, lake: Lake, bounds: Sequence[date]) -> dict[str, DataFrame]:
    """The parts of `features.crowd` on the eves of all bounds at once.

    `with_crowd` would join them to every candidate, 16 million rows a date; they are put together as matrices instead.
    """
    grid = Grid(tuple(bound - timedelta(days=1) for bound in bounds))
    events = live_events(lake.read(ACTIVITY), grid).persist()
    aged = live_events(dated(lake.read(ACTIVITY), settings.features.crowd), grid)
    owned = ownership(aged, grid, settings.candidates.held_days).persist()
    around = crowd(owned, events, lake.read(USERS), grid, settings.features.crowd)
    people, items = around.people.where(F.col("items_held") > 0), around.items.persist()
    alike = {
        trait: items.select("item_id", "position", F.explode(f"item_{trait}").alias("value", "lately")).withColumn(
            "value", F.col("value").cast("string")
        )
        for trait in ALIKE
    }
    return {
        "known": item_dates(events, lake.read(ITEMS), grid).select("item_id", "position"),
        "items": items.select("item_id", "position", "item_lately"),
        "links": item_links(owned, grid, settings.features.crowd),
        "people": people.select("user_id", "position", *(F.col(trait).cast("string") for trait in ALIKE)),
        **alike,
    }


if __name__ == "__main__":
    main()
