"""P(label = 1 | everything the simulator knows at the end of D), from many simulated futures, with its standard error.

Written aside, never joined to features: it is the ceiling that no model can pass.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from propensity_spark.config import Settings, SimulateSettings
from propensity_spark.errors import ConfigurationError
from propensity_spark.simulate.events import live
from propensity_spark.simulate.investors import CANCEL_DAYS, CANCEL_RATE, CANCEL_WHOLE, NOTHING, Crowd, State, Visits, step
from propensity_spark.simulate.market import Array, Market
from propensity_spark.simulate.perception import Day, Past, futures, past_of
from propensity_spark.simulate.world import load_market, simulation_of, user_name, world_hash

_CELLS = 4_000_000
_SCHEMA = "user_id string, item_id string, as_of_date date, probability double, standard_error double"


def purchase_truth(
    settings: Settings, market: Market, as_of: date, horizon_days: int, event_types: Sequence[str] = ("buy",)
) -> pd.DataFrame:
    """The truth for the first `simulate.truth_users` users (whole batches) who had signed up by `as_of`.

    Out: user_id, item_id, as_of_date, probability, standard_error (of the probability, over the futures); one row per
    pair of user and listed item, at grain `user` one row per user with item_id null. A purchase that is wholly cancelled
    within the horizon, or whose event is deleted later, does not count. Raises ConfigurationError for event types other
    than `buy`: the simulator only knows the chance of orders.
    """
    _require_buys(event_types)
    past = past_of(market)
    frames = [_batch_truth(settings, market, past, as_of, horizon_days, batch) for batch in truth_batches(simulation_of(settings))]
    return pd.concat(frames, ignore_index=True)


def truth_batches(simulation: SimulateSettings) -> range:
    """The batches that hold the first `truth_users` users."""
    users = min(simulation.truth_users, simulation.users)
    return range(-(-users // simulation.users_per_batch))


def _require_buys(event_types: Sequence[str]) -> None:
    if tuple(event_types) != ("buy",):
        raise ConfigurationError(
            f"label.event_types: the truth of simulated investors is known for [buy] only, found {list(event_types)}; "
            "evaluate without the ceiling or use the default"
        )


def _batch_truth(settings: Settings, market: Market, past: Past, as_of: date, horizon_days: int, batch: int) -> pd.DataFrame:
    simulation = simulation_of(settings)
    if not simulation.start <= as_of <= simulation.end:
        raise ConfigurationError(f"as_of {as_of}: the simulation covers {simulation.start} to {simulation.end}; choose a date within")
    for lived in live(simulation, market, past, batch, last=as_of):
        number, session, crowd, state = lived[:4]
    rng = np.random.default_rng([simulation.seed, 301, batch, as_of.toordinal()])
    count = simulation.truth_futures
    days = list(futures(market, past, as_of, horizon_days, count, rng))
    size = max(1, _CELLS // (count * len(market.item_ids)))
    chunks = [slice(first, min(first + size, crowd.size)) for first in range(0, crowd.size, size)]
    means, errors = zip(*(_branch(simulation, crowd, state, days, users, count, rng) for users in chunks), strict=True)
    user = np.flatnonzero(crowd.signup <= number)
    listed = np.flatnonzero(market.listed <= session)
    return _frame(settings, market, as_of, crowd.first_user, user, listed, np.concatenate(means), np.concatenate(errors))


def _branch(
    simulation: SimulateSettings, crowd: Crowd, state: State, days: list[Day], users: slice, count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """(users, items + 1) mean and standard error of the purchase chance; the last column is any item.

    In every future, P(first surviving purchase on this visit | its past) is summed over the visits, which has the same
    mean as counting purchases and much less noise.
    """
    branch = state.branch(users, count)
    shape = (*branch.mood.shape, branch.interest.shape[2] + 1)
    chance, open_ = np.zeros(shape, np.float32), np.ones(shape, bool)
    for index, day in enumerate(days):
        visits = step(crowd, branch, day, rng, users)
        left = len(days) - 1 - index
        local = visits.user - users.start
        survives = _survival(left) * (1 - simulation.deleted_share)
        hazard = np.concatenate([visits.chance, visits.chance_any[:, None]], axis=1) * survives
        chance[local, visits.future] += hazard * open_[local, visits.future]
        _close(open_, visits, local, left, rng.random(visits.ordered.shape) < simulation.deleted_share)
    mean = chance.mean(axis=1, dtype=np.float64)
    return mean, chance.std(axis=1, dtype=np.float64, ddof=1) / np.sqrt(count)


def _survival(days_left: int) -> float:
    """P(an order is not wholly cancelled within the days that are left)."""
    return 1 - CANCEL_RATE * CANCEL_WHOLE * min(days_left, CANCEL_DAYS) / CANCEL_DAYS


def _close(open_: Array, visits: Visits, local: Array, days_left: int, deleted: Array) -> None:
    """Mark what has been purchased, and not undone, in each future."""
    undone = (visits.cancelled > 0) & (visits.cancelled <= days_left) & visits.whole
    row, slot = np.nonzero((visits.ordered != NOTHING) & ~undone & ~deleted)
    open_[local[row], visits.future[row], visits.ordered[row, slot]] = False
    open_[local[row], visits.future[row], -1] = False


def _frame(
    settings: Settings, market: Market, as_of: date, first_user: int, user: Array, listed: Array, mean: Array, error: Array
) -> pd.DataFrame:
    names = np.array([user_name(first_user + int(number)) for number in user], dtype=object)
    if settings.grain == "user":
        columns = {"user_id": names, "item_id": None, "probability": mean[user, -1], "standard_error": error[user, -1]}
    else:
        columns = {
            "user_id": np.repeat(names, len(listed)),
            "item_id": np.tile(market.item_ids[listed].astype(object), len(user)),
            "probability": mean[np.ix_(user, listed)].ravel(),
            "standard_error": error[np.ix_(user, listed)].ravel(),
        }
    return pd.DataFrame(columns).assign(as_of_date=as_of)[["user_id", "item_id", "as_of_date", "probability", "standard_error"]]


def write_truth(spark: SparkSession, settings: Settings, lake_root: str, dates: Sequence[date]) -> None:
    """Write the truth of each date to `<lake_root>/simulated/truth/as_of_date=<date>/*.parquet`, unless it is there.

    A date counts as there when it was computed for the same world, horizon and number of futures; a date is complete or
    absent. Dates and batches are computed in parallel by Spark.
    """
    _require_buys(settings.label.event_types)
    folder = Path(lake_root) / "simulated" / "truth"
    wanted = _truth_hash(settings)
    missing = [day for day in dates if not (folder / f"as_of_date={day}" / f"_{wanted}").exists()]
    if not missing:
        return
    staging = folder / f".staging-{wanted}"
    shutil.rmtree(staging, ignore_errors=True)
    tasks = [(day, batch) for day in missing for batch in truth_batches(simulation_of(settings))]

    def compute(parts: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        market = load_market(settings)
        past = past_of(market)
        for part in parts:
            for day, batch in zip(part["day"], part["batch"], strict=True):
                yield _batch_truth(settings, market, past, day, settings.label.horizon_days, batch)

    frame = spark.createDataFrame(tasks, "day date, batch int").repartition(len(tasks))
    frame.mapInPandas(compute, _SCHEMA).write.partitionBy("as_of_date").parquet(str(staging))
    for day in missing:
        computed, final = staging / f"as_of_date={day}", folder / f"as_of_date={day}"
        (computed / f"_{wanted}").touch()
        shutil.rmtree(final, ignore_errors=True)
        os.replace(computed, final)
    shutil.rmtree(staging)


def _truth_hash(settings: Settings) -> str:
    simulation = simulation_of(settings)
    parts = [world_hash(settings), settings.label.horizon_days, settings.grain, simulation.truth_users, simulation.truth_futures]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
