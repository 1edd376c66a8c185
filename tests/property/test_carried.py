"""Features from carried events and those since equal the ones that plain Python computes from all, whatever became known meanwhile."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from silver_data import activity, event, frame, items
from test_features_oracle import FEW, LEVELS, check

from propensity_spark.config import CandidateSettings
from propensity_spark.features import affinity, candidates, rfm
from propensity_spark.features.carried import Settled, doubts, settled, still_needed, with_carried
from propensity_spark.features.events import corrections, live_events
from propensity_spark.features.registry import USER_FEATURES, USER_ITEM_FEATURES
from propensity_spark.features.windows import Grid
from propensity_spark.schemas import ACTIVITY, ITEMS

Row = dict[str, Any]
ON = st.sampled_from([date(2024, 2, 1), date(2024, 7, 1)])  # as of which events of 2023 are old
CHOSEN = CandidateSettings(viewed_days=30, held_days=90, popular_items=2, affine_sectors=1, items_per_affine_sector=1)


@st.composite
def news(draw: st.DrawFn, old: list[Row], on: date) -> list[Row]:
    """Late versions of the events, some of them deletions, some of another user; and purchases whose order may be an old one."""
    found: list[Row] = []
    for number in range(draw(st.integers(0, 3))):
        known = on + timedelta(days=draw(st.sampled_from([1, 5, 12])))
        row = draw(st.sampled_from(old))
        if draw(st.booleans()):
            moment = datetime.combine(known, time(13), UTC) + timedelta(minutes=number)
            user = draw(st.sampled_from([row["user_id"], "u6"]))
            found.append({**row, "user_id": user, "known_at": moment, "visible_date": known, "is_deleted": draw(st.booleans())})
        else:
            found.append(event(f"n{number}", row["user_id"], "i0", "buy", known, "3.00", order_id=row["order_id"], session_id=None))
    return found


@settings(FEW, max_examples=6)
@given(st.data(), activity(40), st.none() | items(), ON, st.booleans(), st.booleans())
def test_features_from_carried_events(
    spark: SparkSession, data: st.DataObject, events: list[Row], catalogue: list[Row] | None, on: date, again: bool, of_pairs: bool
) -> None:
    before = [row for row in events if row["visible_date"] <= on]
    events = [*before, *(data.draw(news(before, on)) if before else [])]
    past, dates = settled(on, CHOSEN), [on + timedelta(days=ahead) for ahead in data.draw(st.sampled_from([(2, 12), (12,)]))]
    silver = frame(spark, events, ACTIVITY).cache()
    key, looked_up = ["user_id", "item_id"] if of_pairs else ["user_id"], data.draw(st.booleans())

    def needed(activity: DataFrame, of: Settled, earlier: DataFrame | None = None) -> DataFrame:
        return still_needed(activity, of, key, earlier, corrections(activity) if looked_up else None).cache()

    if again:  # carried forward twice, the second time from what the first gave
        first = settled(date(2023, 10, 1), CHOSEN)
        earlier = needed(silver, first)
        carried = needed(_read(silver, earlier, first, on), past, earlier)
    else:
        carried = needed(silver, past)
    grid, item_frame = Grid(tuple(dates)), None if catalogue is None else frame(spark, catalogue, ITEMS)
    read = _read(silver, carried, past, dates[-1]).cache()
    live = live_events(read, grid).cache()
    spending, known = affinity.sector_spending(live, item_frame, grid), affinity.item_dates(live, item_frame, grid)
    of_users = rfm.user_features(live, read, None, spending, grid=grid, risk_levels=LEVELS)
    check(of_users, (row for day in dates for row in oracle.user_features(events, None, catalogue, day, LEVELS)), USER_FEATURES)
    if of_pairs:
        pairs = candidates.user_item_features(live, known, spending, grid, CHOSEN)
        expected = (row for day in dates for row in oracle.user_item_features(events, catalogue, day, CHOSEN.model_dump()))
        check(pairs, expected, USER_ITEM_FEATURES)
    spark.catalog.clearCache()


def _read(silver: DataFrame, carried: DataFrame, past: Settled, as_of: date) -> DataFrame:
    found = doubts(silver, carried, past, as_of)
    return with_carried(silver, carried, past, None if found.isEmpty() else found)
