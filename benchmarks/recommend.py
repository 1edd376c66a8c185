"""Ranking by the crowd alone, which a model has to beat, and how good a ranking is; in numpy, for thousands of users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
LIST = 10


def popularity(owned: Floats) -> Floats:
    """(users, items) of what users have, 0 or 1 → one score an item: how many have it."""
    return np.asarray(owned.sum(axis=0))


def ease(owned: Floats, penalty: float) -> Floats:
    """The (items, items) weights B of EASE: scores of a user are `owned[user] @ B`.

    B = I − P / diag(P), P = (ownedᵀ owned + penalty I)⁻¹, its diagonal 0. Source: Steck, "Embarrassingly shallow autoencoders", 2019.
    """
    inverse = np.linalg.inv(owned.T @ owned + penalty * np.eye(owned.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def ndcg(scores: Floats, candidates: Flags, bought: Flags, wanted: NDArray[np.int64]) -> Floats:
    """nDCG@10 of each user's list of candidates by falling score, ties by position.

    `wanted`: how many items the best possible list holds, at least one for every user. NaN is the last candidate.

    >>> both = np.array([[True, True]])
    >>> float(ndcg(np.array([[0.2, 0.1]]), both, np.array([[True, False]]), np.array([1]))[0])
    1.0
    """
    ranked = np.where(candidates, np.nan_to_num(scores, nan=float(np.finfo(np.float64).min)), -np.inf)
    first = np.argsort(-ranked, axis=1, kind="stable")[:, :LIST]
    gains = np.take_along_axis(bought & candidates, first, axis=1)
    discounts = 1 / np.log2(np.arange(2, LIST + 2))
    best = np.concatenate([[0.0], np.cumsum(discounts)])
    return np.asarray(gains @ discounts[: gains.shape[1]] / best[np.minimum(wanted, LIST)])


def paired_interval(differences: dict[str, dict[str, float]], rounds: int, seed: int) -> tuple[float, float, float]:
    """Mean over customers, then over dates, of a difference, with its 95% interval: customers are drawn again, with all their dates.

    `differences`: date → customer → value.
    """
    customers = sorted({customer for values in differences.values() for customer in values})
    number = {customer: index for index, customer in enumerate(customers)}
    weights = np.random.default_rng(seed).poisson(1.0, (rounds, len(customers))).astype(np.float64)
    weights = np.vstack([np.ones(len(customers)), weights])
    of_dates = []
    for values in differences.values():
        index = [number[customer] for customer in values]
        of_dates.append(weights[:, index] @ np.array(list(values.values())) / weights[:, index].sum(axis=1))
    drawn = np.mean(of_dates, axis=0)
    low, high = np.quantile(drawn[1:], [0.025, 0.975])
    return float(drawn[0]), float(low), float(high)
