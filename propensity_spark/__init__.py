"""Leak-free features, distributed XGBoost and safely published purchase propensities on Spark."""

__version__ = "0.1.0"
