"""`propensity explain-change`: the scores and features of one user (and item) on two dates → what became of the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.errors import ConfigurationError, NotScored, TableMissing
from propensity_spark.evaluate.change import Change, Scored, change
from propensity_spark.features.matrix import assemble
from propensity_spark.features.registry import MARKET_FEATURES, USER_FEATURES, user_item_table
from propensity_spark.models import load
from propensity_spark.predictor import PropensityModel
from propensity_spark.schemas import scores_table
from propensity_spark.score import matrix_of, packed, require_same_features, without_new_features
from propensity_spark.tables import Lake

_NAMED_DATES = 8


def explain_change(lake: Lake, settings: Settings, user: str, item: str | None, days: tuple[date, date]) -> Change:
    """What moved the score of a user (grain `user_item`: of the pair) from the first of the days to the second.

    Both dates are explained with the model that scored the second. Without an item, at grain `user_item`, the item that
    ranked first for the user on the second day is taken, and a note says so. Reads the rows of this user on these days.
    Raises NotScored that names the dates there are, TableMissing that names the command when features are not there,
    ConfigurationError for an item at grain `user` and for scores of another model than the configured one.
    """
    if settings.grain == "user" and item is not None:
        raise ConfigurationError(f"--item: data set {settings.dataset} has one score per user, for any item; leave --item out")
    chosen = item
    if settings.grain == "user_item" and item is None:
        best = _scores(lake, settings, user, None, days[1:]).where("rank = 1").first()
        if best is None:
            raise _not_scored(lake, settings, user, None, days[1])
        chosen = best["item_id"]
    found = {row["as_of_date"]: row for row in _scores(lake, settings, user, chosen, days).collect()}
    for day in days:
        if day not in found:
            raise _not_scored(lake, settings, user, chosen, day)
    before, after = (_scored(found[day]) for day in days)
    model = _model(settings, found[days[1]])
    result = change(model, _matrix(lake, settings, model, days, user=user, item=chosen), before, after, chosen)
    if item is None and chosen is not None:
        result = replace(result, notes=(f"No --item was given: {chosen} ranked first for this user as of {days[1]}.", *result.notes))
    return result


def _of(user: str, item: str | None, days: Sequence[date]) -> Column:
    """The rows of a user (and item) on days: a partition and a key, so that little is read."""
    rows = F.col("as_of_date").isin(list(days)) & (F.col("user_id") == F.lit(user))
    return rows if item is None else rows & (F.col("item_id") == F.lit(item))


def _scores(lake: Lake, settings: Settings, user: str, item: str | None, days: Sequence[date]) -> DataFrame:
    return lake.read(scores_table(settings.grain)).where(_of(user, item, days))


def _scored(row: Row) -> Scored:
    return Scored(row["as_of_date"], row["purchase_probability"], row["model_version"])


def _model(settings: Settings, row: Row) -> PropensityModel:
    if row["model_name"] != settings.mlflow.model_name:
        raise ConfigurationError(
            f"mlflow.model_name: is {settings.mlflow.model_name}, and the score as of {row['as_of_date']} came from {row['model_name']}; "
            "set that"
        )
    return load(settings, row["model_version"])


def _matrix(
    lake: Lake, settings: Settings, model: PropensityModel, days: tuple[date, date], *, user: str, item: str | None
) -> NDArray[np.float32]:
    """(2, features) of the days, as scoring saw them."""
    users = lake.read(USER_FEATURES).where(_of(user, None, days))
    if item is None:
        rows = assemble(users)
    else:
        of_item = F.col("as_of_date").isin(list(days)) & (F.col("item_id") == F.lit(item))
        market = lake.read(MARKET_FEATURES).where(of_item) if settings.has_market else None
        pairs = lake.read(user_item_table(settings.has_crowd)).where(_of(user, item, days))
        rows = assemble(users, pairs, market)
    rows, _ = without_new_features(rows, model)
    require_same_features(rows.columns, model)
    table = rows.select("as_of_date", packed(model.features).alias("features")).orderBy("as_of_date").toArrow()
    there = table["as_of_date"].to_pylist()
    for day in days:
        if day not in there:
            raise TableMissing(
                f"gold features: expected the row of this user as of {day}, which was scored, and found none; "
                f"`propensity features --dataset {settings.dataset} --as-of {day}` computes them"
            )
    return matrix_of(table["features"].combine_chunks(), len(model.features))


def _not_scored(lake: Lake, settings: Settings, user: str, item: str | None, day: date) -> NotScored:
    """The message tells apart a day on which nobody was scored and a user (or pair) who was not. It does not repeat the user."""
    scores = lake.read(scores_table(settings.grain))
    dates = sorted(row[0] for row in scores.select("as_of_date").distinct().collect())
    if day not in dates:
        return NotScored(
            f"gold/scores: nobody was scored as of {day}; there are scores as of {_named(dates)}. Choose among these, or compute them with "
            f"`propensity run --dataset {settings.dataset} --as-of {day} --score-only`"
        )
    own = scores.where(F.col("user_id") == F.lit(user))
    own = own if item is None else own.where(F.col("item_id") == F.lit(item))
    theirs = sorted(row[0] for row in own.select("as_of_date").distinct().collect())
    who = "the user" if item is None else f"the user with item {item}"
    return NotScored(
        f"gold/scores: {who} was not scored as of {day}; scored as of {_named(theirs)}. Without an event visible by a date, off the "
        "candidates or on a blocked list nobody is scored"
    )


def _named(dates: Sequence[date]) -> str:
    named = ", ".join(map(str, dates[-_NAMED_DATES:]))
    return (f"… {named}" if len(dates) > _NAMED_DATES else named) or "no date"
