"""The simulated user master and item master, as their source systems deliver them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from propensity_spark.config import SimulateSettings
from propensity_spark.simulate.events import Deliveries
from propensity_spark.simulate.generator import SECTORS
from propensity_spark.simulate.investors import RISK_LEVELS, draw_crowd
from propensity_spark.simulate.market import Market


def user_name(number: int) -> str:
    return f"U{number:07d}"


def user_rows(simulation: SimulateSettings, market: Market, batch: int) -> pd.DataFrame:
    """The user master of one batch: a row at signup, and one more where the risk tolerance changes; known at noon UTC of that day."""
    crowd = draw_crowd(simulation, market, batch)
    rng = np.random.default_rng([simulation.seed, 204, batch])
    user = np.arange(crowd.size)
    wealth = np.log(crowd.ticket) + rng.normal(0, 0.5, crowd.size)
    segment = np.array(["retail", "affluent", "private"])[np.digitize(wealth, [7.3, 8.3])]
    country = rng.choice(["US", "CA", "GB", "DE"], crowd.size, p=[0.8, 0.1, 0.06, 0.04])
    last = (simulation.end - simulation.start).days
    changed = (crowd.risk_change > crowd.signup) & (crowd.risk_change <= last)
    who = np.concatenate([user, user[changed]])
    since = np.concatenate([crowd.signup, crowd.risk_change[changed]])
    risk = np.concatenate([crowd.risk, crowd.risk_after[changed]])
    valid_from = np.datetime64(simulation.start) + since
    return pd.DataFrame(
        {
            "user_id": [user_name(crowd.first_user + int(number)) for number in who],
            "valid_from": valid_from.astype(object),
            "risk_tolerance": np.array(RISK_LEVELS)[risk],
            "user_segment": segment[who],
            "country": country[who],
            "signup_date": (np.datetime64(simulation.start) + crowd.signup[who]).astype(object),
            "known_at": valid_from.astype("datetime64[us]") + np.timedelta64(12, "h"),
            "delivery": Deliveries.of(simulation).dates(valid_from).astype(object),
        }
    )


def write_items(simulation: SimulateSettings, market: Market, folder: Path) -> None:
    """`items_<date>.jsonl`: the master at the start, a file for each later listing, and two reclassified items."""
    rng = np.random.default_rng([simulation.seed, 205])
    files: dict[date, list[dict[str, object]]] = {}
    names = sorted(set(market.sectors.tolist()) | set(SECTORS[:2]))
    size = np.array(["small", "mid", "large"])[np.digitize(market.usual_log_volume, [13.0, 14.2])]

    def add(delivered: date, item: int, valid_from: date, sector: str, known: datetime) -> None:
        files.setdefault(delivered, []).append(
            {
                "item_id": str(market.item_ids[item]),
                "valid_from": valid_from.isoformat(),
                "valid_to": None,
                "name": f"{market.item_ids[item]} {sector} Corp",
                "sector": sector,
                "category": "common_stock",
                "market_cap_category": str(size[item]),
                "known_at": known.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )

    for item, session in enumerate(market.listed):
        listed: date = market.dates[session].item()
        add(listed, item, listed, str(market.sectors[item]), datetime(listed.year, listed.month, listed.day, 10, tzinfo=UTC))
    for item in np.sort(rng.permutation(len(market.item_ids))[:2]):
        first = int(market.listed[item])
        changed: date = market.dates[int(rng.integers(first, len(market.dates)))].item()
        known = changed + timedelta(days=int(rng.integers(0, 6)))
        other = [name for name in names if name != market.sectors[item]]
        add(known, int(item), changed, str(rng.choice(other)), datetime(known.year, known.month, known.day, 15, tzinfo=UTC))
    folder.mkdir()
    for delivered, rows in sorted(files.items()):
        (folder / f"items_{delivered}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
