"""What a stage is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from pyspark.sql import SparkSession

from propensity_spark.config import Settings
from propensity_spark.schemas import Table
from propensity_spark.tables import Lake


@dataclass(frozen=True)
class Run:
    """One run of one stage: the session, the settings, the lake, the as-of date, and the clock read once."""

    spark: SparkSession
    settings: Settings
    lake: Lake
    as_of: date
    run_id: str
    started_at: datetime
    say: Callable[[str], None] = field(default=lambda message: None)


@dataclass(frozen=True)
class Outcome:
    """What a stage did, for `ops/runs` and the closing table. `facts` holds what the table shows, such as the AUC."""

    rows_in: int
    rows_out: int
    rows_rejected: int = 0
    note: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One stage of the line.

    `reads` and `writes` name its tables for given settings; `depends_on` adds whatever else decides its result (the
    champion's version, say). A stage whose inputs, settings and code equal those of its last success is up to date and
    is skipped, unless `always`.
    """

    name: str
    promise: str
    execute: Callable[[Run], Outcome]
    reads: Callable[[Settings], tuple[Table, ...]] = lambda settings: ()
    writes: Callable[[Settings], tuple[Table, ...]] = lambda settings: ()
    depends_on: Callable[[Run], Mapping[str, str]] = lambda run: {}
    always: bool = False
