"""`propensity table train|evaluate|score`: its options, and what it shows."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table as Grid

from propensity_spark.errors import ConfigurationError

if TYPE_CHECKING:
    from propensity_spark.own_table.columns import Columns
    from propensity_spark.run import Run

ACTIONS = ("train", "evaluate", "score")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="CSV with a header, Parquet (file or folder) or Delta table; one row per customer"
    )
    parser.add_argument(
        "--name", metavar="NAME", help="of the table; its models and reports are in tables/NAME (default: the file's name; score needs it)"
    )
    parser.add_argument("--label", metavar="COLUMN", help="train: 1 or true where the customer ordered, 0 or false where not")
    parser.add_argument("--id", metavar="COLUMN", help="train: the customer's id, once each")
    parser.add_argument(
        "--time", metavar="COLUMN", help="train: date or moment of the row; the latest rows test (default: a hash of the id decides)"
    )
    parser.add_argument(
        "--type",
        action="append",
        default=[],
        metavar="COLUMN=KIND",
        help="train: number, category, moment or ignore instead of what is inferred",
    )
    parser.add_argument(
        "--interact", action="append", default=[], metavar="A:B", help="train: the product of two columns as a feature; repeatable"
    )
    parser.add_argument("--output", metavar="FILE", help="score: a .csv, else a folder of Parquet")
    parser.add_argument(
        "--missing", choices=("null", "zero"), default="null", help="score: what a column that the file lacks counts as (default: null)"
    )


def name_of(options: argparse.Namespace) -> str:
    """`--name`, else the file's name up to its first dot, with what a name may not hold as `-`."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(options.input.rstrip("/")).name.partition(".")[0]).strip("-_")
    return str(options.name or plain or "table")


def check(options: argparse.Namespace) -> None:
    """Raises ConfigurationError for options that do not fit the action."""
    needed = {"train": ("label", "id"), "score": ("name", "output"), "evaluate": ()}[options.action]
    if missing := [f"--{name}" for name in needed if getattr(options, name) is None]:
        raise ConfigurationError(f"table {options.action}: expected {' and '.join(missing)}")
    of_train = [f"--{name}" for name in ("label", "id", "time", "type", "interact") if getattr(options, name)]
    if options.action != "train" and of_train:
        raise ConfigurationError(f"table {options.action}: {', '.join(of_train)} belong to train; the model remembers them")
    if options.action != "score" and (options.output or options.missing != "null"):
        raise ConfigurationError(f"table {options.action}: --output and --missing belong to score")


def act(run: Run, options: argparse.Namespace, show: Callable[[Any], None]) -> None:
    """Do what was asked and `show` what came of it: lines, and what rich prints."""
    {"train": _train, "evaluate": _evaluate, "score": _score}[options.action](run, options, show)


def _train(run: Run, options: argparse.Namespace, show: Callable[[Any], None]) -> None:
    from propensity_spark.own_table.columns import KINDS
    from propensity_spark.own_table.train import train

    kinds = dict(_pair(text, "=", "--type", "COLUMN=KIND") for text in options.type)
    if wrong := sorted(set(kinds.values()) - set(KINDS)):
        raise ConfigurationError(f"--type: unknown kind {', '.join(wrong)}; expected one of {', '.join(KINDS)}")
    trained = train(
        run,
        options.input,
        id=options.id,
        label=options.label,
        time=options.time,
        kinds=kinds,
        interactions=[_pair(text, ":", "--interact", "A:B") for text in options.interact],
    )
    show(_columns_table(trained.columns))
    for note in trained.notes:
        show(f"note: {note}")
    rows = ", ".join(f"{name} {number:,}" for name, number in reversed(list(trained.by_slice.items())))
    show(f"rows: {rows}; divided by {'time' if trained.split_by == 'time' else 'customer, each class alike'}")
    if trained.folds:
        mean = sum(trained.folds) / len(trained.folds)
        show(f"cross-validation: ROC-AUC {mean:.4f} over {len(trained.folds)} folds ({min(trained.folds):.4f} to {max(trained.folds):.4f})")
    made = f"{trained.rounds} rounds" if trained.is_new else "comes from these very rows, settings and code: it is the challenger again"
    show(f"model: {trained.name} version {trained.version}, {made}")
    show(f"next: propensity table evaluate --input {options.input}" + (f" --name {options.name}" if options.name else ""))


def _evaluate(run: Run, options: argparse.Namespace, show: Callable[[Any], None]) -> None:
    from propensity_spark.own_table.evaluate import BASELINE, evaluate

    for name, text in evaluate(run, options.input).items():
        show(f"{BASELINE.lower() if name == 'baseline' else name}: {text}")


def _score(run: Run, options: argparse.Namespace, show: Callable[[Any], None]) -> None:
    from propensity_spark.own_table.score import score

    found = score(run, options.input, options.output, absent_as_zero=options.missing == "zero")
    for note in found.notes:
        show(f"note: {note}")
    segments = ", ".join(f"{name} {rows:,}" for name, rows in found.by_segment.items())
    show(f"scored: {found.rows:,} rows with version {found.version}; predicted to order {found.predicted:,}; {segments}")
    show(f"written: {found.path}")


def _columns_table(columns: Columns) -> Grid:
    grid = Grid(box=None, pad_edge=False)
    for heading in ("column", "type", "is", "values"):
        grid.add_column(heading, overflow="fold")
    for one in columns.features:
        shown = ", ".join(one.categories[:5]) + (f", … ({len(one.categories)})" if len(one.categories) > 5 else "")
        grid.add_row(one.column, one.type, one.kind, shown)
    for first, second in columns.interactions:
        grid.add_row(f"{first} × {second}", "", "product", "")
    for name, why in columns.ignored.items():
        grid.add_row(name, "", "ignored", why)
    return grid


def _pair(text: str, mark: str, option: str, form: str) -> tuple[str, str]:
    first, found, second = text.rpartition(mark)
    if not found or not first or not second:
        raise ConfigurationError(f"{option} {text!r}: expected {form}")
    return first, second
