"""One date of FAR-Trans: the fit on intervals that are over, its calibration, and its lists beside those of popularity and EASE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from benchmarks.recommend import Flags, Floats, ease, ndcg, paired_interval, popularity
from propensity_spark.config import TrainSettings
from propensity_spark.features.crowd import ALIKE
from propensity_spark.features.registry import PRIOR
from propensity_spark.train.native import binned, fit_binned
from propensity_spark.train.sample import Rows

HORIZON = 166
OTHERS = 0.05  # of the customers who acquire nothing in the window, drawn for the unconditional question
PENALTIES = (300.0, 1000.0, 3000.0, 10_000.0, 30_000.0)
FEATURES = ["item_lately_share", "items_held", "recency_days", "co_purchase_lately", *ALIKE.values()]
TERMS = ["link", *ALIKE]  # what the model has weights for; the first starts at 1, the others at 0
MODEL, LINK = "model", "co_purchase_lately"
TREES = "XGBoost, all features"  # as the line fits it: each pair by itself, with the parameters of conf/
CHOSEN = "EASE, penalty chosen"  # on each date the one that was best on the windows that had closed by then
KNOWING, TREND = "model, knowing the future's popularity", 0.5  # how much could be had: this order of what is to come, and its weight
RIDGE, INTERVALS, HALF_LIFE_DAYS, NEGATIVES = 300.0, 3, 120, 40
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """What is looked at on one bound t, of items that somebody has; others are the last candidates of every list.

    `values` (customers, items, FEATURES) and `terms` (customers, items, TERMS).
    """

    bound: date
    customers: pd.Index
    items: pd.Index
    values: Array
    terms: Array
    candidates: Flags
    days: Floats  # from t until an acquisition was known, infinite where there is none; it began at t or later
    cold: NDArray[np.int64]  # acquisitions in the window of candidates that nobody has
    unknown: NDArray[np.int64]  # and of what was not known by the eve, so is no candidate


@dataclass(frozen=True)
class Windows:
    """What `prepare` left in the work folder; `parts` by name and position."""

    acquired: pd.DataFrame
    bounds: list[date]
    parts: Mapping[tuple[str, int], pd.DataFrame]

    @classmethod
    def read(cls, work: Path) -> Windows:
        bounds = [date.fromisoformat(bound) for bound in json.loads((work / "bounds.json").read_text(encoding="utf-8"))]
        names = ("known", "items", "links", "people", *ALIKE)
        frames = {name: pd.read_parquet(work / name) for name in names}
        parts = {(name, at): frame[frame["position"] == at] for name, frame in frames.items() for at in frame["position"].unique().tolist()}
        return cls(pd.read_parquet(work / "acquisitions.parquet"), bounds, parts)

    def known(self, bound: date) -> pd.DataFrame:
        """Acquisitions known on the eve of a bound."""
        return self.acquired[self.acquired["visible_date"] < bound]

    def later(self, bound: date, until: date) -> pd.DataFrame:
        """Acquisitions whose whole interval lies in [bound, until]."""
        within = (self.acquired["event_date"] >= bound) & (self.acquired["visible_date"] < until)
        return self.acquired[within]

    def having(self, bound: date) -> set[str]:
        """Customers of whom something is known on the eve."""
        return set(self.known(bound)["user_id"])

    def seen(self, bound: date, customers: Sequence[str]) -> Seen:
        """What is known on the eve of a bound of these customers, each of whom has something."""
        at = self.bounds.index(bound)
        who, of_items = pd.Index(customers), self.parts["items", at].set_index("item_id").sort_index()
        items = of_items.index
        had = self.known(bound)
        had = had[had["user_id"].isin(who)]
        owned = matrix(had["user_id"], had["item_id"], who, items)
        values = self._values(bound, who, of_items, owned)
        recency = pd.Timestamp(bound - timedelta(days=1)) - pd.to_datetime(had.groupby("user_id")["event_date"].max()).reindex(who)
        values[:, :, FEATURES.index("recency_days")] = recency.dt.days.to_numpy(np.float32)[:, None]
        later = self.acquired[(self.acquired["event_date"] >= bound) & self.acquired["user_id"].isin(who)]
        waited = np.array([(day - bound).days + 1 for day in later["visible_date"]], float)
        row, column = who.get_indexer(pd.Index(later["user_id"])), items.get_indexer(pd.Index(later["item_id"]))
        days = np.full(owned.shape, np.inf)
        days[row[column >= 0], column[column >= 0]] = waited[column >= 0]
        missed = (column < 0) & (waited <= HORIZON)
        listed = later["item_id"].isin(self.parts["known", at]["item_id"]).to_numpy()
        cold, unknown = (np.bincount(row[missed & of], minlength=len(who)) for of in (listed, ~listed))
        return Seen(bound, who, items, values, _terms(values, owned == 0), owned == 0, days, cold, unknown)

    def _values(self, bound: date, who: pd.Index, of_items: pd.DataFrame, owned: Floats) -> Array:
        """The features as `with_crowd` joins them to each pair, (customers, items, FEATURES), of which the caller adds `recency_days`."""
        at, items = self.bounds.index(bound), of_items.index
        links = self.parts["links", at]
        near = np.zeros((len(items), len(items)))
        near[items.get_indexer(pd.Index(links["item_id"])), items.get_indexer(pd.Index(links["other_id"]))] = links["link"]
        linked = owned @ near
        lately = of_items["item_lately"].to_numpy(float)
        everyone = lately / lately.sum()
        features: dict[str, Any] = {
            "item_lately_share": everyone,
            "items_held": owned.sum(axis=1, keepdims=True),
            "co_purchase_lately": linked / np.maximum(linked.sum(axis=1, keepdims=True), 1e-12),
        }
        people = self.parts["people", at].set_index("user_id").reindex(who)
        for trait, name in ALIKE.items():
            weights = self.parts[trait, at].pivot_table(index="value", columns="item_id", values="lately", aggfunc="sum")
            of_item = weights.reindex(columns=items).fillna(0).to_numpy(float)
            shares = (of_item + PRIOR * everyone) / (of_item.sum(axis=1, keepdims=True) + PRIOR)
            value = weights.index.get_indexer(pd.Index(people[trait]))
            alike = np.vstack([shares, everyone])[value]  # −1, nobody has this value: the last row
            features[name] = np.where(people[trait].notna().to_numpy()[:, None], alike, np.nan)
        values = np.empty((len(who), len(items), len(FEATURES)), np.float32)
        for name, found in features.items():
            values[:, :, FEATURES.index(name)] = found
        return values


def matrix(users: pd.Series, items: pd.Series, who: pd.Index, what: pd.Index) -> Floats:
    """1 where a user of `who` has an item of `what`, else 0."""
    row, column = who.get_indexer(pd.Index(users)), what.get_indexer(pd.Index(items))
    owned = np.zeros((len(who), len(what)))
    owned[row[(row >= 0) & (column >= 0)], column[(row >= 0) & (column >= 0)]] = 1.0
    return owned


def _terms(values: Array, candidates: Flags) -> Array:
    """What the model is linear in: logarithms, the link against the customer's best, shares of those alike against everyone's."""
    of = {name: values[:, :, place].astype(float) for place, name in enumerate(FEATURES)}
    best = np.where(candidates, of[LINK], 0.0).max(axis=1, keepdims=True)
    everyone = np.log(of["item_lately_share"] + 1e-4)
    terms = [
        np.log(of[LINK] / np.maximum(best, 1e-12) + 1e-3),
        *(np.nan_to_num(np.log(of[name] + 1e-4) - everyone) for name in ALIKE.values()),
    ]
    return np.stack(terms, axis=2).astype(np.float32)


@dataclass(frozen=True)
class Sample:
    """Pairs of customers who acquire something in the next intervals: all that they do and some that they do not.

    `starts`: the first row of each customer. `share`: 1 / what a customer acquires, for each of their rows. `stands_for`: so many pairs.
    `stops`: rows of a fifth of the customers, always the same ones, on which a fit may be stopped.
    """

    bound: date
    values: Array
    terms: Array
    labels: Flags
    starts: NDArray[np.int64]
    share: Floats
    stands_for: Floats
    stops: Flags


def sample(seen: Seen, until: date) -> Sample:
    """In: what is seen of customers each of whom acquires a candidate in [seen.bound, until]."""
    random = np.random.default_rng(seen.bound.toordinal())
    bought = (seen.days <= (until - seen.bound).days) & seen.candidates
    chance = np.where(seen.candidates & ~bought, random.random(bought.shape), np.inf)
    limit = np.sort(chance, axis=1)[:, min(NEGATIVES, chance.shape[1] - 1)][:, None]
    rows, columns = np.nonzero((bought | (chance < limit)) & bought.any(axis=1, keepdims=True))
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    share = 1.0 / bought.sum(axis=1)[rows]
    others = (seen.candidates & ~bought).sum(axis=1)
    stands_for = np.where(bought[rows, columns], 1.0, np.maximum(others / NEGATIVES, 1.0)[rows])
    stops = (pd.util.hash_array(seen.customers.to_numpy(object)) % 5 == 0)[rows]
    pairs_of = (seen.values[rows, columns], seen.terms[rows, columns], bought[rows, columns])
    return Sample(seen.bound, *pairs_of, starts, share, stands_for, stops)


def fit(samples: Sequence[Sample], bound: date) -> Floats:
    """The weights of TERMS from what was known by a bound; an interval weighs half as much for each 120 days of its age."""
    ages = _ages(samples, bound)
    offsets = np.cumsum([0, *(len(one.labels) for one in samples[:-1])])
    return conditional_logit(
        np.concatenate([one.terms for one in samples]).astype(float),
        np.concatenate([one.labels * one.share * age for one, age in zip(samples, ages, strict=True)]),
        np.concatenate([one.starts + offset for one, offset in zip(samples, offsets, strict=True)]),
    )


def _ages(samples: Sequence[Sample], bound: date) -> list[float]:
    return [0.5 ** ((bound - one.bound).days / HALF_LIFE_DAYS) for one in samples]


def fit_trees(samples: Sequence[Sample], bound: date, train: TrainSettings) -> xgboost.Booster:
    """XGBoost as the line fits it, on the same rows and with the same weights of age: P(acquired) of each pair by itself, from FEATURES."""
    values, labels, stops = (np.concatenate([getattr(one, name) for one in samples]) for name in ("values", "labels", "stops"))
    weight = np.concatenate([one.stands_for * age for one, age in zip(samples, _ages(samples, bound), strict=True)])
    parts = [Rows(values[which], labels[which].astype(float), weight[which]) for which in (~stops, stops)]
    booster = fit_binned(binned(parts[0], parts[1], train), FEATURES, train)
    return booster[: booster.best_iteration + 1]


def conditional_logit(terms: Floats, wanted: Floats, starts: NDArray[np.int64]) -> Floats:
    """Weights that maximise Σ wanted · log softmax(terms · weights), the softmax within the rows from one of `starts` to the next.

    A ridge draws them to the order that the first term alone gives. Source: McFadden, "Conditional logit analysis", 1974.
    """
    prior = np.eye(terms.shape[1])[0]
    spread = terms.std(axis=0)
    groups = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(terms)))
    of_group = np.add.reduceat(wanted, starts)

    def loss(weights: Floats) -> tuple[float, Floats]:
        score = terms @ weights
        score -= np.maximum.reduceat(score, starts)[groups]
        odds = np.exp(score)
        sums = np.add.reduceat(odds, starts)
        away = spread * (weights - prior)
        value = of_group @ np.log(sums) - wanted @ score + RIDGE / 2 * away @ away
        return float(value), terms.T @ (odds / sums[groups] * of_group[groups] - wanted) + RIDGE * spread * away

    return np.asarray(minimize(loss, prior, jac=True, method="L-BFGS-B", options={"maxiter": 60}).x)


@dataclass(frozen=True)
class Results:
    """nDCG@10 by score, date and customer; `strict` counts what was not known by the eve as missed; calibration, weights and the
    penalty that was best on closed windows by date."""

    rounds: int
    later: date
    lists: dict[str, dict[date, dict[str, float]]] = field(default_factory=dict)
    strict: dict[str, dict[date, dict[str, float]]] = field(default_factory=dict)
    calibration: dict[date, dict[str, float]] = field(default_factory=dict)
    weights: dict[date, dict[str, float]] = field(default_factory=dict)
    chosen: dict[date, str] = field(default_factory=dict)

    def add(self, score: str, seen: Seen, scores: Floats) -> None:
        bought = (seen.days <= HORIZON) & seen.candidates
        reachable = bought.sum(axis=1) + seen.cold
        for into, wanted in ((self.lists, reachable), (self.strict, reachable + seen.unknown)):
            rows = np.flatnonzero(wanted)
            found = ndcg(scores[rows], seen.candidates[rows], bought[rows], wanted[rows])
            into.setdefault(score, {})[seen.bound] = dict(zip(seen.customers[rows], found.tolist(), strict=True))

    @property
    def dates(self) -> list[date]:
        return [day for day in self.lists[MODEL] if day != self.later]

    def mean(self, score: str, dates: Sequence[date], lists: Mapping[str, Any] | None = None) -> float:
        return float(np.mean([np.mean(list((lists or self.lists)[score][day].values())) for day in dates]))

    def over(self, other: str, dates: Sequence[date]) -> tuple[float, float, float]:
        """Mean and interval of the model's nDCG@10 less another score's."""
        ours, theirs = self.lists[MODEL], self.lists[other]
        return paired_interval({str(day): {c: ours[day][c] - theirs[day][c] for c in ours[day]} for day in dates}, self.rounds, 11)

    def body(self) -> dict[str, Any]:
        days = [*self.dates, self.later]
        others = [score for score in self.lists if score != MODEL]
        found = ("difference", "low", "high")
        return {
            "customers": {str(day): len(self.lists[MODEL][day]) for day in days},
            "ndcg@10": {
                score: {"mean": self.mean(score, self.dates), **{str(day): self.mean(score, [day]) for day in days}} for score in self.lists
            },
            "ndcg@10 with what was not known": {score: self.mean(score, self.dates, self.strict) for score in self.lists},
            "model less": {score: dict(zip(found, self.over(score, self.dates), strict=True)) for score in others},
            "model less, later date": {score: dict(zip(found, self.over(score, [self.later]), strict=True)) for score in others},
            "calibration": {str(day): values for day, values in self.calibration.items()},
            "weights": {str(day): values for day, values in self.weights.items()},
            "penalty chosen": {str(day): name for day, name in self.chosen.items()},
        }

    def table(self) -> str:
        """Markdown: a row a score, with its mean over the dates, what the model has more, and the later date; then a row a date."""
        shown = [MODEL, *(score for score in self.lists if score != MODEL)]
        head = ["nDCG@10", f"mean of {len(self.dates)} dates", "model − this", str(self.later), "model − this"]
        lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        for score in shown:
            both = []
            for dates in (self.dates, [self.later]):
                mean, low, high = self.over(score, dates)
                both += [f"{self.mean(score, dates):.4f}", "" if score == MODEL else f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"]
            lines.append(f"| {score} | {' | '.join(both)} |")
        head = ["date", "customers", *shown, "expected", "observed", "calibration error"]
        lines += ["", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        for day in [*self.dates, self.later]:
            means = [f"{self.mean(score, [day]):.4f}" for score in shown]
            level = self.calibration[day]
            cells = [str(day), f"{len(self.lists[MODEL][day]):,}", *means, *(f"{level[name]:.4%}" for name in head[-3:])]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def evaluate(windows: Windows, dates: Sequence[date], later: date, rounds: int, train: TrainSettings) -> Results:
    """Each date learns from the three intervals after every earlier bound, as far as they were over by it."""
    results = Results(rounds, later)

    @cache
    def of_ease(bound: date) -> dict[str, float]:
        """Mean nDCG@10 of EASE with each penalty over those who acquire something within the horizon after a bound."""
        active = set(windows.later(bound, bound + timedelta(days=HORIZON))["user_id"]) & windows.having(bound)
        seen, of_bound = windows.seen(bound, sorted(active)), Results(rounds, later)
        for name, found in baselines(windows.known(bound), seen).items():
            of_bound.add(name, seen, found)
        return {ease_name(penalty): of_bound.mean(ease_name(penalty), [bound]) for penalty in PENALTIES}

    @cache
    def learnt(bound: date, until: date) -> Sample:
        active = set(windows.later(bound, until)["user_id"]) & windows.having(bound)
        return sample(windows.seen(bound, sorted(active)), until)

    for date_ in [*dates, later]:
        earlier = [bound for bound in windows.bounds if bound < date_]
        ends = {bound: windows.bounds[min(place + INTERVALS, len(earlier))] for place, bound in enumerate(earlier)}
        samples = [one for bound, end in ends.items() if (one := learnt(bound, end)).labels.any()]
        weights, trees = fit(samples, date_), fit_trees(samples, date_, train)
        drawn = looked_at(windows, date_, date_ + timedelta(days=HORIZON))
        seen = windows.seen(date_, list(drawn))
        results.add(MODEL, seen, seen.terms @ weights)
        results.add(TREES, seen, trees.inplace_predict(seen.values.reshape(-1, len(FEATURES))).reshape(seen.candidates.shape))
        results.add(LINK, seen, seen.values[:, :, FEATURES.index(LINK)].astype(float))
        scores = baselines(windows.known(date_), seen)
        for name, found in scores.items():
            results.add(name, seen, found)
        over_by_then = [of_ease(bound) for bound in earlier if bound + timedelta(days=HORIZON) <= date_]
        results.chosen[date_] = max(map(ease_name, PENALTIES), key=lambda name: sum(found[name] for found in over_by_then))
        results.add(CHOSEN, seen, scores[results.chosen[date_]])
        results.add(KNOWING, seen, seen.terms @ weights + TREND * trend(seen))
        drawn_over = looked_at(windows, earlier[-INTERVALS], date_)
        over = windows.seen(earlier[-INTERVALS], list(drawn_over))
        both = (pairs(over, over.terms @ weights, (date_ - over.bound).days, drawn_over), pairs(seen, seen.terms @ weights, HORIZON, drawn))
        results.calibration[date_] = calibration(*both, HORIZON / (date_ - over.bound).days)
        results.weights[date_] = dict(zip(TERMS, weights.tolist(), strict=True))
    return results


def looked_at(windows: Windows, bound: date, until: date) -> dict[str, float]:
    """Customers who have something: all who acquire something whose interval lies in [bound, until], and some of the others.

    Each with how many customers they stand for.
    """
    having = windows.having(bound)
    active = set(windows.later(bound, until)["user_id"]) & having
    others = pd.Series(sorted(having - active), dtype=str).sample(frac=OTHERS, random_state=7)
    return dict.fromkeys(sorted(active), 1.0) | dict.fromkeys(sorted(others), 1 / OTHERS)


def baselines(known: pd.DataFrame, seen: Seen) -> dict[str, Floats]:
    """Popularity and EASE from everything known on the eve, for the rows of `seen`."""
    customers = pd.Index(sorted(set(known["user_id"])))
    owned = matrix(known["user_id"], known["item_id"], customers, seen.items)
    mine = owned[customers.get_indexer(seen.customers)]
    scores = {"popularity": np.broadcast_to(popularity(owned), mine.shape)}
    return scores | {ease_name(penalty): mine @ ease(owned, penalty) for penalty in PENALTIES}


def ease_name(penalty: float) -> str:
    return f"EASE {penalty:.0f}"


def trend(seen: Seen) -> Floats:
    """Of each item: the logarithm of its share in what is acquired in the window against its share lately. No model can have it."""
    lately = seen.values[:1, :, FEATURES.index("item_lately_share")].astype(float)
    acquired = ((seen.days <= HORIZON) & seen.candidates).sum(axis=0, keepdims=True)
    return np.asarray(np.log(acquired / acquired.sum() + 1e-4) - np.log(lately + 1e-4))


Pairs = tuple[Floats, NDArray[np.bool_], Floats]


def calibration(over: Pairs, now: Pairs, longer: float) -> dict[str, float]:
    """How right P(acquires within the horizon) is for all customers: from `over`, the pairs of the last intervals that had ended.

    Logistic in the margin and in what the customer is like, so that the order of a customer's list stays what it was; then for a horizon
    that is so many times `longer`, as if what happened in those days went on happening at the same rate.
    """
    given, labels, weights = over
    probability = LogisticRegression(C=1.0, max_iter=200).fit(given, labels, sample_weight=weights)
    given, labels, weights = now
    expected = 1 - probability.predict_proba(given)[:, 0] ** longer
    edges = np.quantile(expected, np.linspace(0, 1, 51)[1:-1])
    gaps = np.abs(np.bincount(np.searchsorted(edges, expected), weights * (labels - expected), minlength=50)).sum() / weights.sum()
    return {
        "expected": float(np.average(expected, weights=weights)),
        "observed": float(np.average(labels, weights=weights)),
        "calibration error": float(gaps),
    }


def pairs(seen: Seen, margin: Floats, days: int, drawn: Mapping[str, float]) -> Pairs:
    """Of every candidate pair what its probability depends on, whether it was acquired in so many days, and how many it stands for."""
    rows, columns = np.nonzero(seen.candidates)
    of_customer = [np.log1p(seen.values[rows, columns, FEATURES.index(name)]) for name in ("recency_days", "items_held")]
    given = np.column_stack([margin[rows, columns], *of_customer])
    weights = np.array([drawn[customer] for customer in seen.customers])
    return given, (seen.days <= days)[rows, columns], weights[rows]
