"""Plans against published numbers, analyses against planted effects, and the assignment against another implementation of it."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, date, datetime

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from propensity_spark import cli
from propensity_spark.config import Settings
from propensity_spark.errors import NotEnoughHistory, NotEnoughUsers, NotScored
from propensity_spark.evaluate.experiment import CONTROL, TREATMENT, Analysis, Sums, analyse, audience, plan, rule, sums_by_arm
from propensity_spark.experiment import analyse_experiment, plan_experiment
from propensity_spark.schemas import ACTIVITY, scores_table
from propensity_spark.tables import Lake, local_frame

D = date(2024, 3, 1)
USUAL = {"share": 0.5, "alpha": 0.05}


def other_arm(name: str, user: str, share: float) -> str:
    """As a mailing system would have to do it."""
    return TREATMENT if int(hashlib.sha256(f"{name}:{user}".encode()).hexdigest()[:13], 16) / 16**13 < share else CONTROL


def test_ten_to_twelve_percent_takes_3841_users_an_arm() -> None:
    """The textbook's number for level 5%, power 80%."""
    found = plan(10_000, 0.10, effect=0.2, power=0.8, **USUAL)
    assert found.needed == pytest.approx(2 * 3841, abs=1)
    assert plan(found.needed, 0.10, effect=0.2, power=0.8, **USUAL).power_with_all == pytest.approx(0.8, abs=1e-3)
    at_the_limit = plan(found.needed, 0.10, effect=0.05, power=0.8, **USUAL)
    assert at_the_limit.detectable == pytest.approx(0.2, abs=1e-3)
    uneven = plan(10_000, 0.10, effect=0.2, power=0.8, share=0.8, alpha=0.05)
    assert uneven.needed > found.needed
    assert plan(6, 0.50, effect=0.2, power=0.8, **USUAL).detectable is None


@pytest.mark.parametrize(("users", "rate", "effect"), [(0, 0.1, 0.1), (100, 0.0, 0.1), (100, 0.5, 1.5), (100, 0.5, 0.0)])
def test_nothing_to_plan_with(users: int, rate: float, effect: float) -> None:
    with pytest.raises(NotEnoughUsers, match=r"choose another segment, date or effect"):
        plan(users, rate, effect=effect, power=0.8, **USUAL)


def test_the_power_is_what_simulated_experiments_show() -> None:
    rng = np.random.default_rng(6)
    planned = plan(4000, 0.1, effect=0.3, power=0.8, **USUAL)
    seen = 0
    for _ in range(400):
        bought = rng.binomial(2000, [0.13, 0.1])
        seen += analyse({TREATMENT: Sums(2000, bought[0]), CONTROL: Sums(2000, bought[1])}, **USUAL).p_value < 0.05
    assert seen / 400 == pytest.approx(planned.power_with_all, abs=0.06)


def test_the_interval_is_newcombe_s() -> None:
    """His example: 56 of 70 against 48 of 80."""
    found = analyse({TREATMENT: Sums(70, 56), CONTROL: Sums(80, 48)}, share=70 / 150, alpha=0.05)
    assert found.difference == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert found.lift == pytest.approx(0.2 / 0.6)
    none = analyse({TREATMENT: Sums(70, 0), CONTROL: Sums(80, 0)}, share=70 / 150, alpha=0.05)
    assert (none.difference[0], none.p_value, none.lift) == (0.0, 1.0, None)


def test_an_assignment_that_was_not_kept_is_called_so() -> None:
    assert analyse({TREATMENT: Sums(5000, 10), CONTROL: Sums(5100, 10)}, **USUAL).even
    assert not analyse({TREATMENT: Sums(5000, 10), CONTROL: Sums(5600, 10)}, **USUAL).even
    with pytest.raises(NotEnoughUsers, match="found 5 in treatment and 0 in control"):
        analyse({TREATMENT: Sums(5, 1), CONTROL: Sums(0, 0)}, **USUAL)


def crowd(spark: SparkSession, users: int = 4000, lift: float = 0.0, name: str = "spring") -> tuple[Analysis, float]:
    """An experiment with `users` whose scores are right, and the effect that was added to everyone in treatment, contacted or not."""
    rng = np.random.default_rng(1)
    expected = rng.beta(1, 6, users)
    treated = np.array([other_arm(name, f"u{n}", 0.5) == TREATMENT for n in range(users)])
    bought = rng.random(users) < np.clip(expected + lift * treated, 0, 1)
    frame = local_frame(spark, [(f"u{n}", float(expected[n])) for n in range(users)], "user_id string, expected double")
    purchasers = local_frame(spark, [(f"u{n}",) for n in np.flatnonzero(bought)], "user_id string")
    sums = sums_by_arm(frame, purchasers, name, 0.5)
    assert (sums[TREATMENT].users, sums[CONTROL].users) == (treated.sum(), users - treated.sum())
    assert sums[TREATMENT].purchasers == bought[treated].sum()
    return analyse(sums, **USUAL), lift


def test_a_planted_effect_is_found_and_the_score_narrows_the_interval(spark: SparkSession) -> None:
    found, lift = crowd(spark, lift=0.08)
    for _, low, high in (found.difference, found.adjusted):
        assert 0 < low < lift < high
    assert found.adjusted[2] - found.adjusted[1] < 0.97 * (found.difference[2] - found.difference[1])
    assert found.p_value < 1e-6
    assert found.even
    nothing, _ = crowd(spark)
    assert nothing.difference[1] < 0 < nothing.difference[2]
    assert nothing.p_value > 0.05


def test_any_system_finds_the_same_arm_and_names_divide_anew(spark: SparkSession) -> None:
    users = local_frame(spark, [(f"u{n}",) for n in range(2000)], "user_id string")
    rows = users.select("user_id", F.expr(rule("spring", 0.3)).alias("a"), F.expr(rule("autumn", 0.3)).alias("b")).collect()
    assert all(row["a"] == other_arm("spring", row["user_id"], 0.3) for row in rows)
    treated = [row for row in rows if row["a"] == TREATMENT]
    assert len(treated) / 2000 == pytest.approx(0.3, abs=0.03)
    assert sum(row["b"] == TREATMENT for row in treated) / len(treated) == pytest.approx(0.3, abs=0.06)


def test_the_audience_has_a_user_once(spark: SparkSession) -> None:
    rows = [
        ("a", 0.5, True, "Medium"),
        ("a", 0.2, True, "Medium"),
        ("a", 0.05, False, "Low"),
        ("b", 0.6, True, "High"),
        ("c", 0.0, False, "Low"),
    ]
    scores = local_frame(spark, rows, "user_id string, purchase_probability double, predicted_purchase boolean, segment string")

    def of(segment: str | None) -> dict[str, float]:
        return {row["user_id"]: round(row["expected"], 9) for row in audience(scores, segment).collect()}

    assert of(None) == {"a": 0.6, "b": 0.6}
    assert of("High") == {"b": 0.6}
    assert of("all") == {"a": 0.62, "b": 0.6, "c": 0.0}


@pytest.fixture
def scored(lake: Lake) -> Lake:
    """300 users scored as of D at grain user; every second purchases within the window, one before it."""
    spark, table = lake.spark, scores_table("user")
    rows = [(f"u{n}", D, 0.4, n % 3 > 0, "Medium", "m", "1") for n in range(300)]
    lake.overwrite(local_frame(spark, rows, table.schema), table)
    event = dict.fromkeys(ACTIVITY.column_names) | {"event_type": "buy", "item_id": "i", "is_deleted": False, "payload_hash": "p"}
    bought = [(f"u{n}", D.replace(day=5)) for n in range(0, 300, 2)] + [("u1", D)]
    events = [
        event
        | {"event_id": f"{user}{day}", "order_id": user, "user_id": user, "event_date": day, "visible_date": day}
        | dict.fromkeys(("event_ts", "known_at"), datetime(day.year, day.month, day.day, tzinfo=UTC))
        for user, day in bought
    ]
    lake.overwrite(local_frame(spark, [tuple(one.values()) for one in events], ACTIVITY.schema), ACTIVITY)
    return lake


def settings_of(lake: Lake) -> Settings:
    body = {"dataset": "test", "grain": "user", "lake": {"root": lake.root}, "publish": {"uri": "out"}, "sources": {}}
    return Settings.model_validate(body)


def test_plan_and_analysis_of_a_scored_day(scored: Lake) -> None:
    settings = settings_of(scored)
    planned = plan_experiment(scored, settings, D, segment=None, effect=0.1, power=0.8, **USUAL)
    assert (planned.users, planned.expected_rate) == (200, pytest.approx(0.4))
    found = analyse_experiment(scored, settings, D, date(2024, 3, 8), name="spring", segment="all", **USUAL)
    arms = {f"u{n}": other_arm("spring", f"u{n}", 0.5) for n in range(300)}
    assert found.treatment.users == sum(one == TREATMENT for one in arms.values())
    assert found.treatment.purchasers == sum(arms[f"u{n}"] == TREATMENT for n in range(0, 300, 2))
    assert found.treatment.users + found.control.users == 300
    with pytest.raises(NotEnoughHistory):
        analyse_experiment(scored, settings, D, date(2024, 3, 7), name="spring", segment="all", **USUAL)
    with pytest.raises(NotScored, match="nobody was scored as of 2024-03-02"):
        plan_experiment(scored, settings, date(2024, 3, 2), segment=None, effect=0.1, power=0.8, **USUAL)


def test_the_command(scored: Lake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_session", lambda *_: scored.spark)
    monkeypatch.setattr(cli, "load_settings", lambda *_: settings_of(scored))
    assert cli.main(["experiment", "plan", "--as-of", str(D), "--name", "spring"]) == 0
    said = capsys.readouterr().out
    assert "audience: 200 users, of whom 40.00% are expected to purchase anyway" in said
    assert "not enough" in said
    assert f"assignment: {rule('spring', 0.5)}" in " ".join(said.split())
    asked = ["experiment", "analyse", "--as-of", "2024-03-08", "--scored", str(D), "--name", "spring", "--segment", "all"]
    assert cli.main([*asked, "--json"]) == 0
    assert math.isclose(json.loads(capsys.readouterr().out)["control"]["users"], 150, abs_tol=30)
    assert cli.main(asked) == 0
    assert "difference, all users as assigned: " in capsys.readouterr().out
    assert cli.main(asked[:4]) == 2
    assert cli.main([*asked, "--share", "1"]) == 2
    assert cli.main([*asked[:6], "--name", "it's"]) == 2
