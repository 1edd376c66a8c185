"""The test rows apart: new and returning users, each date, and each value of the users' own segment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import OneClassOnly
from propensity_spark.evaluate import metrics as M
from propensity_spark.evaluate.bootstrap import Floats

USER_SEGMENT = "user_segment"
COMPARED_APART = ("challenger", "baseline")
MOST_SEGMENTS = 8
DATE = "as of "
HALVES = ("new", "returning")  # share no row, and together are all
EVERYONE = "all"  # where users are not told apart so
_COARSE = 16  # of so many cut points another segment keeps one: fewer rows need fewer bins

Tallies = dict[str, dict[str, M.Tally]]


def tally_apart(
    rows: DataFrame, edges: Mapping[str, M.Edges], rounds: int, seed: int, missed: Floats
) -> tuple[dict[str, M.Tally], Tallies]:
    """Tallies of all rows by score, and by segment and score, in one pass.

    `rows`: user_id, as_of_date, label, one column per score in `edges` and, where the users have segments, `is_new_user`, `user_segment`.
    A segment is `new`, `returning`, `as of <date>` (the last eight, where there are two or more) or `user_segment: <value>` (the
    eight with the most rows; users without a value are in none). All but the first two are tallied for the challenger alone and in
    coarser bins, the first two for challenger and baseline; another score is tallied over all rows only.
    """
    columns: dict[str, Column] = {}
    cuts: dict[str, M.Edges] = {}
    places: dict[str, tuple[str, str]] = {}
    wholes = HALVES if "is_new_user" in rows.columns else (EVERYONE,)
    for segment, who in _segments(rows).items():
        for score in COMPARED_APART if segment in wholes else ("challenger",):
            name = f"score {len(columns)}"
            columns[name] = F.when(who, F.col(score))
            cuts[name] = edges[score] if segment in wholes else M.thinned(edges[score], _COARSE)
            places[name] = (segment, score)
    others = [score for score in edges if score not in COMPARED_APART]
    parts = [column.alias(name) for name, column in columns.items()]
    counted = M.tally(rows.select("user_id", "label", *others, *parts), cuts | {score: edges[score] for score in others}, rounds, seed)
    apart: Tallies = {}
    for name, (segment, score) in places.items():
        apart.setdefault(segment, {})[score] = counted[name]
    whole = {score: [counted[score]] if score in others else [apart[part][score] for part in wholes] for score in edges}
    apart.pop(EVERYONE, None)  # says no more than the tallies of all rows
    return {score: M.united(parts, missed) for score, parts in whole.items()}, apart


def segment_numbers(apart: Tallies) -> dict[str, Any]:
    """Segment → rows, purchases, metrics of the scores it has, and purchases over expected ones; `note` instead where one class is
    all there is.

    `calibrated`: the interval of purchases over expected purchases holds 1.
    """
    found: dict[str, Any] = {}
    for segment, tallies in apart.items():
        challenger = tallies["challenger"]
        try:
            M.require_both_classes(challenger, f"{segment} users" if segment in HALVES else segment)
        except OneClassOnly as error:
            found[segment] = {"note": str(error)}
            continue
        ratio = M.estimate(M.observed_over_expected(challenger))
        low, high = ratio["low"], ratio["high"]
        found[segment] = {
            "rows": int(challenger.total[0]),
            "purchases": int(challenger.hits[0]),
            "observed_over_expected": ratio,
            "calibrated": None if low is None or high is None else low <= 1 <= high,
            **{score: {name: M.estimate(f(tallies[score])) for name, f in M.METRICS.items()} for score in tallies},
        }
    return found


def _segments(rows: DataFrame) -> dict[str, Column]:
    """Segment → whether a row belongs to it."""
    new = F.col("is_new_user")
    found = {"new": new, "returning": ~new} if "is_new_user" in rows.columns else {EVERYONE: F.lit(True)}
    dates = sorted(row[0] for row in rows.select("as_of_date").distinct().orderBy(F.desc("as_of_date")).limit(MOST_SEGMENTS).collect())
    if len(dates) > 1:
        found |= {f"{DATE}{day}": F.col("as_of_date") == F.lit(day) for day in dates}
    if USER_SEGMENT in rows.columns:
        counted = rows.where(F.col(USER_SEGMENT).isNotNull()).groupBy(USER_SEGMENT).agg(F.count("*").alias("n"))
        most = counted.orderBy(F.desc("n"), USER_SEGMENT).limit(MOST_SEGMENTS).collect()
        found |= {f"{USER_SEGMENT}: {row[0]}": F.col(USER_SEGMENT) == row[0] for row in most}
    return found
