"""Exact SHAP values of boosted trees for millions of rows: what depends on the trees alone is computed once, rows look it up.

What a leaf gives to the features on its path depends, beside the leaf's own numbers, on which conditions of the path a row meets. So each
tree is cut into groups of neighbouring nodes that ask at most `QUESTIONS` questions together with the nodes above them, and for every
pattern of answers a table holds what the leaves of the group give to each feature. A row's answers to the questions of some groups are one
number, and its SHAP values are sums of numbers looked up by the bits of it. Source of the values: Lundberg et al., "From local explanations
to global understanding with explainable AI for trees", 2020 (path dependent); of tables by pattern: Yang, "Fast TreeSHAP", 2021.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Steps = tuple[tuple[int, bool], ...]
"""Nodes from the root on, each with whether the path goes left there."""

QUESTIONS = 9
"""Of a group: its tables of 512 numbers stay in the processor's nearest cache."""
MOST_QUESTIONS = 14
"""Of a leaf alone, which has as many as its depth. A deeper tree has no tables."""
ROWS = 8192
"""Rows that are looked up together."""
BITS = 62
"""Of a number that holds answers."""


@dataclass(frozen=True)
class Group:
    """`codes`: per feature, and bin of it, the answers to the group's `questions` about it, as bits of a pattern; `given`: per feature, and
    pattern, what the group's leaves give to it."""

    questions: int
    codes: tuple[tuple[int, NDArray[np.int64]], ...]
    given: tuple[tuple[int, Floats], ...]


@dataclass(frozen=True)
class Word:
    """Groups whose patterns lie side by side in one number. `codes`: as a group's, of all of them, so that a feature is looked up once;
    `groups`: of each its first bit, the mask of its bits, and what it has `given`."""

    codes: tuple[tuple[int, NDArray[np.int64]], ...]
    groups: tuple[tuple[int, int, tuple[tuple[int, Floats], ...]], ...]


@dataclass(frozen=True)
class TreeShap:
    """`edges`: per feature the thresholds of all trees, ascending; a row's bin is the number of them up to its value, a null's the one
    after the last. `start`: the log-odds that all rows begin with."""

    edges: tuple[Floats, ...]
    words: tuple[Word, ...]
    start: float

    def contributions(self, matrix: Floats) -> Floats:
        """SHAP values in log-odds of rows of features (NaN: null), (rows, features + 1): one per feature and, last, `start`."""
        found = np.full((len(matrix), len(self.edges) + 1), self.start, np.float32)
        for first in range(0, len(matrix), ROWS):
            rows = matrix[first : first + ROWS]
            bins = [_bins(values, edges) for values, edges in zip(rows.T, self.edges, strict=True)]
            sums = np.zeros((len(self.edges), len(rows)), np.float32)
            for word in self.words:
                answers = np.zeros(len(rows), np.int64)
                for feature, codes in word.codes:
                    answers += codes.take(bins[feature], mode="clip")
                for bit, mask, given in word.groups:
                    pattern = (answers >> bit) & mask
                    for feature, values in given:
                        sums[feature] += values.take(pattern, mode="clip")
            found[first : first + ROWS, :-1] = sums.T
        return found


def _bins(values: Floats, edges: Floats) -> NDArray[np.intp]:
    return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, "right"))


@lru_cache(maxsize=4)
def tree_shap(ubj: bytes) -> TreeShap | None:
    """The tables of a booster (UBJSON); None where it asks for categories or is too deep. A second or two for a hundred trees."""
    import xgboost

    learner = json.loads(bytes(xgboost.Booster(model_file=bytearray(ubj)).save_raw("json")))["learner"]
    trees = [_Tree(body) for body in learner["gradient_booster"]["model"]["trees"]]
    if any(tree.has_categories or tree.depth > MOST_QUESTIONS for tree in trees):
        return None
    asked: list[set[float]] = [set() for _ in range(int(learner["learner_model_param"]["num_feature"]))]
    for tree in trees:
        for node in tree.inner(0):
            asked[tree.feature[node]].add(tree.threshold[node])
    edges = tuple(np.array(sorted(thresholds), np.float32) for thresholds in asked)
    share = float(learner["learner_model_param"]["base_score"].strip("[]"))  # a list since XGBoost 3.1
    start = np.log(share / (1 - share)) + sum(tree.mean for tree in trees)
    return TreeShap(edges, tuple(_words([group for tree in trees for group in _groups(tree, edges)])), float(start))


class _Tree:
    """One tree of a booster's JSON; the value of a leaf is its `threshold`."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.left, self.right = body["left_children"], body["right_children"]
        self.feature, self.threshold = body["split_indices"], body["split_conditions"]
        self.null_left, self.weight = body["default_left"], body["sum_hessian"]
        self.has_categories = bool(body["categories_nodes"])

    def inner(self, node: int) -> list[int]:
        """The nodes that ask, from this one down."""
        return [] if self.left[node] < 0 else [node, *self.inner(self.left[node]), *self.inner(self.right[node])]

    def leaves(self, node: int, steps: Steps) -> Iterator[tuple[int, Steps]]:
        """Every leaf from this node down, with the steps to it."""
        if self.left[node] < 0:
            yield node, steps
        else:
            yield from self.leaves(self.left[node], (*steps, (node, True)))
            yield from self.leaves(self.right[node], (*steps, (node, False)))

    @property
    def depth(self) -> int:
        return max(len(steps) for _, steps in self.leaves(0, ()))

    @property
    def mean(self) -> float:
        """What the tree gives to the average row of training, by weight."""
        return float(sum(self.weight[leaf] / self.weight[0] * self.threshold[leaf] for leaf, _ in self.leaves(0, ())))

    def share(self, node: int, goes_left: bool) -> float:
        """Of the training weight at a node, what went this way."""
        return float(self.weight[self.left[node] if goes_left else self.right[node]] / self.weight[node])


def _groups(tree: _Tree, edges: Sequence[Floats], root: int = 0, above: Steps = ()) -> Iterator[Group]:
    """The tree from `root` down as one group, or as those of its two sides where it asks too much."""
    nodes = [*(node for node, _ in above), *tree.inner(root)]
    if len(nodes) <= QUESTIONS or tree.left[root] < 0:
        yield _group(tree, edges, nodes, list(tree.leaves(root, above)))
    else:
        yield from _groups(tree, edges, tree.left[root], (*above, (root, True)))
        yield from _groups(tree, edges, tree.right[root], (*above, (root, False)))


def _group(tree: _Tree, edges: Sequence[Floats], nodes: Sequence[int], leaves: Sequence[tuple[int, Steps]]) -> Group:
    """Bit i of a pattern says whether a row goes left at `nodes[i]`."""
    patterns = np.arange(1 << len(nodes))
    goes_left = {node: (patterns >> bit) & 1 == 1 for bit, node in enumerate(nodes)}
    given: dict[int, NDArray[np.float64]] = {}
    for leaf, steps in leaves:
        met: dict[int, Bools] = {}
        share: dict[int, float] = {}
        for node, left in steps:
            feature, answer = tree.feature[node], goes_left[node] == left
            met[feature] = met.get(feature, True) & answer
            share[feature] = share.get(feature, 1.0) * tree.share(node, left)
        for feature, value in _given(met, share, tree.threshold[leaf]).items():
            given[feature] = given.get(feature, 0.0) + value
    codes = {tree.feature[node]: np.zeros(len(edges[tree.feature[node]]) + 2, np.int64) for node in nodes}
    for bit, node in enumerate(nodes):
        of_feature = edges[tree.feature[node]]
        below = np.arange(len(of_feature) + 2) <= np.searchsorted(of_feature, np.float32(tree.threshold[node]), "left")
        below[-1] = bool(tree.null_left[node])
        codes[tree.feature[node]] += below.astype(np.int64) << bit
    return Group(len(nodes), tuple(codes.items()), tuple((feature, value.astype(np.float32)) for feature, value in given.items()))


def _words(groups: Sequence[Group]) -> Iterator[Word]:
    """Neighbouring groups, which ask about the same features, side by side as long as there are bits for them."""
    waiting: list[Group] = []
    for group in groups:
        if sum(one.questions for one in waiting) + group.questions > BITS:
            yield _word(waiting)
            waiting = []
        waiting.append(group)
    if waiting:
        yield _word(waiting)


def _word(groups: Sequence[Group]) -> Word:
    codes: dict[int, NDArray[np.int64]] = {}
    places, first = [], 0
    for group in groups:
        for feature, answers in group.codes:
            codes[feature] = codes.get(feature, 0) + (answers << first)
        places.append((first, (1 << group.questions) - 1, group.given))
        first += group.questions
    return Word(tuple(codes.items()), tuple(places))


def _given(met: Mapping[int, Bools], share: Mapping[int, float], value: float) -> dict[int, NDArray[np.float64]]:
    """What a leaf gives to each feature of its path, for every pattern. With m features, `met` (every condition on a feature) and `share`
    (of the training weight at its nodes what went the leaf's way, multiplied): for feature i

    value · (metᵢ − shareᵢ) · Σ over subsets S of the others: |S|! (m − |S| − 1)! / m! · Π over S of met · Π over the rest of share

    The products are summed by |S| as the coefficients of the polynomial Π (shareⱼ + metⱼ·x).
    """
    m = len(met)
    weights = [factorial(size) * factorial(m - size - 1) / factorial(m) for size in range(m)]
    found = {}
    for feature, answer in met.items():
        by_size = np.ones((1, len(answer)))
        for other in met:
            if other != feature:
                nobody = np.zeros((1, len(answer)))
                by_size = np.vstack([by_size * share[other], nobody]) + np.vstack([nobody, by_size * met[other]])
        found[feature] = value * (answer - share[feature]) * (np.array(weights) @ by_size)
    return found
