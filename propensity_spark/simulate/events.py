"""From a batch's visits to delivered rows of activity: times, orders, fills, prices, late and corrected versions. Pure numpy.

Everything here is decoration with its own generator: it cannot change what the investors do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from propensity_spark.config import SimulateSettings
from propensity_spark.simulate.investors import NO_ITEM, NOTHING, Crowd, State, Visits, draw_crowd, first_state, step
from propensity_spark.simulate.market import Array, Market
from propensity_spark.simulate.perception import Past, history

EVENT_TYPES = ("search", "view", "watchlist_add", "sell", "buy", "cancel")
SEARCH, VIEW, WATCH, SELL, BUY, CANCEL = range(6)
MICROSECONDS = 1_000_000
DAY = 86_400 * MICROSECONDS
TWO_FILLS = 0.08
DAILY_DAYS = 120


@dataclass(frozen=True)
class Deliveries:
    """When rows are delivered: monthly files dated by the last day of the month, and daily ones from `daily_from` on."""

    first: date
    daily_from: date

    @staticmethod
    def of(settings: SimulateSettings) -> Deliveries:
        """Daily from the first of the month that holds the day 120 days before the simulation's end."""
        return Deliveries(settings.start, (settings.end - timedelta(days=DAILY_DAYS)).replace(day=1))

    def dates(self, known: Array) -> Array:
        """Date of the file that delivers what became known on each local date (datetime64[D])."""
        known = np.maximum(known, np.datetime64(self.first))
        month_end = (known.astype("datetime64[M]") + 1).astype("datetime64[D]") - 1
        return np.where(known < np.datetime64(self.daily_from), month_end, known)


def live(
    settings: SimulateSettings, market: Market, past: Past, batch: int, last: date | None = None
) -> Iterator[tuple[int, int, Crowd, State, Visits]]:
    """Live one batch's days up to `last`: (day number, session, crowd, state after the day, visits of the day)."""
    crowd = draw_crowd(settings, market, batch)
    state = first_state(crowd, len(market.item_ids))
    rng = np.random.default_rng([settings.seed, 202, batch])
    for day in history(market, past, last):
        visits = step(crowd, state, day, rng)
        yield day.number, day.session, crowd, state, visits


def batch_events(settings: SimulateSettings, market: Market, past: Past, zone: str, batch: int) -> pd.DataFrame:
    """Every delivered row of one batch of users, as numbers (see `world.activity` for the delivered form).

    Columns: user, item (-1: none), type (position in EVENT_TYPES), event, order (-1: none), session (numbers within the
    batch), ts and known (UTC microseconds), quantity (NaN: none), price and amount (1/10000 of the currency, 0 where
    quantity is NaN), deleted, delivery (days since 1970).
    """
    rng = np.random.default_rng([settings.seed, 203, batch])
    crowd, days = _lived(settings, market, past, batch)
    events = _flatten(days, rng)
    events = _trade(events, crowd, market, rng)
    events = _time(events, crowd, settings, zone, rng)
    events["user"] += crowd.first_user
    return _deliver(_versions(events, settings, rng), settings, zone, rng)


def _lived(settings: SimulateSettings, market: Market, past: Past, batch: int) -> tuple[Crowd, dict[str, Array]]:
    """The batch's visits of all days below each other, with the day and market session of each."""
    parts: list[dict[str, Array]] = []
    crowd = draw_crowd(settings, market, batch)
    for number, session, _, _, visits in live(settings, market, past, batch):
        count = visits.who.count
        if count:
            parts.append(
                {
                    "day": np.full(count, number),
                    "market_session": np.full(count, session),
                    "user": visits.who.user,
                    "searched": visits.searched,
                    "viewed": visits.viewed,
                    "watched": visits.watched,
                    "sold": visits.sold,
                    "ordered": visits.orders.item,
                    "cancelled": visits.orders.cancelled,
                    "whole": visits.orders.whole,
                }
            )
    return crowd, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _flatten(days: dict[str, Array], rng: np.random.Generator) -> pd.DataFrame:
    """One row per event, in the order in which it happens within its visit; an order may have two fills."""
    if not days:
        return pd.DataFrame(
            {
                name: np.empty(0, int)
                for name in ("visit", "place", "type", "item", "delay", "whole", "order", "user", "day", "market_session")
            }
        )
    parts = [
        _column(days["searched"], SEARCH, 0),
        *(_column(days["viewed"][:, k], VIEW, 1 + k) for k in range(days["viewed"].shape[1])),
        _column(days["watched"], WATCH, 20),
        _column(days["sold"], SELL, 30),
    ]
    for slot in range(days["ordered"].shape[1]):
        order = _column(days["ordered"][:, slot], BUY, 40 + 2 * slot)
        order["delay"] = days["cancelled"][order["visit"], slot]
        order["whole"] = days["whole"][order["visit"], slot]
        parts.append(order)
    events = pd.concat(parts, ignore_index=True)
    events = events.sort_values(["visit", "place"], ignore_index=True)
    trades = events["type"].isin([BUY, SELL])
    events["order"] = np.where(trades, np.cumsum(trades) - 1, -1)
    for name in ("user", "day", "market_session"):
        events[name] = days[name][events["visit"]]
    twice = (events["type"] == BUY) & (rng.random(len(events)) < TWO_FILLS)
    return pd.concat([events, events[twice].assign(place=events["place"] + 1)], ignore_index=True).sort_values(
        ["visit", "place"], ignore_index=True, kind="stable"
    )


def _column(items: Array, kind: int, place: int) -> pd.DataFrame:
    visit = np.flatnonzero(items != NOTHING)
    item = items[visit]
    return pd.DataFrame(
        {"visit": visit, "place": place, "type": kind, "item": np.where(item == NO_ITEM, -1, item), "delay": 0, "whole": False}
    )


def _trade(events: pd.DataFrame, crowd: Crowd, market: Market, rng: np.random.Generator) -> pd.DataFrame:
    """Price (the session's close), quantity and amount of buys and sells, and the cancel events of cancelled orders.

    A sell sells all shares bought since the last one, splits included.
    """
    kind, item = events["type"].to_numpy(), events["item"].to_numpy()
    trade = (kind == BUY) | (kind == SELL)
    session = np.where(trade, events["market_session"].to_numpy(), 0)
    close = np.where(trade, market.close[session, np.maximum(item, 0)], np.nan)
    factor = market.split_factor[session, np.maximum(item, 0)]
    ticket = crowd.ticket[events["user"].to_numpy()] * np.exp(0.4 * rng.standard_normal(len(events)))
    bought = np.where(kind == BUY, np.maximum(np.rint(ticket / np.where(trade, close, 1.0)), 1.0), 0.0)
    quantity = np.where(kind == BUY, bought, np.where(kind == SELL, _position_sold(events, bought, factor), np.nan))
    events = events.assign(quantity=quantity, price=np.where(trade, np.rint(close * 10_000), 0).astype(np.int64))
    return pd.concat([events, _cancellations(events)], ignore_index=True)


def _position_sold(events: pd.DataFrame, bought: Array, factor: Array) -> Array:
    """Shares held at each sell: what was bought of the pair since its last sell, net of cancellations, at least one."""
    whole = events["whole"].to_numpy(bool)
    delay = events["delay"].to_numpy()
    kept = np.where(delay == 0, bought, np.where(whole, 0.0, bought - np.floor(bought / 2)))
    pair = events["user"].to_numpy() * 1_000_000 + events["item"].to_numpy()
    frame = pd.DataFrame({"pair": pair, "sold": events["type"].to_numpy() == SELL, "shares": kept / factor})
    spell = frame.groupby("pair")["sold"].cumsum() - frame["sold"]
    held = frame.groupby([frame["pair"], spell])["shares"].cumsum().to_numpy()
    shares: Array = np.maximum(np.rint(held * factor), 1.0)
    return shares


def _cancellations(events: pd.DataFrame) -> pd.DataFrame:
    """One cancel per cancelled order, negative, of all its fills or of half; a visit of its own, a day or two later."""
    undone = events[(events["type"] == BUY) & (events["delay"] > 0)]
    orders = undone.groupby("order", sort=True, as_index=False).agg(
        {**dict.fromkeys(undone.columns.drop(["order", "quantity"]), "first"), "quantity": "sum"}
    )
    quantity = np.where(orders["whole"].astype(bool), orders["quantity"], np.floor(orders["quantity"] / 2))
    visit = int(events["visit"].max()) + 1 if len(events) else 0
    cancel = orders.assign(
        type=CANCEL, place=0, quantity=-quantity, day=orders["day"] + orders["delay"], visit=visit + np.arange(len(orders))
    )
    return cancel[cancel["quantity"] < 0]


def _time(events: pd.DataFrame, crowd: Crowd, settings: SimulateSettings, zone: str, rng: np.random.Generator) -> pd.DataFrame:
    """Instants within the local day: visits start between 07:00 and 21:30, events follow some seconds apart."""
    limit = (settings.end - settings.start).days
    events = events[events["day"] <= limit].sort_values(["day", "visit", "place"], ignore_index=True, kind="stable")
    visit, first = np.unique(events["visit"].to_numpy(), return_index=True)
    row = np.searchsorted(visit, events["visit"].to_numpy())
    hour = np.clip(crowd.hour[events["user"].to_numpy()[first]] + rng.normal(0, 2.0, len(visit)), 7.0, 21.5)
    seconds = pd.Series(rng.uniform(5, 90, len(events))).groupby(row).cumsum().to_numpy()
    start = midnights(settings.start, limit, zone)
    ts = start[events["day"].to_numpy()] + np.rint((hour[row] * 3600 + seconds) * MICROSECONDS).astype(np.int64)
    return events.assign(ts=ts, event=np.arange(len(events)), session=events["visit"])


def midnights(start: date, last: int, zone: str) -> Array:
    """UTC microseconds from which `hours since midnight` counts, per day, right from 03:00 local on (after any clock change)."""
    noon = datetime(start.year, start.month, start.day, 12, tzinfo=ZoneInfo(zone))
    stamps = [(noon + timedelta(days=number)).timestamp() - 12 * 3600 for number in range(last + 1)]
    return (np.array(stamps) * MICROSECONDS).astype(np.int64)


def _versions(events: pd.DataFrame, settings: SimulateSettings, rng: np.random.Generator) -> pd.DataFrame:
    """When each row is known, and its later versions: corrected quantities and deletions, one to five days after."""
    rows = len(events)
    prompt = rng.integers(1, 300, rows) * MICROSECONDS
    late = rng.random(rows) < settings.late_share
    known = events["ts"].to_numpy() + np.where(late, rng.integers(1, 4, rows) * DAY, 0) + prompt
    events = events.assign(known=known, deleted=False)
    fate = rng.random(rows)
    later = events.assign(known=known + rng.integers(1, 6, rows) * DAY)
    plain = (events["type"] != CANCEL) & (events["delay"] == 0)
    corrected = later[(fate < settings.corrected_share) & plain & events["quantity"].notna()]
    changed = np.maximum(np.rint(corrected["quantity"] * rng.uniform(0.5, 1.6, len(corrected))), 1.0)
    corrected = corrected.assign(quantity=np.where(changed == corrected["quantity"], changed + 1, changed))
    deleted = later[(fate > 1 - settings.deleted_share) & plain].assign(deleted=True)
    return pd.concat([events, corrected, deleted], ignore_index=True)


def _deliver(events: pd.DataFrame, settings: SimulateSettings, zone: str, rng: np.random.Generator) -> pd.DataFrame:
    """The file date of every row, and rows delivered twice: in the same file, or again in that of the next day."""
    deliveries = Deliveries.of(settings)
    limit = (settings.end - settings.start).days + 10
    local_day = np.searchsorted(midnights(settings.start, limit, zone), events["known"].to_numpy(), side="right") - 1
    known = np.datetime64(settings.start) + local_day
    again = np.flatnonzero(rng.random(len(events)) < settings.repeated_share)
    shift = rng.integers(0, 2, len(again))
    delivery = np.concatenate([deliveries.dates(known), deliveries.dates(known[again] + shift)])
    events = pd.concat([events, events.iloc[again]], ignore_index=True)
    amount = np.where(events["quantity"].notna(), events["quantity"].fillna(0) * events["price"], 0).astype(np.int64)
    kept = ["user", "item", "type", "event", "order", "session", "ts", "known", "quantity", "price", "deleted"]
    return events[kept].assign(amount=amount, delivery=delivery.astype("datetime64[D]").astype(np.int64).astype(np.int32))
