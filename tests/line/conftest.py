"""The whole line, once, on a small simulated lake; the tests look at what it left behind."""

from __future__ import annotations

import pytest
from line_support import AS_OF, SMALL, Finished, run, small_settings
from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def finished(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run(spark, small_settings(tmp_path_factory.mktemp("stocks"), *SMALL), AS_OF)
