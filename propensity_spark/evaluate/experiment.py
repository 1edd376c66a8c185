"""Does acting on the scores pay? Assignment, power and analysis of an A/B test in which some of the chosen users are not contacted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.optimize import brentq
from scipy.stats import chi2, norm

from propensity_spark.errors import NotEnoughUsers
from propensity_spark.score import PROBABILITY

TREATMENT, CONTROL = "treatment", "control"
UNEVEN = 0.001  # shares of the arms less likely than this by chance: the assignment was not kept
_TINY = 1e-9
_DIGITS = 13  # of the hash, hexadecimal: 52 bits, which a double holds exactly


@dataclass(frozen=True)
class Plan:
    """`users` of the audience, of whom `expected_rate` would purchase anyway; `needed` of them to see a relative `effect` with this
    `power`; `power_with_all` and `detectable` (the smallest relative effect seen with that power; null: none) with all of them.
    """

    users: int
    expected_rate: float
    effect: float
    needed: int
    power_with_all: float
    detectable: float | None


@dataclass(frozen=True)
class Sums:
    """Of one arm: users, purchasers, and the sums that adjusting for the score needs."""

    users: int
    purchasers: float
    score: float = 0.0
    score_squared: float = 0.0
    score_purchasers: float = 0.0

    @property
    def rate(self) -> float:
        return self.purchasers / self.users


@dataclass(frozen=True)
class Analysis:
    """Purchasers among all users of an arm, contacted or not. `difference` = treatment − control with its interval; `adjusted`:
    the same with what the scores knew beforehand taken out, which narrows it; `even`: the arms have the shares they should.
    """

    treatment: Sums
    control: Sums
    difference: tuple[float, float, float]
    adjusted: tuple[float, float, float]
    p_value: float
    even: bool

    @property
    def lift(self) -> float | None:
        """Relative to the control arm; null when nobody purchased there."""
        return self.difference[0] / self.control.rate if self.control.purchasers else None


def rule(name: str, share: float) -> str:
    """The arm of a user as Spark SQL over `user_id`: `treatment` for this share of the users, else `control`.

    By SHA-256 of `<name>:<user_id>`, so any system finds the same arm. Another experiment's name (letters, digits, `_`, `-`)
    divides the users anew, independently of this one.
    """
    place = f"cast(conv(substr(sha2(concat('{name}:', user_id), 256), 1, {_DIGITS}), 16, 10) AS double) / {16**_DIGITS}"
    return f"CASE WHEN {place} < {share} THEN '{TREATMENT}' ELSE '{CONTROL}' END"


def audience(scores: DataFrame, segment: str | None) -> DataFrame:
    """(user_id, `expected`) of the users with a row of gold/scores in the segment (`all`: any row; None: one predicted to purchase).

    `expected`: probability that at least one of these rows is purchased, taking them as independent.
    """
    wanted = F.lit(True) if segment == "all" else F.col("predicted_purchase") if segment is None else F.col("segment") == segment
    chosen = scores.where(wanted)
    return chosen.groupBy("user_id").agg((1 - F.exp(F.sum(F.log1p(-F.col(PROBABILITY))))).alias("expected"))


def sums_by_arm(users: DataFrame, purchasers: DataFrame, name: str, share: float) -> dict[str, Sums]:
    """Arm → sums over all users of the `audience` (intention to treat: who was contacted plays no part), in one pass.

    `purchasers`: user_id, one row for each that purchased in the window. Both arms are there, perhaps without users.
    """
    outcome = users.join(purchasers.select("user_id", F.lit(1).alias("purchased")), "user_id", "left").fillna(0, ["purchased"])
    y, score = F.col("purchased"), F.col("expected")
    rows = (
        outcome.groupBy(F.expr(rule(name, share)).alias("arm"))
        .agg(F.count("*"), F.sum(y), F.sum(score), F.sum(score * score), F.sum(score * y))
        .collect()
    )
    found = {row["arm"]: Sums(row[1], *(float(value) for value in row[2:])) for row in rows}
    return {one: found.get(one, Sums(0, 0.0)) for one in (TREATMENT, CONTROL)}


def plan(users: int, rate: float, *, effect: float, share: float, alpha: float, power: float) -> Plan:
    """How many users show a relative `effect` on `rate`. Raises NotEnoughUsers where there is nothing to plan with.

    Two-sided test of two proportions at level `alpha`, normal approximation, `share` of the users in treatment.
    Source: Fleiss, Levin and Paik, "Statistical Methods for Rates and Proportions", 2003, chapter 4.
    """
    if users == 0 or not 0 < rate < 1 or not 0 < rate * (1 + effect) < 1 or effect == 0:
        raise NotEnoughUsers(
            f"experiment: expected users with a purchase rate that an effect can move within (0, 1), found {users} users, rate {rate:g} "
            f"and effect {effect:+g}; choose another segment, date or effect"
        )

    def power_at(relative: float) -> float:
        return _power(rate, rate * (1 + relative), users * share, users * (1 - share), alpha)

    largest = (1 - _TINY) / rate - 1
    detectable = None
    if power_at(largest) > power:
        detectable = float(brentq(lambda relative: power_at(relative) - power, _TINY, largest))
    return Plan(users, rate, effect, _needed(rate, rate * (1 + effect), share, alpha, power), power_at(effect), detectable)


def analyse(arms: Mapping[str, Sums], *, share: float, alpha: float) -> Analysis:
    """Treatment against control. Raises NotEnoughUsers where an arm has fewer than two users.

    The interval of the difference is Newcombe's ("Interval estimation for the difference between independent proportions", 1998,
    method 10), the p-value that of the pooled z-test. `adjusted` removes the scores' part of each outcome (CUPED: Deng, Xu,
    Kohavi and Walker, "Improving the sensitivity of online controlled experiments", 2013), with a normal interval.
    """
    treatment, control = arms[TREATMENT], arms[CONTROL]
    if min(treatment.users, control.users) < 2:
        raise NotEnoughUsers(
            f"experiment: expected two users or more in each arm, found {treatment.users} in treatment and {control.users} in control"
        )
    z = float(norm.ppf(1 - alpha / 2))
    found = treatment.rate - control.rate
    (low_t, high_t), (low_c, high_c) = _wilson(treatment, z), _wilson(control, z)
    interval = (
        found - math.hypot(treatment.rate - low_t, high_c - control.rate),
        found + math.hypot(high_t - treatment.rate, control.rate - low_c),
    )
    pooled = (treatment.purchasers + control.purchasers) / (treatment.users + control.users)
    error = math.sqrt(pooled * (1 - pooled) * (1 / treatment.users + 1 / control.users))
    total = treatment.users + control.users
    expected = share * total
    uneven = (treatment.users - expected) ** 2 / expected + (control.users - (total - expected)) ** 2 / (total - expected)
    return Analysis(
        treatment,
        control,
        (found, *interval),
        _adjusted(treatment, control, z),
        float(2 * norm.sf(abs(found) / error)) if error else 1.0,
        bool(chi2.sf(uneven, 1) >= UNEVEN),
    )


def _needed(rate: float, other: float, share: float, alpha: float, power: float) -> int:
    mean = share * other + (1 - share) * rate
    by_chance = norm.ppf(1 - alpha / 2) * math.sqrt(mean * (1 - mean) / (share * (1 - share)))
    by_power = norm.ppf(power) * math.sqrt(other * (1 - other) / share + rate * (1 - rate) / (1 - share))
    return math.ceil(float((by_chance + by_power) / (other - rate)) ** 2)


def _power(rate: float, other: float, treated: float, controls: float, alpha: float) -> float:
    mean = (treated * other + controls * rate) / (treated + controls)
    by_chance = norm.ppf(1 - alpha / 2) * math.sqrt(mean * (1 - mean) * (1 / treated + 1 / controls))
    return float(norm.cdf((abs(other - rate) - by_chance) / math.sqrt(other * (1 - other) / treated + rate * (1 - rate) / controls)))


def _wilson(one: Sums, z: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927)."""
    n, p = one.users, one.rate
    middle, reach = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - reach) / (1 + z * z / n), (middle + reach) / (1 + z * z / n)


def _adjusted(treatment: Sums, control: Sums, z: float) -> tuple[float, float, float]:
    """Difference and interval of purchases less θ · score, with the θ that leaves least variance within the arms."""
    arms = (treatment, control)
    around = [_around_means(one) for one in arms]
    score_total = sum(x for _, x, _ in around)
    theta = sum(both for _, _, both in around) / score_total if score_total > 0 else 0.0
    means = [one.rate - theta * one.score / one.users for one in arms]
    variance = sum(
        (y - 2 * theta * both + theta**2 * x) / (one.users - 1) / one.users for one, (y, x, both) in zip(arms, around, strict=True)
    )
    found, reach = means[0] - means[1], z * math.sqrt(max(variance, 0.0))
    return found, found - reach, found + reach


def _around_means(one: Sums) -> tuple[float, float, float]:
    """Sums of squares of purchase and of score, and of their products, around the means."""
    n = one.users
    return (
        one.purchasers - one.purchasers**2 / n,
        one.score_squared - one.score**2 / n,
        one.score_purchasers - one.score * one.purchasers / n,
    )
