"""How much of what could be known the model knows: simulated investors only.

The truth is P(label = 1 | everything the simulator knew at the end of D), estimated from many simulated futures. It is
joined here, to scored test rows, for the report alone; no feature and no model ever sees it.
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark.evaluate.metrics import METRICS, estimate, find_edges, roc_auc, tally
from propensity_spark.platform import keep, release


def ceiling(scored: DataFrame, truth: DataFrame, key: list[str], *, bins: int, rounds: int, seed: int) -> dict[str, Any] | None:
    """Truth and model on the same pairs, and the share of the ceiling reached; None when the rows that have
    a truth hold no purchase, or nothing else.

    `scored`: key, label, `probability`; `truth`: key, `probability`, `standard_error`. share = (AUC of the model − 0.5) /
    (AUC of the truth − 0.5), paired in every bootstrap round. `mean_standard_error` is the truth's own, from the finite
    number of futures: it lowers the truth's AUC and adds its mean square to the truth's Brier score, so the ceiling is
    understated a little.
    """
    known = truth.select(*key, F.col("probability").alias("truth"), "standard_error")
    pairs = keep(scored.select(*key, "label", "probability").join(known, key, "inner"))
    try:
        facts = pairs.agg(
            F.count("*"), F.count_distinct("user_id"), F.sum("label"), F.avg("standard_error"), F.avg(F.col("standard_error") ** 2)
        )
        rows, users, purchases, error, squared = facts.collect()[0]
        if purchases in (None, 0, rows):
            return None
        edges = find_edges(pairs, ["truth", "probability"], bins)
        tallies = tally(pairs, edges, rounds, seed)
    finally:
        release(pairs)
    share = (roc_auc(tallies["probability"]) - 0.5) / (roc_auc(tallies["truth"]) - 0.5)
    return {
        "rows": rows,
        "users": users,
        "purchases": purchases,
        "mean_standard_error": error,
        "brier_from_standard_error": squared,
        "truth": {name: estimate(metric(tallies["truth"])) for name, metric in METRICS.items()},
        "model": {name: estimate(metric(tallies["probability"])) for name, metric in METRICS.items()},
        "share": estimate(share),
    }
