"""Keyed hashes of user ids: what Spark computes, what no plan shows, what a changed key gets, and that nothing ends in Delta's log."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import functions as F
from validate_support import EVENT_COLUMNS, deliver, quarantined, rows_of, run, settings, source, validate_table

from propensity_spark.config import Settings
from propensity_spark.errors import ConfigurationError, EnvironmentMissing, KeyChanged
from propensity_spark.privacy import PrivacyKey, identities, known_as, privacy_key, with_keyed_hash
from propensity_spark.schemas import ACTIVITY, IDENTITY, QUARANTINE
from propensity_spark.tables import Lake, local_frame
from propensity_spark.validate.table import replay

KEY = "the key of these tests, not a secret"
NOW = datetime(2024, 6, 1, tzinfo=UTC)
CANARY = "canary-user-4711"


def hashed(user: str) -> str:
    return hmac.new(KEY.encode(), user.encode(), "sha256").hexdigest()


def event(event_id: str, user_id: str = CANARY, **values: object) -> dict[str, object]:
    known = {"event_ts": "2024-03-01T10:00:00Z", "known_at": "2024-03-01T10:00:00Z"}
    return {"event_id": event_id, "user_id": user_id, "item_id": "A", "event_type": "view", **known, **values}


@pytest.fixture
def pseudonymous(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PROPENSITY_PRIVACY_KEY", KEY)
    return settings(lake, {"activity": source("activity", EVENT_COLUMNS)}, privacy={"user_id": "hmac"})


@pytest.mark.parametrize("key", [b"short enough for one block", b"x" * 64, b"longer than the 64 bytes of a block, so hashed first " * 3])
def test_spark_and_python_compute_the_hmac_of_the_standard_library(lake: Lake, key: bytes) -> None:
    texts = ["", "u1", "Zoë 漢字", "a" * 300, None]
    rows = with_keyed_hash(local_frame(lake.spark, [(text,) for text in texts], "user_id string"), "user_id", PrivacyKey(key), "hash")
    found = {row["user_id"]: row["hash"] for row in rows.collect()}
    expected = {text: text and hmac.new(key, text.encode(), "sha256").hexdigest() for text in texts}
    assert found == expected | {"": hmac.new(key, b"", "sha256").hexdigest()}
    assert PrivacyKey(key).hash("Zoë 漢字") == expected["Zoë 漢字"]


def test_no_plan_and_no_text_of_the_key_object_shows_the_key(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    key = PrivacyKey(KEY.encode())
    rows = with_keyed_hash(local_frame(lake.spark, [("u1",)], "user_id string"), "user_id", key)
    for mode in ("extended", "codegen", "formatted"):
        rows.explain(mode)
    rows.collect()
    plan = capsys.readouterr().out + rows._jdf.queryExecution().toString() + rows._jdf.queryExecution().logical().toJSON()  # type: ignore[operator]
    inner, outer = key.pads()
    shown = [KEY, KEY.encode().hex(), inner[:12].hex(), outer[:12].hex(), inner[:12].decode("latin-1"), outer[:12].decode("latin-1")]
    assert [one for one in shown if one.lower() in plan.lower()] == []
    assert KEY not in repr(key)


def test_from_silver_on_a_user_is_a_keyed_hash_and_a_replay_finds_it_again(lake: Lake, pseudonymous: Settings) -> None:
    deliver(lake, "activity", [event("e1"), event("e2", event_ts="?"), event("e3", "other")])
    assert validate_table(run(lake, pseudonymous), ACTIVITY) is not None
    assert rows_of(lake, ACTIVITY, "event_id", "user_id") == [("e1", hashed(CANARY)), ("e3", hashed("other"))]
    assert [reasons for _, reasons in quarantined(lake, "activity")] == [["not_castable:event_ts"]]
    assert known_as(pseudonymous, lake.spark, CANARY) == hashed(CANARY)
    # A hash of the payload alone would let anybody who can guess the id see that the guess is right.
    plain = {row["payload"]: hashlib.sha256(row["payload"].encode()).hexdigest() for row in lake.read(QUARANTINE).collect()}
    assert not lake.read(QUARANTINE).where(F.col("payload_hash").isin(list(plain.values()))).count()
    before = lake.read(QUARANTINE).collect()
    assert replay(run(lake, pseudonymous, "r2"), "activity") is not None
    assert lake.read(QUARANTINE).select("payload_hash").collect()[0][0] == before[0]["payload_hash"]


def test_another_key_or_another_mode_is_refused_before_anything_is_written(
    lake: Lake, pseudonymous: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(lake, "activity", [event("e1")])
    validate_table(run(lake, pseudonymous), ACTIVITY)
    assert rows_of(lake, IDENTITY, "user_id") == [("hmac",)]
    deliver(lake, "activity", [event("e2")], batch="b2")
    monkeypatch.setenv("PROPENSITY_PRIVACY_KEY", KEY[::-1])
    with pytest.raises(KeyChanged, match="ops/identity: the hashes there were made with another privacy key"):
        validate_table(run(lake, pseudonymous), ACTIVITY)
    raw = settings(lake, {"activity": source("activity", EVENT_COLUMNS)})
    with pytest.raises(KeyChanged, match=r"privacy.user_id is raw, the users of this lake are hmac"):
        validate_table(run(lake, raw), ACTIVITY)
    assert len(rows_of(lake, ACTIVITY)) == 1


def test_a_lake_of_raw_ids_does_not_become_one_of_hashes(lake: Lake, pseudonymous: Settings) -> None:
    deliver(lake, "activity", [event("e1")])
    validate_table(run(lake, settings(lake, {"activity": source("activity", EVENT_COLUMNS)})), ACTIVITY)
    with pytest.raises(KeyChanged, match=r"privacy\.user_id is hmac, the users of this lake are raw"):
        identities(pseudonymous, lake, NOW)


@pytest.mark.parametrize(("value", "found"), [(None, "found nothing"), ("fifteen letters", "found 15 characters")])
def test_a_key_that_is_none_is_refused_without_being_shown(
    pseudonymous: Settings, monkeypatch: pytest.MonkeyPatch, value: str | None, found: str
) -> None:
    monkeypatch.delenv("PROPENSITY_PRIVACY_KEY")
    if value:
        monkeypatch.setenv("PROPENSITY_PRIVACY_KEY", value)
    with pytest.raises(EnvironmentMissing, match=found) as caught:
        privacy_key(pseudonymous, None)
    assert value is None or value not in str(caught.value)


def test_no_id_is_in_a_delta_log_not_even_as_the_smallest_or_greatest_value(lake: Lake) -> None:
    chosen = settings(lake, {"activity": source("activity", EVENT_COLUMNS)})
    deliver(lake, "activity", [event("e1"), event("e2", event_ts="?")])
    validate_table(run(lake, chosen), ACTIVITY)
    logs = [path for path in Path(lake.root).rglob("_delta_log/*") if path.is_file()]
    assert len(logs) > 5
    assert [path for path in logs if CANARY.encode() in path.read_bytes()] == []
    added = [json.loads(line).get("add") for path in logs if path.suffix == ".json" for line in path.read_text().splitlines()]
    least = [json.loads(file["stats"]).get("minValues", {}) for file in added if file and file.get("stats")]
    assert any("event_date" in values for values in least), "dates still prune"


def test_a_vacuum_under_a_week_is_refused(lake: Lake) -> None:
    with pytest.raises(ConfigurationError, match="VACUUM after 6 days is refused, expected at least 7"):
        lake.vacuum(ACTIVITY, 6)
