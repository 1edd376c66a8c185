"""Typed, frozen settings.

`conf/base.yml` → environment (`conf/local.yml`) → data set (`conf/datasets/<name>.yml`) → `--set key=value`,
merged in this order, later wins. An unknown key is an error that names the file, the key and what is allowed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from propensity_spark.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parent
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""Settings: in a wheel inside the package, in a checkout beside it."""
_SECRET = re.compile("secret|password|token|key|credential", re.IGNORECASE)
"""Settings (and Spark options) of such a name are never shown: somebody may have put the secret itself there."""
VACUUM_DAYS = 7
"""No vacuum takes what is younger: it may belong to a write or a reader that is still at work."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
UNSAFE = {
    "spark.databricks.delta.retentionDurationCheck.enabled": "false",
    "spark.sql.files.ignoreMissingFiles": "true",
    "spark.sql.files.ignoreCorruptFiles": "true",
}
"""Spark settings, and the value with which each loses rows silently."""
_WHERE = dict.fromkeys(("spark", "lake", "publish", "mlflow", "as_of", "data", "secret_scope"), True) | {
    "evaluate": {"refused"},
    "train": {"attempts", "deadline_seconds"},
    "privacy": {"key_env", "secret_scope", "secret_key"},
    "monitor": {"channels"},
}
"""Settings that say where things are or what is told to whom, and so change no result."""


def _safe_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("expected letters, digits, '_' or '-' only (no path, no quotes)")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("expected an IANA time zone such as America/New_York") from error
    return value


def _location(value: str) -> str:
    if any(mark in value for mark in "'\"`\n"):
        raise ValueError("a location may not hold quotes or line breaks")
    if ".." in Path(value.split("://", 1)[-1]).parts and "://" in value:
        raise ValueError("a URI may not hold '..'")
    return value


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


Name = Annotated[str, AfterValidator(_safe_name)]
Zone = Annotated[str, AfterValidator(_zone)]
Location = Annotated[str, AfterValidator(_location)]
Regex = Annotated[str, AfterValidator(_regex)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Grain = Literal["user_item", "user"]


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class LakeSettings(Section):
    """Where the Delta tables are: a folder, or a Unity Catalog schema (then `root` holds MLflow and reports only).

    `vacuum_days`: `propensity vacuum` keeps what any version of these last days needs; under 7, somebody at work may lose files.
    """

    root: Location
    catalog: Name | None = None
    schema_name: Name | None = None
    vacuum_days: Annotated[int, Field(ge=VACUUM_DAYS)] = 30

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
    conf: dict[str, str] = {}

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


class LabelSettings(Section):
    """Label 1 = at least one event of `event_types` in (D, D + horizon_days], not wholly undone by a `cancel`.

    `delay_days`: by how many days a purchase may become known after its date; a window has closed that long after its end.
    """

    event_types: tuple[str, ...] = ("buy",)
    horizon_days: Positive = 7
    delay_days: Count = 0

    @property
    def closing_days(self) -> int:
        """Days from D until the label of D can no longer change."""
        return self.horizon_days + self.delay_days


class ScheduleSettings(Section):
    """As-of dates for training: every `every_weeks` weeks on `weekday` (ISO 1–7), the last `dates` matured ones.

    `listed_dates`: these dates instead, for a source that can be looked at on certain dates only.
    """

    weekday: Annotated[int, Field(ge=1, le=7)] = 5
    every_weeks: Positive = 1
    dates: Positive = 40
    listed_dates: tuple[date, ...] | None = None


class CandidateSettings(Section):
    """Which (user, item) pairs are worth scoring on D (grain `user_item`).

    `exclude_held`: a pair that is held (a `buy` in `held_days`) is no candidate, whatever else speaks for it.
    """

    held_days: Positive = 365
    viewed_days: Positive = 30
    popular_items: Count = 10
    affine_sectors: Count = 2
    items_per_affine_sector: Count = 5
    all_items: bool = False
    exclude_held: bool = False


class FeatureSettings(Section):
    """`risk_levels`: the values of `risk_tolerance` from the most careful to the boldest."""

    risk_levels: tuple[str, ...] = ("low", "medium", "high")


class SplitSettings(Section):
    """Which rows go to which slice.

    `by: dates`: so many of the latest schedule dates go to test, calibration and validation, in time order; the rest is training.
    `by: users`, for a horizon too long for three purges: only test lies apart in time; on the dates whose windows have closed by
    then, these shares of the users (by a hash) go to validation and calibration, the others to training.
    """

    by: Literal["dates", "users"] = "dates"
    test_dates: Positive = 4
    calibration_dates: Positive = 3
    validation_dates: Positive = 3
    min_train_dates: Positive = 8
    calibration_users: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.2
    validation_users: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.2


class SamplingSettings(Section):
    """Share of negatives kept in train and validation; of the pairs of a user, calibration and test keep all.

    `user_share`: the training dates (of every slice, test too) look at this share of the users, chosen by a hash; the day
    that is scored has all users. Only pairs are thinned, so at grain `user` it changes nothing.
    """

    negative_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    user_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    seed: int = 20260101


class TrainSettings(Section):
    """XGBoost parameters by their own names; `candidates` are overrides tried on the validation slice.

    `monotone`: features whose rise may only raise (1) or only lower (−1) the probability, for values that training never saw.
    `num_workers: null` is as many as can run at once, which a model is repeatable with on a cluster of the same size only. A fit that loses
    a worker is started again, `attempts` times in all; whatever it does, it is cancelled after `deadline_seconds`.
    """

    rounds: Positive = 200
    attempts: Positive = 3
    deadline_seconds: Positive = 7200
    early_stopping_rounds: Positive = 20
    num_workers: Positive | None = 1
    params: dict[str, Any] = {}
    candidates: tuple[dict[str, Any], ...] = ()
    monotone: dict[str, Literal[1, -1]] = {}
    seed: int = 7


class EvaluateSettings(Section):
    """`new_user_days`: a user whose first event is fewer days before D counts as new in the report.

    `refused`: what evaluate does when it does not promote the challenger, once the report is written: `report` and succeed, or `fail`.
    """

    bootstrap_rounds: Positive = 200
    bins: Positive = 2000
    shap_rows: Positive = 2000
    new_user_days: Positive = 30
    seed: Count = 11
    auc_margin_over_baseline: float = 0.0
    auc_margin_over_champion: float = 0.0
    max_calibration_error: Share = 0.05
    top_k: tuple[Positive, ...] = (1, 5, 10)
    refused: Literal["report", "fail"] = "report"


class ScoreSettings(Section):
    """Segment limits, decision threshold (null: the one with the best F1 on the calibration slice), eligibility lists.

    `blocked_users` and `blocked_items` are CSV files with a header `user_id` / `item_id`: never scored, never published.
    """

    high: Share = 0.5
    low: Share = 0.1
    threshold: Share | None = None
    blocked_users: Location | None = None
    blocked_items: Location | None = None

    @model_validator(mode="after")
    def _ordered(self) -> ScoreSettings:
        if self.low >= self.high:
            raise ValueError(f"score.low ({self.low}) must be below score.high ({self.high})")
        return self


class RuleSettings(Section):
    """Severity of a rule by name (`reject`, `warn`, `off`) and the limits that rules use."""

    severity: dict[str, Literal["reject", "warn", "off"]] = {}
    price_jump: Annotated[float, Field(gt=0.0)] = 0.5
    bad_print: Annotated[float, Field(gt=0.0)] = 0.3


class GateSettings(Section):
    """Limits of the Great Expectations gate, per batch and table."""

    max_rejected_share: Share = 0.05
    min_session_completeness: Share = 0.95
    max_age_days: Positive | None = None
    min_rows_against_earlier: Share = 0.1


class ValidateSettings(Section):
    rules: RuleSettings = RuleSettings()
    gate: GateSettings = GateSettings()
    gate_by_table: dict[str, GateSettings] = {}


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
    max_drifted_features: Count = 3
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
    columns: dict[str, str] = {}
    known_at: KnownAt = KnownAt(delay_minutes=15)
    adjusted: bool = False


Source = Annotated[FileSource | MassiveSource, Field(discriminator="kind")]


class IngestSettings(Section):
    max_refused_share: Share = 0.05


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

    @property
    def has_market(self) -> bool:
        """Market features exist only at `user_item` grain and only where bars are configured."""
        return self.grain == "user_item" and bool(self.sources.get("bars"))

    def shown(self) -> dict[str, Any]:
        """Every setting as JSON, for people and for MLflow; a Spark option whose name speaks of a secret has its value hidden."""
        body = self.model_dump(mode="json")
        conf = body["spark"]["conf"]
        body["spark"]["conf"] = {name: "***" if _SECRET.search(name) else value for name, value in conf.items()}
        return body

    def config_hash(self) -> str:
        """First 16 hex digits of SHA-256 over every setting that can change a result (not: where things are, how big the JVM)."""
        body = self.model_dump(mode="json", exclude=_WHERE)
        for source in (source for sources in body["sources"].values() for source in sources if "path" in source):
            source["path"] = source["path"].removeprefix(self.data or "").removeprefix(self.lake.root)
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def load_settings(
    environment: Path | str,
    dataset: str,
    overrides: Sequence[str] = (),
    data: str | None = None,
    conf_dir: Path = CONF_DIR,
) -> Settings:
    """Merge base → environment → data set → `key=value` overrides and check the result.

    `environment` is a file, or the name of one in `conf_dir`, such as `databricks` (which a wheel brings along).

    Inside any text value `{dataset}` and `{data}` become the data set's name and the folder given as `data`, and
    `{lake_root}` the lake's root.
    Raises ConfigurationError that names the file and key.
    """
    dataset_file = conf_dir / "datasets" / f"{dataset}.yml"
    if not _NAME.fullmatch(dataset) or not dataset_file.is_file():
        known = sorted(path.stem for path in (conf_dir / "datasets").glob("*.yml"))
        raise ConfigurationError(f"unknown data set {dataset!r}: expected one of {known} (files in {conf_dir / 'datasets'})")
    merged: dict[str, Any] = {"dataset": dataset}
    origin: dict[str, str] = {}
    for path in (conf_dir / "base.yml", _environment_file(environment, conf_dir), dataset_file):
        _merge(merged, _read_yaml(path), str(path), origin)
    for override in overrides:
        _merge(merged, _parse_override(override), f"--set {override}", origin)
    if data is not None:
        merged["data"] = data
    words = {"dataset": dataset, "data": merged.get("data")}
    merged = _substitute(merged, words)
    lake = merged.get("lake")
    try:
        return Settings.model_validate(_substitute(merged, {"lake_root": lake.get("root") if isinstance(lake, dict) else None}))
    except ValidationError as error:
        raise ConfigurationError(_explain(error, origin)) from error


def _environment_file(environment: Path | str, conf_dir: Path) -> Path:
    named = conf_dir / f"{environment}.yml"
    return named if _NAME.fullmatch(str(environment)) and named.is_file() else Path(environment)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); expected a YAML file of settings") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(body, dict):
        raise ConfigurationError(f"{path}: expected a mapping of settings, found {type(body).__name__}")
    return body


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*", key):
        raise ConfigurationError(f"--set {text!r}: expected key=value, such as label.horizon_days=14")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--set {text!r}: the value is not valid YAML: {error}") from error
    for part in reversed(key.split(".")):
        nested = {part: nested}
    result: dict[str, Any] = nested
    return result


def _merge(into: dict[str, Any], new: Mapping[str, Any], source: str, origin: dict[str, str], prefix: str = "") -> None:
    for key, value in new.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value, source, origin, f"{path}.")
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
            origin[path] = source


def _substitute(value: Any, words: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, words) for item in value]
    if isinstance(value, str):
        for word, replacement in words.items():
            if isinstance(replacement, str):
                value = value.replace(f"{{{word}}}", replacement)
    return value


def _explain(error: ValidationError, origin: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        parts = [str(part) for part in problem["loc"]]
        key = ".".join(parts)
        where = next((origin[".".join(parts[:n])] for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in origin), "settings")
        message = f"{where}: {key}: {problem['msg']}"
        if problem["type"] == "extra_forbidden":
            allowed = _allowed_keys(parts[:-1])
            close = difflib.get_close_matches(parts[-1], allowed, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            message = f"{where}: unknown key {key!r}.{hint} Allowed here: {', '.join(allowed)}"
        elif problem["type"] != "missing":
            message += f" (found {'a value that is not shown' if _SECRET.search(key) else repr(problem['input'])})"
        lines.append(message)
    return "\n".join(lines)


def _allowed_keys(parts: Sequence[str]) -> list[str]:
    """The keys a section allows; inside lists and unions, those of the source kinds."""
    model: Any = Settings
    for part in parts:
        if part in ("files", "massive"):
            model = FileSource if part == "files" else MassiveSource
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            continue
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
    return sorted(model.model_fields)
