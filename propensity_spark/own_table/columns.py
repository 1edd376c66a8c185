"""What each column of a table is to the model: a number, a category, a moment, or nothing; found once, in training, and kept with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, DataType, DateType, NumericType, StringType, TimestampNTZType, TimestampType

from propensity_spark.errors import ConfigurationError, TableRefused
from propensity_spark.own_table.read import column

KINDS = ("number", "category", "moment", "ignore")
IDENTIFIER_SHARE = 0.5
"""A text column of which more than this share of the rows has a value of its own names its rows, and says nothing about others."""
_SECONDS_A_DAY = 86_400
_OURS = {"user_id", "as_of_date", "label", "instant", "split", "sample_weight", "is_validation"} | {
    f"{score}probability" for score in ("", "purchase_", "baseline_", "champion_")
}


@dataclass(frozen=True)
class Feature:
    """A column as the model sees it.

    `column` as the file calls it, `name` as the model does (letters, digits and `_`), `type`: Spark's, in training. number: as it is,
    NaN and infinite as null; category: its place in `categories` (most frequent first), every other value the one after them;
    moment: days from it to the as-of date.
    """

    column: str
    name: str
    kind: str
    type: str
    categories: tuple[str, ...] = ()
    has_more: bool = False


@dataclass(frozen=True)
class Columns:
    """All that must be known to make the model's rows from a file: `features`, products of two of them (`interactions`, by name), the
    columns that are no feature with the reason (`ignored`), and who (`id`), what (`label`) and when (`time`, may be null).
    """

    id: str
    label: str
    time: str | None
    features: tuple[Feature, ...]
    interactions: tuple[tuple[str, str], ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The model's features, in its order."""
        return (*(one.name for one in self.features), *(f"{a}_x_{b}" for a, b in self.interactions))

    @property
    def xgboost_types(self) -> tuple[str, ...]:
        """`c` for a category, which XGBoost splits by sets of values, `q` for a quantity; in the order of `names`."""
        return (*("c" if one.kind == "category" else "q" for one in self.features), *("q" for _ in self.interactions))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def from_json(body: Mapping[str, Any]) -> Columns:
    """What `Columns.as_json` gave."""
    features = tuple(Feature(**{**one, "categories": tuple(one["categories"])}) for one in body["features"])
    pairs = tuple((a, b) for a, b in body["interactions"])
    return Columns(body["id"], body["label"], body["time"], features, pairs, dict(body["ignored"]))


def find_columns(
    frame: DataFrame,
    *,
    id: str,
    label: str,
    time: str | None = None,
    kinds: Mapping[str, str] | None = None,
    interactions: Sequence[tuple[str, str]] = (),
    max_categories: int = 100,
) -> Columns:
    """Look at every column of `frame` (two Spark passes): its kind by its type, unless `kinds` says otherwise, and its categories.

    No feature are: columns that are null throughout or have one value, text that names its rows, and types that are neither number,
    text, date nor moment. Raises TableRefused when id, label or time is not there or no feature is left, ConfigurationError for an
    unknown column or kind in `kinds` or `interactions`.
    """
    said = dict(kinds or {})
    _require(frame.columns, {"--id": id, "--label": label, **({"--time": time} if time else {})})
    if unknown := sorted(set(said) - set(frame.columns)):
        raise ConfigurationError(f"--type: no column {', '.join(map(repr, unknown))}; the table has {', '.join(frame.columns)}")
    types = {one.name: one.dataType for one in frame.schema.fields if one.name not in (id, label, time)}
    found = {name: said.get(name) or _kind(kind) for name, kind in types.items()}
    ignored = {
        name: "set to ignore" if name in said else f"of type {types[name].simpleString()}"
        for name, kind in found.items()
        if kind == "ignore"
    }
    rows, counted = _counts(frame, [name for name in found if name not in ignored])
    for name, (present, distinct) in counted.items():
        if present == 0:
            ignored[name] = "null throughout"
        elif distinct == 1 and present == rows:
            ignored[name] = "the same value throughout"
        elif found[name] == "category" and name not in said and distinct > max(max_categories, IDENTIFIER_SHARE * rows):
            ignored[name] = f"names its rows ({distinct:,} values in {rows:,} rows)"
    kept = [name for name in found if name not in ignored]
    if not kept:
        raise TableRefused(
            f"no feature is left: {'; '.join(f'{name} is {why}' for name, why in ignored.items()) or 'the table has no other column'}"
        )
    categories = _categories(frame, [name for name in kept if found[name] == "category"], max_categories)
    called = _names(kept)
    features = tuple(
        Feature(name, called[name], found[name], types[name].simpleString(), *categories.get(name, ((), False))) for name in kept
    )
    return Columns(id, label, time, features, _pairs(features, interactions), ignored)


def values(columns: Columns, present: Sequence[str], as_of: Column, *, absent_as_zero: bool = False) -> list[Column]:
    """The model's features as float32 columns, null where a value is missing or is not of the feature's type.

    `present`: the columns that the file has; those it lacks are null, or 0 when `absent_as_zero` (a category: its value "0").
    """
    found = {one.name: _value(one, one.column in present, as_of, absent_as_zero) for one in columns.features}
    products = {f"{a}_x_{b}": found[a] * found[b] for a, b in columns.interactions}
    return [value.cast("float").alias(name) for name, value in {**found, **products}.items()]


def unreadable(frame: DataFrame, columns: Columns) -> dict[str, int]:
    """Column → rows with a value that is not of the type it had in training, for columns that have any. One Spark pass."""
    there = [one for one in columns.features if one.column in frame.columns and one.kind != "category"]
    if not there:
        return {}
    lost = [F.count_if(column(one.column).isNotNull() & _typed(one).isNull()).alias(one.name) for one in there]
    row = frame.agg(*lost).first()
    assert row is not None  # an aggregate without keys has one row
    return {one.column: row[one.name] for one in there if row[one.name]}


def _value(one: Feature, is_present: bool, as_of: Column, absent_as_zero: bool) -> Column:
    if not is_present:
        zero = _place(F.lit("0"), one.categories) if one.kind == "category" else F.lit(0.0)
        return zero if absent_as_zero else F.lit(None).cast("double")
    typed = _typed(one)
    if one.kind == "category":
        return _place(typed, one.categories)
    if one.kind == "moment":
        return (as_of.cast("timestamp").cast("double") - typed.cast("double")) / _SECONDS_A_DAY
    number = typed.cast("double")
    return F.when(~F.isnan(number) & (F.abs(number) != float("inf")), number)


def _typed(one: Feature) -> Column:
    """The column by its type in training: text for a category, an instant for a moment, else a number; null where it is none."""
    as_trained = column(one.column).try_cast(one.type)
    return as_trained.try_cast({"category": "string", "moment": "timestamp"}.get(one.kind, "double"))


def _place(value: Column, categories: Sequence[str]) -> Column:
    place = F.array_position(F.array(*(F.lit(one) for one in categories)).cast("array<string>"), value) - 1
    return F.when(value.isNotNull(), F.when(place >= 0, place).otherwise(len(categories))).cast("double")


def _require(names: Sequence[str], wanted: Mapping[str, str]) -> None:
    missing = {option: name for option, name in wanted.items() if name not in names}
    if missing:
        said = ", ".join(f"{option} {name}" for option, name in missing.items())
        raise TableRefused(f"{said}: no such column; the table has {', '.join(names)}")


def _kind(of: DataType) -> str:
    if isinstance(of, NumericType | BooleanType):
        return "number"
    if isinstance(of, DateType | TimestampType | TimestampNTZType):
        return "moment"
    return "category" if isinstance(of, StringType) else "ignore"


def _counts(frame: DataFrame, names: Sequence[str]) -> tuple[int, dict[str, tuple[int, int]]]:
    """Rows, and by column how many are not null (nor NaN) and about how many values they have."""
    sought = []
    for place, name in enumerate(names):
        value = column(name)
        if frame.schema[name].dataType.typeName() in ("double", "float"):
            value = F.when(~F.isnan(value), value)
        sought += [F.count(value).alias(f"n{place}"), F.approx_count_distinct(value, 0.02).alias(f"d{place}")]
    row = frame.agg(F.count("*").alias("rows"), *sought).first()
    assert row is not None  # an aggregate without keys has one row
    return row["rows"], {name: (row[f"n{place}"], row[f"d{place}"]) for place, name in enumerate(names)}


def _categories(frame: DataFrame, names: Sequence[str], most: int) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Column → its most frequent values, at most `most`, and whether there are others; equally frequent ones by their text."""
    if not names:
        return {}
    pairs = F.array(
        *(F.struct(F.lit(place).alias("place"), column(name).cast("string").alias("value")) for place, name in enumerate(names))
    )
    counted = frame.select(F.explode(pairs).alias("one")).select("one.*").where("value IS NOT NULL").groupBy("place", "value").count()
    first = Window.partitionBy("place").orderBy(F.desc("count"), "value")
    kept = counted.withColumn("rank", F.row_number().over(first)).where(F.col("rank") <= most + 1).orderBy("place", "rank").collect()
    found = [[row["value"] for row in kept if row["place"] == place] for place in range(len(names))]
    return {name: (tuple(values[:most]), len(values) > most) for name, values in zip(names, found, strict=True)}


def _names(columns: Sequence[str]) -> dict[str, str]:
    """Column → a name of letters, digits and `_` that neither another column has nor one that train and evaluate add."""
    found: dict[str, str] = {}
    for name in columns:
        plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "column"
        taken, number = {one.lower() for one in found.values()}, 2
        unique = plain
        while unique.lower() in taken | _OURS:
            unique, number = f"{plain}_{number}", number + 1
        found[name] = unique
    return found


def _pairs(features: Sequence[Feature], asked: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    names = {one.column: one.name for one in features if one.kind != "category"}
    for pair in asked:
        if unknown := [one for one in pair if one not in names]:
            raise ConfigurationError(
                f"--interact {':'.join(pair)}: {', '.join(unknown)}: expected two of the numbers and moments {', '.join(names)}"
            )
    return tuple((names[a], names[b]) for a, b in asked)
