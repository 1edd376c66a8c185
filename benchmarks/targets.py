"""`make bench-targets`: parts of the line alone, each beside the same work without Spark or beside itself at another size.

`python -m benchmarks.targets [CASE …]`, all cases without names. Each runs in a process of its own, `--repeat` times after one
run that is not counted, ours and the other in turn; a ratio is the median of the pairs, with the JVM's peak memory beside it.

- start: a fresh process to the end of its first Spark job; the network is not asked
- windows: sums over the last 4,000 rows of a series beside sums over the last 50
- fit: 1 million rows by 40 features, 200 trees of depth 6 (`--trees`), through Spark and by XGBoost alone, rows in memory both times
- scoring: 40 features in a Delta table to gold/scores to a published run, beside XGBoost's predictions of the same matrix, 200 trees
- tuning: a trial of a search for parameters on 200,000 rows beside the fit in it
- evaluation: every number of the report for 10 million scored pairs, 200 rounds of the bootstrap over users; its AUC beside the exact one
- as-of-join: a tenth as many labels, each with the features of its user as of its date, from files to files, beside DuckDB's ASOF JOIN
- grades: recency, frequency and money of all users of one date, graded beside each other, which one task does
- skew: user features where one user, and where one item, has half of all events, beside an even spread
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import roc_auc_score

from benchmarks.command import peak
from benchmarks.measure import Measure, code, machine, seconds_of, table, write
from benchmarks.reasons import drawn
from benchmarks.reasons import model as drawn_model
from benchmarks.windows import one_date, write_silver
from propensity_spark.config import CONF_DIR, EvaluateSettings, LabelSettings, LakeSettings, ScoreSettings, TrainSettings, load_settings
from propensity_spark.evaluate.results import evaluate
from propensity_spark.features.rfm import with_rfm_scores
from propensity_spark.features.rolling import Rolling, with_rolling
from propensity_spark.logs import stderr_to
from propensity_spark.predictor import PropensityModel
from propensity_spark.publish import Provenance, publish_scores
from propensity_spark.schemas import grain_key, scores_table
from propensity_spark.score import scores, with_probability
from propensity_spark.session import get_session
from propensity_spark.tables import Lake
from propensity_spark.train.fit import arranged, fit
from propensity_spark.train.native import Binned, binned, fit_binned
from propensity_spark.train.sample import here, sampled
from propensity_spark.train.search import search

THREADS, MEMORY, TRIALS = 2, "4g", 12
AS_OF = date(2024, 12, 31)
FIRST_JOB = """
from propensity_spark.config import CONF_DIR, load_settings
from propensity_spark.session import get_session
get_session(load_settings(CONF_DIR / "local.yml", "stocks").spark).range(1).count()
print("done", flush=True)
"""


@dataclass(frozen=True)
class Size:
    """How much each case works on; the targets hold for the size as it is by default."""

    series_rows: int = 4_000_000
    fit_rows: int = 1_000_000
    trees: int = 200
    scored_rows: int = 2_000_000
    evaluated_rows: int = 10_000_000
    feature_rows: int = 100_000_000
    graded_users: int = 10_000_000
    events: int = 2_000_000
    tuned_rows: int = 200_000
    repeat: int = 3

    def part(self, share: float) -> Size:
        counts = {name: max(10_000, int(getattr(self, name) * share)) for name in self.__dict__ if name not in ("trees", "repeat")}
        return replace(self, **counts)


@dataclass(frozen=True)
class Ratio:
    """What is held against what, the most that the one may take in times of the other, and the rows of both."""

    name: str
    against: str
    target: float
    rows: int


def main() -> None:
    options = _options()
    size = Size(trees=options.trees, repeat=options.repeat).part(options.share)
    settings = [f"share={options.share}", f"trees={options.trees}", f"repeat={options.repeat}"]
    about = {"machine": machine(range(THREADS)), "code": code(), "settings": settings}
    measures: list[Measure] = []
    with tempfile.TemporaryDirectory(prefix="propensity-targets-", dir=options.folder) as folder:
        for name in options.cases or CASES:
            place = Path(folder) / name
            place.mkdir()
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                measures += pool.submit(CASES[name], size, place).result()
            sys.stdout.write(f"{table(measures)}\n\n")
            sys.stdout.flush()
    sys.stdout.write(f"written to {write(measures, about)}\n")


def start(size: Size, folder: Path) -> list[Measure]:
    def first_job() -> float:
        clock = time.monotonic()
        with subprocess.Popen([sys.executable, "-c", FIRST_JOB], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            told = process.stdout.readline()
            seconds = time.monotonic() - clock
        if told != "done\n":
            raise RuntimeError(f"the first job: expected it to be done, found exit code {process.returncode}")
        return seconds

    seconds = [first_job() for _ in range(size.repeat + 1)][1:]
    return [Measure("start: first Spark job", round(statistics.median(seconds), 2), target=9, note=_each(seconds))]


def windows(size: Size, folder: Path) -> list[Measure]:
    spark = _session(folder)
    series = size.series_rows // 20_000 or 1
    rows = spark.range(size.series_rows).select(
        (F.col("id") % series).alias("key"),
        (F.floor(F.col("id") / series) + 1).alias("row"),
        F.pmod(F.xxhash64("id"), F.lit(1000)).cast("double").alias("value"),
    )
    rows.write.parquet(str(folder / "rows"))
    rows = spark.read.parquet(str(folder / "rows"))

    def over(last: int) -> None:
        found = with_rolling(rows, ["key"], [Rolling("row", last, {"sum": F.sum("value"), "count": F.count("value")})])
        found.write.format("noop").mode("overwrite").save()

    ratio = Ratio("windows: 4,000 rows", "50 rows", 1.5, size.series_rows)
    return _beside(ratio, size.repeat, lambda: over(4000), lambda: over(50))


def fit_(size: Size, folder: Path) -> list[Measure]:
    """One worker that has all cores, as on the training cluster of the bundle (`training_threads`)."""
    spark = _session(folder, **{"spark.task.cpus": str(THREADS)})
    features, label = drawn(size.fit_rows)
    names = [f"feature_{place}" for place in range(features.shape[1])]
    held_out = np.arange(len(label)) % 20 == 0
    columns = {name: features[:, place] for place, name in enumerate(names)}
    columns |= {"id": np.arange(len(label)), "label": label.astype(np.int32), "sample_weight": np.ones(len(label))}
    columns["split"] = np.where(held_out, "validation", "train")
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    settings = TrainSettings(
        rounds=size.trees, early_stopping_rounds=size.trees, num_workers=1, params={"max_depth": 6, "learning_rate": 0.1}
    )
    rows = arranged(spark.read.parquet(str(folder / "rows.parquet")), names, ["id"], 1).persist()
    rows.count()

    def alone() -> None:
        training = xgboost.QuantileDMatrix(features[~held_out], label[~held_out], nthread=THREADS)
        validation = xgboost.QuantileDMatrix(features[held_out], label[held_out], ref=training, nthread=THREADS)
        told = {"objective": "binary:logistic", "tree_method": "hist", "eval_metric": "logloss", "seed": 7, "nthread": THREADS}
        xgboost.train(told | settings.params, training, size.trees, evals=[(validation, "validation")], verbose_eval=False)

    name = f"fit: {len(label):,} × {len(names)}, {size.trees} trees"
    ratio = Ratio(name, "XGBoost alone", 1.3 if size.trees < 1000 else 1.15, len(label))
    return _beside(ratio, size.repeat, lambda: fit(rows, names, settings), alone)


def scoring(size: Size, folder: Path) -> list[Measure]:
    spark = _session(folder)
    features, booster = drawn_model(size.scored_rows, size.trees)
    names = [f"feature_{place}" for place in range(features.shape[1])]
    number = np.arange(len(features))
    columns = {"user_id": np.char.mod("u%09d", number // 20), "item_id": np.char.mod("i%04d", number % 20)}
    columns |= {name: features[:, place] for place, name in enumerate(names)}
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    dated = spark.read.parquet(str(folder / "rows.parquet")).withColumn("as_of_date", F.lit(AS_OF))
    dated.write.format("delta").save(str(folder / "delta"))
    model = PropensityModel(
        *("scoring", "1", "user_item", tuple(names), bytes(booster.save_raw("ubj")), (0.0, 1.0), (0.0, 1.0), 0.5, {}),
        *(AS_OF, AS_OF, LabelSettings(), {}),
    )
    booster.set_param({"nthread": THREADS})
    lake, table, runs = Lake(spark, LakeSettings(root=str(folder / "lake"))), scores_table(model.grain), iter(range(100))

    def ours() -> None:
        """What the stages score and publish do."""
        scored = with_probability(spark.read.format("delta").load(str(folder / "delta")), model)
        lake.replace(scores(scored, model, ScoreSettings()), table, f"as_of_date = DATE'{AS_OF}'")
        published, origin = folder / f"published-{next(runs)}", Provenance("made up", {}, {}, "", "", "")
        publish_scores(lake.read(table), str(published), AS_OF, grain=model.grain, provenance=origin, files=2)

    name = f"scoring: {len(features):,} × {len(names)}, {size.trees} trees"
    alone = partial(booster.inplace_predict, features)
    return _beside(Ratio(name, "inplace_predict", round(1 / 0.45, 2), len(features)), size.repeat, ours, alone)


def tuning(size: Size, folder: Path) -> list[Measure]:
    """A search beside the same fits without one: what suggesting, pruning and keeping the study in SQLite take. The sample is brought here
    once for all trials, and its seconds are taken off. A trial that was given up counts on the search's side alone."""
    features, label = drawn(size.tuned_rows)
    names = [f"feature_{place}" for place in range(features.shape[1])]
    number = np.arange(len(features))
    columns = {"user_id": np.char.mod("u%09d", number // 20), "item_id": np.char.mod("i%04d", number % 20), "label": label}
    columns |= {name: features[:, place] for place, name in enumerate(names)}
    columns |= {"split": np.where(number % 100 < 80, "train", "validation"), "sample_weight": np.ones(len(label))}
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    rows = _session(folder).read.parquet(str(folder / "rows.parquet")).withColumn("as_of_date", F.lit(AS_OF))
    settings = load_settings(
        CONF_DIR / "local.yml", "stocks", [f"lake.root={folder / 'lake'}", f"train.tuning.trials={TRIALS}", f"train.rounds={size.trees}"]
    )
    samples: list[Binned] = []

    def sample() -> None:
        train, validation = here(sampled(rows, settings.train.tuning.rows, settings.train.seed), names, grain_key("user_item"), "rows")
        samples.append(binned(train, validation, settings.train))

    seconds_of(sample)  # the first one compiles
    bringing, clock = seconds_of(sample), time.monotonic()
    found = search(rows, names, settings, "made up")
    whole = time.monotonic() - clock
    assert found is not None
    ended = [trial for trial in found.trials if trial["state"] == "complete"]
    fits = sum(seconds_of(partial(fit_binned, samples[0], names, settings.train, trial["params"])) for trial in ended)
    trials = f"{len(found.trials)} trials, {len(ended)} of them to their end"
    note = f"{trials}: {whole:.1f} s, of which bringing the sample {bringing:.1f}; their fits alone {fits:.1f} s"
    return [Measure("tuning: a trial beside its fit", round((whole - bringing) / fits, 3), "×", len(features), target=1.1, note=note)]


def evaluation(size: Size, folder: Path) -> list[Measure]:
    spark = _session(folder)
    unit = F.pmod(F.xxhash64(F.lit("label"), "id"), F.lit(1_000_003)) / 1_000_003
    probability = F.pow(F.pmod(F.xxhash64("id"), F.lit(10_000_019)) / 10_000_019, 4) * 0.4
    drawn = spark.range(0, size.evaluated_rows, 1, 8).select(
        F.concat(F.lit("u"), F.expr("id DIV 100")).alias("user_id"),
        F.concat(F.lit("i"), F.col("id") % 100).alias("item_id"),
        F.lit(AS_OF).alias("as_of_date"),
        (unit < probability).cast("int").alias("label"),
        probability.alias("probability"),
        F.round(probability, 2).alias("baseline_probability"),
        (F.expr("id DIV 100") % 7 == 0).alias("is_new_user"),
    )
    drawn.write.parquet(str(folder / "scored"))
    rows = spark.read.parquet(str(folder / "scored"))
    bought = rows.where("label = 1").select("user_id", "item_id", "as_of_date")
    settings = EvaluateSettings(bootstrap_rounds=200)
    told = {"grain": "user_item", "base_rate": 0.08, "threshold": 0.2, "settings": settings}
    found: dict[str, Any] = {}
    seconds = [seconds_of(lambda: found.update(evaluate(rows, bought, **told))) for _ in range(size.repeat)]  # type: ignore[arg-type]
    exact = pq.read_table(folder / "scored", columns=["label", "probability"])
    apart = abs(roc_auc_score(exact["label"], exact["probability"]) - found["metrics"]["challenger"]["roc_auc"]["value"])
    return [
        Measure(
            "evaluation: every number",
            round(statistics.median(seconds), 1),
            rows=size.evaluated_rows,
            target=60,
            note=f"{_each(seconds)}; {peak()}",
        ),
        Measure("evaluation: AUC off the exact one", apart * 1e4, "1e-4", size.evaluated_rows, target=1),
    ]


def as_of_join(size: Size, folder: Path) -> list[Measure]:
    """Both sides carry their as-of date in this line, so that the join is one by equality; ASOF finds the same rows by order."""
    spark = _session(folder)
    dates, first = 50, date(2024, 1, 1)
    day = F.date_add(F.lit(first), 7 * (F.col("id") % dates).cast("int"))
    unit = F.pmod(F.xxhash64("id"), F.lit(1_000_003)) / 1_000_003
    keyed = spark.range(size.feature_rows).select("*", F.expr(f"id DIV {dates}").alias("user_id"), day.alias("as_of_date"))
    keyed.select("user_id", "as_of_date", *((unit * place).alias(f"feature_{place}") for place in range(1, 6))).write.parquet(
        str(folder / "features")
    )
    labelled = keyed.where(F.pmod(F.xxhash64(F.lit("labelled"), "id"), F.lit(10)) == 0)
    labelled.select("user_id", "as_of_date", (unit < 0.1).cast("int").alias("label")).write.parquet(str(folder / "labels"))
    features, labels = (spark.read.parquet(str(folder / name)) for name in ("features", "labels"))

    def ours() -> None:
        labels.hint("merge").join(features, ["user_id", "as_of_date"], "inner").write.mode("overwrite").parquet(str(folder / "ours"))

    def asof() -> None:
        connection = duckdb.connect(config={"threads": THREADS, "memory_limit": "12GB", "temp_directory": str(folder / "spilled")})
        connection.execute("SET enable_progress_bar = false")
        names = ", ".join(f"feature_{place}" for place in range(1, 6))
        connection.execute(
            f"COPY (SELECT user_id, l.as_of_date, label, {names} FROM read_parquet('{folder}/labels/*.parquet') l "
            f"ASOF JOIN read_parquet('{folder}/features/*.parquet') f USING (user_id, as_of_date)) TO '{folder}/theirs.parquet'"
        )
        connection.close()

    rows = labels.count()
    measures = _beside(Ratio(f"as-of join: {rows:,} labels", "DuckDB ASOF JOIN", 3, size.feature_rows), size.repeat, ours, asof)
    sums = ", ".join(f"sum((feature_{place} * 1000000)::BIGINT)" for place in range(1, 6))
    told = f"SELECT count(*), sum(label), {sums} FROM read_parquet('{folder}/{{}}')"
    found, expected = (duckdb.sql(told.format(name)).fetchall()[0] for name in ("ours/*.parquet", "theirs.parquet"))
    if found != expected or found[0] != rows:
        raise AssertionError(f"as-of join: {rows:,} labels; DuckDB found {expected}, the line {found}")
    return measures


def grades(size: Size, folder: Path) -> list[Measure]:
    spark = _session(folder)

    def drawn(name: str, below: int) -> Column:
        return F.pmod(F.xxhash64(F.lit(name), "id"), F.lit(below))

    money = (drawn("money", 10_000_000) / 10_000).cast("decimal(28,4)").alias("monetary_365d")
    users = spark.range(size.graded_users).select(
        "id",
        F.lit(AS_OF).alias("as_of_date"),
        drawn("recency", 400).alias("recency_days"),
        drawn("orders", 40).alias("frequency_365d"),
        money,
    )
    users.write.parquet(str(folder / "users"))
    rows = spark.read.parquet(str(folder / "users"))

    def grade() -> None:
        with_rfm_scores(rows).write.format("noop").mode("overwrite").save()

    seconds = [seconds_of(grade) for _ in range(size.repeat + 1)][1:]
    return [Measure("grades: one date", round(statistics.median(seconds), 1), rows=size.graded_users, note=f"{_each(seconds)}; {peak()}")]


def skew(size: Size, folder: Path) -> list[Measure]:
    spark = _session(folder)
    half = F.pmod(F.xxhash64(F.lit("half"), F.expr("id DIV 4")), F.lit(2)) == 0

    def spread(name: str, **hot: Column) -> Lake:
        settings = load_settings(CONF_DIR / "local.yml", "stocks", [f"lake.root={folder / name}"])
        lake = Lake(spark, settings.lake)
        write_silver(spark, lake, size.events, max(100, size.events // 100), **hot)
        return lake

    even, one_user, one_item = spread("even"), spread("user", hot_user=half), spread("item", hot_item=half)
    measures = []
    for what, lake in (("user", one_user), ("item", one_item)):
        ours, other = partial(one_date, lake, folder / "out"), partial(one_date, even, folder / "out")
        measures += _beside(Ratio(f"skew: half of all events of one {what}", "an even spread", 1.5, size.events), size.repeat, ours, other)
    return measures


CASES: dict[str, Callable[[Size, Path], list[Measure]]] = {
    "start": start,
    "windows": windows,
    "fit": fit_,
    "scoring": scoring,
    "tuning": tuning,
    "evaluation": evaluation,
    "as-of-join": as_of_join,
    "grades": grades,
    "skew": skew,
}


def _session(folder: Path, **conf: str) -> SparkSession:
    overrides = [f"spark.master=local[{THREADS}]", f"lake.root={folder / 'lake'}", f"spark.driver_memory={MEMORY}"]
    overrides += [f"spark.conf={json.dumps(conf)}"] if conf else []
    settings = load_settings(CONF_DIR / "local.yml", "stocks", overrides)
    with stderr_to(folder / "spark.log"):
        return get_session(settings.spark)


def _beside(ratio: Ratio, repeat: int, ours: Callable[[], object], other: Callable[[], object]) -> list[Measure]:
    """The ratio as the median of the pairs, and the median seconds of both."""
    runs = [(seconds_of(ours), seconds_of(other)) for _ in range(repeat + 1)][1:]
    mine, theirs = (statistics.median(each) for each in zip(*runs, strict=True))
    ratios = [one / two for one, two in runs]
    return [
        Measure(f"{ratio.name}: ratio", round(statistics.median(ratios), 3), "×", target=ratio.target, note=_each(ratios)),
        Measure(ratio.name, round(mine, 3), "s", ratio.rows, round(theirs, 3), ratio.against, note=peak()),
    ]


def _each(values: Sequence[float]) -> str:
    return f"median of {', '.join(f'{value:.2f}' for value in values)}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-targets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of {', '.join(CASES)}; all without names")
    parser.add_argument("--share", type=float, default=1.0, help="of the rows of each case, for a small try (default: %(default)s)")
    parser.add_argument("--trees", type=int, default=Size.trees, help="of fit and scoring (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="counted repetitions after one that is not (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder is made (default: the system's)")
    options = parser.parse_args()
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"unknown case {', '.join(unknown)}; expected some of {', '.join(CASES)}")
    return options


if __name__ == "__main__":
    main()
