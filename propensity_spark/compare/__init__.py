"""`propensity compare`: other families of models on the same rows as the product's XGBoost."""
