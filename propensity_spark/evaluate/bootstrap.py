"""Sums under bootstrap weights, in one distributed pass.

The bootstrap draws users, not rows: the rows of one user are not independent of each other. Every user gets a
Poisson(1) weight in every round, taken from a hash of the user, so that each partition finds the same weights by
itself and nothing but the sums leaves it. Column 0 of every result is the data as they are, column 1… are the rounds.
Source: Chamandy et al., "Estimating uncertainty for massive data streams" (2012), the Poisson bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]
Sums = Callable[[pa.Table], tuple[NDArray[np.int64], NDArray[np.int64], Floats]]

MAX_PARTIALS = 8  # each task sends one matrix to the driver; more tasks than this would only cost driver memory
CHUNK_ROWS = 500_000
BLOCK_USERS = 16_384  # bounds the matrix of weights: users x (1 + rounds) doubles
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _poisson_table() -> Floats:
    """Poisson(1) by its quantile function at 2^16 equally likely points."""
    cumulated = np.cumsum([math.exp(-1.0) / math.factorial(k) for k in range(12)])
    return np.searchsorted(cumulated, (np.arange(65536) + 0.5) / 65536).astype(np.float64)


_POISSON = _poisson_table()


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: every input bit moves every output bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def user_weights(user_hashes: NDArray[np.int64], rounds: int, seed: int) -> Floats:
    """Weights of each user: (users, 1 + rounds), column 0 all ones. The same hash and seed give the same weights anywhere."""
    start = _mix(user_hashes.view(np.uint64) + np.uint64(seed * int(_GOLDEN) % 2**64))
    steps = np.arange(1, -(-rounds // 4) + 1, dtype=np.uint64) * _GOLDEN
    draws = _mix(start[:, None] + steps[None, :]).view(np.uint16)  # four draws of 16 bits from each word
    weights = np.ones((len(user_hashes), 1 + rounds))
    weights[:, 1:] = _POISSON[draws[:, :rounds]]
    return weights


def bootstrap_sums(frame: DataFrame, columns: Sequence[str], spread: Sums, *, cells: int, rounds: int, seed: int) -> Floats:
    """Sums of a value per cell: (cells, 1 + rounds), weighted by the weights of each row's `user_id`.

    `spread` turns a chunk of rows (an Arrow table of `columns`, as doubles) into three equally long arrays: the cell
    (0 … cells − 1), the position of the row in the chunk, and the value to add. It runs on the workers.
    """
    numbers = [F.col(name).cast("double").alias(name) for name in columns]
    rows = frame.select(F.xxhash64("user_id").alias("user"), *numbers)

    def partial_sums(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        total = np.zeros((cells, 1 + rounds))
        for chunk in _chunks(batches):
            hashes, users = np.unique(chunk["user"].to_numpy(), return_inverse=True)
            cell, row, value = spread(chunk)
            by_user = csr_matrix((value, (users[row], cell)), shape=(len(hashes), cells))
            for first in range(0, len(hashes), BLOCK_USERS):
                block = slice(first, first + BLOCK_USERS)
                total += by_user[block].T @ user_weights(hashes[block], rounds, seed)
        yield pa.RecordBatch.from_pydict({"sums": [total.tobytes()]}, pa.schema([("sums", pa.binary())]))

    result = np.zeros((cells, 1 + rounds))
    for partial in rows.coalesce(MAX_PARTIALS).mapInArrow(partial_sums, "sums binary").collect():
        result += np.frombuffer(partial["sums"]).reshape(result.shape)
    return result


def bootstrap_totals(frame: DataFrame, columns: Sequence[str], rounds: int, seed: int) -> Floats:
    """Weighted total of each column: (columns, 1 + rounds)."""
    names = list(columns)

    def spread(chunk: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        rows = np.tile(np.arange(len(chunk)), len(names))
        return np.repeat(np.arange(len(names)), len(chunk)), rows, np.concatenate([chunk[name].to_numpy() for name in names])

    return bootstrap_sums(frame, names, spread, cells=len(names), rounds=rounds, seed=seed)


def _chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(len(one) for one in waiting) >= CHUNK_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)
