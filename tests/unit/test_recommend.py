"""What the benchmark on real investors measures by, against numbers worked out by hand or the slow way."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.far_trans import looked_at
from benchmarks.far_trans_model import FEATURES, MODEL, Results, Windows, base_margin, baselines, sample
from benchmarks.recommend import ease, ndcg, paired_interval, popularity

OWNED = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


def test_popularity_counts_who_has_an_item() -> None:
    assert popularity(OWNED).tolist() == [3.0, 3.0, 1.0]


def test_ease_solves_its_regression_without_an_item_speaking_for_itself() -> None:
    """Each column: the ridge regression of an item on the others, as its normal equations give it."""
    weights = ease(OWNED, 2.0)
    for item in range(3):
        others = [other for other in range(3) if other != item]
        design = OWNED[:, others]
        expected = np.linalg.solve(design.T @ design + 2.0 * np.eye(2), design.T @ OWNED[:, item])
        assert weights[others, item] == pytest.approx(expected)
        assert weights[item, item] == 0.0


def test_ndcg_counts_candidates_alone_ties_by_position_and_what_was_missed() -> None:
    candidates = np.array([[False, True, True, True]])
    bought = np.array([[True, False, True, True]])
    scores = np.array([[9.0, 1.0, 1.0, np.nan]])  # the held item does not count, the tie goes to the second item, NaN is last
    gain = 1 / np.log2(3) + 1 / np.log2(4)
    assert ndcg(scores, candidates, bought, np.array([2]))[0] == pytest.approx(gain / (1 + 1 / np.log2(3)))
    assert ndcg(scores, candidates, bought, np.array([3]))[0] == pytest.approx(gain / (1 + 1 / np.log2(3) + 1 / np.log2(4)))


def test_the_interval_holds_the_mean_over_customers_then_dates_and_draws_customers_again() -> None:
    uneven = {"one": {str(n): float(n % 2) for n in range(100)}, "other": {"0": 0.2, **{str(n): 0.2 for n in range(50)}}}
    mean, low, high = paired_interval(uneven, 400, 3)
    assert mean == pytest.approx((0.5 + 0.2) / 2)
    assert high - low == pytest.approx(
        2 * 1.96 * 0.5 / np.sqrt(100) / 2, rel=0.2
    )  # of the one date that varies, halved by the mean over two
    same = {"one": {str(n): 0.1 for n in range(200)}}
    assert paired_interval(same, 50, 3) == pytest.approx((0.1, 0.1, 0.1))


def acquisitions() -> pd.DataFrame:
    rows = [
        ("has", "old", date(2018, 1, 2), date(2019, 7, 31)),
        ("has", "new", date(2020, 1, 14), date(2020, 1, 26)),
        ("has", "unlisted", date(2020, 2, 7), date(2020, 2, 19)),
        ("late", "old", date(2018, 1, 2), date(2019, 7, 31)),
        ("late", "new", date(2020, 6, 20), date(2020, 6, 28)),  # its interval ends after the window
        ("nothing", "new", date(2020, 1, 14), date(2020, 1, 26)),  # nothing of theirs is known
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "event_date", "visible_date"])


def work_folder(folder: Path) -> Path:
    """What is known of two customers on one bound; both have `old`, so `new` and `odd` are their candidates."""
    day = date(2019, 7, 31)
    parts = {
        "known": [{"item_id": item, "item_buyers_30d": 1, "item_buyers_90d": 2} for item in ("new", "odd", "old")],
        "items": [{"item_id": "new", "item_lately_share": 0.25, "item_first_buy": day, "item_last_buy": day}],
        "risk_tolerance": [{"risk_tolerance": "low", "item_id": "new", "risk_lately_share": 0.5}],
        "user_segment": [{"user_segment": "mass", "item_id": "new", "segment_lately_share": 0.75}],
        "profiles": [
            {"user_id": "has", "risk_tolerance": "low", "user_segment": None},
            {"user_id": "late", "risk_tolerance": "high", "user_segment": "mass"},
        ],
        "owners": [{"user_id": "has", "items_held": 1, "strength": 4.0}, {"user_id": "late", "items_held": 2, "strength": None}],
        "pairs": [{"user_id": "has", "item_id": "new", "cosine": 0.5, "lately_link": 3.0}],
    }
    for name, rows in parts.items():
        pd.DataFrame([{**row, "position": 0} for row in rows]).to_parquet(folder / name)
    acquisitions().to_parquet(folder / "acquisitions.parquet")
    (folder / "bounds.json").write_text('["2020-01-14"]', encoding="utf-8")
    return folder


def test_the_features_of_a_pair_are_put_together_from_their_parts(tmp_path: Path) -> None:
    seen = Windows.read(work_folder(tmp_path)).seen(date(2020, 1, 14))
    assert seen.candidates.tolist() == [[True, True, False], [True, True, False]]
    of_pair = {name: seen.values[0, 0, FEATURES.index(name)] for name in FEATURES}
    expected = {
        **{"item_buyers_30d": 1, "item_buyers_90d": 2, "item_age_days": 166, "item_idle_days": 166, "item_lately_share": 0.25},
        **{"co_purchase_cosine": 0.5, "co_purchase_lately": 0.75, "risk_lately_share": 0.5, "segment_lately_share": np.nan},
        **{"items_held": 1, "recency_days": (date(2020, 1, 13) - date(2018, 1, 2)).days},
    }
    assert of_pair == pytest.approx(expected, nan_ok=True)
    unlike = {name: seen.values[1, 0, FEATURES.index(name)] for name in ("co_purchase_lately", "risk_lately_share", "segment_lately_share")}
    assert unlike == pytest.approx({"co_purchase_lately": np.nan, "risk_lately_share": 0.25, "segment_lately_share": 0.75}, nan_ok=True)


def test_customers_are_looked_at_who_have_something_and_acquire_within_the_window() -> None:
    assert "has" in looked_at(acquisitions(), date(2020, 1, 14))
    assert not {"nothing"} & set(looked_at(acquisitions(), date(2020, 1, 14)))


def test_a_label_is_an_acquisition_whose_whole_interval_lies_in_the_window(tmp_path: Path) -> None:
    windows = Windows.read(work_folder(tmp_path))
    seen = windows.seen(date(2020, 1, 14))
    assert (seen.customers, seen.items) == (["has", "late"], ["new", "odd", "old"])
    assert seen.days.tolist() == [[13.0, np.inf, np.inf], [167.0, np.inf, np.inf]]
    assert seen.unreachable.tolist() == [1, 0]
    results = Results(10)
    results.add(date(2020, 1, 14), MODEL, seen, np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]))
    assert results.lists[MODEL]["2020-01-14"] == pytest.approx({"has": 1 / np.log2(3)})
    assert results.all_lists[MODEL]["2020-01-14"] == pytest.approx({"has": 1 / np.log2(3) / (1 + 1 / np.log2(3))})


def test_baselines_know_what_was_known_on_the_eve_alone(tmp_path: Path) -> None:
    windows = Windows.read(work_folder(tmp_path))
    scores = baselines(windows.known(date(2020, 1, 27)), windows.seen(date(2020, 1, 14)))
    assert scores["popularity"][:, 0].tolist() == [2.0, 2.0]  # `new`, of has and nothing
    assert np.isnan(scores["popularity"][:, 1]).all()  # nobody has `odd`
    nothing_new = baselines(windows.known(date(2020, 1, 26)), windows.seen(date(2020, 1, 14)))
    assert np.isnan(nothing_new["popularity"][:, :2]).all()


def test_a_sample_holds_the_next_interval_of_those_who_acquire(tmp_path: Path) -> None:
    windows, bound = Windows.read(work_folder(tmp_path)), date(2020, 1, 14)
    assert windows.next_bound(bound) == date(2020, 1, 27)
    seen = windows.seen(bound)
    values, labels, base = sample(seen, bound, date(2020, 1, 27))
    assert labels.tolist() == [True, False]
    assert values.shape == (2, len(FEATURES))
    assert base == pytest.approx(base_margin(seen)[0, :2])
    assert base[0] > base[1]
