"""Looked-up SHAP values against XGBoost's own, and against Shapley's definition where that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from propensity_spark.tree_shap import tree_shap

WIDTH = 6


def fitted(seed: int, depth: int, rounds: int = 5, **parameters: object) -> tuple[xgboost.Booster, np.ndarray]:
    """A booster and rows with nulls, repeated values and infinities; few features, so that a path asks about one several times."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(600, WIDTH)).astype(np.float32)
    matrix[:, 0] = random.integers(0, 3, 600)
    matrix[random.random(matrix.shape) < 0.15] = np.nan
    label = random.random(600) < 1 / (1 + np.exp(-np.nan_to_num(matrix[:, 0] * matrix[:, 1] + matrix[:, 2])))
    told = {"objective": "binary:logistic", "max_depth": depth, "min_child_weight": 0.1, "seed": seed, **parameters}
    booster = xgboost.train(told, xgboost.DMatrix(matrix, label), rounds)
    edge = random.choice([np.inf, -np.inf, 0.0], size=(20, WIDTH)).astype(np.float32)
    return booster, np.vstack([matrix, edge])


def looked_up(booster: xgboost.Booster, matrix: np.ndarray) -> np.ndarray:
    tables = tree_shap(bytes(booster.save_raw("ubj")))
    assert tables is not None
    return tables.contributions(matrix)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), depth=st.integers(1, 9), base_score=st.sampled_from([None, 0.02, 0.5]))
def test_they_are_what_xgboost_finds(seed: int, depth: int, base_score: float | None) -> None:
    booster, matrix = fitted(seed, depth, **({} if base_score is None else {"base_score": base_score}))
    rows = matrix[~np.isinf(matrix).any(axis=1)]
    expected = booster.predict(xgboost.DMatrix(rows), pred_contribs=True)
    np.testing.assert_allclose(looked_up(booster, rows), expected, atol=2e-5)


def test_they_add_up_to_the_score_of_any_row() -> None:
    """XGBoost's matrices take no infinity; its predictions do."""
    booster, matrix = fitted(1, 6)
    margin = booster.inplace_predict(matrix, predict_type="margin", missing=np.nan)
    np.testing.assert_allclose(looked_up(booster, matrix).sum(axis=1), margin, atol=1e-5)


def test_a_tree_of_two_questions_by_hand() -> None:
    """Rows 00, 01, 10, 11 of equal weight, label 1 only for 11: half of what 11 has above the mean comes from either feature."""
    matrix = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 50, np.float32)
    label = matrix.prod(axis=1)
    told = {"objective": "binary:logistic", "base_score": 0.5, "max_depth": 2, "eta": 1.0, "lambda": 0.0, "min_child_weight": 0.0}
    booster = xgboost.train(told, xgboost.DMatrix(matrix, label), 1)
    by_row = {tuple(row): found for row, found in zip(matrix.astype(int).tolist(), looked_up(booster, matrix).tolist(), strict=True)}
    # a leaf's value is Σ(y − ½) / Σ¼: +2 for 11, −2 elsewhere; the mean is −1
    assert by_row[1, 1] == pytest.approx([1.5, 1.5, -1.0], abs=1e-5)
    assert by_row[0, 0] == pytest.approx([-0.5, -0.5, -1.0], abs=1e-5)
    assert by_row[1, 0] == pytest.approx([0.5, -1.5, -1.0], abs=1e-5)


def test_no_tables_for_categories_and_very_deep_trees() -> None:
    random = np.random.default_rng(5)
    codes = random.integers(0, 8, (500, 1)).astype(np.float32)
    of_kinds = xgboost.DMatrix(codes, random.random(500) < codes[:, 0] / 8, feature_types=["c"], enable_categorical=True)
    by_kind = xgboost.train({"objective": "binary:logistic", "max_cat_to_onehot": 1}, of_kinds, 2)
    assert tree_shap(bytes(by_kind.save_raw("ubj"))) is None
    jagged = xgboost.DMatrix(np.arange(4000, dtype=np.float32)[:, None], random.random(4000) < 0.5)
    for depth, is_shallow in ((14, True), (15, False)):
        told = {"objective": "binary:logistic", "max_depth": depth, "min_child_weight": 0, "lambda": 0, "tree_method": "exact"}
        booster = xgboost.train(told, jagged, 1)
        (dump,) = booster.get_dump()
        assert max(line.count("\t") for line in dump.splitlines()) == depth
        assert (tree_shap(bytes(booster.save_raw("ubj"))) is not None) == is_shallow
