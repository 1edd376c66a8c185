"""`propensity experiment`: users of one scored day → how large an A/B test has to be, or what it showed (evaluate/experiment.py)."""

from __future__ import annotations

from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.errors import NotScored
from propensity_spark.evaluate.experiment import Analysis, Plan, analyse, audience, plan, sums_by_arm
from propensity_spark.label import purchases
from propensity_spark.schemas import ACTIVITY, scores_table
from propensity_spark.tables import Lake


def plan_experiment(
    lake: Lake, settings: Settings, scored: date, *, segment: str | None, effect: float, share: float, alpha: float, power: float
) -> Plan:
    """The plan for the users scored on a day. Raises NotScored for a day without scores, NotEnoughUsers where no test can be planned."""
    found = _audience(lake, settings, scored, segment).agg(F.count("*"), F.avg("expected")).first()
    assert found is not None  # an aggregate without keys has one row
    return plan(found[0], found[1] or 0.0, effect=effect, share=share, alpha=alpha, power=power)


def analyse_experiment(
    lake: Lake, settings: Settings, scored: date, as_of: date, *, name: str, segment: str | None, share: float, alpha: float
) -> Analysis:
    """What came of the users scored on a day, as known at the end of `as_of`: a purchase of anything within the label window counts.

    Raises NotScored for a day without scores, NotEnoughHistory when its window has not closed, NotEnoughUsers for an empty arm.
    """
    bought = purchases(lake.read(ACTIVITY), [scored], settings.label, grain="user", as_of=as_of)
    return analyse(sums_by_arm(_audience(lake, settings, scored, segment), bought, name, share), share=share, alpha=alpha)


def _audience(lake: Lake, settings: Settings, scored: date, segment: str | None) -> DataFrame:
    scores = lake.read(scores_table(settings.grain)).where(F.col("as_of_date") == F.lit(scored))
    if scores.isEmpty():
        raise NotScored(
            f"gold/scores: nobody was scored as of {scored}; compute the scores with "
            f"`propensity run --dataset {settings.dataset} --as-of {scored} --score-only`, or choose another day"
        )
    return audience(scores, segment)
