"""What is read, and how people are called from there on."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from propensity_spark.config.base import Count, Location, Name, Positive, Regex, Section, Share, Zone


class KnownAt(Section):
    """When a row of a source was first known.

    `event`: the event's own time (a bar: its session's close) plus `delay_minutes`; `column`: the mapped `known_at`;
    `ingestion`: the moment of ingestion (live feeds only).
    """

    kind: Literal["event", "column", "ingestion"] = "event"
    delay_minutes: Count = 0


class FileSource(Section):
    """Files dropped into a folder or an `s3a://` prefix.

    `columns` maps each silver column to a Spark SQL expression over the file's own columns (all strings for CSV and
    JSON lines). `file_date` is a regular expression whose first group is the file's date: files dated after the as-of
    date are left for later. `pattern` (with * ? [ ]) is for the file's own name, in any sub-folder. `header` names the
    columns that every CSV or Parquet file must have, in any order; null: those of the first file taken.
    """

    kind: Literal["files"]
    name: Name
    path: Location
    pattern: str = "*"
    format: Literal["csv", "jsonl", "parquet"] = "csv"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    encoding: str = "utf-8"
    file_date: Regex | None = None
    header: tuple[str, ...] | None = None
    columns: dict[str, str]
    where: str | None = None
    time_zone: Zone | None = None
    known_at: KnownAt = KnownAt()
    static: bool = False
    adjusted: bool = False
    repeated_lines: Literal["keep", "collapse"] = "keep"


class MassiveSource(Section):
    """A market REST feed that speaks the Massive (formerly Polygon.io) API."""

    kind: Literal["massive"]
    name: Name
    base_url: Location
    endpoint: Literal["custom_bars", "grouped_daily", "tickers", "splits"]
    timespan: Literal["day", "minute"] = "day"
    tickers: tuple[str, ...] | None = None
    start: date
    correction_days: Count = 3
    page_limit: Positive = 50000
    api_key_env: str = "MASSIVE_API_KEY"
    secret_scope: Name | None = None
    secret_key: Name | None = None
    calls_per_minute: Positive = 300
    parallel: Positive = 4
    timeout_seconds: Annotated[float, Field(gt=0.0)] = 30.0
    deadline_seconds: Annotated[float, Field(gt=0.0)] = 300.0
    columns: dict[str, str] = Field(default={})
    known_at: KnownAt = KnownAt(delay_minutes=15)
    adjusted: bool = False


Source = Annotated[FileSource | MassiveSource, Field(discriminator="kind")]


class IngestSettings(Section):
    max_refused_share: Share = 0.05


class RuleSettings(Section):
    """Severity of a rule by name (`reject`, `warn`, `off`) and the limits that rules use.

    `versions_within_days`: an event with an id of its source's own is looked for in silver so many days around its date; null: on all
    dates, which reads one column of the whole history each day. One that a later version moves further is then not seen to be moved.
    """

    severity: dict[str, Literal["reject", "warn", "off"]] = Field(default={})
    price_jump: Annotated[float, Field(gt=0.0)] = 0.5
    bad_print: Annotated[float, Field(gt=0.0)] = 0.3
    versions_within_days: Count | None = None


class GateSettings(Section):
    """Limits of the Great Expectations gate, per batch and table."""

    max_rejected_share: Share = 0.05
    min_session_completeness: Share = 0.95
    max_age_days: Positive | None = None
    min_rows_against_earlier: Share = 0.1


class ValidateSettings(Section):
    rules: RuleSettings = RuleSettings()
    gate: GateSettings = GateSettings()
    gate_by_table: dict[str, GateSettings] = Field(default={})


class PrivacySettings(Section):
    """`user_id: hmac`: from silver on, users are called by HMAC-SHA256(key, the source's id), in hex (privacy.py).

    The key comes from the secret `secret_scope`/`secret_key` where `secret_key` is set, else from the environment variable `key_env`.
    `propensity forget` needs it in either mode: who was erased is remembered by keyed hash.
    """

    user_id: Literal["raw", "hmac"] = "raw"
    key_env: str = "PROPENSITY_PRIVACY_KEY"
    secret_scope: Name | None = None
    secret_key: Name | None = None


class SimulateSettings(Section):
    """Simulated investors, and where `market` is true a simulated market (else the data set's own bars are used)."""

    market: bool = True
    items: Positive = 100
    users: Positive = 5000
    start: date = date(2022, 1, 3)
    end: date = date(2025, 2, 28)
    events_per_user: Positive = 200
    users_per_batch: Positive = 250
    seed: int = 20260101
    late_share: Share = 0.02
    corrected_share: Share = 0.005
    deleted_share: Share = 0.001
    repeated_share: Share = 0.002
    truth_users: Positive = 250
    truth_futures: Positive = 1000
