"""`make bench-history`: one more day after a history, and after one five times as long: seconds of each stage, bytes read, memory.
With `--tenfold`: the line over a history and the day after it, and over one of as many days with ten times the rows and customers.

Made-up invoices for the data set `retail`, as many on every day, so that the new day is the same and the history alone differs. Both
histories are longer than the longest window (365 days). For each a fresh lake gets its history by the whole line; then one file is
delivered, and a real `propensity run --score-only` of the next day is timed from start to exit. Bytes are from Spark's event log
(benchmarks/traffic.py). What the stages took for the whole history, in all and for each row, is measured beside it.

With `--delivered N` only the last N days of a history are delivered, ingested and validated. The older ones are put into silver itself,
laid out as by validate: the first delivered day's events moved back, with other customers and ids. So histories of 20 and of 100 million
events take minutes and not hours. What ingest and validate then took for the history says nothing, and bronze has no more than those days.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv
from pyspark.sql import functions as F

from benchmarks.command import CommandRun, propensity
from benchmarks.measure import Measure, code, machine, say, table, write
from benchmarks.traffic import Traffic, closed_log, logged_to, traffic
from propensity_spark.config import CONF_DIR, load_settings
from propensity_spark.schemas import ACTIVITY
from propensity_spark.session import get_session
from propensity_spark.tables import Lake
from propensity_spark.validate.silver import ROWS_PER_FILE

LAST, TIMES, ALLOWED = date(2011, 12, 8), 5, 1.3
TENFOLD, ALLOWED_TENFOLD, BASE_SECONDS = 10, 10.5, 30  # a stage that takes less is mostly start
SMALL_MODEL = (
    *("schedule.dates=30", "train.rounds=50", "evaluate.bootstrap_rounds=20", "evaluate.shap_rows=100"),
    *("evaluate.auc_margin_over_baseline=-1.0", "evaluate.max_calibration_error=1.0"),
)
LINES_PER_INVOICE, ITEM_COUNT, THREADS = 4, 500, 2
GIB = 2**30


def main() -> None:
    options = _options()
    about = {"machine": machine(range(THREADS)), "code": code(), "settings": vars(options) | {"folder": None}}
    base = World(options.days, options.rows_per_day, options.users, options.delivered or options.days)
    if options.tenfold:
        larger = replace(base, rows_per_day=TENFOLD * base.rows_per_day, users=TENFOLD * base.users)
        measures = tenfold(*(live(world, options.repeat + 1, options) for world in (base, larger)))
    else:
        longer = replace(base, days=TIMES * base.days, delivered=options.delivered or TIMES * base.days)
        measures = measured(*(live(world, options.repeat + 1, options) for world in (base, longer)))
    path = write(measures, about)
    say(f"\n{table(measures)}\n\nwritten to {path}")


Day = tuple[CommandRun, dict[str, Traffic]]


@dataclass(frozen=True)
class World:
    """Days of a history, invoice lines of each day, customers; and how many of the days are delivered as files."""

    days: int
    rows_per_day: int
    users: int
    delivered: int

    @property
    def rows(self) -> int:
        return self.days * self.rows_per_day


@dataclass(frozen=True)
class Lived:
    """The history as the line took it in, what its tables weigh in bytes, and the days after it but the first."""

    world: World
    history: Day
    tables: dict[str, int]
    days: list[Day]


def live(world: World, days_after: int, options: argparse.Namespace) -> Lived:
    """The line over the history that ends on `LAST`, then each of the days after it."""
    say(f"{world.days:,} days of {world.rows_per_day:,} invoice lines of {world.users:,} customers")
    with tempfile.TemporaryDirectory(prefix="propensity-history-", dir=options.folder) as folder:
        return _live(Path(folder), world, days_after, shlex.split(options.settings))


def _live(root: Path, world: World, days_after: int, settings: Sequence[str]) -> Lived:
    data, events, lake = root / "data", root / "events", root / "lake"
    events.mkdir()
    for back in range(world.delivered):
        write_day(data, LAST - timedelta(days=back), world)
    places = [f"lake.root={lake}", f"publish.uri={root / 'published'}", f"spark.master=local[{THREADS}]", logged_to(events)]
    words = ["--dataset", "retail", "--data", str(data)]
    words += [word for override in [*places, *SMALL_MODEL, *settings] for word in ("--set", override)]

    def run(day: date, *more: str) -> Day:
        done = propensity([*words, *more], lake, str(day))
        log = closed_log(events)
        moved = traffic(log, done.stages)
        log.unlink()
        each = (f"{s.stage} {s.seconds:.1f} s {moved[s.stage].read / 1e6:,.0f} MB" for s in done.stages)
        say(f"  {day}: {done.seconds:.1f} s ({', '.join(each)})")
        return done, moved

    if world.delivered < world.days:
        propensity([*words, "--stages", "ingest,validate"], lake, str(LAST))
        closed_log(events).unlink()
        _in_a_process_of_its_own(move_back, lake, world)
    history = run(LAST)
    weights = {f"{path.parent.name}/{path.name}": _weight(path) for path in sorted(lake.glob("*/*")) if (path / "_delta_log").exists()}
    after = []
    for ahead in range(1, days_after + 1):
        day = LAST + timedelta(days=ahead)
        write_day(data, day, world)
        after.append(run(day, "--score-only"))
    return Lived(world, history, weights, after[1:])


def _in_a_process_of_its_own(work: Callable[..., None], *arguments: object) -> None:
    """So that no JVM of ours is left beside the runs that are timed."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{work.__name__} ended with exit code {process.exitcode}")


def move_back(root: Path, world: World) -> None:
    """Fill silver with the days before the delivered ones: the events of the first of those, with ids and customers of their own."""
    settings = load_settings(CONF_DIR / "local.yml", "retail", [f"lake.root={root}", f"spark.master=local[{THREADS}]"])
    spark = get_session(settings.spark)
    lake = Lake(spark, settings.lake)
    first = LAST - timedelta(days=world.delivered - 1)
    day = lake.read(ACTIVITY).where(F.col("event_date") == F.lit(first))
    older = world.days - world.delivered
    files = max(1, older * world.rows_per_day // ROWS_PER_FILE)
    back, order = F.col("back").cast("int"), F.concat_ws(":", "order_id", "back")
    customer = F.floor(world.users * F.pow(F.pmod(F.xxhash64(order), F.lit(2**31)) / 2**31, 2)) + 10_000
    moved = spark.range(1, older + 1, numPartitions=files).withColumnRenamed("id", "back").crossJoin(F.broadcast(day))
    rows = moved.withColumns(
        {name: F.timestamp_seconds(F.unix_seconds(name) - F.col("back") * 86_400) for name in ("event_ts", "known_at")}
        | {name: F.date_sub(name, back) for name in ("event_date", "visible_date")}
        | {"event_id": F.sha2(F.concat_ws(":", "event_id", "back"), 256), "order_id": order, "user_id": customer.cast("string")}
    )
    lake.append(rows.sortWithinPartitions(*ACTIVITY.cluster_by).select(*ACTIVITY.column_names), ACTIVITY)
    spark.stop()


def _weight(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts)


@dataclass(frozen=True)
class Part:
    """A stage, as the median of some days: seconds, megabytes read, bytes shuffled."""

    stage: str
    seconds: float
    read: float
    shuffled: float


def parts(days: Sequence[Day]) -> list[Part]:
    """The stages that all of the days have, in their order."""

    def median(place: int) -> Part:
        stage = days[0][0].stages[place].stage
        seconds = statistics.median(run.stages[place].seconds for run, _ in days)
        read, shuffled = (statistics.median(getattr(moved[stage], what) for _, moved in days) for what in ("read", "shuffled"))
        return Part(stage, round(seconds, 2), read / 1e6, shuffled)

    return [median(place) for place in range(len(days[0][0].stages))]


def tenfold(base: Lived, other: Lived) -> list[Measure]:
    """How many times as long ten times the rows take: all stages, and each that takes long enough; then each by customers."""
    few, many = (parts([lived.history]) for lived in (base, other))
    found = [(one.stage, one.seconds, two.seconds) for one, two in zip(few, many, strict=True) if one.seconds >= BASE_SECONDS]
    found.append(("all stages", sum(part.seconds for part in few), sum(part.seconds for part in many)))
    measures = []
    for stage, seconds, larger in found:
        note = f"{larger:,.1f} s, {seconds:,.1f} s for {base.world.rows:,} rows"
        name, ratio = f"ten times the rows: {stage}", round(larger / seconds, 2)
        measures.append(Measure(name, ratio, "×", other.world.rows, target=ALLOWED_TENFOLD, note=note))
    measures += _by_customers("whole line", base.world, few, other.world, many)
    measures += _by_customers("next day", base.world, parts(base.days), other.world, parts(other.days))
    return [*measures, *_taken_in(base), *_taken_in(other)]


def _by_customers(what: str, small: World, few: Sequence[Part], large: World, many: Sequence[Part]) -> list[Measure]:
    measures = []
    for one, two in zip(few, many, strict=True):
        each = max(0.0, two.shuffled - one.shuffled) / (large.users - small.users)
        measures.append(
            Measure(
                f"{what}, by customers: {one.stage}",
                two.seconds,
                rows=large.users,
                reference=one.seconds,
                against=f"{small.users:,} customers",
                note=f"{each:,.0f} B shuffled for each customer more",
                reference_rows=small.users,
                bytes_each=each,
            )
        )
    return measures


def measured(base: Lived, other: Lived) -> list[Measure]:
    """Of the days after: seconds and megabytes, the long history beside the short one. Of the histories: what taking them in took."""
    against = f"after {base.world.days:,} days"
    short, long = parts(base.days), parts(other.days)
    measures = []
    for one, two in zip(short, long, strict=True):
        note = f"{two.read:,.1f} MB read, {one.read:,.1f} MB {against}"
        measures.append(Measure(f"history: {one.stage}", two.seconds, "s", reference=one.seconds, against=against, note=note))
    whole = [statistics.median(run.seconds for run, _ in lived.days) for lived in (other, base)]
    peak = [max(run.jvm_peak for run, _ in lived.days) / GIB for lived in (other, base)]
    note = f"{whole[0]:.1f} s after {other.world.days:,} days, {whole[1]:.1f} s {against}; JVM at most {peak[0]:.2f} and {peak[1]:.2f} GiB"
    rows, ratio = base.world.rows_per_day, round(whole[0] / whole[1], 3)
    measures.append(Measure("history: one more day, ratio", ratio, "×", rows, target=ALLOWED, note=note))
    read = [sum(part.read for part in each) for each in (long, short)]
    note = f"{read[0]:,.1f} MB after {other.world.days:,} days, {read[1]:,.1f} MB {against}"
    measures.append(Measure("history: bytes read, ratio", round(read[0] / read[1], 3), "×", target=ALLOWED, note=note))
    return [*measures, *_taken_in(base), *_taken_in(other)]


def _taken_in(lived: Lived) -> list[Measure]:
    """Each stage over the whole history: seconds, and bytes for each row in; then what the tables weigh."""
    (run, moved), lines = lived.history, f"{lived.world.rows:,} lines"
    measures = []
    for stage in run.stages:
        of, rows = moved[stage.stage], max(1, stage.rows_in)
        each = f"a row: {of.read / rows:,.0f} B read, {of.shuffled / rows:,.0f} B shuffled, {of.spilled / rows:,.0f} B spilled"
        measures.append(Measure(f"{lines}: {stage.stage}", stage.seconds, "s", stage.rows_in, note=f"{each}; {stage.rows_out:,} out"))
    measures.append(Measure(f"{lines}: JVM peak", round(run.jvm_peak / GIB, 2), "GiB"))
    heavy = sorted(lived.tables.items(), key=lambda table: -table[1])[:6]
    return [*measures, *(Measure(f"{lines}: {name}", round(weight / 1e6, 1), "MB") for name, weight in heavy)]


def write_day(data: Path, day: date, world: World) -> None:
    """One file of invoice lines: four of an invoice, few customers with many invoices, a twentieth of the invoices cancelled."""
    draw = np.random.default_rng(day.toordinal())
    invoices = world.rows_per_day // LINES_PER_INVOICE
    customers = (world.users * draw.random(invoices) ** 2).astype(int)
    cancelled = np.repeat(draw.random(invoices) < 0.05, LINES_PER_INVOICE)
    numbers = np.repeat(np.arange(invoices), LINES_PER_INVOICE)
    minutes = np.repeat(draw.integers(8 * 60, 20 * 60, invoices), LINES_PER_INVOICE)
    lines = len(numbers)
    columns = {
        "InvoiceNo": np.char.add(np.where(cancelled, "C", ""), np.char.mod(f"{day.toordinal()}%06d", numbers)),
        "StockCode": np.char.mod("S%05d", (ITEM_COUNT * draw.random(lines) ** 2).astype(int)),
        "Description": np.full(lines, "made up"),
        "Quantity": draw.integers(1, 20, lines) * np.where(cancelled, -1, 1),
        "InvoiceDate": [f"{day} {minute // 60:02}:{minute % 60:02}:00" for minute in minutes],
        "UnitPrice": np.char.mod("%.2f", draw.integers(50, 5000, lines) / 100),
        "CustomerID": np.char.mod("%d.0", np.repeat(customers, LINES_PER_INVOICE) + 10_000),
        "Country": np.full(lines, "United Kingdom"),
    }
    folder = data / "online_retail" / "by_day"
    folder.mkdir(parents=True, exist_ok=True)
    with pa.CompressedOutputStream(str(folder / f"{day}.csv.gz"), "gzip") as out:
        csv.write_csv(pa.table({name: pa.array(values) for name, values in columns.items()}), out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-history", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=400, help=f"of the short history; the long one has {TIMES} times as many")
    parser.add_argument("--tenfold", action="store_true", help="ten times the rows of each day and customers instead")
    parser.add_argument("--rows-per-day", type=int, default=5_000, help="invoice lines (default: %(default)s)")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--delivered", type=int, metavar="N", help="deliver the last N days of a history alone (default: all)")
    parser.add_argument("--repeat", type=int, default=3, help="days counted after one that is not (default: %(default)s)")
    parser.add_argument("--settings", default="", metavar="'K=V …'", help="overrides, as for propensity")
    parser.add_argument("--folder", default=None, help="where the temporary folders are made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
