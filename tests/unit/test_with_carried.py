"""Whose an event is once a user's whole history is read again beside what was carried of the others'."""

from __future__ import annotations

from datetime import date, timedelta

from pyspark.sql import SparkSession
from silver_data import event, frame

from propensity_spark.config import CandidateSettings
from propensity_spark.features.carried import doubts, settled, still_needed, with_carried
from propensity_spark.features.events import live_events
from propensity_spark.features.windows import Grid
from propensity_spark.schemas import ACTIVITY

ON = date(2024, 7, 1)
LONG_AGO = date(2022, 3, 1)


def test_an_event_that_went_to_another_user_does_not_come_back(spark: SparkSession) -> None:
    """Ann is read again because an event of hers is deleted late; the purchase that went from her to Bob long before stays his.

    It is neither the first nor the last of his purchases, so that nothing carried of him stands for it.
    """
    rows = [
        event("viewed", "ann", "i0", "view", LONG_AGO),
        event("moved", "ann", "i1", "buy", LONG_AGO, "5.00"),
        event("moved", "bob", "i1", "buy", LONG_AGO, "5.00", known=LONG_AGO + timedelta(days=9)),
        event("his first", "bob", "i0", "buy", LONG_AGO - timedelta(days=1), "6.00"),
        event("his last", "bob", "i0", "buy", LONG_AGO + timedelta(days=1), "7.00"),
        event("viewed", "ann", "i0", "view", LONG_AGO, known=ON + timedelta(days=1), deleted=True),
    ]
    silver, past, as_of = frame(spark, rows, ACTIVITY), settled(ON, CandidateSettings()), ON + timedelta(days=2)
    carried = still_needed(silver, past, ["user_id"])
    doubtful = doubts(silver, carried, past, as_of)
    assert [tuple(row) for row in doubtful.collect()] == [("ann", "viewed")]
    live = live_events(with_carried(silver, carried, past, doubtful), Grid((as_of,)))
    assert sorted((row.user_id, row.item_id) for row in live.collect()) == [("bob", "i0"), ("bob", "i0"), ("bob", "i1")]
