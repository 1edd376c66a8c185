"""What investors meet on each calendar day: of the market's past, and of many possible futures of it. Pure numpy.

Investors do not compute our features: they perceive running averages of returns, of squared returns and of log volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from propensity_spark.calendars import sessions
from propensity_spark.simulate.generator import HALT_RATE, Regime, advance
from propensity_spark.simulate.market import Array, Market, next_buzz

_TREND, _VARIANCE, _VOLUME = 0.93, 0.94, 0.95
_TREND_SPREAD = np.sqrt((1 - _TREND) / (1 + _TREND))
_BOOTSTRAP_SESSIONS, _BLOCK = 250, 5


@dataclass(frozen=True)
class Day:
    """One calendar day. Arrays are float32 (futures, items), with one future for history.

    `momentum`, `volume` and `risk` are what was perceived after the latest session; `tradable` is where orders are
    filled (nowhere on a day without a session) and `listed` what can be looked at.
    """

    number: int
    weekday: int
    session: int
    momentum: Array
    volume: Array
    risk: Array
    buzz: Array
    listed: Array
    tradable: Array


@dataclass(frozen=True)
class Perception:
    """Running averages after a session, (futures, items): of log returns, of their squares, and of log volume."""

    trend: Array
    variance: Array
    usual_volume: Array

    def after(self, log_return: Array, log_volume: Array) -> tuple[Perception, tuple[Array, Array, Array]]:
        """The averages one session later, and (momentum, volume, risk) as perceived, each about one unit wide.

        momentum: average return in its own standard deviations; volume: log volume above the usual; risk: log
        volatility against the middle of the market.
        """
        trend = _TREND * self.trend + (1 - _TREND) * log_return
        variance = _VARIANCE * self.variance + (1 - _VARIANCE) * np.square(log_return)
        momentum = np.clip(trend / (np.sqrt(variance) * _TREND_SPREAD), -3, 3)
        volume = np.clip((log_volume - self.usual_volume) / 0.4, -2, 3)
        volatility = 0.5 * np.log(variance)
        risk = np.clip((volatility - np.median(volatility, axis=-1, keepdims=True)) / 0.35, -3, 3)
        usual = _VOLUME * self.usual_volume + (1 - _VOLUME) * log_volume
        seen = (momentum.astype(np.float32), volume.astype(np.float32), risk.astype(np.float32))
        return Perception(trend, variance, usual), seen


@dataclass(frozen=True)
class Past:
    """Perception after every session: `averages[s]` and `seen[s]`; with the returns and volume surprises behind them."""

    averages: list[Perception]
    seen: list[tuple[Array, Array, Array]]
    log_return: Array
    surprise: Array


def past_of(market: Market) -> Past:
    """Walk once through the market's sessions. A session without a bar is a zero return at the usual volume."""
    log_price, log_volume = _filled_logs(market)
    count, items = log_price.shape
    returns = np.diff(log_price, axis=0, prepend=log_price[:1])
    current = Perception(np.zeros((1, items)), np.full((1, items), 0.018**2), log_volume[:1].copy())
    averages, seen = [], []
    surprise = np.empty_like(returns)
    for session in range(count):
        volume = np.where(market.traded[session], log_volume[session], current.usual_volume)
        surprise[session] = volume[0] - current.usual_volume[0]
        current, perceived = current.after(returns[session][None, :], volume)
        averages.append(current)
        seen.append(perceived)
    return Past(averages, seen, returns, surprise)


def history(market: Market, past: Past, last: date | None = None) -> Iterator[Day]:
    """Every calendar day from the simulation's start to `last` (default: its end)."""
    start = market.buzz_start.item()
    days = len(market.buzz) if last is None else min((last - start).days + 1, len(market.buzz))
    traded = market.traded
    nothing = np.zeros((1, traded.shape[1]), bool)
    for number in range(days):
        day = start + timedelta(days=number)
        session = market.session_on_or_before(day)
        seen = past.seen[max(session, 0)]
        is_session = session >= 0 and market.dates[session] == np.datetime64(day)
        buzz = market.buzz[number][None, :].astype(np.float32)
        listed = (market.listed <= session)[None, :]
        yield Day(number, day.isoweekday(), session, *seen, buzz, listed, traded[session][None, :] if is_session else nothing)


def futures(market: Market, past: Past, as_of: date, days: int, *, count: int, rng: np.random.Generator) -> Iterator[Day]:
    """`count` futures of the calendar days (as_of, as_of + days], each continuing the state at the end of `as_of`.

    A simulated market goes on with its own generator; a market of real bars repeats blocks of five of its last 250
    sessions, all items together. Buzz goes on in both; halts come as often as in history.
    """
    start = market.buzz_start.item()
    session = market.session_on_or_before(as_of)
    ahead = set(sessions(str(market.calendar), as_of + timedelta(days=1), as_of + timedelta(days=days)))
    averages = past.averages[session]
    perception = Perception(*(np.repeat(part, count, axis=0) for part in (averages.trend, averages.variance, averages.usual_volume)))
    momentum, volume, risk = past.seen[session]
    seen = (np.repeat(momentum, count, axis=0), np.repeat(volume, count, axis=0), np.repeat(risk, count, axis=0))
    steps = _generated(market, session, count, rng) if market.is_simulated else _repeated(past, session, count, rng)
    buzz = np.repeat(market.buzz[(as_of - start).days][None, :], count, axis=0)
    for offset in range(1, days + 1):
        day = as_of + timedelta(days=offset)
        buzz = next_buzz(buzz, rng)
        listed = np.broadcast_to(market.listed <= session, buzz.shape)
        tradable = np.zeros_like(listed)
        if day in ahead:
            session += 1
            log_return, surprise = next(steps)
            usual = market.usual_log_volume if market.is_simulated else perception.usual_volume
            perception, seen = perception.after(log_return, usual + surprise)
            listed = np.broadcast_to(market.listed <= session, buzz.shape)
            tradable = listed & (rng.random(buzz.shape) > 2 * HALT_RATE if market.is_simulated else True)
        yield Day((day - start).days, day.isoweekday(), session, *seen, buzz.astype(np.float32), listed, tradable)


def _generated(market: Market, session: int, count: int, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    def of(values: Array) -> Array:
        return np.repeat(values[session : session + 1], count, axis=0)

    regime = Regime(of(market.variance_market), of(market.variance_sector), of(market.variance_item), of(market.busy))
    while True:
        regime, log_return = advance(regime, market.beta, market.item_level, market.sector_index, rng)
        yield log_return, regime.busy


def _repeated(past: Past, session: int, count: int, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    first = max(0, session + 1 - _BOOTSTRAP_SESSIONS)
    while True:
        block = rng.integers(first, max(first + 1, session + 2 - _BLOCK), count)
        for step in range(_BLOCK):
            chosen = np.minimum(block + step, session)
            yield past.log_return[chosen], past.surprise[chosen]


def _filled_logs(market: Market) -> tuple[Array, Array]:
    """Log adjusted price and log adjusted volume, the last one carried over sessions without a bar (first: backwards)."""
    rows = np.arange(len(market.dates))[:, None]
    last = np.maximum.accumulate(np.where(market.traded, rows, -1), axis=0)
    source = np.where(last >= 0, last, np.argmax(market.traded, axis=0))
    column = np.arange(market.close.shape[1])
    log_volume = np.log(market.volume * market.split_factor)
    return np.log(market.adjusted_close)[source, column], log_volume[source, column]
