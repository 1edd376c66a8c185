"""A bounded, repeatable sample of the training set, brought here: what a search and a comparison of models fit many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import OneClassOnly
from propensity_spark.train.fit import as_float

_BUCKETS = 1_000_000


@dataclass(frozen=True)
class Rows:
    """Features (rows, features; NaN: null), labels 0/1, and the weights that undo the sampling of negatives."""

    matrix: NDArray[np.float32]
    label: NDArray[np.float64]
    weight: NDArray[np.float64]


def sampled(training_set: DataFrame, rows: int, seed: int) -> DataFrame:
    """The train and validation rows of a share of the users, by a hash and so always the same: about `rows`, all if there are fewer."""
    given = training_set.where(F.col("split").isin("train", "validation"))
    share = rows / max(given.count(), rows)
    bucket = F.pmod(F.xxhash64("user_id", F.lit("sample"), F.lit(seed)), F.lit(_BUCKETS))
    return given.where(bucket < round(share * _BUCKETS))


def here(sample: DataFrame, features: Sequence[str], key: Sequence[str], setting: str) -> tuple[Rows, Rows]:
    """The train and the validation rows of a sample, in the order of the key.

    Raises OneClassOnly, which names the `setting` to raise, where one of them has one label only.
    """
    found = brought(sample, features, key, F.col("split"))
    parts = []
    for split in ("train", "validation"):
        part = found[found["split"] == split]
        if part["label"].nunique() < 2:
            raise OneClassOnly(
                f"{setting}: expected both labels among the {split} rows of the sample, found {len(part)} rows with "
                f"{part['label'].nunique()} of them; raise it"
            )
        parts.append(rows_of(part, features))
    return parts[0], parts[1]


def brought(sample: DataFrame, features: Sequence[str], key: Sequence[str], *more: Column) -> pd.DataFrame:
    """The rows of a bounded sample, in the order of the key: features as float32, label, weight, and `more`."""
    columns = [*(as_float(name) for name in features), F.col("label").cast("double"), F.col("sample_weight").cast("double")]
    return sample.sort(*key).select(*columns, *more).toPandas()


def rows_of(found: pd.DataFrame, features: Sequence[str]) -> Rows:
    """What was `brought`, as matrices."""
    return Rows(found[list(features)].to_numpy(np.float32), found["label"].to_numpy(), found["sample_weight"].to_numpy())
