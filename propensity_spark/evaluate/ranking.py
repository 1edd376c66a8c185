"""How good each user's list of items is: precision@k, recall@k and nDCG@10 at grain `user_item`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from propensity_spark.evaluate.bootstrap import Floats, bootstrap_totals

NDCG_ITEMS = 10
_LIST = ["user_id", "as_of_date"]


def user_lists(scored: DataFrame, purchases: DataFrame, scores: Sequence[str], top_k: Sequence[int]) -> DataFrame:
    """One row per user and as-of date with at least one purchase in the window, and a column `<score>:<metric>` for each.

    `scored` holds the candidates with `label`; `purchases` one row per purchased (user_id, item_id, as_of_date), candidates
    or not. Items are ranked by falling score, ties by item_id. precision@k = hits among the first k / k, recall@k = hits
    among the first k / purchases, nDCG@10 = Σ hit / log2(rank + 1) over that of the best possible list, which holds the
    purchases outside the candidates too. A user whose purchases were all missed counts with zeros.
    Source: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002.
    """
    bought = purchases.groupBy(*_LIST).agg(F.count("*").alias("purchases"))
    rows = scored.join(bought, _LIST, "right").withColumn("label", F.coalesce("label", F.lit(0)))
    for score in scores:
        best_first = Window.partitionBy(*_LIST).orderBy(F.col(score).desc_nulls_last(), "item_id")
        rows = rows.withColumn(f"rank:{score}", F.row_number().over(best_first))
    ideal = F.lit([sum(1 / math.log2(rank + 1) for rank in range(1, best + 1)) for best in range(1, NDCG_ITEMS + 1)])
    hits = [F.sum(F.when(F.col(f"rank:{s}") <= k, F.col("label")).otherwise(0)).alias(f"{s}:hits@{k}") for s in scores for k in top_k]
    gains = [
        F.sum(F.when(F.col(f"rank:{s}") <= NDCG_ITEMS, F.col("label") / F.log2(F.col(f"rank:{s}") + 1)).otherwise(0.0)).alias(f"{s}:dcg")
        for s in scores
    ]
    lists = rows.groupBy(*_LIST).agg(F.first("purchases").alias("purchases"), *hits, *gains)
    best = F.element_at(ideal, F.least("purchases", F.lit(NDCG_ITEMS)).cast("int"))
    metrics = [
        column
        for s in scores
        for column in (
            *((F.col(f"{s}:hits@{k}") / k).alias(f"{s}:precision@{k}") for k in top_k),
            *((F.col(f"{s}:hits@{k}") / F.col("purchases")).alias(f"{s}:recall@{k}") for k in top_k),
            (F.col(f"{s}:dcg") / best).alias(f"{s}:ndcg@{NDCG_ITEMS}"),
        )
    ]
    return lists.select(*_LIST, *metrics)


def mean_over_lists(lists: DataFrame, rounds: int, seed: int) -> tuple[int, dict[str, Floats]]:
    """Number of lists, and the mean of every column of `user_lists`: (1 + rounds), users drawn again in each round."""
    names = [name for name in lists.columns if name not in _LIST]
    counted = lists.withColumn("lists", F.lit(1.0))
    *totals, count = bootstrap_totals(counted, [*names, "lists"], rounds, seed)
    return int(count[0]), {name: total / count for name, total in zip(names, totals, strict=True)} if count[0] else {}


def outside_candidates(scored: DataFrame, purchases: DataFrame, key: Sequence[str]) -> DataFrame:
    """The purchases that no candidate stands for: the misses that no model could have avoided."""
    return purchases.join(scored.select(*key), list(key), "left_anti")
