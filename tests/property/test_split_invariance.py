"""A split changes prices and volumes, not features: the same series with and without splits gives the same values on every date."""

from __future__ import annotations

import math
import random
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from silver_data import _bar, frame, version

from propensity_spark.features.market import _OF_BAR, market_features
from propensity_spark.features.windows import Grid
from propensity_spark.schemas import BARS, CORPORATE_ACTIONS

pytestmark = pytest.mark.usefixtures("compiled")

Row = dict[str, Any]
FEW = settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
DAYS = [day for n in range(420) if (day := date(2023, 1, 2) + timedelta(days=n)).weekday() < 5][:280]


@FEW
@given(
    st.integers(0, 2**32),
    st.lists(
        st.tuples(st.sampled_from(DAYS[20:]), st.sampled_from([2.0, 7.0, 0.1, 1.5])), min_size=1, max_size=4, unique_by=lambda s: s[0]
    ),
)
def test_features_do_not_change_under_splits(spark: SparkSession, seed: int, splits: list[tuple[date, float]]) -> None:
    """Splits are known on their own day. `avg_volume_30d` is in the shares of its date, so it grows with them."""
    chance = random.Random(seed)

    def ratio(day: date) -> float:
        return math.prod(each for when, each in splits if when <= day)

    plain, split, price = [], [], 100.0
    for day in DAYS:
        price *= 1.0 + chance.uniform(-0.03, 0.03)
        row = _bar("i0", day, price, float(chance.randrange(1, 5) * 1000))
        shares = {name: row[name] / ratio(day) for name in ("open", "high", "low", "close")}
        plain.append(version(row, day, day))
        split.append(version({**row, **shares, "volume": row["volume"] * ratio(day)}, day, day))
    actions = [version({"item_id": "i0", "ex_date": day, "action": "split", "ratio": each}, day, day) for day, each in splits]
    grid = Grid(tuple(sorted({DAYS[25], DAYS[40], DAYS[130], *(day for day, _ in splits), *DAYS[-6:]})))

    def features(bars: list[Row], actions: list[Row]) -> dict[date, Row]:
        found = market_features(frame(spark, bars, BARS), frame(spark, actions, CORPORATE_ACTIONS), None, grid).collect()
        return {row["as_of_date"]: row.asDict() for row in found}

    without, with_splits = features(plain, []), features(split, actions)
    assert len(without) == grid.size
    for day, row in with_splits.items():
        for name in _OF_BAR:
            expected = without[day][name]
            if name == "avg_volume_30d" and expected is not None:
                expected *= ratio(day)
            same = expected is None if row[name] is None else math.isclose(row[name], expected, rel_tol=1e-9, abs_tol=1e-12)
            assert same, f"{name} on {day}: {row[name]} with splits, {expected} without"
