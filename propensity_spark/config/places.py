"""Where things are and run: lake, published scores, Spark, MLflow."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from propensity_spark.config.base import Location, Name, Positive, Section

VACUUM_DAYS = 7
"""No vacuum takes what is younger: it may belong to a write or a reader that is still at work."""
UNSAFE = {
    "spark.databricks.delta.retentionDurationCheck.enabled": "false",
    "spark.sql.files.ignoreMissingFiles": "true",
    "spark.sql.files.ignoreCorruptFiles": "true",
}
"""Spark settings, and the value with which each loses rows silently."""


class LakeSettings(Section):
    """Where the Delta tables are: a folder, or a Unity Catalog schema (then `root` holds MLflow and reports only).

    `vacuum_days`: `propensity vacuum` keeps what any version of these last days needs; under 7, somebody at work may lose files.
    `log_days`: for how long a new table remembers its versions, and so how far back a registered model can be made again.
    """

    root: Location
    catalog: Name | None = None
    schema_name: Name | None = None
    vacuum_days: Annotated[int, Field(ge=VACUUM_DAYS)] = 30
    log_days: Annotated[int, Field(ge=30)] = 400

    @model_validator(mode="after")
    def _both_or_none(self) -> LakeSettings:
        if (self.catalog is None) != (self.schema_name is None):
            raise ValueError("expected lake.catalog and lake.schema_name together, or neither (then tables are folders under lake.root)")
        return self


class PublishSettings(Section):
    """Where scores go, in how many files, and what the publish stage removes of a date: complete runs beyond the `keep_runs` newest
    or older than `keep_days` days (null: none; never the current one), and what writers that died left, after `leftovers_hours`."""

    uri: Location
    files: Positive = 2
    keep_runs: Positive | None = None
    keep_days: Positive | None = None
    leftovers_hours: Positive = 24


class SparkSettings(Section):
    """`master: null` takes the session that is already there (Databricks, spark-submit)."""

    master: str | None = None
    driver_memory: str = "4g"
    shuffle_partitions: Positive | None = None
    jars_dir: str | None = None
    conf: dict[str, str] = Field(default={})

    @field_validator("conf")
    @classmethod
    def _safe(cls, conf: dict[str, str]) -> dict[str, str]:
        for key, unsafe in UNSAFE.items():
            if str(conf.get(key, "")).lower() == unsafe:
                raise ValueError(f"{key}={unsafe} is refused: rows would be lost without a word; leave it out")
        return conf


class MlflowSettings(Section):
    """`tracking_uri: null` is an embedded store under the lake root; `artifact_location` is for an experiment that is not there yet."""

    tracking_uri: str | None = None
    registry_uri: str | None = None
    artifact_location: Location | None = None
    experiment: str = "propensity"
    model_name: str = "propensity"
