"""What is written down with a version: what it was made from, and how fast it scores."""

from __future__ import annotations

import hashlib
import time

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from propensity_spark import __version__
from propensity_spark.predictor import PropensityModel

TRAINING_ROWS = "training_rows"
"""Parameter that keeps the `content` of the training set."""
_TIMED_ROWS = 20_000


def rows_per_second(model: PropensityModel) -> float:
    """How fast one core scores rows that are in memory: measured once and kept with the version, so that its gate always says the same."""
    matrix = np.random.default_rng(model.label.horizon_days).random((_TIMED_ROWS, len(model.features)), dtype=np.float32)
    model.predict(matrix[:100])  # parses the booster
    started = time.perf_counter()
    model.predict(matrix)
    return _TIMED_ROWS / (time.perf_counter() - started)


def content(training_set: DataFrame) -> str:
    """Hash of the rows, whatever their order, to the last bit."""
    row = training_set.agg(F.count("*"), F.bit_xor(F.xxhash64(*training_set.columns))).first()
    return hashlib.sha256(repr(tuple(row or ())).encode()).hexdigest()[:32]


def fingerprint(rows: str, config_hash: str) -> str:
    """Hash of the training set's `content`, the settings and the code: the same three give the same model."""
    return hashlib.sha256(repr((rows, config_hash, __version__)).encode()).hexdigest()[:32]
