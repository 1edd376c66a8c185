"""What the benchmark on real investors measures by, against numbers worked out by hand or the slow way."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from benchmarks.far_trans_model import (
    FEATURES,
    HORIZON,
    MODEL,
    TERMS,
    Results,
    Windows,
    baselines,
    conditional_logit,
    looked_at,
    sample,
    trend,
)
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


def windows() -> Windows:
    """Two customers who have `old`, seen on one bound; `new` and `odd` are what they could acquire, `listed` nobody has."""
    rows = [
        ("has", "old", date(2018, 1, 2), date(2019, 7, 31)),
        ("other", "odd", date(2018, 1, 2), date(2019, 7, 31)),
        ("other", "new", date(2018, 1, 2), date(2019, 7, 31)),
        ("has", "new", date(2020, 1, 14), date(2020, 1, 26)),
        ("has", "listed", date(2020, 2, 7), date(2020, 2, 19)),
        ("has", "not known", date(2020, 2, 7), date(2020, 2, 19)),
        ("late", "old", date(2018, 1, 2), date(2019, 7, 31)),
        ("late", "new", date(2020, 6, 20), date(2020, 6, 28)),  # its interval ends after the window
        ("nothing", "new", date(2020, 1, 14), date(2020, 1, 26)),  # nothing of theirs is known
    ]
    parts = {
        "known": [{"item_id": item} for item in ("listed", "new", "odd", "old")],
        "items": [{"item_id": item, "item_lately": owners} for item, owners in (("new", 1), ("odd", 1), ("old", 2))],
        "links": [{"item_id": "old", "other_id": "new", "link": 3}, {"item_id": "old", "other_id": "odd", "link": 1}],
        "people": [{"user_id": user, "size": "0", "risk_tolerance": risk} for user, risk in (("has", "low"), ("late", None))],
        "size": [{"item_id": "old", "value": "0", "lately": 2}],
        "risk_tolerance": [{"item_id": "new", "value": "high", "lately": 1}],
    }
    frames = {(name, 0): pd.DataFrame(rows) for name, rows in parts.items()}
    return Windows(pd.DataFrame(rows, columns=["user_id", "item_id", "event_date", "visible_date"]), [BOUND], frames)


BOUND = date(2020, 1, 14)


def test_the_features_of_a_pair_are_put_together_from_their_parts() -> None:
    seen = windows().seen(BOUND, ["has", "late"])
    assert (list(seen.items), seen.candidates.tolist()) == (["new", "odd", "old"], [[True, True, False], [True, True, False]])
    of_pair = {name: seen.values[0, 0, FEATURES.index(name)] for name in FEATURES}
    expected = {
        **{"item_lately_share": 0.25, "co_purchase_lately": 0.75, "items_held": 1},
        **{"recency_days": (date(2020, 1, 13) - date(2018, 1, 2)).days},
        **{"size_lately_share": (0 + 20 * 0.25) / 22, "risk_lately_share": 0.25},  # nobody else is of low risk
    }
    assert of_pair == pytest.approx(expected, nan_ok=True)
    assert np.isnan(seen.values[1, 0, FEATURES.index("risk_lately_share")])
    assert seen.terms[0, :2, TERMS.index("link")] == pytest.approx([np.log(1.001), np.log(1 / 3 + 0.001)], abs=1e-6)
    assert seen.terms[1, 0, TERMS.index("risk_tolerance")] == 0.0


def test_customers_are_looked_at_who_have_something_and_acquire_within_the_window() -> None:
    assert looked_at(windows(), BOUND, BOUND + timedelta(days=HORIZON)) == {"has": 1.0}


def test_a_label_is_an_acquisition_whose_whole_interval_lies_in_the_window() -> None:
    seen = windows().seen(BOUND, ["has", "late"])
    assert seen.days.tolist() == [[13.0, np.inf, np.inf], [167.0, np.inf, np.inf]]
    assert (seen.cold.tolist(), seen.unknown.tolist()) == ([1, 0], [1, 0])
    results = Results(10, date(2020, 7, 8))
    results.add(MODEL, seen, np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]))
    second = 1 / np.log2(3)
    assert results.lists[MODEL][BOUND] == pytest.approx({"has": second / (1 + second)})  # nobody has `listed`: it was missed
    assert results.strict[MODEL][BOUND] == pytest.approx({"has": second / (1 + second + 1 / np.log2(4))})


def test_baselines_know_what_was_known_on_the_eve_alone() -> None:
    of = windows()
    seen = of.seen(BOUND, ["has", "late"])
    assert baselines(of.known(BOUND), seen)["popularity"].tolist() == [[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]]
    assert baselines(of.known(BOUND + timedelta(days=13)), seen)["popularity"][0].tolist() == [3.0, 1.0, 2.0]


def test_the_trend_is_what_the_window_acquires_against_what_was_acquired_lately() -> None:
    of_items = trend(windows().seen(BOUND, ["has", "late"]))[0]
    assert of_items == pytest.approx([np.log(1.0001 / 0.2501), np.log(0.0001 / 0.2501), np.log(0.0001 / 0.5001)], rel=1e-5)


def test_a_sample_holds_what_customers_acquire_by_a_bound_and_what_they_do_not() -> None:
    found = sample(windows().seen(BOUND, ["has", "late"]), date(2020, 1, 27))
    assert (found.labels.tolist(), found.starts.tolist(), found.share.tolist()) == ([True, False], [0], [1.0, 1.0])
    assert not sample(windows().seen(BOUND, ["has", "late"]), date(2020, 1, 26)).labels.any()


def test_the_logit_finds_the_weights_that_choices_were_made_by() -> None:
    random = np.random.default_rng(5)
    terms, truth = random.normal(size=(40_000, 2)), np.array([1.5, -0.7])
    utility = (terms @ truth + random.gumbel(size=40_000)).reshape(-1, 4)
    wanted = (utility == utility.max(axis=1, keepdims=True)).ravel().astype(float)
    assert conditional_logit(terms, wanted, np.arange(0, 40_000, 4)) == pytest.approx(truth, abs=0.1)
    nothing = conditional_logit(terms[:4], np.zeros(4), np.arange(0, 4, 4))
    assert nothing == pytest.approx([1.0, 0.0], abs=1e-6), "nothing learnt: the order of the first term"
