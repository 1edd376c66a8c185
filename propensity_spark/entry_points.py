"""One entry point a stage, under the stage's own name: what a wheel task of a job calls, with its words in `sys.argv`.

Each exits with a code other than 0 on failure, which is what makes the task fail.
"""

from __future__ import annotations

from functools import partial

from propensity_spark.cli import stage_main

ingest = partial(stage_main, "ingest")
validate = partial(stage_main, "validate")
features = partial(stage_main, "features")
label = partial(stage_main, "label")
train = partial(stage_main, "train")
evaluate = partial(stage_main, "evaluate")
score = partial(stage_main, "score")
publish = partial(stage_main, "publish")
monitor = partial(stage_main, "monitor")
dates = partial(stage_main, "dates")
