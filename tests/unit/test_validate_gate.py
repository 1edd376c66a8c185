"""The gate: real bad batches stop the line before silver is touched, and leave docs to open."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from validate_support import BAR_COLUMNS, EVENT_COLUMNS, deliver, reasons, rows_of, run, settings, source, validate_table

from propensity_spark.config import GateSettings
from propensity_spark.errors import GateFailed
from propensity_spark.schemas import ACTIVITY, BARS, DELIVERIES, ITEMS, PROFILES, VALIDATED
from propensity_spark.tables import Lake, local_frame
from propensity_spark.validate import gate


def views(count: int, day: str = "2024-03-01", user: str | None = "u") -> list[dict[str, Any]]:
    moment = f"{day}T10:00:00Z"
    view = {"user_id": user, "event_type": "view", "event_ts": moment, "known_at": moment}
    return [{"event_id": f"{day}-{user}-{number}", **view} for number in range(count)]


def gated(lake: Lake, target: str = "activity", **gate_settings: Any) -> Any:
    columns = {"activity": EVENT_COLUMNS, "bars": BAR_COLUMNS}[target]
    return settings(
        lake,
        {target: source(target, columns)},
        calendar="XNYS" if target == "bars" else None,
        time_zone="America/New_York" if target == "bars" else "UTC",
        validation={"gate_by_table": {target: gate_settings}},
    )


def test_too_many_rejected_rows_leave_silver_as_it_was(lake: Lake) -> None:
    chosen = gated(lake)
    deliver(lake, "activity", views(10))
    validate_table(run(lake, chosen, "r1"), ACTIVITY)
    deliver(lake, "activity", views(9, "2024-03-02") + views(1, "2024-03-02", None), batch="b2")
    with pytest.raises(GateFailed) as failure:
        validate_table(run(lake, chosen, "r2"), ACTIVITY)
    message = str(failure.value)
    assert message.startswith("silver/activity: rejected_share is 0.1, expected at most 0.05 (rejected: null:user_id 1).")
    assert len(rows_of(lake, ACTIVITY)) == 10
    assert reasons(lake, "activity") == {"null:user_id": 1}
    assert len(rows_of(lake, VALIDATED)) == 1
    found = re.search(r"see (\S+index\.html)", message)
    assert found is not None
    assert "activity" in Path(found.group(1)).read_text(encoding="utf-8")
    assert Path(found.group(1)) == Path(lake.root).absolute() / "ops" / "data_docs" / "index.html"

    validate_table(run(lake, gated(lake, max_rejected_share=0.2), "r3"), ACTIVITY)
    assert len(rows_of(lake, ACTIVITY)) == 19
    assert reasons(lake, "activity") == {"null:user_id": 1}
    shares = [value for name, value in rows_of(lake, PROFILES, "measure", "value") if name == "rejected_share"]
    assert shares == [0.0, 0.1, 0.1]


def test_a_batch_of_nothing_but_rejected_rows_fails(lake: Lake) -> None:
    deliver(lake, "activity", views(2, user=None))
    with pytest.raises(GateFailed, match=r"rejected_share is 1, expected at most 0.05; rows_kept is 0, expected at least 1"):
        validate_table(run(lake, gated(lake)), ACTIVITY)
    assert not lake.exists(ACTIVITY)


def test_a_day_without_any_event_fails_but_a_day_without_any_bar_file_row_does_not(lake: Lake) -> None:
    moment = datetime(2024, 6, 1, tzinfo=UTC)
    told = {"source_uri": "file", "delivery_id": "d", "bytes": 10, "rows": 0, "status": "ingested", "run_id": "r"}
    told |= {"modified_at": moment, "recorded_at": moment}
    empty = [{**told, "source": target, "target": target, "batch_id": f"{target}-empty"} for target in ("activity", "bars")]
    frame = [tuple(row.get(name) for name in DELIVERIES.column_names) for row in empty]
    lake.append(local_frame(lake.spark, frame, DELIVERIES.schema), DELIVERIES)
    with pytest.raises(GateFailed, match="rows_in is 0, expected at least 1"):
        validate_table(run(lake, gated(lake)), ACTIVITY)
    found = validate_table(run(lake, gated(lake, "bars")), BARS)
    assert found is not None
    assert found.rows("in") == 0
    assert rows_of(lake, BARS) == []
    assert validate_table(run(lake, gated(lake, "bars"), "r2"), BARS) is None, "it is marked as done"


def test_a_short_day_and_an_old_one_fail(lake: Lake) -> None:
    chosen = gated(lake, max_age_days=100)
    deliver(lake, "activity", views(30) + views(20, "2024-03-02"))
    validate_table(run(lake, chosen, "r1"), ACTIVITY)
    deliver(lake, "activity", views(2, "2024-03-03"), batch="b2")
    with pytest.raises(GateFailed, match=r"rows_per_date_against_earlier is 0\.0769231, expected at least 0\.1") as failure:
        validate_table(run(lake, chosen, "r2"), ACTIVITY)
    assert "age_days" not in str(failure.value)
    late = gated(lake, max_age_days=5, min_rows_against_earlier=0.0)
    with pytest.raises(GateFailed, match="age_days is 89, expected at most 5"):
        validate_table(run(lake, late, "r3", date(2024, 5, 31)), ACTIVITY)


def test_missing_sessions_fail(lake: Lake) -> None:
    prices = dict.fromkeys(("open", "high", "low", "close"), 5)

    def bar(item: str, day: str) -> dict[str, Any]:
        return {"item_id": item, "bar_size": "1d", "ts": day, "volume": 1, "known_at": f"{day}T22:00:00Z", **prices}

    # Four sessions from Friday the 12th to Thursday the 18th: the 15th is a holiday. B lacks two.
    days = ("2024-01-12", "2024-01-16", "2024-01-17", "2024-01-18")
    deliver(lake, "bars", [bar("A", day) for day in days] + [bar("B", day) for day in (days[0], days[3])])
    with pytest.raises(GateFailed, match=r"session_completeness is 0\.75, expected at least 0\.95"):
        validate_table(run(lake, gated(lake, "bars"), "r1"), BARS)
    assert not lake.exists(BARS)


def test_limits_by_table_and_places_of_the_docs(tmp_path: Path) -> None:
    settings_ = GateSettings(max_age_days=3)
    assert limits_of(ITEMS.name, settings_) == {"rejected_share", "rows_kept", "rows_per_date_against_earlier"}
    assert limits_of("bars", settings_) == {
        "rejected_share",
        "rows_kept",
        "rows_per_date_against_earlier",
        "session_completeness",
        "age_days",
    }
    assert gate._folder(str(tmp_path)) == tmp_path / "ops"
    assert gate._folder(f"file://{tmp_path}") == tmp_path / "ops"
    remote = gate._folder("s3a://bucket/lake")
    assert remote.is_dir()
    assert "propensity-gate-" in remote.name


def limits_of(name: str, settings_: GateSettings) -> set[str]:
    return set(gate.limits({"items": ITEMS, "bars": BARS}[name], settings_))
