"""Checks of the asset bundle that need no workspace: `python -m scripts.bundle` (make bundle-check).

`resolve` gives a target as the CLI would deploy it; `official` holds it against Databricks' own packages; `lint` finds what those,
and the CLI, let through.
"""
