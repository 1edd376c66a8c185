"""Limits of monitoring, alert rules, and where alerts go."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from propensity_spark.config.base import Count, Location, Name, Positive, Section, Share


class AlertRule(Section):
    """Tell somebody when `measure` of a matching `subject` (with * and ?) is off on `days` of the last `of` measured days.

    Off: above `above`, below `below`, or where neither is given beyond the measure's own limit. The last of the days must be
    off itself. After an alert the rule is silent for `cooldown_days`.
    """

    name: Name
    subject: str = "*"
    measure: str
    above: float | None = None
    below: float | None = None
    days: Positive = 1
    of: Positive = 1
    severity: Literal["info", "warning", "critical"] = "warning"
    cooldown_days: Count = 0
    channels: tuple[Literal["log", "file", "webhook", "email"], ...] = ("log", "file")

    @model_validator(mode="after")
    def _days_within(self) -> AlertRule:
        if self.days > self.of:
            raise ValueError(f"alert rule {self.name}: days ({self.days}) of the last `of` ({self.of}): expected at most as many")
        return self


class CredentialSettings(Section):
    """Where a secret is: key `secret_key` of the secret scope on Databricks, else the environment variable `variable`."""

    variable: str
    secret_scope: Name | None = None
    secret_key: Name | None = None


class WebhookSettings(Section):
    """An address that takes JSON by POST. The address itself is a secret: who has it can write there."""

    url: CredentialSettings = CredentialSettings(variable="ALERT_WEBHOOK_URL")
    timeout_seconds: Annotated[float, Field(gt=0.0)] = 10.0


class EmailSettings(Section):
    """A mail server. `user: null`: without login."""

    host: str
    port: Positive = 587
    starttls: bool = True
    user: str | None = None
    password: CredentialSettings = CredentialSettings(variable="ALERT_SMTP_PASSWORD")
    sender: str
    recipients: Annotated[tuple[str, ...], Field(min_length=1)]
    timeout_seconds: Annotated[float, Field(gt=0.0)] = 10.0


class ChannelSettings(Section):
    """Where alerts go besides the log. `file: null` is alerts.jsonl beside the logs."""

    file: Location | None = None
    webhook: WebhookSettings | None = None
    email: EmailSettings | None = None


class MonitorSettings(Section):
    """Limits of monitoring, its alert rules and where alerts go. See conf/base.yml."""

    psi_limit: Annotated[float, Field(gt=0.0)] = 0.2
    usual_psi_factor: Annotated[float, Field(ge=1.0)] = 3.0
    max_drifted_features: Count = 1
    max_drifted_gain: Share = 0.1
    score_psi_limit: Annotated[float, Field(gt=0.0)] = 0.2
    max_unseen_share: Share = 0.01
    max_age_days: Positive = 7
    bins: Positive = 10
    label_delay_days: Count = 3
    max_auc_shortfall: Share = 0.05
    max_calibration_ratio: Annotated[float, Field(gt=1.0)] = 1.5
    performance_days: Positive = 2
    performance_of: Positive = 3
    alerts: tuple[AlertRule, ...] = ()
    channels: ChannelSettings = ChannelSettings()

    @model_validator(mode="after")
    def _usable_alerts(self) -> MonitorSettings:
        names = [rule.name for rule in self.alerts]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"alert rules need names of their own; found more than one of {sorted(twice)}")
        for rule in self.alerts:
            for channel in ("webhook", "email"):
                if channel in rule.channels and getattr(self.channels, channel) is None:
                    raise ValueError(f"alert rule {rule.name} goes to {channel}: expected monitor.channels.{channel}, found none")
        return self
