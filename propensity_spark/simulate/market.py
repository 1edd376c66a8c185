"""The market that simulated investors trade on: its bars, and what makes items liked for no visible reason. Pure numpy."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from propensity_spark.config import SimulateSettings

Array = npt.NDArray[Any]

TASTE_DIMENSIONS = 5
BUZZ_MEMORY = 0.96
BUZZ_SPREAD = 0.6


@dataclass(frozen=True)
class Market:
    """Daily bars of `S` sessions × `I` items as reported, and what only the simulator knows.

    Bars are NaN where an item did not trade (halt, not listed yet). `split_factor` is the product of the ratios of all
    splits with a later ex-date: reported price = adjusted price × factor, reported volume = adjusted volume / factor.
    `variance_*` and `busy` are the generator's state after each session; empty for a market made from real bars.
    """

    calendar: Array
    dates: Array
    item_ids: Array
    sectors: Array
    open: Array
    high: Array
    low: Array
    close: Array
    volume: Array
    vwap: Array
    trade_count: Array
    split_factor: Array
    split_session: Array
    split_item: Array
    split_ratio: Array
    listed: Array
    quality: Array
    loadings: Array
    buzz_start: Array
    buzz: Array
    beta: Array
    item_level: Array
    usual_log_volume: Array
    variance_market: Array
    variance_sector: Array
    variance_item: Array
    busy: Array

    @property
    def traded(self) -> Array:
        """(S, I) True where the item has a bar."""
        return ~np.isnan(self.close)

    @property
    def adjusted_close(self) -> Array:
        """(S, I) closes on the share count after the last split; NaN where not traded."""
        return self.close / self.split_factor

    @property
    def is_simulated(self) -> bool:
        return self.variance_market.size > 0

    @property
    def sector_index(self) -> Array:
        """(I,) position of each item's sector among the sorted sector names."""
        return np.unique(self.sectors, return_inverse=True)[1]

    def session_on_or_before(self, day: date) -> int:
        """Index of the last session on or before `day`, -1 when there is none."""
        return int(np.searchsorted(self.dates, np.datetime64(day), side="right")) - 1

    def save(self, path: Path) -> None:
        """Write as .npz, atomically."""
        body = io.BytesIO()  # a zip archive is written back and forth, which a volume does not take
        np.savez(body, **{field.name: getattr(self, field.name) for field in fields(self)})
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(body.getvalue())
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> Market:
        with np.load(path, allow_pickle=False) as stored:
            return Market(**{field.name: stored[field.name] for field in fields(Market)})


def market_from_bars(bars: pd.DataFrame, sectors: dict[str, str], settings: SimulateSettings, calendar: str) -> Market:
    """A market from real daily bars (item_id, session_date, open, high, low, close, volume), already adjusted.

    Items without a sector are left out; a bar without a positive close and volume counts as not traded.
    """
    known = bars[bars["item_id"].isin(list(sectors)) & (bars["close"] > 0) & (bars["volume"] > 0)]
    known = known.drop_duplicates(["item_id", "session_date"])
    wide = {name: known.pivot(index="session_date", columns="item_id", values=name) for name in ("open", "high", "low", "close", "volume")}
    close = wide["close"].to_numpy(float)
    items = close.shape[1]
    empty = np.empty(0)
    return Market(
        calendar=np.array(calendar),
        dates=np.array(wide["close"].index.to_numpy(), dtype="datetime64[D]"),
        item_ids=wide["close"].columns.to_numpy().astype(str),
        sectors=np.array([sectors[item] for item in wide["close"].columns]),
        **{name: frame.to_numpy(float) for name, frame in wide.items()},
        vwap=np.full(close.shape, np.nan),
        trade_count=np.full(close.shape, np.nan),
        split_factor=np.ones(close.shape),
        split_session=empty.astype(int),
        split_item=empty.astype(int),
        split_ratio=empty,
        listed=np.argmax(~np.isnan(close), axis=0),
        **item_latents(settings, items),
        beta=empty,
        item_level=empty,
        usual_log_volume=empty,
        variance_market=empty,
        variance_sector=empty,
        variance_item=empty,
        busy=empty,
    )


def item_latents(settings: SimulateSettings, items: int) -> dict[str, Array]:
    """What makes items liked for no visible reason: quality, taste loadings, and buzz that wanders from day to day."""
    rng = np.random.default_rng([settings.seed, 102])
    days = (settings.end - settings.start).days + 1
    buzz = np.empty((days, items))
    level = BUZZ_SPREAD * rng.standard_normal(items)
    for day in range(days):
        level = next_buzz(level, rng)
        buzz[day] = level
    return {
        "quality": 0.6 * rng.standard_normal(items),
        "loadings": rng.standard_normal((items, TASTE_DIMENSIONS)) / np.sqrt(TASTE_DIMENSIONS),
        "buzz_start": np.array(settings.start, dtype="datetime64[D]"),
        "buzz": buzz,
    }


def next_buzz(level: Array, rng: np.random.Generator) -> Array:
    """One calendar day of the AR(1) that no feature sees."""
    following: Array = BUZZ_MEMORY * level + BUZZ_SPREAD * np.sqrt(1 - BUZZ_MEMORY**2) * rng.standard_normal(level.shape)
    return following
