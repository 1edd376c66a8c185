"""Every rule, once: what is broken, where, how bad that is, and why the rule is there.

A condition is true where a row breaks the rule. A null condition counts as kept: what must not be null has a rule of
its own, generated from schemas.py, so nothing slips through by being null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import RuleSettings
from propensity_spark.errors import ConfigurationError, SchemaMismatch
from propensity_spark.schemas import SILVER, Table
from propensity_spark.validate.mapping import DERIVED

Severity = Literal["reject", "warn", "off"]
_PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True)
class Rule:
    """One rule. `stage` says when it can be judged: `row` by the row (and what is known of users and items), `set` beside its
    neighbours and other versions. `depends_on_other_rows`: a row it rejects may be fine once other rows have come, so it is judged again.
    `needs`: its columns. `structural`: its severity is fixed, for silver could not hold the row.
    """

    name: str
    tables: tuple[str, ...]
    severity: Severity
    description: str
    needs: tuple[str, ...]
    condition: Callable[[RuleSettings], Column]
    stage: Literal["row", "set"] = "row"
    depends_on_other_rows: bool = False
    structural: bool = False


def _any(names: tuple[str, ...], test: Callable[[Column], Column]) -> Column:
    broken = F.lit(False)
    for name in names:
        broken = broken | F.coalesce(test(F.col(name)), F.lit(False))
    return broken


def _is_trade() -> Column:
    return F.col("event_type").isin("buy", "sell", "cancel")


def _jump(later: str, earlier: str) -> Column:
    return F.when((F.col(later) > 0) & (F.col(earlier) > 0), F.ln(F.col(later) / F.col(earlier)))


def _inconsistent(limits: RuleSettings) -> Column:
    return ~((F.col("low") <= F.least("open", "close")) & (F.greatest("open", "close") <= F.col("high")))


def _bad_print(limits: RuleSettings) -> Column:
    there, back = _jump("close", "previous_close"), _jump("next_close", "close")
    returns = (F.abs(there) > limits.bad_print) & (F.abs(back) > limits.bad_print) & (F.abs(there + back) <= limits.bad_print / 2)
    return returns & ~F.col("split_here") & ~F.col("split_next") & ~F.col("is_deleted")


RULES: tuple[Rule, ...] = (
    Rule(
        "ohlc_inconsistent",
        ("bars",),
        "reject",
        "low <= min(open, close) <= max(open, close) <= high does not hold",
        _PRICES,
        _inconsistent,
    ),
    Rule(
        "price_not_positive", ("bars",), "reject", "a price is 0 or less", _PRICES, lambda limits: _any(_PRICES, lambda price: price <= 0)
    ),
    Rule(
        "not_finite",
        ("bars",),
        "reject",
        "a price or the volume is NaN or infinite",
        (*_PRICES, "volume"),
        lambda limits: _any((*_PRICES, "volume"), lambda value: F.isnan(value) | (F.abs(value) == float("inf"))),
    ),
    Rule("negative_volume", ("bars",), "reject", "volume below 0", ("volume",), lambda limits: F.col("volume") < 0),
    Rule("zero_volume", ("bars",), "warn", "a bar without trades", ("volume",), lambda limits: F.col("volume") == 0),
    Rule(
        "unknown_bar_size",
        ("bars",),
        "reject",
        "bar_size is not 1d or 1m",
        ("bar_size",),
        lambda limits: ~F.col("bar_size").isin("1d", "1m"),
    ),
    Rule(
        "not_a_session",
        ("bars",),
        "reject",
        "a bar on a date without a session of the exchange",
        ("session_date", "is_session"),
        lambda limits: ~F.col("is_session"),
    ),
    Rule(
        "in_the_future",
        ("bars", "activity"),
        "reject",
        "it happened after it was ingested",
        ("happened_at", "ingested_at"),
        lambda limits: F.col("happened_at") > F.col("ingested_at"),
    ),
    Rule(
        "known_before_it_happened",
        ("bars", "activity"),
        "reject",
        "known_at lies before the event (a bar: before its start)",
        ("known_at", "starts_at"),
        lambda limits: F.col("known_at") < F.col("starts_at"),
    ),
    Rule(
        "trade_incomplete",
        ("activity",),
        "reject",
        "a buy, sell or cancel without an item or an amount (and without the quantity and price that would give it)",
        ("event_type", "item_id", "amount"),
        lambda limits: _is_trade() & _any(("item_id", "amount"), lambda value: value.isNull()),
    ),
    Rule(
        "trade_price_not_positive",
        ("activity",),
        "reject",
        "a buy, sell or cancel at a price of 0 or less",
        ("event_type", "price"),
        lambda limits: _is_trade() & (F.col("price") <= 0),
    ),
    Rule(
        "trade_sign",
        ("activity",),
        "reject",
        "a buy needs quantity above 0 and amount of 0 or more, a cancel quantity below 0 and amount of 0 or less",
        ("event_type", "quantity", "amount"),
        lambda limits: (
            ((F.col("event_type") == "buy") & ((F.col("quantity") <= 0) | (F.col("amount") < 0)))
            | ((F.col("event_type") == "cancel") & ((F.col("quantity") >= 0) | (F.col("amount") > 0)))
            | (_is_trade() & F.isnan("quantity"))
        ),
    ),
    Rule(
        "split_ratio",
        ("corporate_actions",),
        "reject",
        "a split without a ratio above 0",
        ("action", "ratio"),
        lambda limits: (F.col("action") == "split") & ~F.coalesce((F.col("ratio") > 0) & ~F.isnan("ratio"), F.lit(False)),
    ),
    Rule(
        "valid_to_before_valid_from",
        ("items", "users"),
        "reject",
        "valid_to is not after valid_from",
        ("valid_from", "valid_to"),
        lambda limits: F.col("valid_to") <= F.col("valid_from"),
    ),
    Rule(
        "unknown_user",
        ("activity",),
        "reject",
        "the user is not in silver/users",
        ("user_is_known",),
        lambda limits: ~F.col("user_is_known"),
        depends_on_other_rows=True,
    ),
    Rule(
        "unknown_item",
        ("activity",),
        "reject",
        "the item is neither in silver/items nor has it bars",
        ("item_id", "item_is_known"),
        lambda limits: ~F.col("item_is_known") & F.col("item_id").isNotNull(),
        depends_on_other_rows=True,
    ),
    Rule(
        "unknown_item",
        ("bars",),
        "warn",
        "the item is not in silver/items",
        ("item_is_known",),
        lambda limits: ~F.col("item_is_known"),
        depends_on_other_rows=True,
    ),
    Rule(
        "conflicting_key",
        tuple(SILVER),
        "reject",
        "another row with the same key and known_at but other content has the greater payload hash",
        ("content", "winning_content"),
        lambda limits: F.col("content") != F.col("winning_content"),
        stage="set",
        depends_on_other_rows=True,
        structural=True,
    ),
    Rule(
        "event_date_changed",
        ("activity",),
        "reject",
        "a later version of an event moves it to another date",
        ("event_date", "first_event_date"),
        lambda limits: F.col("event_date") != F.col("first_event_date"),
        stage="set",
        depends_on_other_rows=True,
        structural=True,
    ),
    Rule(
        "bad_print",
        ("bars",),
        "reject",
        "the close jumps by more than the limit and is back at the item's next bar, without a split on either date",
        ("close", "previous_close", "next_close", "split_here", "split_next", "is_deleted"),
        _bad_print,
        stage="set",
        depends_on_other_rows=True,
    ),
    Rule(
        "price_jump",
        ("bars",),
        "warn",
        "|ln(close / previous close)| above the limit, without a split on that date",
        ("close", "previous_close", "split_here"),
        lambda limits: (F.abs(_jump("close", "previous_close")) > limits.price_jump) & ~F.col("split_here"),
        stage="set",
        depends_on_other_rows=True,
    ),
)


def _required(table: Table, name: str) -> Rule:
    def missing(limits: RuleSettings) -> Column:
        value = F.col(name)
        blank = F.trim(value) == "" if table.schema[name].dataType.simpleString() == "string" else F.lit(False)
        reported = F.array_contains("problems", f"not_castable:{name}")
        return (value.isNull() | blank) & ~reported

    return Rule(f"null:{name}", (table.name,), "reject", f"{name} is missing", (name, "problems"), missing, structural=True)


def rules_for(table: Table, settings: RuleSettings, rules: tuple[Rule, ...] = RULES) -> list[Rule]:
    """The rules of a table with the severities of conf/, those of its required columns first; `off` ones are left out.

    Raises ConfigurationError for the name of no rule, and for another severity of a rule whose rows silver cannot hold.
    """
    check_severities(settings, rules)
    required = [_required(table, column.name) for column in table.columns if not column.nullable and column.name not in DERIVED]
    own = [rule for rule in rules if table.name in rule.tables]
    found = [*required, *own]
    severities = settings.severity
    return [replace(rule, severity=severities.get(rule.name, rule.severity)) for rule in found if severities.get(rule.name) != "off"]


def check_severities(settings: RuleSettings, rules: tuple[Rule, ...] = RULES) -> None:
    known = sorted({rule.name for rule in rules if not rule.structural})
    unknown = sorted(set(settings.severity) - set(known))
    if unknown:
        raise ConfigurationError(
            f"validation.rules.severity: no rule (or none that can be changed) is called {', '.join(unknown)}; expected some of {known}"
        )


def broken(rules: list[Rule], severity: Severity, stage: Literal["row", "set"], settings: RuleSettings) -> Column:
    """array<string> of the names of the rules of this severity and stage that a row breaks, in the order of the rules."""
    names = [
        F.when(F.coalesce(rule.condition(settings), F.lit(False)), F.lit(rule.name))
        for rule in rules
        if rule.severity == severity and rule.stage == stage
    ]
    if not names:
        return F.array().cast("array<string>")
    return F.filter(F.array(*names), lambda name: name.isNotNull())


def check_columns(frame: DataFrame, rules: list[Rule], stage: Literal["row", "set"]) -> None:
    """Raise SchemaMismatch that lists every rule whose columns the candidates do not have."""
    problems = [
        f"rule {rule.name} needs {name}" for rule in rules if rule.stage == stage for name in rule.needs if name not in frame.columns
    ]
    if problems:
        raise SchemaMismatch(f"{'; '.join(problems)}: no such column. The candidates have {sorted(frame.columns)}")


def rejudged(rules: tuple[Rule, ...] = RULES) -> list[str]:
    """Names of the rules that a rejected row may come to keep when other rows arrive."""
    return sorted({rule.name for rule in rules if rule.depends_on_other_rows})
