"""Simulated investors: latent tastes and habits, and what a batch of them does on one day. Pure numpy.

One `step` serves history (one future) and truth (many futures), so both follow the same law. It loops over days and is
vectorised over users × futures; item utilities are only computed for those who visit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from propensity_spark.config import SimulateSettings
from propensity_spark.simulate.market import TASTE_DIMENSIONS, Array, Market
from propensity_spark.simulate.perception import Day

EVENTS_PER_VISIT = 5.1  # with the average boost by mood, rhythm and excitement: `events_per_user` comes out
MAX_VIEWS = 8
MAX_ORDERS = 2
NOTHING = -1  # no such event in this visit
NO_ITEM = -2  # a search without an item
CANCEL_RATE = 0.015
CANCEL_DAYS = 2  # a cancellation comes one to two days later
CANCEL_WHOLE = 0.8  # the rest cancel a part only
SECOND_ORDER = 0.12
RISK_LEVELS = ("low", "medium", "high")

_MOOD_MEMORY = 0.97
_INTEREST_MEMORY = 0.93
_EXCITEMENT_MEMORY = 0.75
_CAUTION = np.array([0.9, 0.0, -0.7], np.float32)


@dataclass(frozen=True)
class Crowd:
    """The traits of one batch of users. `risk` (0 low … 2 high) is observable; nearly all else is latent.

    `signup` and `risk_change` are days since the simulation's start; `base` is the (users, items) lasting appeal.
    """

    first_user: int
    signup: Array
    risk: Array
    risk_change: Array
    risk_after: Array
    rate: Array
    weekday: Array
    period: Array
    phase: Array
    rhythm: Array
    trend: Array
    attention: Array
    buying: Array
    selling: Array
    ticket: Array
    hour: Array
    base: Array

    @property
    def size(self) -> int:
        return len(self.signup)


@dataclass
class State:
    """What changes from day to day: (users, futures), and (users, futures, items) for pairs."""

    mood: Array
    excitement: Array
    interest: Array
    lots: Array

    def branch(self, users: slice, count: int) -> State:
        """`count` copies of the state of some users, one per future."""
        return State(*(np.repeat(part[users], count, axis=1) for part in (self.mood, self.excitement, self.interest, self.lots)))


@dataclass(frozen=True)
class Visitors:
    """Who visits today: `user` of the crowd, `row` and `future` in the state, `seen` row of the day's arrays."""

    user: Array
    row: Array
    future: Array
    seen: Array

    @property
    def count(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Orders:
    """(visits, MAX_ORDERS): the item ordered, the days until it is cancelled (0: never), whether entirely; and the chances.

    `chance` (visits, items) is P(this visit orders the item | everything before its order), `chance_any` of any item.
    """

    item: Array
    cancelled: Array
    whole: Array
    chance: Array
    chance_any: Array


@dataclass(frozen=True)
class Visits:
    """The visits of one day, one row each. Item columns hold an item's index, NOTHING, or NO_ITEM."""

    who: Visitors
    searched: Array
    viewed: Array
    watched: Array
    sold: Array
    orders: Orders


def draw_crowd(settings: SimulateSettings, market: Market, batch: int) -> Crowd:
    """The users of one batch; the seed and the batch's number decide everything."""
    rng = np.random.default_rng([settings.seed, 201, batch])
    first = batch * settings.users_per_batch
    n = min(settings.users_per_batch, settings.users - first)
    span = (settings.end - settings.start).days + 1
    early = rng.random(n)
    signup = np.where(early < 0.6, -rng.integers(1, 1000, n), rng.integers(0, span, n))
    signup = np.where((early >= 0.6) & (early < 0.85), rng.integers(0, max(1, span // 3), n), signup)
    risk = rng.choice(3, n, p=[0.3, 0.45, 0.25])
    weekday = rng.dirichlet([8, 8, 8, 8, 8, 3, 3], n) * 7
    period = rng.choice([14.0, 30.4, 30.4, 61.0], n)
    sectors = rng.standard_normal((n, int(market.sector_index.max()) + 1))
    taste = rng.standard_normal((n, TASTE_DIMENSIONS))
    base = market.quality + 0.8 * taste @ market.loadings.T + 0.8 * sectors[:, market.sector_index]
    activity = np.exp(rng.normal(-0.12, 0.6, n))
    return Crowd(
        first_user=first,
        signup=signup,
        risk=risk,
        risk_change=np.where(rng.random(n) < 0.05, rng.integers(1, span + 1, n), span + 1),
        risk_after=np.clip(risk + rng.choice([-1, 1], n), 0, 2),
        rate=activity * settings.events_per_user / EVENTS_PER_VISIT / span,
        weekday=weekday,
        period=period,
        phase=rng.random(n) * period,
        rhythm=rng.uniform(0.0, 2.2, n),
        trend=rng.normal(0.35, 0.5, n).astype(np.float32),
        attention=np.abs(rng.normal(0.3, 0.3, n)).astype(np.float32),
        buying=rng.normal(-0.1, 0.8, n),
        selling=rng.normal(-1.6, 0.6, n),
        ticket=np.exp(rng.normal(7.0, 0.9, n)),
        hour=rng.uniform(8.0, 19.0, n),
        base=base.astype(np.float32),
    )


def first_state(crowd: Crowd, items: int) -> State:
    """Nobody has done anything yet, with a neutral mood."""
    shape = (crowd.size, 1)
    pairs = (*shape, items)
    return State(np.zeros(shape), np.zeros(shape), np.zeros(pairs, np.float32), np.zeros(pairs, np.int16))


def step(crowd: Crowd, state: State, day: Day, rng: np.random.Generator, users: slice = slice(None)) -> Visits:
    """One calendar day of the crowd's `users` (all by default); `state` (those users') is changed in place."""
    shape = state.mood.shape
    state.mood = _MOOD_MEMORY * state.mood + np.sqrt(1 - _MOOD_MEMORY**2) * rng.standard_normal(shape)
    tide = crowd.rhythm[users] * np.cos(2 * np.pi * (day.number - crowd.phase[users]) / crowd.period[users])
    rate = np.where(crowd.signup[users] <= day.number, crowd.rate[users] * crowd.weekday[users, day.weekday - 1], 0.0)
    rate = (rate * np.exp(0.5 * tide))[:, None] * np.exp(0.45 * state.mood) * (1 + 0.7 * np.minimum(state.excitement, 2))
    row, future = np.nonzero(rng.random(shape) < -np.expm1(-rate))
    state.interest *= _INTEREST_MEMORY
    state.excitement *= _EXCITEMENT_MEMORY
    state.excitement[row, future] += 1
    seen = future if len(day.buzz) > 1 else np.zeros_like(future)
    who = Visitors(np.arange(crowd.size)[users][row], row, future, seen)
    appeal = _appeal(crowd, state, day, who)
    searched, viewed, watched = _browse(state, appeal, who, rng)
    sold = _sell(crowd, state, day, who, rng)
    urge = 0.9 * tide[row] + 0.8 * state.mood[row, future] + crowd.buying[who.user]
    eager = 0.85 * appeal + 1.4 * np.log1p(state.interest[row, future])
    orders = _order(state, np.where(day.tradable[seen], eager, -np.inf), urge, who, rng)
    return Visits(who, searched, viewed, watched, sold, orders)


def _appeal(crowd: Crowd, state: State, day: Day, who: Visitors) -> Array:
    """(visits, items) how much each item draws this visitor today; -inf for what is not listed."""
    user, seen, pair = who.user, who.seen, (who.row, who.future)
    risk = np.where(day.number >= crowd.risk_change[user], crowd.risk_after[user], crowd.risk[user])
    appeal: Array = crowd.base[user] + day.buzz[seen]
    appeal += crowd.trend[user, None] * day.momentum[seen]
    appeal += crowd.attention[user, None] * day.volume[seen]
    appeal -= _CAUTION[risk][:, None] * day.risk[seen]
    appeal += 0.9 * np.log1p(state.interest[pair]) + 0.9 * (state.lots[pair] > 0)
    appeal[~day.listed[seen]] = -np.inf
    return appeal


def _pick(weights: Array, count: int, rng: np.random.Generator) -> Array:
    """(rows, count) indices drawn from each row's weights, with replacement; a row of zeros gives arbitrary ones."""
    rows, items = weights.shape
    running = np.cumsum(weights, axis=1, dtype=np.float64)
    total = np.maximum(running[:, -1:], 1e-300)
    offset = np.arange(rows)[:, None]
    flat = (np.minimum(running / total, 1.0) + offset).ravel()
    picks = np.searchsorted(flat, rng.random((rows, count)) * (1 - 1e-9) + offset, side="right") - offset * items
    chosen: Array = np.clip(picks, 0, items - 1)
    return chosen


def _softmax(appeal: Array) -> Array:
    """Shares of each row that add up to 1; a row without anything possible is all zeros."""
    top = np.max(appeal, axis=1, keepdims=True)
    weights = np.exp(appeal - np.where(np.isfinite(top), top, 0.0))
    share: Array = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
    return share


def _browse(state: State, appeal: Array, who: Visitors, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Searches, views and watchlist additions; views and additions make the visitor more interested in their item."""
    picks = _pick(_softmax(appeal), MAX_VIEWS, rng)
    count = np.minimum(1 + rng.poisson(1.45, who.count), MAX_VIEWS)
    anything: Array = np.any(np.isfinite(appeal), axis=1)
    viewed = np.where((np.arange(MAX_VIEWS) < count[:, None]) & anything[:, None], picks, NOTHING)
    chance = rng.random((who.count, 2))
    searched = np.where((chance[:, 0] < 0.25) & anything, picks[:, 0], np.where(chance[:, 0] < 0.5, NO_ITEM, NOTHING))
    watched = np.where((chance[:, 1] < 0.22) & anything, picks[:, 0], NOTHING)
    visit, column = np.nonzero(viewed >= 0)
    np.add.at(state.interest, (who.row[visit], who.future[visit], viewed[visit, column]), 1.0)
    chosen = watched >= 0
    state.interest[who.row[chosen], who.future[chosen], watched[chosen]] += 2.0
    return searched, viewed, watched


def _sell(crowd: Crowd, state: State, day: Day, who: Visitors, rng: np.random.Generator) -> Array:
    """(visits) the item that is sold entirely, or NOTHING; what has risen is sold sooner."""
    held = (state.lots[who.row, who.future] > 0) & day.tradable[who.seen]
    pick = _pick(held * np.exp(0.5 * day.momentum[who.seen]), 1, rng)[:, 0]
    wants = rng.random(who.count) < 1 / (1 + np.exp(-crowd.selling[who.user]))
    sold: Array = np.where(held.any(axis=1) & wants, pick, NOTHING)
    gone = sold >= 0
    state.lots[who.row[gone], who.future[gone], sold[gone]] = 0
    return sold


def _order(state: State, eager: Array, urge: Array, who: Visitors, rng: np.random.Generator) -> Orders:
    """Orders with their later cancellations, and the chance that they had; an order calms the interest in its item.

    `eager` (visits, items) is -inf where no order can be filled; `urge` (visits) is the log odds of ordering at all.
    """
    share = _softmax(eager)
    order = np.where(np.isfinite(eager).any(axis=1), 1 / (1 + np.exp(-urge)), 0.0)
    picks = _pick(share, MAX_ORDERS, rng)
    chance = rng.random((who.count, 2))
    first = chance[:, 0] < order
    placed = np.stack([first, first & (chance[:, 1] < SECOND_ORDER)], axis=1)
    item = np.where(placed, picks, NOTHING)
    undo = rng.random((who.count, MAX_ORDERS))
    cancelled = np.where(placed & (undo < CANCEL_RATE), 1 + rng.integers(0, CANCEL_DAYS, undo.shape), 0)
    whole = rng.random(undo.shape) < CANCEL_WHOLE
    visit, slot = np.nonzero(placed & ~((cancelled > 0) & whole))
    pair = (who.row[visit], who.future[visit], item[visit, slot])
    np.add.at(state.lots, pair, 1)
    state.interest[pair] *= 0.3
    return Orders(item, cancelled, whole, order[:, None] * share * (1 + SECOND_ORDER * (1 - share)), order)
