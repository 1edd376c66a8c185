"""Does one feature alone know the label? What is too good is more often a leak than a find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame

from propensity_spark.evaluate.bootstrap import Floats
from propensity_spark.evaluate.metrics import binned_auc
from propensity_spark.predictor import ReferenceBins
from propensity_spark.train.reference import bin_weights, with_codes

SURE_ROWS = 20.0  # of so many expected rows of a class none is missing by chance: e^-20


@dataclass(frozen=True)
class Alone:
    """What a feature by itself says of the label: the ROC-AUC of its bins, ordered by purchase rate, and the share of the rows
    whose label it decides: they lie in bins in which no row was purchased, or every row, though at the overall rate at least
    20 rows of the other kind would be there.
    """

    feature: str
    auc: float
    decided_share: float


def alone(train: DataFrame, features: Sequence[str], baseline: Mapping[str, ReferenceBins]) -> list[Alone]:
    """Every feature of `train` (the training slice, rows counted by `sample_weight`) that has bins, the highest AUC first.

    The bins are those of monitoring, about ten by quantiles or one a category, nulls apart, so that a feature which tells
    purchases apart inside its bins only shows less than it knows. One Spark pass.
    """
    bins = {name: baseline[name] for name in features if name in baseline}
    if not bins:
        return []
    rows = with_codes(train, {name: one.categories for name, one in bins.items() if one.categories})
    counted = bin_weights(rows, {name: one.edges for name, one in bins.items()}, by="label")
    found = [_alone(name, np.asarray(counted[1][name]), np.asarray(counted[0][name])) for name in bins]
    return sorted(found, key=lambda one: (-one.auc, one.feature))


def _alone(feature: str, bought: Floats, others: Floats) -> Alone:
    rows = bought + others
    order = np.argsort(np.divide(bought, rows, out=np.zeros_like(rows), where=rows > 0), kind="stable")
    auc = float(binned_auc(bought[order], others[order]))
    rate = bought.sum() / rows.sum()
    decided = ((bought == 0) & (rows * rate >= SURE_ROWS)) | ((others == 0) & (rows * (1 - rate) >= SURE_ROWS))
    share = rows[decided].sum() / rows.sum()
    return Alone(feature, round(auc, 9), round(float(share), 9))  # sums of weights depend on their order in the last digits
