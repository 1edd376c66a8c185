"""Minute bars inside a daily bar: a random bridge that opens, closes, peaks and bottoms where the day did. Pure numpy."""

from __future__ import annotations

import numpy as np

from propensity_spark.simulate.market import Array, Market


def minute_bars(market: Market, seed: int, session: int, item: int, minutes: int) -> dict[str, Array]:
    """open, high, low, close, volume, vwap and trade_count of each of the session's minutes, as reported.

    The same for the same seed, session and item. Their first open, last close, highest high, lowest low and total
    volume are those of the daily bar. The item must have traded.
    """
    rng = np.random.default_rng([seed, 401, session, item])
    opened, high, low, close = (float(getattr(market, name)[session, item]) for name in ("open", "high", "low", "close"))
    position = np.arange(minutes + 1) / minutes
    walk = np.cumsum(np.concatenate([[0.0], rng.standard_normal(minutes)])) / np.sqrt(minutes)
    bridge = opened + (close - opened) * position + 0.6 * (high - low) * (walk - position * walk[-1])
    path = np.round(np.clip(bridge, low, high), 2)
    path[0], path[-1] = opened, close
    highs, lows = np.maximum(path[:-1], path[1:]), np.minimum(path[:-1], path[1:])
    highs[np.argmax(highs)], lows[np.argmin(lows)] = high, low
    busy = 0.4 + (2 * position[:-1] - 1) ** 2 + 0.3 * rng.random(minutes)
    volume = rng.multinomial(int(market.volume[session, item]), busy / busy.sum()).astype(float)
    return {
        "open": path[:-1],
        "high": highs,
        "low": lows,
        "close": path[1:],
        "volume": volume,
        "vwap": np.round((highs + lows + path[1:]) / 3, 4),
        "trade_count": np.ceil(volume / 120),
    }
