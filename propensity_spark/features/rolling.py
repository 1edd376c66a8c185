"""Aggregates over the last rows of a series at a cost that does not grow with how many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F


@dataclass(frozen=True)
class Rolling:
    """Aggregates by name over the last `size` rows; `row` numbers the rows of a key from 1."""

    row: str
    size: int
    aggregates: Mapping[str, Column]


def with_rolling(rows: DataFrame, key: Sequence[str], windows: Sequence[Rolling]) -> DataFrame:
    """Add `<name>_head` and `<name>_tail` per aggregate: together they are the last `size` rows, each row once.

    Rows are cut into blocks of `size`; the head aggregates from the start of the row's block, the tail from the first
    row of the window to the end of the block before (null where the head is all). Each is one growing frame, so the cost
    per row does not depend on `size`, and nothing is subtracted (van Herk 1992). Meaningless where `row` < `size`.
    """
    upto = (Window.unboundedPreceding, Window.currentRow)
    for window in windows:
        rows = rows.withColumn("block", F.floor((F.col(window.row) - 1) / window.size))
        block = Window.partitionBy(*key, "block")
        down, up = block.orderBy(F.desc(window.row)).rowsBetween(*upto), block.orderBy(window.row).rowsBetween(*upto)
        rows = rows.withColumns({f"{name}_tail": value.over(down) for name, value in window.aggregates.items()})
        rows = rows.withColumns({f"{name}_head": value.over(up) for name, value in window.aggregates.items()})
    tails = {}
    for window in windows:
        order = Window.partitionBy(*key).orderBy(windows[0].row)
        for name in window.aggregates:
            tails[f"{name}_tail"] = F.when(F.col(window.row) % window.size != 0, F.lag(f"{name}_tail", window.size - 1).over(order))
    return rows.withColumns(tails).drop("block")
