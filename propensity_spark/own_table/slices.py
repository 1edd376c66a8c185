"""Which rows train, validate, calibrate and test: by time where the table knows one, else by a hash of the customer, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.config import TableSettings
from propensity_spark.errors import OneClassOnly

ORDER = ("test", "calibration", "validation", "train")
_BUCKETS = 1_000_000
_ACCURACY = 10_000


@dataclass(frozen=True)
class Slices:
    """The rule that was found in training and is kept with the model, so that the same rows are test rows whenever it is asked.

    `limits`: class → rising upper ends of test, calibration and validation on the customer's hash (a share of 1); by time one list,
    under -1, of falling instants (seconds) from which on a row is test, calibration, validation.
    """

    by: str
    seed: int
    limits: Mapping[int, Sequence[float]]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def of_row(self, label: Column, user_id: Column, instant: Column) -> Column:
        """Name of the slice of a row."""
        share = hashed(user_id, self.seed)
        parts = [
            F.when(instant >= limit if self.by == "time" else (label == one) & (share < limit), F.lit(name))
            for one, limits in self.limits.items()
            for name, limit in zip(ORDER[:-1], limits, strict=True)
        ]
        return F.coalesce(*parts, F.lit(ORDER[-1]))


def from_json(body: Mapping[str, Any]) -> Slices:
    """What `Slices.as_json` gave."""
    return Slices(body["by"], body["seed"], {int(one): tuple(limits) for one, limits in body["limits"].items()})


def find_slices(rows: DataFrame, settings: TableSettings) -> Slices:
    """The limits for `rows` (user_id, label, `instant` in seconds, null throughout where the table knows no time). One Spark pass.

    Stratified: each class has its own limits, so every slice has nearly the same share of purchases, also in a small table.
    """
    shares = _rising(settings)
    instant = F.col("instant")
    seen = rows.agg(
        F.count(instant).alias("n"), F.percentile_approx(instant, [1 - share for share in shares], _ACCURACY).alias("cuts")
    ).first()
    if seen is not None and seen["n"]:
        return Slices("time", settings.seed, {-1: tuple(seen["cuts"])})
    return Slices("customers", settings.seed, strata(rows, shares, settings.seed))


def strata(rows: DataFrame, shares: Sequence[float], seed: int) -> dict[int, tuple[float, ...]]:
    """Class → the hash shares below which lie these shares of its rows."""
    cuts = F.percentile_approx(hashed(F.col("user_id"), seed), list(shares), _ACCURACY).alias("cuts")
    return {row["label"]: tuple(row["cuts"]) for row in rows.groupBy("label").agg(cuts).collect()}


def hashed(user_id: Column, seed: int) -> Column:
    """A share in [0, 1) that only the customer and the seed decide."""
    return F.pmod(F.xxhash64(user_id, F.lit(seed)), F.lit(_BUCKETS)) / F.lit(_BUCKETS)


def require_both_classes(training_set: DataFrame) -> dict[str, int]:
    """Rows by slice. Raises OneClassOnly that names the slices in which every row or none was ordered."""
    found = training_set.groupBy("split").agg(F.count("*").alias("rows"), F.sum("label").alias("ones")).collect()
    counts = {row["split"]: (row["rows"], row["ones"]) for row in found}
    bad = [f"{name}: {ones} of {rows}" for name in reversed(ORDER) for rows, ones in [counts.get(name, (0, 0))] if ones in (0, rows)]
    if bad:
        raise OneClassOnly(
            f"every slice needs rows of both classes; positive are in {', '.join(bad)} rows. Give more rows, or change table.test_share, "
            "table.calibration_share and table.validation_share"
        )
    return {name: counts[name][0] for name in ORDER}


def _rising(settings: TableSettings) -> list[float]:
    test, calibration = settings.test_share, settings.calibration_share
    return [test, test + calibration, test + calibration + settings.validation_share]
