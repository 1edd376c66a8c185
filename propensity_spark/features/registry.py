"""The one list of features: name, type, unit, formula, meaning of null. Matrix, train, score, monitor and docs read it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log2
from typing import Literal

from pyspark.sql import types as T

from propensity_spark.schemas import CARRIED, DATE, DOUBLE, LONG, STRING, Column, Table, grain_key, key_columns, reasons_table, scores_table

Group = Literal["market", "user", "user_item", "crowd"]


@dataclass(frozen=True)
class Feature:
    """One feature. `groups` are the gold tables that store it; `in_model` is false for what only people read.

    The group `crowd` is stored with the pairs (`user_item`), in data sets whose settings turn it on, and is nowhere in the others.
    `categorical`: its values are names or grades, which monitoring counts one by one instead of by ranges.
    """

    name: str
    type: T.DataType
    unit: str
    formula: str
    null_when: str
    groups: tuple[Group, ...]
    in_model: bool = True
    categorical: bool = False

    @property
    def column(self) -> Column:
        return Column(self.name, self.type, f"{self.formula} [{self.unit}]; null when: {self.null_when}", nullable=True)


def _market(name: str, unit: str, formula: str, null_when: str) -> Feature:
    return Feature(name, DOUBLE, unit, formula, null_when, ("market",))


def _user(
    name: str, type_: T.DataType, unit: str, formula: str, null_when: str, *, in_model: bool = True, categorical: bool = False
) -> Feature:
    return Feature(name, type_, unit, formula, null_when, ("user",), in_model, categorical)


def _pair(name: str, type_: T.DataType, unit: str, formula: str, null_when: str) -> Feature:
    return Feature(name, type_, unit, formula, null_when, ("user_item",))


def _crowd(name: str, type_: T.DataType, unit: str, formula: str, null_when: str) -> Feature:
    return Feature(name, type_, unit, formula, null_when, ("crowd",))


MONEY_SUM = T.DecimalType(28, 4)
MOMENTUM_SESSIONS = (5, 21, 63, 126, 252)
NO_BUY_365 = "no purchase in 365 days"
HAVING = "has: a buy in candidates.held_days"
HALF_LIFE_DAYS, STEPS = 120, 8
LATELY_DAYS = tuple(round(HALF_LIFE_DAYS * log2(STEPS / (step - 0.5))) for step in range(STEPS, 1, -1))
"""Ages at which 8 · ½^(age / 120 days), rounded, falls by one: a decay made of windows, whose whole numbers add up exactly."""
LATELY = (
    f"w = 1 for having it + 1 for each of the last {', '.join(map(str, LATELY_DAYS))} days with a buy of it "
    f"(dated by features.crowd.age_from; half-life {HALF_LIFE_DAYS} days, in steps)"
)
SIZES = (1, 2, 4, 8, 16)  # users are alike by how many items they have: so many at most, or more than the last
PRIOR = 20  # weight of everyone's share in that of users who are alike: few of them say little

FEATURES: tuple[Feature, ...] = (
    _market("return_1d", "ratio", "close[t] / close[t−1] − 1", "no previous session"),
    *(_market(f"momentum_{n}d", "ratio", f"close[t] / close[t−{n}] − 1", f"fewer than {n} earlier sessions") for n in MOMENTUM_SESSIONS),
    _market("momentum_12_1", "ratio", "close[t−21] / close[t−252] − 1", "fewer than 252 earlier sessions"),
    _market(
        "volatility_21d",
        "per session",
        "sample standard deviation of ln(close[i]/close[i−1]), the last 21 returns",
        "fewer than 21 returns",
    ),
    _market("avg_volume_30d", "shares", "mean of volume[t−30 … t−1]", "fewer than 30 earlier sessions"),
    _market("volume_ratio_30d", "ratio", "volume[t] / avg_volume_30d", "fewer than 30 earlier sessions, or the mean is 0"),
    _market("volume_ratio_5d_30d", "ratio", "mean(volume[t−4 … t]) / avg_volume_30d", "fewer than 30 earlier sessions, or the mean is 0"),
    _market("range_1d", "ratio", "(high − low) / close at t", "close is 0"),
    _market("drawdown_252d", "ratio", "close[t] / max(close[t−251 … t]) − 1", "fewer than 252 sessions"),
    _market("sector_momentum_21d", "ratio", "exact median of momentum_21d over the items of the sector on D", "sector unknown"),
    _market("relative_momentum_21d", "ratio", "momentum_21d − sector_momentum_21d", "either is null"),
    Feature("day_of_week", LONG, "ISO 1–7", "day of the week of D", "never", ("market", "user")),
    _user("recency_days", LONG, "days", "D − event_date of the last buy", "no purchase yet"),
    *(
        _user(f"frequency_{n}d", LONG, "orders", f"distinct orders with a buy in (D − {n}, D], each on its first event's date", "never (0)")
        for n in (30, 90, 365)
    ),
    *(
        _user(f"monetary_{n}d", MONEY_SUM, "currency", f"sum of amount of buy and cancel events in (D − {n}, D]", "never (0)")
        for n in (30, 90, 365)
    ),
    _user("avg_ticket_365d", DOUBLE, "currency", "monetary_365d / frequency_365d", "frequency_365d is 0"),
    _user("tenure_days", LONG, "days", "D − date of the first event", "no event"),
    _user(
        "rfm_r",
        LONG,
        "1–5",
        "1 + floor(5·b/n), b of the n users with a purchase in 365 days have more recency days",
        NO_BUY_365,
        categorical=True,
    ),
    _user("rfm_f", LONG, "1–5", "1 + floor(5·b/n), b have a smaller frequency_365d", NO_BUY_365, categorical=True),
    _user("rfm_m", LONG, "1–5", "1 + floor(5·b/n), b have a smaller monetary_365d", NO_BUY_365, categorical=True),
    _user(
        "rfm_segment",
        STRING,
        "name",
        "champions, loyal, recent, at_risk, lost or regular, from the three",
        NO_BUY_365,
        in_model=False,
        categorical=True,
    ),
    *(_user(f"views_{n}d", LONG, "events", f"view events in (D − {n}, D]", "never (0)") for n in (7, 30)),
    _user("active_days_30d", LONG, "days", "distinct dates with any event in (D − 30, D]", "never (0)"),
    _user("sessions_30d", LONG, "sessions", "distinct session_id in (D − 30, D]", "the source has none"),
    _user(
        "portfolio_diversity",
        DOUBLE,
        "0–1",
        "1 − Σ(share of buy amount by sector in 365 days)²",
        NO_BUY_365 + ", or its total is not positive",
    ),
    _user(
        "risk_level",
        LONG,
        "ordinal",
        "position of risk_tolerance on D in features.risk_levels",
        "no profile visible, or a level that is not listed",
        categorical=True,
    ),
    *(_pair(f"item_views_{n}d", LONG, "events", f"view events of the pair in (D − {n}, D]", "never (0)") for n in (7, 30)),
    _pair("item_purchases_365d", LONG, "orders", "distinct orders of the pair with a buy in (D − 365, D]", "never (0)"),
    _pair("days_since_item_view", LONG, "days", "D − event_date of the pair's last view", "no view yet"),
    _pair("days_since_item_purchase", LONG, "days", "D − event_date of the pair's last buy", "no purchase yet"),
    _pair(
        "sector_affinity_365d",
        DOUBLE,
        "0–1",
        "share of the user's buy amount in 365 days in the item's sector",
        NO_BUY_365 + ", or its total is not positive",
    ),
    *(_pair(f"item_buyers_{n}d", LONG, "users", f"distinct buyers of the item in (D − {n}, D]", "never (0)") for n in (7, 30, 90)),
    _pair("item_buyers_trend", DOUBLE, "ratio", "item_buyers_7d · (30/7) / item_buyers_30d", "item_buyers_30d is 0"),
    _crowd("item_owners", LONG, "users", f"users who have the item ({HAVING})", "never (0)"),
    _crowd("item_lately_share", DOUBLE, "0–1", f"Σ w(v, item) / Σ w(v, j) over users v and items j, {LATELY}", "never (0)"),
    _crowd("item_age_days", LONG, "days", "D − event_date of the item's first buy", "nobody has the item"),
    _crowd("item_idle_days", LONG, "days", "D − event_date of the item's last buy", "nobody has the item"),
    _crowd("items_held", LONG, "items", f"items that the user has ({HAVING})", "never (0)"),
    _crowd(
        "co_purchase_lately",
        DOUBLE,
        "0–1",
        "Σ l(i, item) / Σ l(i, j) over the items i that the user has and all j, l(i, j) = Σ w(v, j) over users v who have both / "
        "√(users who have i), 0 unless related by features.crowd",
        "never (0)",
    ),
    *(
        _crowd(
            name,
            DOUBLE,
            "0–1",
            f"(Σ w(v, item) + {PRIOR} · item_lately_share) / (Σ w(v, j) + {PRIOR}) over items j and the users v {alike}",
            null_when,
        )
        for name, alike, null_when in (
            (
                "size_lately_share",
                f"who have about as many items as the user: up to {', '.join(map(str, SIZES))} or more",
                "the user has nothing",
            ),
            ("risk_lately_share", "with the user's risk_tolerance", "no risk_tolerance visible"),
        )
    ),
)


def features_of(group: Group) -> tuple[Feature, ...]:
    """The features stored in one gold table, in registry order."""
    return tuple(feature for feature in FEATURES if group in feature.groups)


def model_features(grain: str, has_market: bool, has_crowd: bool = False) -> tuple[Feature, ...]:
    """What the model sees at a grain, in registry order: each once, without what only people read.

    A feature that is turned off is not a null column: that would still be drawn by `colsample_bytree`, and make the model worse.
    """
    of_pairs = {"user_item"} | ({"market"} if has_market else set()) | ({"crowd"} if has_crowd else set())
    groups = {"user"} if grain == "user" else {"user"} | of_pairs
    return tuple(feature for feature in FEATURES if feature.in_model and groups & set(feature.groups))


def _columns(group: Group) -> tuple[Column, ...]:
    return tuple(feature.column for feature in features_of(group))


MARKET_FEATURES = Table(
    "gold",
    "market_features",
    "one item on one session date (and on an as-of date asked for)",
    ("item_id", "as_of_date"),
    (
        *key_columns("item_id", "as_of_date"),
        Column("last_session_date", DATE, "session date of t, the item's last bar visible on D"),
        *_columns("market"),
    ),
    cluster_by=("as_of_date",),
)

USER_FEATURES = Table(
    "gold",
    "user_features",
    "one user with at least one visible event, on one as-of date",
    ("user_id", "as_of_date"),
    (*key_columns("user_id", "as_of_date"), *_columns("user")),
    partition_by=("as_of_date",),
)

USER_ITEM_FEATURES = Table(
    "gold",
    "user_item_features",
    "one candidate (user, item) pair on one as-of date",
    ("user_id", "item_id", "as_of_date"),
    (
        *key_columns("user_id", "item_id", "as_of_date"),
        Column("candidate_source", STRING, "first of held, viewed, affine, popular, all that makes the pair a candidate"),
        *_columns("user_item"),
    ),
    partition_by=("as_of_date",),
)

_WITH_CROWD = replace(USER_ITEM_FEATURES, columns=(*USER_ITEM_FEATURES.columns, *_columns("crowd")))


def user_item_table(has_crowd: bool) -> Table:
    """`gold/user_item_features`, with the features of the crowd where they are turned on."""
    return _WITH_CROWD if has_crowd else USER_ITEM_FEATURES


def gold_tables(grain: str, has_market: bool, has_crowd: bool = False) -> tuple[Table, ...]:
    """All of gold, in the order in which it is made."""
    features = (CARRIED, USER_FEATURES, user_item_table(has_crowd), MARKET_FEATURES)
    return (*features, training_set_table(grain, has_market, has_crowd), scores_table(grain), reasons_table(grain))


def training_set_table(grain: str, has_market: bool, has_crowd: bool = False) -> Table:
    """`gold/training_set`: features as of D, the label of (D, D + H], the slice and the sampling weight."""
    key = grain_key(grain)
    return Table(
        "gold",
        "training_set",
        "one candidate on one training date; negatives sampled in train and validation",
        key,
        (
            *key_columns(*key),
            *(feature.column for feature in model_features(grain, has_market, has_crowd)),
            Column("label", T.IntegerType(), "1 = purchased in (D, D + H] and not wholly undone; else 0"),
            Column("sample_weight", DOUBLE, "1 / probability with which this row was kept"),
            Column("split", STRING, "train, validation, calibration or test, by as_of_date, horizon purged between"),
        ),
        partition_by=("split",),
    )
