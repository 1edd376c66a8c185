"""`make bench-reasons`: SHAP values of many rows on one core: looked up (`tree_shap`), XGBoost's exact ones, XGBoost's approximation.

`--trees` of depth 6 over 40 features, as scoring uses them; a fifth of the values null. Median of three for looked-up rows, after the
tables were made once; the others once. Besides rows per second: for how many rows the three strongest features are those of the exact
values, and the largest difference of any value.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import xgboost

from benchmarks.measure import Measure, code, machine, table, write
from propensity_spark.tree_shap import TreeShap, tree_shap

T = TypeVar("T")

FEATURES, DEPTH, TOP = 40, 6, 3
EXACT_ROWS = 5000
ROWS_PER_SECOND = 50_000  # the target


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reasons", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--trees", type=int, nargs="+", default=[80, 200])
    asked = parser.parse_args()
    about = {"machine": machine([0]), "code": code(), "settings": [f"rows={asked.rows}", f"trees={asked.trees}"]}
    measures = [measure for trees in asked.trees for measure in compared(asked.rows, trees)]
    path = write(measures, about)
    sys.stdout.write(f"{table(measures)}\n\nwritten to {path}\n")


def compared(count: int, trees: int) -> list[Measure]:
    """Measures of one model."""
    rows, booster = model(count, trees)
    matrix = xgboost.DMatrix(rows[:EXACT_ROWS])
    making, tables = timed(lambda: tree_shap(bytes(booster.save_raw("ubj"))))
    assert tables is not None
    seconds, found = zip(*(timed(lambda: tables.contributions(rows)) for _ in range(3)), strict=True)
    slow, exact = timed(lambda: booster.predict(matrix, pred_contribs=True))
    quick, rough = timed(lambda: booster.predict(matrix, pred_contribs=True, approx_contribs=True))
    of_trees = f"{trees} trees"
    looked_up = found[0][:EXACT_ROWS]
    apart = float(np.abs(looked_up - exact).max())
    approximate = f"top {TOP} as exact in {agreement(rough, exact):.1%}"
    looked_up_as = f"top {TOP} as exact in {agreement(looked_up, exact):.1%}, values at most {apart:.1e} apart"
    return [
        Measure(
            f"tables made, {of_trees}",
            making,
            note=f"{sum(len(word.groups) for word in tables.words):,} groups, {size(tables) / 2**20:.0f} MiB",
        ),
        Measure(f"looked up, {of_trees}", statistics.median(seconds), rows=count, target=count / ROWS_PER_SECOND, note=looked_up_as),
        Measure(f"XGBoost exact, {of_trees}", slow, rows=len(exact)),
        Measure(f"XGBoost approximate, {of_trees}", quick, rows=len(rough), note=approximate),
    ]


def model(count: int, trees: int) -> tuple[np.ndarray, xgboost.Booster]:
    rows, label = drawn(count)
    fitted = slice(0, min(count, 100_000))
    told = {"objective": "binary:logistic", "max_depth": DEPTH, "eta": 0.1, "nthread": 1, "min_child_weight": 5}
    booster = xgboost.train(told, xgboost.DMatrix(rows[fitted], label[fitted]), trees)
    booster.set_param({"nthread": 1})
    return rows, booster


def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (float32, a fifth of them null) and labels that some of them explain."""
    random = np.random.default_rng(7)
    rows = random.normal(size=(count, FEATURES)).astype(np.float32)
    score = rows[:, 0] * rows[:, 1] + rows[:, 2] - np.abs(rows[:, 3]) + 0.3 * rows[:, 4:12].sum(axis=1)
    rows[random.random(rows.shape) < 0.2] = np.nan
    return rows, (random.random(count) < 1 / (1 + np.exp(2 - score))).astype(np.float32)


def agreement(values: np.ndarray, exact: np.ndarray) -> float:
    """Share of rows whose strongest features are the same ones."""
    one, other = (np.sort(np.argsort(-np.abs(found[:, :-1]), axis=1, kind="stable")[:, :TOP], axis=1) for found in (values, exact))
    return float((one == other).all(axis=1).mean())


def size(tables: TreeShap) -> int:
    codes = sum(values.nbytes for word in tables.words for _, values in word.codes)
    return codes + sum(values.nbytes for word in tables.words for *_, given in word.groups for _, values in given)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    clock = time.perf_counter()
    found = work()
    return time.perf_counter() - clock, found


if __name__ == "__main__":
    main()
