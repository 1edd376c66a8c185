"""P(label = 1 | everything the simulator knows at the end of D), from many simulated futures, with its standard error.

Written aside, never joined to features: it is the ceiling that no model can pass.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from propensity_spark.config import Settings, SimulateSettings
from propensity_spark.errors import ConfigurationError
from propensity_spark.simulate.events import live
from propensity_spark.simulate.investors import CANCEL_DAYS, CANCEL_RATE, CANCEL_WHOLE, NOTHING, Crowd, State, step
from propensity_spark.simulate.market import Array, Market
from propensity_spark.simulate.masters import user_name
from propensity_spark.simulate.perception import Day, Past, futures, past_of
from propensity_spark.simulate.world import load_market, simulation_of, world_hash
from propensity_spark.tables import local_frame

_CELLS = 4_000_000
_SCHEMA = "user_id string, item_id string, as_of_date date, probability double, standard_error double"


@dataclass(frozen=True)
class Known:
    """What every batch's truth starts from."""

    market: Market
    past: Past
    horizon_days: int


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
    known = Known(market, past_of(market), horizon_days)
    frames = [_batch_truth(settings, known, as_of, batch) for batch in truth_batches(simulation_of(settings))]
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


def _batch_truth(settings: Settings, known: Known, as_of: date, batch: int) -> pd.DataFrame:
    """Live the batch to the end of `as_of` again, then branch into futures, some users at a time."""
    simulation, market = simulation_of(settings), known.market
    if not simulation.start <= as_of <= simulation.end:
        raise ConfigurationError(f"as_of {as_of}: the simulation covers {simulation.start} to {simulation.end}; choose a date within")
    for lived in live(simulation, market, known.past, batch, last=as_of):
        number, session, crowd, state = lived[:4]
    rng = np.random.default_rng([simulation.seed, 301, batch, as_of.toordinal()])
    count = simulation.truth_futures
    days = list(futures(market, known.past, as_of, known.horizon_days, count=count, rng=rng))
    size = max(1, _CELLS // (count * len(market.item_ids)))
    chunks = [slice(first, min(first + size, crowd.size)) for first in range(0, crowd.size, size)]
    counted = [_branch(crowd, state.branch(users, count), days, users, rng) for users in chunks]
    chance = np.concatenate([mean for mean, _ in counted]) * (1 - simulation.deleted_share)
    error = np.concatenate([error for _, error in counted]) * (1 - simulation.deleted_share)
    user, listed = np.flatnonzero(crowd.signup <= number), np.flatnonzero(market.listed <= session)
    names = np.array([user_name(crowd.first_user + int(one)) for one in user], dtype=object)
    if settings.grain == "user":
        frame = pd.DataFrame({"user_id": names, "item_id": None, "probability": chance[user, -1], "standard_error": error[user, -1]})
    else:
        pairs, items = np.ix_(user, listed), market.item_ids[listed].astype(object)
        frame = pd.DataFrame({"user_id": np.repeat(names, len(items)), "item_id": np.tile(items, len(user))})
        frame = frame.assign(probability=chance[pairs].ravel(), standard_error=error[pairs].ravel())
    return frame.assign(as_of_date=as_of)[["user_id", "item_id", "as_of_date", "probability", "standard_error"]]


def _branch(crowd: Crowd, state: State, days: list[Day], users: slice, rng: np.random.Generator) -> tuple[Array, Array]:
    """(users, items + 1) mean and standard error over the futures of the purchase chance; the last column is any item.

    In every future, P(first lasting purchase on this visit | its past) is summed over the visits, which has the same
    mean as counting purchases and much less noise. A mean that noise lifts above 1 is set to 1.
    """
    shape = (*state.mood.shape, state.interest.shape[2] + 1)
    chance, waiting = np.zeros(shape, np.float32), np.ones(shape, bool)
    for index, day in enumerate(days):
        visits = step(crowd, state, day, rng, users)
        who, orders, left = visits.who, visits.orders, len(days) - 1 - index
        lasting = 1 - CANCEL_RATE * CANCEL_WHOLE * min(left, CANCEL_DAYS) / CANCEL_DAYS
        hazard = np.concatenate([orders.chance, orders.chance_any[:, None]], axis=1) * lasting
        chance[who.row, who.future] += hazard * waiting[who.row, who.future]
        undone = (orders.cancelled > 0) & (orders.cancelled <= left) & orders.whole
        visit, slot = np.nonzero((orders.item != NOTHING) & ~undone)
        waiting[who.row[visit], who.future[visit], orders.item[visit, slot]] = False
        waiting[who.row[visit], who.future[visit], -1] = False
    error = chance.std(axis=1, dtype=np.float64, ddof=1) / np.sqrt(shape[1])
    return np.minimum(chance.mean(axis=1, dtype=np.float64), 1.0), error


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

    def compute(parts: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        market = load_market(settings)
        known = Known(market, past_of(market), settings.label.horizon_days)
        for part in parts:
            for day, batch in zip(part["day"], part["batch"], strict=True):
                yield _batch_truth(settings, known, day, batch)

    frame = local_frame(spark, tasks, "day date, batch int").repartition(len(tasks))
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
