"""All settings of a run."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field

from propensity_spark.config.base import SECRET, Grain, Location, Name, Section, Zone
from propensity_spark.config.modelling import (
    CandidateSettings,
    EvaluateSettings,
    FeatureSettings,
    LabelSettings,
    SamplingSettings,
    ScheduleSettings,
    ScoreSettings,
    SplitSettings,
    TableSettings,
    TrainSettings,
)
from propensity_spark.config.monitoring import MonitorSettings
from propensity_spark.config.places import LakeSettings, MlflowSettings, PublishSettings, SparkSettings
from propensity_spark.config.sources import IngestSettings, PrivacySettings, SimulateSettings, Source, ValidateSettings

_WHERE = dict.fromkeys(("spark", "lake", "publish", "mlflow", "as_of", "data", "secret_scope", "table"), True) | {
    "evaluate": {"refused"},
    "train": {"attempts", "deadline_seconds"},
    "privacy": {"key_env", "secret_scope", "secret_key"},
    "monitor": {"channels"},
}
"""Settings that say where things are or what is told to whom, and so change no result of the line."""


class Settings(Section):
    """Everything a run may be told. See conf/base.yml for the default of each and what it means."""

    dataset: Name
    data: Location | None = None
    grain: Grain = "user_item"
    as_of: date | None = None
    time_zone: Zone = "UTC"
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    calendar: str | None = None
    secret_scope: Name | None = None
    lake: LakeSettings
    publish: PublishSettings
    spark: SparkSettings = SparkSettings()
    mlflow: MlflowSettings = MlflowSettings()
    sources: dict[Literal["bars", "corporate_actions", "items", "users", "activity"], tuple[Source, ...]]
    ingest: IngestSettings = IngestSettings()
    validation: ValidateSettings = ValidateSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    label: LabelSettings = LabelSettings()
    features: FeatureSettings = FeatureSettings()
    candidates: CandidateSettings = CandidateSettings()
    sampling: SamplingSettings = SamplingSettings()
    split: SplitSettings = SplitSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    score: ScoreSettings = ScoreSettings()
    monitor: MonitorSettings = MonitorSettings()
    privacy: PrivacySettings = PrivacySettings()
    simulate: SimulateSettings | None = None
    table: TableSettings = TableSettings()

    @property
    def has_market(self) -> bool:
        """Market features exist only at `user_item` grain and only where bars are configured."""
        return self.grain == "user_item" and bool(self.sources.get("bars"))

    @property
    def has_crowd(self) -> bool:
        """Features of the crowd exist only at `user_item` grain and only where they are turned on."""
        return self.grain == "user_item" and self.features.crowd.enabled

    def shown(self) -> dict[str, Any]:
        """Every setting as JSON, for people and for MLflow; a Spark option whose name speaks of a secret has its value hidden."""
        body = self.model_dump(mode="json")
        conf = body["spark"]["conf"]
        body["spark"]["conf"] = {name: "***" if SECRET.search(name) else value for name, value in conf.items()}
        return body

    def config_hash(self) -> str:
        """First 16 hex digits of SHA-256 over every setting that can change a result (not: where things are, how big the JVM)."""
        body = self.model_dump(mode="json", exclude=_WHERE)
        for source in (source for sources in body["sources"].values() for source in sources if "path" in source):
            source["path"] = source["path"].removeprefix(self.data or "").removeprefix(self.lake.root)
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
