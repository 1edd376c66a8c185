"""forget: persons out of every table, quarantine, published run and file of the lake. Not a stage of the line: asked for by hand."""

from __future__ import annotations

from collections.abc import Sequence

from propensity_spark.erase.forget import forget
from propensity_spark.erase.purge import purge
from propensity_spark.run import Stage


def forget_stage(users: Sequence[str], also_purge: bool) -> Stage:
    """Removes the persons whom the sources call `users`. `also_purge`: and, a week after that, what older versions still hold."""
    action = purge if also_purge else forget
    return Stage("forget", "nothing of the lake has the person, and that is proved", lambda run: action(run, users), always=True)
