"""One evaluation date of FAR-Trans: the fit on closed windows, its calibration, and its lists beside those of popularity and EASE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost as xgb
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.recommend import Floats, ease, ndcg, paired_interval, popularity
from propensity_spark.features.crowd import PROFILE_SHARES

HORIZON = 166
OTHERS = 0.01  # of the customers who acquire nothing in the window, drawn for the unconditional question
FEATURES = [
    *("item_buyers_30d", "item_buyers_90d", "item_age_days", "item_idle_days", "item_lately_share"),
    *("co_purchase_cosine", "co_purchase_lately", *PROFILE_SHARES.values(), "items_held", "recency_days"),
]
BASE = "co_purchase_lately"
PENALTIES = (300.0, 1000.0, 3000.0)
MODEL = "model"
PARAMS: dict[str, Any] = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "max_depth": 4,
    "eta": 0.08,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "min_child_weight": 10,
    "lambda": 5.0,
    "base_score": 0.5,
    "seed": 7,
}
ROUNDS, NEGATIVES = 60, 20


@dataclass(frozen=True)
class Seen:
    """What is looked at on one bound t: `values` (customers, items, features) float32, NaN where a pair is no candidate."""

    customers: list[str]
    items: list[str]
    values: NDArray[np.float32]
    candidates: NDArray[np.bool_]
    days: Floats  # from t until an acquisition was known, infinite where there is none; it began at t or later
    unreachable: NDArray[np.int64]  # acquisitions in the window of what is no candidate


@dataclass(frozen=True)
class Windows:
    """What `prepare` left in the work folder; `parts` by name."""

    acquired: pd.DataFrame
    bounds: list[date]
    parts: Mapping[str, pd.DataFrame]

    @classmethod
    def read(cls, work: Path) -> Windows:
        bounds = [date.fromisoformat(bound) for bound in json.loads((work / "bounds.json").read_text(encoding="utf-8"))]
        names = ("known", "items", *PROFILE_SHARES, "profiles", "owners", "pairs")
        return cls(pd.read_parquet(work / "acquisitions.parquet"), bounds, {name: pd.read_parquet(work / name) for name in names})

    def known(self, bound: date) -> pd.DataFrame:
        """Acquisitions known on the eve of a bound."""
        return self.acquired[self.acquired["visible_date"] < bound]

    def next_bound(self, bound: date) -> date:
        """The first day on which something more was known: what was acquired from `bound` on and before it."""
        return min(day for day in set(self.acquired["visible_date"]) if day >= bound) + timedelta(days=1)

    def seen(self, bound: date) -> Seen:
        position = self.bounds.index(bound)
        parts = {name: part[part["position"] == position] for name, part in self.parts.items()}
        customers, items = pd.Index(sorted(parts["profiles"]["user_id"])), pd.Index(sorted(parts["known"]["item_id"]))
        had = self.known(bound)
        had = had[had["user_id"].isin(customers) & had["item_id"].isin(items)]
        candidates = np.ones((len(customers), len(items)), bool)
        candidates[customers.get_indexer(had["user_id"]), items.get_indexer(had["item_id"])] = False
        last = self.known(bound).groupby("user_id")["event_date"].max().reindex(customers)
        values = _values(parts, customers, items, np.array([(bound - day).days - 1 for day in last], np.float32), bound)
        later = self.acquired[(self.acquired["event_date"] >= bound) & self.acquired["user_id"].isin(customers)]
        waited = np.array([(day - bound).days + 1 for day in later["visible_date"]], float)
        who, what = customers.get_indexer(later["user_id"]), items.get_indexer(later["item_id"])
        days = np.full(candidates.shape, np.inf)
        days[who[what >= 0], what[what >= 0]] = waited[what >= 0]
        missed = np.bincount(who[(what < 0) & (waited <= HORIZON)], minlength=len(customers))
        return Seen(list(customers), list(items), values, candidates, days, missed)


def _values(
    parts: Mapping[str, pd.DataFrame], customers: pd.Index, items: pd.Index, recency: NDArray[np.float32], bound: date
) -> NDArray[np.float32]:
    """The features as `with_crowd` would join them to each pair, (customers, items, features)."""
    known, of_items = (parts[name].set_index("item_id").reindex(items) for name in ("known", "items"))
    owners, profiles = (parts[name].set_index("user_id").reindex(customers) for name in ("owners", "profiles"))
    eve = pd.Timestamp(bound - timedelta(days=1))
    held, strength = (owners[name].to_numpy(float)[:, None] for name in ("items_held", "strength"))
    row, column = customers.get_indexer(parts["pairs"]["user_id"]), items.get_indexer(parts["pairs"]["item_id"])
    inside = column >= 0
    found = {name: np.zeros((len(customers), len(items))) for name in ("cosine", "lately_link")}
    for name, sums in found.items():
        sums[row[inside], column[inside]] = parts["pairs"][name].to_numpy()[inside]
    everyone = of_items["item_lately_share"].fillna(0.0).to_numpy()
    features: dict[str, Any] = {
        **{name: known[name].to_numpy(float) for name in ("item_buyers_30d", "item_buyers_90d")},
        "item_age_days": (eve - pd.to_datetime(of_items["item_first_buy"])).dt.days.to_numpy(float),
        "item_idle_days": (eve - pd.to_datetime(of_items["item_last_buy"])).dt.days.to_numpy(float),
        "item_lately_share": everyone,
        "co_purchase_cosine": found["cosine"] / held,
        "co_purchase_lately": found["lately_link"] / np.where(strength > 0, strength, np.nan),
        "items_held": held,
        "recency_days": recency[:, None],
    }
    for attribute, name in PROFILE_SHARES.items():
        shares = parts[attribute].pivot_table(index=attribute, columns="item_id", values=name).reindex(columns=items)
        level = shares.index.get_indexer(profiles[attribute])
        of_level = np.vstack([shares.to_numpy(float), np.full(len(items), np.nan)])[level]
        unseen = np.isnan(of_level) & profiles[attribute].notna().to_numpy()[:, None]
        features[name] = np.where(unseen, everyone, of_level)
    values = np.empty((len(customers), len(items), len(FEATURES)), np.float32)
    for place, name in enumerate(FEATURES):
        values[:, :, place] = features[name]
    return values


@dataclass(frozen=True)
class Results:
    """nDCG@10 by score, date and customer, with and without the acquisitions that nobody could have recommended; calibration by date."""

    rounds: int
    lists: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    all_lists: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, bound: date, score: str, seen: Seen, scores: Floats) -> None:
        bought = (seen.days <= HORIZON) & seen.candidates
        reachable = bought.sum(axis=1)
        for into, wanted in ((self.lists, reachable), (self.all_lists, reachable + seen.unreachable)):
            rows = np.flatnonzero(wanted)
            found = ndcg(scores[rows], seen.candidates[rows], bought[rows], wanted[rows])
            names = [seen.customers[row] for row in rows]
            into.setdefault(score, {})[str(bound)] = dict(zip(names, found.tolist(), strict=True))

    def means(self, score: str, lists: Mapping[str, Any] | None = None) -> dict[str, float]:
        return {day: float(np.mean(list(values.values()))) for day, values in (lists or self.lists)[score].items()}

    def over(self, other: str) -> tuple[float, float, float]:
        """Mean and interval of the model's nDCG@10 less another score's."""
        ours, theirs = self.lists[MODEL], self.lists[other]
        return paired_interval({day: {c: ours[day][c] - theirs[day][c] for c in ours[day]} for day in ours}, self.rounds, 11)

    def body(self) -> dict[str, Any]:
        return {
            "customers": {day: len(values) for day, values in self.lists[MODEL].items()},
            "ndcg@10": {score: {"mean": float(np.mean(list(self.means(score).values()))), **self.means(score)} for score in self.lists},
            "ndcg@10 with what could not be recommended": {
                score: float(np.mean(list(self.means(score, self.all_lists).values()))) for score in self.all_lists
            },
            "model less": {
                score: dict(zip(("mean", "low", "high"), self.over(score), strict=True)) for score in self.lists if score != MODEL
            },
            "calibration": self.calibration,
        }

    def table(self) -> str:
        days = list(self.lists[MODEL])
        head = f"{'score':<22}{'mean':>7}  " + " ".join(day[5:] for day in days)
        lines = [head, f"{'customers':<22}{'':>7}  " + " ".join(f"{len(self.lists[MODEL][day]):>5}" for day in days)]
        for score in self.lists:
            means = self.means(score)
            lines.append(f"{score:<22}{np.mean(list(means.values())):>7.4f}  " + " ".join(f"{value:5.3f}" for value in means.values()))
        for score in self.lists:
            if score != MODEL:
                mean, low, high = self.over(score)
                lines.append(f"model - {score:<14}{mean:>+7.4f}  [{low:+.4f}, {high:+.4f}]")
        return "\n".join(lines)


def evaluate(windows: Windows, bounds: Sequence[date], rounds: int) -> Results:
    """Every bound in time order: a date learns from the intervals between the earlier bounds and those that follow them, all over by it."""
    results = Results(rounds)
    samples: list[tuple[Any, ...]] = []
    for bound in windows.bounds:
        seen = windows.seen(bound)
        if bound in bounds:
            model = fit(samples, bound)
            margin = margins(model, seen)
            results.add(bound, MODEL, seen, margin)
            results.add(bound, BASE, seen, base_margin(seen).astype(float))
            for name, scores in baselines(windows.known(bound), seen).items():
                results.add(bound, name, seen, scores)
            closed = [earlier for earlier in windows.bounds if earlier + timedelta(days=HORIZON) <= bound]
            results.calibration[str(bound)] = calibration(model, windows.seen(closed[-1]), seen, margin)
        samples.append((bound, *sample(seen, bound, windows.next_bound(bound))))
    return results


def baselines(known: pd.DataFrame, seen: Seen) -> dict[str, Floats]:
    """Popularity and EASE from everything known on the eve, for the rows of `seen`."""
    user, customers = pd.factorize(known["user_id"], sort=True)
    item, items = pd.factorize(known["item_id"], sort=True)
    owned = np.zeros((len(customers), len(items)))
    owned[user, item] = 1.0
    rows, columns = customers.get_indexer(seen.customers), items.get_indexer(seen.items)
    scores = {"popularity": np.broadcast_to(popularity(owned), (len(rows), len(items)))}
    scores |= {f"EASE {penalty:.0f}": owned[rows] @ ease(owned, penalty) for penalty in PENALTIES}
    return {name: np.where(columns >= 0, found[:, columns], np.nan) for name, found in scores.items()}


def base_margin(seen: Seen) -> NDArray[np.float32]:
    """Log of `co_purchase_lately` against the customer's best candidate; `item_lately_share` where it is null."""
    share, everyone = (seen.values[:, :, FEATURES.index(name)] for name in (BASE, "item_lately_share"))
    share = np.where(seen.candidates, np.nan_to_num(np.where(np.isnan(share), everyone, share)), 0.0)
    return np.asarray(np.log(share / np.maximum(share.max(axis=1, keepdims=True), 1e-12) + 1e-3), np.float32)


Sample = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]


def sample(seen: Seen, bound: date, until: date) -> Sample:
    """Features, labels and base margins: of customers who acquire before `until` all that they do and `NEGATIVES` that they do not."""
    random = np.random.default_rng(bound.toordinal())
    bought = (seen.days <= (until - bound).days) & seen.candidates
    active = np.flatnonzero(bought.any(axis=1))
    chance = np.where(seen.candidates & ~bought, random.random(bought.shape), np.inf)
    kept = bought.copy()
    for row in active:
        kept[row, np.argsort(chance[row], kind="stable")[:NEGATIVES]] = True
    rows, columns = np.nonzero(kept & seen.candidates & bought.any(axis=1)[:, None])
    return seen.values[rows, columns], bought[rows, columns], base_margin(seen)[rows, columns]


def fit(samples: Sequence[tuple[Any, ...]], bound: date) -> xgb.Booster:
    """Trees over the base margin; a window weighs half as much for each 120 days of its age."""
    values, labels, base = (np.concatenate([part[place] for part in samples]) for place in (1, 2, 3))
    weights = np.concatenate([np.full(len(part[2]), 0.5 ** ((bound - part[0]).days / 120)) for part in samples])
    data = xgb.QuantileDMatrix(values, labels.astype(np.float32), weight=weights, base_margin=base)
    return xgb.train(PARAMS, data, ROUNDS)


def margins(model: xgb.Booster, seen: Seen) -> Floats:
    flat = seen.values.reshape(-1, len(FEATURES))
    found = model.inplace_predict(flat, predict_type="margin", base_margin=base_margin(seen).ravel())
    return np.asarray(found, float).reshape(seen.candidates.shape)


def calibration(model: xgb.Booster, closed: Seen, seen: Seen, margin: Floats) -> dict[str, float]:
    """How right P(acquires within the horizon) is on a date, for all customers: fitted on the last window that had closed by it.

    Logistic in the margin and in what the customer is like, so that the order of a customer's list stays what it was.
    """
    inputs, labels, weights = _all_customers(closed, margins(model, closed))
    tenth = np.random.default_rng(7).random(len(labels)) < 0.1
    kept, weights = tenth | (labels > 0), np.where(labels > 0, weights, 10 * weights)
    probability = LogisticRegression(C=1.0, max_iter=200).fit(inputs[kept], labels[kept], sample_weight=weights[kept])
    inputs, labels, weights = _all_customers(seen, margin)
    expected = probability.predict_proba(inputs)[:, 1]
    bins = np.minimum((expected * 50).astype(int), 49)
    gaps = np.abs(np.bincount(bins, weights * (labels - expected), minlength=50)).sum() / weights.sum()
    return {
        "expected": float(np.average(expected, weights=weights)),
        "observed": float(np.average(labels, weights=weights)),
        "expected calibration error": float(gaps),
    }


def _all_customers(seen: Seen, margin: Floats) -> tuple[Floats, Floats, Floats]:
    """Inputs, labels and weights of every candidate pair; customers who acquire nothing stand for those who were not drawn."""
    bought = (seen.days <= HORIZON) & seen.candidates
    active = bought.any(axis=1) | (seen.unreachable > 0)
    rows, columns = np.nonzero(seen.candidates)
    of_customer = [np.log1p(np.nan_to_num(seen.values[rows, columns, FEATURES.index(name)])) for name in ("recency_days", "items_held")]
    inputs = np.column_stack([margin[rows, columns], *of_customer])
    return inputs, bought[rows, columns].astype(float), np.where(active[rows], 1.0, 1 / OTHERS)
