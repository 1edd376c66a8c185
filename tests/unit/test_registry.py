"""The one list of features and the tables made from it."""

from __future__ import annotations

import pytest

from propensity_spark import schemas
from propensity_spark.features.registry import (
    FEATURES,
    MARKET_FEATURES,
    USER_FEATURES,
    USER_ITEM_FEATURES,
    features_of,
    model_features,
    training_set_table,
    user_item_table,
)
from propensity_spark.schemas import OPS, Table


def names(grain: str, has_market: bool) -> list[str]:
    return [feature.name for feature in model_features(grain, has_market)]


def test_a_name_means_one_thing() -> None:
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)


def test_every_feature_is_explained_and_stored() -> None:
    for feature in FEATURES:
        assert feature.formula, feature.name
        assert feature.unit, feature.name
        assert feature.null_when, feature.name
        assert feature.groups, feature.name


def test_the_users_grain_sees_users_features_alone() -> None:
    seen = names("user", has_market=False)
    assert "recency_days" in seen
    assert "momentum_21d" not in seen
    assert "item_views_7d" not in seen
    assert seen == names("user", has_market=True)


def test_the_pairs_grain_adds_the_pair_and_the_market_where_there_is_one() -> None:
    without, with_market = names("user_item", has_market=False), names("user_item", has_market=True)
    assert set(with_market) - set(without) >= {"momentum_21d", "volume_ratio_30d"}
    assert "item_views_7d" in without
    assert with_market.count("day_of_week") == without.count("day_of_week") == 1


def test_what_only_people_read_is_stored_but_not_learnt_from() -> None:
    assert "rfm_segment" in USER_FEATURES.column_names
    assert "rfm_segment" not in names("user_item", has_market=True)


def test_features_of_the_crowd_are_columns_only_where_they_are_turned_on() -> None:
    """Null columns would be no harm to read, but the trees' column sampling draws them, and the model gets worse."""
    crowd = [feature.name for feature in features_of("crowd")]
    assert user_item_table(has_crowd=False) is USER_ITEM_FEATURES
    assert user_item_table(has_crowd=True).column_names == [*USER_ITEM_FEATURES.column_names, *crowd]
    for has_market in (False, True):
        without = names("user_item", has_market)
        assert not set(crowd) & set(without)
        assert [feature.name for feature in model_features("user_item", has_market, has_crowd=True)] == [*without, *crowd]
        assert set(crowd) < set(training_set_table("user_item", has_market, has_crowd=True).column_names)
    assert [feature.name for feature in model_features("user", False, has_crowd=True)] == names("user", has_market=False)


@pytest.mark.parametrize("table", [MARKET_FEATURES, USER_FEATURES, USER_ITEM_FEATURES], ids=lambda table: table.name)
def test_a_gold_table_has_its_key_and_its_groups_features(table: Table) -> None:
    stored = {feature.name for feature in features_of(table.name.removesuffix("_features"))}  # type: ignore[arg-type]
    assert set(table.key) < set(table.column_names)
    assert stored < set(table.column_names)
    assert all(column.nullable for column in table.columns if column.name in stored)
    assert not any(column.nullable for column in table.columns if column.name in table.key)


def test_the_training_set_holds_what_the_model_sees_and_the_label() -> None:
    table = training_set_table("user_item", has_market=True)
    seen = names("user_item", has_market=True)
    assert [name for name in table.column_names if name in seen] == seen
    assert table.column_names[-3:] == ["label", "sample_weight", "split"]
    assert table.key == ("user_id", "item_id", "as_of_date")


def test_every_ops_table_is_listed_so_that_vacuum_reaches_it() -> None:
    declared = {table.name for table in vars(schemas).values() if isinstance(table, Table) and table.layer == "ops"}
    assert set(OPS) == declared
