"""Every table of the lake, once, in the order of the line.

A `Table` says what one row stands for (grain), its key, its columns with type, unit and meaning of null, and how it is
laid out. `tables.Lake` refuses to write anything else. Gold tables take their feature columns from `features.registry`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pyspark.sql import types as T

MONEY = T.DecimalType(18, 4)
STRING, LONG, DOUBLE, BOOLEAN, DATE, INSTANT = (
    T.StringType(),
    T.LongType(),
    T.DoubleType(),
    T.BooleanType(),
    T.DateType(),
    T.TimestampType(),
)
TEXT_MAP = T.MapType(STRING, STRING)
REASON = T.StructType([T.StructField("feature", STRING), T.StructField("value", DOUBLE), T.StructField("contribution", DOUBLE)])


@dataclass(frozen=True)
class Column:
    """One column: name, type, and in `comment` its unit and what null means. Null is refused unless `nullable`.

    `personal`: its values tell a person, alone or with a list of ids; they never go into Delta's log.
    `later`: tables may have been made before it was declared; in those it is null, and the next write adds it.
    """

    name: str
    type: T.DataType
    comment: str
    nullable: bool = False
    personal: bool = False
    later: bool = False


@dataclass(frozen=True)
class Table:
    """One data set of the lake. `key` is unique; `partition_by` splits files; `cluster_by` orders rows within a write."""

    layer: str
    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    partition_by: tuple[str, ...] = ()
    cluster_by: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        return f"{self.layer}/{self.name}"

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    @property
    def grows(self) -> bool:
        """Whether a table that was made earlier may lack declared columns."""
        return any(column.later for column in self.columns)

    @property
    def is_personal(self) -> bool:
        return any(column.personal for column in self.columns)

    @property
    def schema(self) -> T.StructType:
        """The Spark schema; nullability is checked on write rather than promised by Spark."""
        return T.StructType([T.StructField(column.name, column.type, True) for column in self.columns])


# --- bronze: what was delivered, untouched -----------------------------------------------------------------------

_DELIVERED = (
    Column("source", STRING, "name of the source in conf/"),
    Column("source_uri", STRING, "file or page it came from, without credentials"),
    Column("delivery_id", STRING, "SHA-256 of the delivered bytes (hex)"),
    Column("line", LONG, "position of the row in the delivery, from 0"),
    Column("payload", STRING, "the row exactly as delivered (Parquet: its JSON form)", personal=True),
    Column("payload_hash", STRING, "SHA-256 of the payload (hex)", personal=True),
    Column("context", TEXT_MAP, "what the row does not say itself: CSV header, ticker of the page, bar size"),
    Column("ingested_at", INSTANT, "when this batch was planned"),
)


def _bronze(target: str) -> Table:
    return Table(
        "bronze",
        target,
        "one delivered row",
        ("source", "source_uri", "delivery_id", "line"),
        (*_DELIVERED, Column("batch_id", STRING, "the batch that wrote it; a batch is replaced whole or not at all")),
        partition_by=("batch_id",),
    )


BRONZE = {name: _bronze(name) for name in ("bars", "corporate_actions", "items", "users", "activity")}

TOUCHED = "touched"
"""Batch of a file whose name or time is new and whose bytes were there already: none, so nothing to validate."""

DELIVERIES = Table(
    "bronze",
    "deliveries",
    "one change of state of one delivered file or page: planned, then ingested; or refused",
    ("source", "source_uri", "delivery_id", "status", "recorded_at"),
    (
        Column("source", STRING, "name of the source in conf/"),
        Column("target", STRING, "silver table it feeds"),
        Column("source_uri", STRING, "file or page, without credentials"),
        Column("delivery_id", STRING, "SHA-256 of the delivered bytes; empty when it could not be read"),
        Column("bytes", LONG, "size as delivered"),
        Column("modified_at", INSTANT, "last change as the file system tells; with `bytes` it says whether a file is still the same"),
        Column("rows", LONG, "rows found; 0 when refused"),
        Column("context", TEXT_MAP, "what the rows of bronze get as their context; null when refused", nullable=True),
        Column("status", STRING, "planned, ingested or refused"),
        Column("reason", STRING, "why it was refused", nullable=True),
        Column(
            "batch_id",
            STRING,
            f"planned, ingested: its batch (`{TOUCHED}`: the bytes were there already); refused: `tolerated`, null when it stopped the run",
            nullable=True,
        ),
        Column("recorded_at", INSTANT, "when this state was recorded"),
        Column("run_id", STRING, "the run that recorded it"),
    ),
)

# --- silver: typed, every version of a row once ------------------------------------------------------------------

_VERSION = (
    Column("known_at", INSTANT, "when this version could first have been known (UTC)"),
    Column("is_deleted", BOOLEAN, "true: from `known_at` on the key no longer exists"),
    Column(
        "visible_date",
        DATE,
        "first as-of date that may see this version: the later of its event's and its known date, in the data set's zone",
    ),
    Column("payload_hash", STRING, "SHA-256 of the payload this version came from; leads back to bronze", personal=True),
)

BARS = Table(
    "silver",
    "bars",
    "one version of one bar of one item",
    ("item_id", "bar_size", "ts", "known_at"),
    (
        Column("item_id", STRING, "what was traded"),
        Column("bar_size", STRING, "1d or 1m"),
        Column("ts", INSTANT, "start of the bar (UTC)"),
        Column("session_date", DATE, "the exchange's session date"),
        Column("open", DOUBLE, "price as reported, not adjusted"),
        Column("high", DOUBLE, "price as reported"),
        Column("low", DOUBLE, "price as reported"),
        Column("close", DOUBLE, "price as reported"),
        Column("volume", DOUBLE, "shares as reported"),
        Column("vwap", DOUBLE, "volume-weighted price; null: the source has none", nullable=True),
        Column("trade_count", LONG, "trades; null: the source has none", nullable=True),
        *_VERSION,
    ),
    cluster_by=("session_date", "item_id"),
)

CORPORATE_ACTIONS = Table(
    "silver",
    "corporate_actions",
    "one version of one action on one item",
    ("item_id", "ex_date", "action", "known_at"),
    (
        Column("item_id", STRING, "the item"),
        Column("ex_date", DATE, "first session that trades after the action"),
        Column("action", STRING, "split or dividend"),
        Column("ratio", DOUBLE, "split: new shares per old share (7:1 = 7.0); null for a dividend", nullable=True),
        Column("cash", DOUBLE, "dividend: cash per share; null for a split", nullable=True),
        *_VERSION,
    ),
)

ITEMS = Table(
    "silver",
    "items",
    "one version of one item's attributes from `valid_from` on",
    ("item_id", "valid_from", "known_at"),
    (
        Column("item_id", STRING, "the item"),
        Column("valid_from", DATE, "first date it holds"),
        Column("valid_to", DATE, "first date it no longer holds; null: open", nullable=True),
        Column("name", STRING, "display name", nullable=True),
        Column("sector", STRING, "sector; null: unknown", nullable=True),
        Column("category", STRING, "kind of item", nullable=True),
        Column("market_cap_category", STRING, "small, mid, large …", nullable=True),
        Column("calendar", STRING, "exchange calendar; null: the data set's", nullable=True),
        Column("attributes", TEXT_MAP, "free attributes", nullable=True),
        *_VERSION,
    ),
)

USERS = Table(
    "silver",
    "users",
    "one version of one user's attributes from `valid_from` on",
    ("user_id", "valid_from", "known_at"),
    (
        Column("user_id", STRING, "the user", personal=True),
        Column("valid_from", DATE, "first date it holds"),
        Column("valid_to", DATE, "first date it no longer holds; null: open", nullable=True),
        Column("risk_tolerance", STRING, "as the source says", nullable=True),
        Column("user_segment", STRING, "as the source says", nullable=True),
        Column("country", STRING, "as the source says", nullable=True),
        Column("signup_date", DATE, "date of registration", nullable=True),
        Column("attributes", TEXT_MAP, "free attributes", nullable=True),
        *_VERSION,
    ),
)

IS_CORRECTION = "is_correction"
ACTIVITY = Table(
    "silver",
    "activity",
    "one version of one event",
    ("event_id", "known_at"),
    (
        Column("event_id", STRING, "the event; never changes between versions", personal=True),
        Column("user_id", STRING, "who", personal=True),
        Column("item_id", STRING, "what; null for events without an item (login, search)", nullable=True),
        Column("event_type", STRING, "view, watchlist_add, search, buy, sell, cancel, …"),
        Column("event_ts", INSTANT, "when it happened (UTC)"),
        Column("event_date", DATE, "local date of event_ts in the data set's zone; never changes between versions"),
        Column("order_id", STRING, "order; the event's own id where the source has none", personal=True),
        Column("quantity", DOUBLE, "units; negative for a cancel; null for events without", nullable=True),
        Column("price", MONEY, "per unit; null for events without", nullable=True),
        Column("amount", MONEY, "in the data set's currency; negative for a cancel; null for events without", nullable=True),
        Column("session_id", STRING, "visit; null: the source has none", nullable=True, personal=True),
        Column(
            IS_CORRECTION,
            BOOLEAN,
            "whether silver has a version of the event that was known before this one; null: not recorded",
            nullable=True,
            later=True,
        ),
        *_VERSION,
    ),
    cluster_by=("event_date",),
)

EVENT, ORDER = "event", "order"
CARRIED = Table(
    "gold",
    "carried_events",
    "one event that stands for others of before all windows, or one order begun by then (features/carried.py)",
    ("what", "user_id", "event_id", "order_hash"),
    (
        Column("what", STRING, f"{EVENT} or {ORDER}"),
        *(replace(ACTIVITY.column(name), nullable=name != "user_id") for name in ("event_id", "user_id", "item_id", "event_type")),
        *(replace(ACTIVITY.column(name), nullable=True) for name in ("event_date", "order_id", "session_id", "visible_date", "is_deleted")),
        Column("order_hash", LONG, "hash of order_id; null for an event", nullable=True, personal=True),
        Column("settled_on", DATE, "the events are as visible on this date, and serve it and later dates"),
        Column("before", DATE, "the last event_date that they stand for"),
        Column("made_at", INSTANT, "start of the features run that carried them forward"),
        Column("config_hash", STRING, "hash of its settings: with others the events are not used"),
        Column("code_version", STRING, "its package version: with another the events are not used"),
    ),
    partition_by=("what",),
)

SILVER = {table.name: table for table in (BARS, CORPORATE_ACTIONS, ITEMS, USERS, ACTIVITY)}

QUARANTINE = Table(
    "silver",
    "quarantine",
    "one rejected row",
    ("source_table", "source", "source_uri", "delivery_id", "line"),
    (
        Column("source_table", STRING, "silver table it was meant for"),
        Column("reasons", T.ArrayType(STRING), "names of the rules it breaks"),
        Column("severity", STRING, "reject"),
        *_DELIVERED,
        Column("run_id", STRING, "the validate run that rejected it"),
    ),
    partition_by=("source_table",),
)

CHANGES = Table(
    "ops",
    "changes",
    "one announcement, made before the write, that a silver table changes from a date on",
    ("run_id", "table_name"),
    (
        Column("run_id", STRING, "the validate run"),
        Column("table_name", STRING, "silver table"),
        Column("changed_from", DATE, "smallest visible_date touched"),
        Column("recorded_at", INSTANT, "when it was announced"),
    ),
)

VALIDATED = Table(
    "ops",
    "validated_batches",
    "one batch of bronze that validate has finished with; written last",
    ("table_name", "batch_id"),
    (
        Column("table_name", STRING, "silver table"),
        Column("batch_id", STRING, "batch of bronze"),
        Column("run_id", STRING, "the validate run"),
        Column("recorded_at", INSTANT, "when"),
    ),
)

PROFILES = Table(
    "ops",
    "profiles",
    "one measure of one validated batch",
    ("run_id", "table_name", "measure"),
    (
        Column("run_id", STRING, "the validate run"),
        Column("table_name", STRING, "silver table"),
        Column("measure", STRING, "rows_in, rows_valid, rejected_share, reason:<rule>, warn:<rule>, session_completeness, …"),
        Column("value", DOUBLE, "its value; null: not measurable for this batch", nullable=True),
        Column("as_of_date", DATE, "as-of date of the run"),
        Column("recorded_at", INSTANT, "when"),
    ),
)

# --- ops ---------------------------------------------------------------------------------------------------------

RUNS = Table(
    "ops",
    "runs",
    "one run of one stage",
    ("run_id", "stage"),
    (
        Column("run_id", STRING, "this stage run"),
        Column("stage", STRING, "stage name"),
        Column("dataset", STRING, "data set"),
        Column("as_of_date", DATE, "as-of date"),
        Column("fingerprint", STRING, "hash of inputs, configuration, code and as-of date; equal and succeeded = up to date"),
        Column("input_versions", T.MapType(STRING, LONG), "Delta version of each table read"),
        Column("output_versions", T.MapType(STRING, LONG), "Delta version of each table written"),
        Column("rows_in", LONG, "rows read"),
        Column("rows_out", LONG, "rows written"),
        Column("rows_rejected", LONG, "rows or files refused"),
        Column("seconds", DOUBLE, "wall time"),
        Column("config_hash", STRING, "hash of the settings"),
        Column("code_version", STRING, "package version"),
        Column("status", STRING, "succeeded or failed"),
        Column("note", STRING, "what the stage said", nullable=True),
        Column("facts", STRING, "what is shown below the closing table, such as the AUC: a JSON object in its order"),
        Column("error", STRING, "why it failed", nullable=True),
        Column("started_at", INSTANT, "when it started"),
    ),
)

DRIFT = Table(
    "ops",
    "drift",
    "one measure of one feature (or of the score, or of the table) on one scoring day",
    ("as_of_date", "run_id", "subject", "measure"),
    (
        Column("as_of_date", DATE, "scoring day"),
        Column("run_id", STRING, "the monitor run"),
        Column("model_name", STRING, "registered model"),
        Column("model_version", STRING, "version of the champion"),
        Column("subject", STRING, "feature name, `purchase_probability` or a table"),
        Column(
            "measure",
            STRING,
            "psi, jensen_shannon, null_share, baseline_null_share, null_increase, unseen_share, rows, rows_change, age_days, "
            "drifted_features, drifted_gain, retrain",
        ),
        Column("value", DOUBLE, "its value; null: not measurable", nullable=True),
        Column("limit", DOUBLE, "limit in conf/; null: none", nullable=True),
        Column("breached", BOOLEAN, "whether the limit is exceeded"),
        Column("note", STRING, "reason in words", nullable=True),
    ),
)

ERASURES = Table(
    "ops",
    "erasures",
    "one change of state of one erasure: requested, then erased, then purged",
    ("user_hash", "status", "recorded_at"),
    (
        Column("user_hash", STRING, "HMAC-SHA256(privacy key, the source's user id), hex: nobody reads from it who was erased"),
        Column("key_check", STRING, "tells whether a key is the one these hashes were made with; nothing of the key itself"),
        Column(
            "status",
            STRING,
            "requested: dropped by validate from now on; erased: in no table and no published run; purged: in no file",
        ),
        Column(
            "purge_from",
            INSTANT,
            "when `forget --purge` may remove the tables' old files; null while requested",
            nullable=True,
        ),
        Column("proof", STRING, "what was found, removed and remained, by place: a JSON object; null while requested", nullable=True),
        Column("recorded_at", INSTANT, "when"),
        Column("run_id", STRING, "the forget run"),
    ),
)

IDENTITY = Table(
    "ops",
    "identity",
    "how this lake calls its users from silver on; one row, written by the first validate that hashes",
    ("user_id",),
    (
        Column("user_id", STRING, "hmac"),
        Column("key_check", STRING, "as in ops/erasures"),
        Column("recorded_at", INSTANT, "when"),
    ),
)

PERFORMANCE = Table(
    "ops",
    "performance",
    "one measure of one day's scores: as estimated on that day, or as realised once its labels had matured",
    ("as_of_date", "scored_date", "measure"),
    (
        Column("as_of_date", DATE, "monitored day on which it became known; the scored day itself for an estimate"),
        Column("run_id", STRING, "the monitor run"),
        Column("model_name", STRING, "registered model"),
        Column("model_version", STRING, "version that scored"),
        Column("scored_date", DATE, "as-of date of the scores"),
        Column("measure", STRING, "roc_auc, purchases, lift_top_tenth, observed_over_expected, calibration_error, candidate_recall"),
        Column("estimated", DOUBLE, "expected from the calibrated probabilities alone; null: not estimated", nullable=True),
        Column("realised", DOUBLE, "from labels; null: not known yet, or undefined for one class", nullable=True),
        Column("low", DOUBLE, "lower end of the 95% interval of `realised`", nullable=True),
        Column("high", DOUBLE, "upper end", nullable=True),
        Column("error", DOUBLE, "estimated − realised; null: one of them is", nullable=True),
        Column("breached", BOOLEAN, "realised is beyond its limit in conf/, and its interval lies beyond what chance explains"),
    ),
)

ALERTS = Table(
    "ops",
    "alerts",
    "one alert rule that held on one day, for one channel",
    ("as_of_date", "rule", "channel"),
    (
        Column("as_of_date", DATE, "monitored day"),
        Column("rule", STRING, "name of the rule in conf/"),
        Column("channel", STRING, "log, file, webhook or email"),
        Column("severity", STRING, "info, warning or critical"),
        Column(
            "status", STRING, "pending (not sent yet), delivered, failed (tried again by later runs), cooling (held back by the cooldown)"
        ),
        Column("alert_id", STRING, "the same for every attempt, so that a receiver can drop one that comes twice"),
        Column("text", STRING, "what was said: the subjects, worst first"),
        Column("error", STRING, "why the last attempt failed", nullable=True),
        Column("run_id", STRING, "the monitor run that recorded this state"),
        Column("recorded_at", INSTANT, "when"),
    ),
)


OPS = {table.name: table for table in (CHANGES, VALIDATED, PROFILES, RUNS, DRIFT, PERFORMANCE, ALERTS, ERASURES, IDENTITY)}


def grain_key(grain: str) -> tuple[str, ...]:
    """Key columns of one row at a grain: (user_id, item_id, as_of_date) or (user_id, as_of_date)."""
    return ("user_id", "item_id", "as_of_date") if grain == "user_item" else ("user_id", "as_of_date")


_KEY_COLUMNS = {
    "user_id": Column("user_id", STRING, "who", personal=True),
    "item_id": Column("item_id", STRING, "what"),
    "as_of_date": Column("as_of_date", DATE, "as-of date D; nothing later than the end of D was used"),
}


def key_columns(*names: str) -> tuple[Column, ...]:
    """The declared key columns by name, for gold tables."""
    return tuple(_KEY_COLUMNS[name] for name in names)


def scores_table(grain: str) -> Table:
    """`gold/scores` at a grain."""
    key = grain_key(grain)
    rank = (Column("rank", T.IntegerType(), "1 = most likely item of this user; ties by item_id"),) if grain == "user_item" else ()
    return Table(
        "gold",
        "scores",
        "one scored candidate",
        key,
        (
            *key_columns(*key),
            Column("purchase_probability", DOUBLE, "P(label = 1), unconditional"),
            Column("predicted_purchase", BOOLEAN, "purchase_probability at or above the decision threshold"),
            Column("segment", STRING, "High, Medium or Low"),
            *rank,
            Column("model_name", STRING, "registered model"),
            Column("model_version", STRING, "its version"),
        ),
        partition_by=("as_of_date",),
    )


def reasons_table(grain: str) -> Table:
    """`gold/score_reasons` at a grain: why each row of gold/scores has its score."""
    key = grain_key(grain)
    return Table(
        "gold",
        "score_reasons",
        "one scored candidate; base + the contributions of its reasons + others = log-odds of its score before calibration",
        key,
        (
            *key_columns(*key),
            Column("purchase_probability", DOUBLE, "as in gold/scores"),
            Column("base", DOUBLE, "log-odds that every row of this model begins with"),
            Column(
                "reasons",
                T.ArrayType(REASON),
                "the `score.reasons` features that moved the score most, furthest first: the value (null: missing) and by how much, in "
                "log-odds, it raised (+) or lowered (−) the score; exact SHAP values",
            ),
            Column("others", DOUBLE, "what all other features contribute together"),
        ),
        partition_by=("as_of_date",),
    )


def published_table(grain: str) -> Table:
    """The published files at a grain: gold/scores without as_of_date, which is in the path only."""
    scores = scores_table(grain)
    key = tuple(name for name in scores.key if name != "as_of_date")
    columns = tuple(column for column in scores.columns if column.name != "as_of_date")
    return Table("published", "scores", "one scored candidate", key, columns)
