"""Leak-free features, distributed XGBoost and safely published purchase propensities on Spark."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from propensity_spark.publish import read_published

__version__ = "0.1.0"
__all__ = ["__version__", "read_published"]

# MLflow and earlier versions of Great Expectations tell their makers how they are used, unless these say otherwise when they are imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")


def __getattr__(name: str) -> object:
    """`read_published` is imported on first use, so that `import propensity_spark` loads neither Spark nor pyarrow."""
    if name == "read_published":
        from propensity_spark.publish import read_published

        return read_published
    raise AttributeError(f"module 'propensity_spark' has no attribute {name!r}")
