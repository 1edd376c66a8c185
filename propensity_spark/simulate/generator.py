"""A seeded market: sectors that move together, clustered volatility and volume, splits, halts and late listings. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from propensity_spark.calendars import sessions
from propensity_spark.config import SimulateSettings
from propensity_spark.simulate.market import Array, Market, item_latents

SECTORS = (
    "Technology",
    "Health Care",
    "Financials",
    "Energy",
    "Industrials",
    "Consumer Staples",
    "Consumer Discretionary",
    "Utilities",
    "Materials",
    "Real Estate",
)
HALT_RATE = 0.0006
SPLIT_RATIOS = (2.0, 3.0, 4.0, 10.0, 0.2)
_ARCH, _GARCH = 0.07, 0.91
_MARKET_LEVEL, _SECTOR_LEVEL, _ITEM_LEVEL = 0.008, 0.007, 0.013
_VOLUME_MEMORY = 0.72


@dataclass(frozen=True)
class Regime:
    """Volatility and volume after a session; the first axis is the future (one for history)."""

    market: Array
    sector: Array
    item: Array
    busy: Array


def advance(regime: Regime, beta: Array, item_level: Array, sector_index: Array, rng: np.random.Generator) -> tuple[Regime, Array]:
    """One session: the next regime and (futures, items) log returns.

    return = beta · market + sector + own, each a GARCH(1, 1) with Student-t shocks; log volume is an AR(1) that reacts
    to the size of the return.
    """
    futures, items = regime.item.shape
    market = np.sqrt(regime.market) * _shocks(rng, (futures,))
    sector = np.sqrt(regime.sector) * _shocks(rng, regime.sector.shape)
    own = np.sqrt(regime.item) * _shocks(rng, (futures, items))
    log_return = 0.0003 + beta * market[:, None] + sector[:, sector_index] + own
    size = np.abs(log_return) / np.sqrt((beta * _MARKET_LEVEL) ** 2 + _SECTOR_LEVEL**2 + item_level**2)
    busy = _VOLUME_MEMORY * regime.busy + 0.22 * (size - 0.75) + 0.18 * rng.standard_normal((futures, items))
    following = Regime(
        _garch(regime.market, market, _MARKET_LEVEL),
        _garch(regime.sector, sector, _SECTOR_LEVEL),
        _garch(regime.item, own, item_level),
        busy,
    )
    return following, np.clip(log_return, -0.25, 0.25)


def _shocks(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Student t with 6 degrees of freedom, scaled to unit variance."""
    shocks: Array = rng.standard_t(6, shape) / np.sqrt(1.5)
    return shocks


def _garch(variance: Array, shock: Array, level: Array | float) -> Array:
    return (1 - _ARCH - _GARCH) * np.square(level) + _ARCH * np.square(shock) + _GARCH * variance


def simulate_market(settings: SimulateSettings, calendar: str) -> Market:
    """The market of `settings.items` items over the exchange's sessions in [start, end]; the seed decides everything."""
    rng = np.random.default_rng([settings.seed, 101])
    days = np.array(sessions(calendar, settings.start, settings.end), dtype="datetime64[D]")
    count, items = len(days), settings.items
    names = np.array(SECTORS[: min(len(SECTORS), max(1, items // 5))])
    sectors = np.sort(names)[np.arange(items) % len(names)]
    sector_index = np.unique(sectors, return_inverse=True)[1]
    beta = np.clip(rng.normal(1.0, 0.3, items), 0.2, 2.0)
    item_level = _ITEM_LEVEL * np.exp(rng.normal(0, 0.35, items))
    regime = Regime(
        np.full(1, _MARKET_LEVEL**2), np.full((1, len(names)), _SECTOR_LEVEL**2), item_level[None, :] ** 2, np.zeros((1, items))
    )
    states, returns = [], np.empty((count, items))
    for session in range(count):
        regime, log_return = advance(regime, beta, item_level, sector_index, rng)
        returns[session] = log_return[0]
        states.append(regime)
    busy = np.concatenate([state.busy for state in states])
    usual = rng.normal(13.5, 0.9, items)
    adjusted = np.exp(rng.normal(4.0, 0.7, items) + np.cumsum(returns, axis=0))
    listed = np.where(rng.random(items) < 0.05, rng.integers(0, max(1, count * 2 // 3), items), 0)
    traded = (np.arange(count)[:, None] >= listed) & ~_halts(rng, count, items)
    split_session, split_item, split_ratio, factor = _splits(rng, traded)
    bars = _bars(rng, adjusted * factor, returns, np.exp(usual + busy) / factor, traded)
    return Market(
        calendar=np.array(calendar),
        dates=days,
        item_ids=np.array([_ticker(i) for i in range(items)]),
        sectors=sectors,
        **bars,
        split_factor=factor,
        split_session=split_session,
        split_item=split_item,
        split_ratio=split_ratio,
        listed=listed,
        **item_latents(settings, items),
        beta=beta,
        item_level=item_level,
        usual_log_volume=usual,
        variance_market=np.concatenate([state.market for state in states]),
        variance_sector=np.concatenate([state.sector for state in states]),
        variance_item=np.concatenate([state.item for state in states]),
        busy=busy,
    )


def _ticker(number: int) -> str:
    letters = ""
    for _ in range(3):
        number, rest = divmod(number, 26)
        letters = chr(ord("A") + rest) + letters
    return letters if number == 0 else f"{letters}{number}"


def _halts(rng: np.random.Generator, count: int, items: int) -> Array:
    """(S, I) True on the one to three sessions of each trading halt."""
    halted = np.zeros((count, items), bool)
    for session, item in zip(*np.nonzero(rng.random((count, items)) < HALT_RATE), strict=True):
        halted[session : session + rng.integers(1, 4), item] = True
    return halted


def _splits(rng: np.random.Generator, traded: Array) -> tuple[Array, Array, Array, Array]:
    """About one split for every fifteen items, on a session the item trades, and the cumulative factor."""
    items = traded.shape[1]
    chosen = rng.permutation(items)[: max(1, items // 15)]
    factor = np.ones(traded.shape)
    found = []
    for item in np.sort(chosen):
        candidates = np.flatnonzero(traded[:, item])[5:-1]
        if candidates.size:
            session, ratio = int(rng.choice(candidates)), float(rng.choice(SPLIT_RATIOS))
            factor[:session, item] *= ratio
            found.append((session, item, ratio))
    return (
        np.array([session for session, _, _ in found], int),
        np.array([item for _, item, _ in found], int),
        np.array([ratio for _, _, ratio in found], float),
        factor,
    )


def _bars(rng: np.random.Generator, close: Array, returns: Array, volume: Array, traded: Array) -> dict[str, Array]:
    """Open, high, low, volume-weighted price and trade count around the closes; NaN where not traded."""
    opened = close * np.exp(-returns * rng.uniform(0.2, 1.0, close.shape))
    spread = 0.004 + 0.5 * np.abs(returns)
    close, opened = np.maximum(np.round(close, 2), 0.01), np.maximum(np.round(opened, 2), 0.01)
    high = np.round(np.maximum(close, opened) * (1 + spread * rng.random(close.shape)), 2)
    low = np.maximum(np.round(np.minimum(close, opened) * (1 - spread * rng.random(close.shape)), 2), 0.01)
    vwap = np.round(low + (high - low) * rng.uniform(0.3, 0.7, close.shape), 4)
    volume = np.maximum(np.round(volume), 1.0)
    trades = np.maximum(np.round(volume / np.exp(rng.normal(4.8, 0.2, close.shape))), 1.0)
    named = {"open": opened, "high": high, "low": low, "close": close, "volume": volume, "vwap": vwap, "trade_count": trades}
    return {name: np.where(traded, values, np.nan) for name, values in named.items()}
