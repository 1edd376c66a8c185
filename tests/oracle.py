"""The features once more: slow, in plain Python over lists of dicts, straight from the definitions. No Spark, no windows."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

Row = dict[str, Any]
SEGMENTS = (
    ("champions", lambda r, f, m: r >= 4 and f >= 4 and m >= 4),
    ("loyal", lambda r, f, m: r >= 3 and f >= 4),
    ("recent", lambda r, f, m: r >= 4),
    ("at_risk", lambda r, f, m: r <= 2 and f >= 3),
    ("lost", lambda r, f, m: r <= 2),
    ("regular", lambda r, f, m: True),
)


def visible(versions: Iterable[Row], key: tuple[str, ...], day: date) -> list[Row]:
    """What is seen at the end of `day`: of each key the version known last, unless that one is a deletion."""
    newest: dict[tuple[Any, ...], Row] = {}
    for row in versions:
        if row["visible_date"] <= day:
            name = tuple(row[part] for part in key)
            if name not in newest or row["known_at"] > newest[name]["known_at"]:
                newest[name] = row
    return [row for row in newest.values() if not row["is_deleted"]]


def attributes(versions: Iterable[Row], entity: str, day: date) -> dict[str, Row]:
    """Of each entity the visible version with the latest valid_from among those that hold on `day`."""
    holding: dict[str, Row] = {}
    for row in visible(versions, (entity, "valid_from"), day):
        holds = row["valid_from"] <= day and (row["valid_to"] is None or day < row["valid_to"])
        if holds and (row[entity] not in holding or row["valid_from"] > holding[row[entity]]["valid_from"]):
            holding[row[entity]] = row
    return holding


def within(rows: Iterable[Row], day: date, days: int) -> list[Row]:
    return [row for row in rows if day - timedelta(days=days) < row["event_date"] <= day]


def order_dates(rows: Iterable[Row]) -> list[date]:
    """The date of the first buy of each order."""
    dates: dict[str, list[date]] = defaultdict(list)
    for row in rows:
        if row["event_type"] == "buy":
            dates[row["order_id"]].append(row["event_date"])
    return [min(found) for found in dates.values()]


def spending(rows: Iterable[Row], sectors: dict[str, str | None], day: date) -> dict[str | None, Decimal]:
    spent: dict[str | None, Decimal] = defaultdict(Decimal)
    for row in within(rows, day, 365):
        if row["event_type"] == "buy":
            spent[sectors.get(row["item_id"])] += row["amount"] or 0
    return spent


def sectors_on(items: list[Row] | None, day: date) -> dict[str, str | None]:
    return {} if items is None else {item: row["sector"] for item, row in attributes(items, "item_id", day).items()}


def user_features(activity: list[Row], users: list[Row] | None, items: list[Row] | None, day: date, levels: tuple[str, ...]) -> list[Row]:
    by_user: dict[str, list[Row]] = defaultdict(list)
    for row in visible(activity, ("event_id",), day):
        by_user[row["user_id"]].append(row)
    has_sessions = any(row["session_id"] is not None and row["visible_date"] <= day for row in activity)
    profiles = {} if users is None else attributes(users, "user_id", day)
    sectors = sectors_on(items, day)
    rows = [_user(name, events, day, sectors, has_sessions) for name, events in by_user.items()]
    for row in rows:
        level = profiles[row["user_id"]]["risk_tolerance"] if row["user_id"] in profiles else None
        row["risk_level"] = levels.index(level) + 1 if level in levels else None
    _rfm(rows)
    return rows


def _user(name: str, events: list[Row], day: date, sectors: dict[str, str | None], has_sessions: bool) -> Row:
    buys = [row for row in events if row["event_type"] == "buy"]
    views = [row for row in events if row["event_type"] == "view"]
    money = [row for row in events if row["event_type"] in ("buy", "cancel")]
    row: Row = {"user_id": name, "as_of_date": day, "day_of_week": day.isoweekday()}
    row["recency_days"] = (day - max(buy["event_date"] for buy in buys)).days if buys else None
    for days in (30, 90, 365):
        row[f"frequency_{days}d"] = sum(day - timedelta(days=days) < first <= day for first in order_dates(buys))
        row[f"monetary_{days}d"] = sum((each["amount"] or Decimal(0) for each in within(money, day, days)), Decimal(0))
    frequency = row["frequency_365d"]
    row["avg_ticket_365d"] = float(row["monetary_365d"]) / frequency if frequency else None
    row["tenure_days"] = (day - min(each["event_date"] for each in events)).days
    for days in (7, 30):
        row[f"views_{days}d"] = len(within(views, day, days))
    row["active_days_30d"] = len({each["event_date"] for each in within(events, day, 30)})
    visits = {each["session_id"] for each in within(events, day, 30)} - {None}
    row["sessions_30d"] = len(visits) if has_sessions else None
    spent = spending(events, sectors, day)
    total = sum(spent.values(), Decimal(0))
    row["portfolio_diversity"] = float(1 - sum((part / total) ** 2 for part in spent.values())) if total > 0 else None
    return row


def _rfm(rows: list[Row]) -> None:
    buyers = [row for row in rows if row["recency_days"] is not None and row["recency_days"] < 365]
    worse = {
        "rfm_r": lambda one, other: other["recency_days"] > one["recency_days"],
        "rfm_f": lambda one, other: other["frequency_365d"] < one["frequency_365d"],
        "rfm_m": lambda one, other: other["monetary_365d"] < one["monetary_365d"],
    }
    for row in rows:
        row.update({"rfm_r": None, "rfm_f": None, "rfm_m": None, "rfm_segment": None})
    for row in buyers:
        for name, is_worse in worse.items():
            row[name] = 1 + 5 * sum(is_worse(row, other) for other in buyers) // len(buyers)
        row["rfm_segment"] = next(name for name, holds in SEGMENTS if holds(row["rfm_r"], row["rfm_f"], row["rfm_m"]))


def user_item_features(activity: list[Row], items: list[Row] | None, day: date, candidates: Row) -> list[Row]:
    events = visible(activity, ("event_id",), day)
    sectors = sectors_on(items, day)
    known = set(sectors) if items is not None else {row["item_id"] for row in events} - {None}
    buyers = {
        item: {
            days: {row["user_id"] for row in within(events, day, days) if row["event_type"] == "buy" and row["item_id"] == item}
            for days in (7, 30, 90)
        }
        for item in known
    }
    ranking = sorted((item for item in known if buyers[item][30]), key=lambda item: (-len(buyers[item][30]), item))
    rows = []
    for user in {row["user_id"] for row in events}:
        own = [row for row in events if row["user_id"] == user]
        spent = spending(own, sectors, day)
        affine = set()
        best = sorted((sector for sector in spent if sector is not None and spent[sector] > 0), key=lambda sector: (-spent[sector], sector))
        for sector in best[: candidates["affine_sectors"]]:
            affine |= set([item for item in ranking if sectors[item] == sector][: candidates["items_per_affine_sector"]])
        reasons = {
            "held": {row["item_id"] for row in within(own, day, candidates["held_days"]) if row["event_type"] == "buy"},
            "viewed": {row["item_id"] for row in within(own, day, candidates["viewed_days"]) if row["event_type"] == "view"},
            "affine": affine,
            "popular": set(ranking[: candidates["popular_items"]]),
            "all": known if candidates["all_items"] else set(),
        }
        left_out = reasons["held"] if candidates["exclude_held"] else set()
        for item in (known & set().union(*reasons.values())) - left_out:
            row = _pair([event for event in own if event["item_id"] == item], day)
            source = next(name for name, chosen in reasons.items() if item in chosen)
            row |= {"user_id": user, "item_id": item, "as_of_date": day, "candidate_source": source}
            total = sum(spent.values(), Decimal(0))
            row["sector_affinity_365d"] = float(spent.get(sectors.get(item), Decimal(0)) / total) if total > 0 else None
            counts = {days: len(found) for days, found in buyers[item].items()}
            row |= {f"item_buyers_{days}d": count for days, count in counts.items()}
            row["item_buyers_trend"] = counts[7] * (30 / 7) / counts[30] if counts[30] else None
            rows.append(row)
    return rows


def lately(buys: list[Row], day: date) -> int:
    """1, and 1 more for each window with a buy: 8 · 0.5 ** (age / 120), rounded, falls from 8 to 1 at these ages."""
    return 1 + sum(bool(within(buys, day, days)) for days in (11, 36, 65, 100, 143, 201, 290))


def size(owned: dict[str, int]) -> int:
    return next((place for place, most in enumerate((1, 2, 4, 8, 16)) if len(owned) <= most), 5)


def with_crowd(rows: list[Row], activity: list[Row], users: list[Row] | None, day: date, held_days: int, rule: Row) -> list[Row]:
    """The rows of `user_item_features` of one day with the features of the crowd."""
    buys = [row for row in visible(activity, ("event_id",), day) if row["event_type"] == "buy" and row["item_id"] is not None]
    has: dict[str, dict[str, int]] = defaultdict(dict)  # user → item → weight
    aged = buys if rule["age_from"] == "event" else [{**row, "event_date": row["visible_date"]} for row in buys]
    for buy in within(aged, day, held_days):
        same = [row for row in aged if (row["user_id"], row["item_id"]) == (buy["user_id"], buy["item_id"])]
        has[buy["user_id"]][buy["item_id"]] = lately(same, day)
    few = [owned for owned in has.values() if len(owned) <= rule["max_items"]]
    items = sorted({item for owned in has.values() for item in owned})
    links: dict[str, dict[str, int]] = {}
    for one in items:
        owners = [owned for owned in few if one in owned]
        both = {other: [owned[other] for owned in owners if other in owned] for other in items if other != one}
        found = {
            other: int(1_000_000 * sum(weights) / math.sqrt(len(owners)))
            for other, weights in both.items()
            if len(weights) >= rule["min_users"]
        }
        links[one] = {other: found[other] for other in sorted(found, key=lambda other: (-found[other], other))[: rule["neighbours"]]}
    total = sum(weight for owned in has.values() for weight in owned.values())
    profiles = {} if users is None else attributes(users, "user_id", day)
    risks = {user: profile["risk_tolerance"] for user, profile in profiles.items()}
    sizes = {user: size(owned) for user, owned in has.items()}
    for row in rows:
        item, owned = row["item_id"], has.get(row["user_id"], {})
        dates = [buy["event_date"] for buy in buys if buy["item_id"] == item] if item in items else []
        row["item_age_days"] = (day - min(dates)).days if dates else None
        row["item_idle_days"] = (day - max(dates)).days if dates else None
        row["item_owners"] = sum(item in other for other in has.values())
        row["items_held"] = len(owned)
        everyone = sum(other.get(item, 0) for other in has.values()) / total if total else 0.0
        row["item_lately_share"] = everyone
        reach = sum(sum(links[one].values()) for one in owned)
        row["co_purchase_lately"] = sum(links[one].get(item, 0) for one in owned) / reach if reach else 0.0
        for name, trait in (("size_lately_share", sizes), ("risk_lately_share", risks)):
            alike = [other for user, other in has.items() if trait.get(user) == trait.get(row["user_id"])]
            of_all = sum(weight for other in alike for weight in other.values())
            of_item = sum(other.get(item, 0) for other in alike)
            row[name] = (of_item + 20 * everyone) / (of_all + 20) if trait.get(row["user_id"]) is not None else None
    return rows


def _pair(events: list[Row], day: date) -> Row:
    views = [row for row in events if row["event_type"] == "view"]
    buys = [row for row in events if row["event_type"] == "buy"]
    return {
        "item_views_7d": len(within(views, day, 7)),
        "item_views_30d": len(within(views, day, 30)),
        "item_purchases_365d": sum(day - timedelta(days=365) < first <= day for first in order_dates(buys)),
        "days_since_item_view": (day - max(row["event_date"] for row in views)).days if views else None,
        "days_since_item_purchase": (day - max(row["event_date"] for row in buys)).days if buys else None,
    }


def market_features(bars: list[Row], actions: list[Row], items: list[Row] | None, day: date) -> list[Row]:
    seen = [row for row in visible(bars, ("item_id", "bar_size", "ts"), day) if row["bar_size"] == "1d"]
    splits = [row for row in visible(actions, ("item_id", "ex_date", "action"), day) if row["action"] == "split"]
    sectors = sectors_on(items, day)
    rows = []
    for item in {row["item_id"] for row in seen}:
        series = sorted((row for row in seen if row["item_id"] == item), key=lambda row: row["session_date"])
        own = [split for split in splits if split["item_id"] == item and split["ex_date"] <= day]
        row = _market(series, own) if (day - series[-1]["session_date"]).days <= 7 else dict.fromkeys(_market(series, own))
        row |= {"item_id": item, "as_of_date": day, "last_session_date": series[-1]["session_date"], "day_of_week": day.isoweekday()}
        rows.append(row)
    for row in rows:
        sector = sectors.get(row["item_id"])
        peers = [peer["momentum_21d"] for peer in rows if sectors.get(peer["item_id"]) == sector and peer["momentum_21d"] is not None]
        row["sector_momentum_21d"] = statistics.median(peers) if sector is not None and peers else None
        both = row["momentum_21d"] is not None and row["sector_momentum_21d"] is not None
        row["relative_momentum_21d"] = row["momentum_21d"] - row["sector_momentum_21d"] if both else None
    return rows


def _market(series: list[Row], splits: list[Row]) -> Row:
    close, volume = [], []
    for bar in series:
        later = math.prod(split["ratio"] for split in splits if split["ex_date"] > bar["session_date"])
        close.append(bar["close"] / later)
        volume.append(bar["volume"] * later)
    count, bar = len(series), series[-1]
    row: Row = {"return_1d": close[-1] / close[-2] - 1 if count > 1 else None}
    for n in (5, 21, 63, 126, 252):
        row[f"momentum_{n}d"] = close[-1] / close[-1 - n] - 1 if count > n else None
    row["momentum_12_1"] = close[-22] / close[-253] - 1 if count > 252 else None
    returns = [math.log(close[i] / close[i - 1]) for i in range(1, count)]
    row["volatility_21d"] = statistics.stdev(returns[-21:]) if len(returns) >= 21 else None
    mean = statistics.fmean(volume[-31:-1]) if count > 30 else None
    row["avg_volume_30d"] = mean
    row["volume_ratio_30d"] = volume[-1] / mean if mean else None
    row["volume_ratio_5d_30d"] = statistics.fmean(volume[-5:]) / mean if mean else None
    row["range_1d"] = (bar["high"] - bar["low"]) / bar["close"] if bar["close"] else None
    row["drawdown_252d"] = close[-1] / max(close[-252:]) - 1 if count >= 252 else None
    return row
