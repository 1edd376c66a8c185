"""Typed, frozen settings, read from `conf/`."""

from propensity_spark.config.load import CONF_DIR, load_settings, load_table_settings
from propensity_spark.config.modelling import (
    CandidateSettings,
    CrowdSettings,
    EvaluateSettings,
    LabelSettings,
    SamplingSettings,
    ScoreSettings,
    SplitSettings,
    TableSettings,
    TrainSettings,
)
from propensity_spark.config.monitoring import (
    AlertRule,
    ChannelSettings,
    CredentialSettings,
    EmailSettings,
    MonitorSettings,
    WebhookSettings,
)
from propensity_spark.config.places import VACUUM_DAYS, LakeSettings, PublishSettings, SparkSettings
from propensity_spark.config.settings import Settings
from propensity_spark.config.sources import FileSource, GateSettings, KnownAt, MassiveSource, RuleSettings, SimulateSettings, Source

__all__ = [
    "CONF_DIR",
    "VACUUM_DAYS",
    "AlertRule",
    "CandidateSettings",
    "ChannelSettings",
    "CredentialSettings",
    "CrowdSettings",
    "EmailSettings",
    "EvaluateSettings",
    "FileSource",
    "GateSettings",
    "KnownAt",
    "LabelSettings",
    "LakeSettings",
    "MassiveSource",
    "MonitorSettings",
    "PublishSettings",
    "RuleSettings",
    "SamplingSettings",
    "ScoreSettings",
    "Settings",
    "SimulateSettings",
    "Source",
    "SparkSettings",
    "SplitSettings",
    "TableSettings",
    "TrainSettings",
    "WebhookSettings",
    "load_settings",
    "load_table_settings",
]
