"""Files and pages to bronze: refused by name, taken exactly once, whatever crashes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.errors import ConfigurationError, RowsLost, SourceMissing, TooManyRefused
from propensity_spark.ingest import accept, batches, files
from propensity_spark.run import Outcome, Run
from propensity_spark.schemas import BRONZE, DELIVERIES
from propensity_spark.stages import ingest
from propensity_spark.tables import Lake
from propensity_spark.validate.batch import new_batches

DAY = date(2024, 3, 8)
ACTIVITY = BRONZE["activity"]
SHARED = Path(os.environ.get("PROPENSITY_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def csv_source(folder: Path, **other: Any) -> dict[str, Any]:
    columns = {"user_id": "user", "quantity": "cast(n as double)"}
    return {"kind": "files", "name": "drop", "path": str(folder), "pattern": "*.csv*", "columns": columns, **other}


Ingest = Callable[..., Outcome]


@pytest.fixture
def ingest_files(spark: SparkSession, lake: Lake) -> Ingest:
    """Run the stage on `sources` (a list for activity, or by target)."""

    def run_stage(sources: Any, as_of: date = DAY, max_refused_share: float = 0.5, **other: Any) -> Outcome:
        by_target = sources if isinstance(sources, dict) else {"activity": sources}
        settings = Settings.model_validate(
            {
                "dataset": "test",
                "lake": {"root": lake.root},
                "publish": {"uri": "unused"},
                "sources": by_target,
                "ingest": {"max_refused_share": max_refused_share},
                **other,
            }
        )
        return ingest.STAGE.execute(Run(spark, settings, lake, as_of, "run-1", datetime.now(UTC)))

    return run_stage


def bronze(lake: Lake, table: str = "activity") -> list[tuple[str, int, str]]:
    """(file, line, payload) in order."""
    rows = lake.read(BRONZE[table]).orderBy("source", "source_uri", "delivery_id", "line").collect()
    return [(row["source_uri"].rpartition("/")[2], row["line"], row["payload"]) for row in rows]


def states(lake: Lake) -> list[tuple[str, str, str | None]]:
    """(file, status, reason), oldest first."""
    rows = lake.read(DELIVERIES).orderBy("recorded_at", "source_uri", "status").collect()
    return [(row["source_uri"].rpartition("/")[2], row["status"], row["reason"]) for row in rows]


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    folder = tmp_path / "drop"
    folder.mkdir()
    return folder


def test_new_files_once_and_the_next_day_only_the_new_one(ingest_files: Ingest, lake: Lake, drop: Path) -> None:
    (drop / "2024-03-07.csv").write_text('user,n\nu1,1\nu2,"2\nand more"\n')
    (drop / "2024-03-08.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfuser,n\r\nu3,3\r\n"))
    (drop / "2024-03-09 late+%.csv").write_text("n,user\n4,u4\n")
    source = [csv_source(drop, file_date=r"(\d{4}-\d{2}-\d{2})")]
    first = [("2024-03-07.csv", 0, "u1,1"), ("2024-03-07.csv", 1, 'u2,"2\nand more"'), ("2024-03-08.csv.gz", 0, "u3,3")]
    assert ingest_files(source) == Outcome(3, 3, 0, "2 files, 3 rows")
    assert bronze(lake) == first
    version = lake.version(ACTIVITY)
    assert ingest_files(source) == Outcome(0, 0, 0, "nothing new")
    assert lake.version(ACTIVITY) == version
    assert ingest_files(source, date(2024, 3, 9)).note == "1 files, 1 rows"
    assert bronze(lake) == [*first, ("2024-03-09 late+%.csv", 0, "4,u4")]
    row = lake.read(ACTIVITY).where("payload = 'u3,3'").first()
    assert row is not None
    assert (row["source"], row["context"]) == ("drop", {"header": "user,n"})
    assert row["source_uri"] == f"file:{drop}/2024-03-08.csv.gz"
    assert lake.read(ACTIVITY).where("payload_hash = sha2(payload, 256)").count() == 4
    assert lake.read(ACTIVITY).select(*ACTIVITY.key).distinct().count() == 4


def test_bad_files_are_refused_by_name_and_taken_when_mended(ingest_files: Ingest, lake: Lake, drop: Path) -> None:
    (drop / "good.csv").write_text("user,n\nu1,1\n")
    (drop / "good2.csv").write_text("user,n\nu2,2\n")
    (drop / "good3.csv").write_text("n,user\n")
    whole = gzip.compress(b"user,n\n" + b"u5,5\n" * 500)
    (drop / "cut.csv.gz").write_bytes(whole[:-12])
    (drop / "lacks.csv").write_text("user,count\nu6,6\n")
    (drop / "more.csv").write_text("user,n,extra\nu7,7,x\n")
    (drop / "a[1].csv").write_text("user,n\nu1,1\n")
    outcome = ingest_files([csv_source(drop)], max_refused_share=0.6)
    assert (outcome.rows_in, outcome.rows_out, outcome.rows_rejected) == (2, 2, 4)
    assert outcome.note.startswith("3 files, 2 rows; 4 refused: ")
    assert [(name, reason) for name, status, reason in states(lake) if status == "refused"] == [
        ("a[1].csv", "its name holds one of * ? [ ] { } \\, which Spark reads as a pattern; rename it"),
        ("cut.csv.gz", "truncated gzip: it ends before its end-of-stream mark"),
        ("lacks.csv", "lacks `n`, which the mapping uses; its columns are user, count"),
        (
            "more.csv",
            "has other columns than this source's files: missing none; extra extra. If they are meant, list the columns under `header`",
        ),
    ]
    assert ingest_files([csv_source(drop)], max_refused_share=0.0).note.startswith("nothing new; 4 refused"), (
        "refused before: not counted again"
    )
    assert len([1 for _, status, _ in states(lake) if status == "refused"]) == 4
    (drop / "cut.csv.gz").write_bytes(whole)
    os.remove(drop / "lacks.csv")
    assert ingest_files([csv_source(drop)]).rows_out == 500
    assert ingest_files([csv_source(drop, header=["user", "n", "extra"])]).note.startswith("1 files, 1 rows; 1 refused")
    assert len(bronze(lake)) == 503


def test_too_many_refused_stops_before_anything_is_taken(ingest_files: Ingest, lake: Lake, drop: Path) -> None:
    (drop / "good.csv").write_text("user,n\nu1,1\n")
    (drop / "bad.csv").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(
            TooManyRefused, match=r"drop: 1 of 2 files refused \(file:.*bad.csv: is empty: expected a header line\). At most"
        ):
            ingest_files([csv_source(drop)], max_refused_share=0.4)
    assert not lake.exists(ACTIVITY)
    assert states(lake) == [("bad.csv", "refused", "is empty: expected a header line")] * 2
    assert ingest_files([csv_source(drop)], max_refused_share=0.5).rows_out == 1


def test_a_file_without_a_header_is_refused_and_its_first_row_not_shown(ingest_files: Ingest, lake: Lake, drop: Path) -> None:
    (drop / "x.csv").write_text("canary-user-4711,1\n")
    with pytest.raises(TooManyRefused, match=r"is there a header line\?") as caught:
        ingest_files([csv_source(drop)])
    assert "canary" not in str(caught.value) + str(states(lake))


def test_a_changed_file_is_a_new_delivery_and_a_touched_one_is_not(ingest_files: Ingest, lake: Lake, drop: Path) -> None:
    file = drop / "x.csv"
    file.write_text("user,n\nu1,1\n")
    ingest_files([csv_source(drop)])
    os.utime(file, (1, 1))
    assert ingest_files([csv_source(drop)]).note == "nothing new"
    assert [status for _, status, _ in states(lake)] == ["planned", "ingested", "ingested"]
    to_judge = new_batches(Run(lake.spark, None, lake, date(2024, 3, 8), "validate-1", datetime.now(UTC)), (ACTIVITY,))  # type: ignore[arg-type]
    assert [[batch.rows for batch in batches.values()] for batches in to_judge.values()] == [[1]], "nothing to validate in the touched one"
    assert ingest_files([csv_source(drop)]).note == "nothing new"
    assert len(states(lake)) == 3
    file.write_text("user,n\nu1,2\n")
    assert ingest_files([csv_source(drop)]).rows_out == 1
    assert sorted(payload for _, _, payload in bronze(lake)) == ["u1,1", "u1,2"]
    shutil.copy(file, drop / "again.csv")
    assert ingest_files([csv_source(drop)]).rows_out == 1, "the same content under another name is a delivery of its own"


def test_missing_and_empty_folders(ingest_files: Ingest, lake: Lake, drop: Path) -> None:
    with pytest.raises(SourceMissing, match=r"drop: .*nowhere does not exist; expected a folder with files \*.csv\*"):
        ingest_files([csv_source(drop / "nowhere")])
    (drop / "x.txt").write_text("")
    with pytest.raises(SourceMissing, match=r"drop: .*drop holds no file \*.csv\*. Expected at least one"):
        ingest_files([csv_source(drop)])
    with pytest.raises(SourceMissing, match="say where the data is with --data FOLDER"):
        ingest_files([csv_source(Path("{data}/x"))])
    (drop / "x.csv").write_text("user,n\nu1,1\n")
    ingest_files([csv_source(drop)])
    os.remove(drop / "x.csv")
    assert ingest_files([csv_source(drop)]).note == "nothing new", "files may be cleared away once they are taken"


def test_file_dates(ingest_files: Ingest, lake: Lake, drop: Path) -> None:
    for name in ("20240308.csv", "20240309.csv", "20241399.csv", "undated.csv"):
        (drop / name).write_text("user,n\nu1,1\n")
    outcome = ingest_files([csv_source(drop, file_date=r"(\d{8})")], max_refused_share=0.9)
    assert (outcome.rows_out, outcome.rows_rejected) == (1, 2)
    assert "'20241399' in its name is no date" in outcome.note
    assert "no date in its name by the pattern" in outcome.note


def test_wrong_settings_are_not_blamed_on_the_files(ingest_files: Ingest, drop: Path) -> None:
    (drop / "x.csv").write_text("user,n\nu1,1\n")
    with pytest.raises(ConfigurationError, match=r"source drop: quantity: 'cast\(n as' is no valid Spark SQL expression"):
        ingest_files([csv_source(drop, columns={"quantity": "cast(n as"})])
    with pytest.raises(ConfigurationError, match="found twice: drop"):
        ingest_files([csv_source(drop), csv_source(drop)])
    with pytest.raises(ConfigurationError, match="source drop: where: "):
        ingest_files([csv_source(drop, where="nofunction(n)")])


def parquet_source(folder: Path) -> dict[str, Any]:
    return {"kind": "files", "name": "pq", "path": str(folder), "pattern": "*.parquet", "format": "parquet", "columns": {"user_id": "user"}}


def test_parquet_json_lines_and_csv_in_one_target(ingest_files: Ingest, lake: Lake, drop: Path) -> None:
    instants = pa.array([1704164645123456, None], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"user": ["u1", "u2"], "at": instants, "x": [0.1, 2.0]}), drop / "a b+c%20#1.parquet")
    pq.write_table(pa.table({"user": ["u3"], "at": instants[:1], "x": [1]}), drop / "whole_numbers.parquet")
    pq.write_table(pa.table({"user": ["u4"], "at": pa.array([1], pa.timestamp("ns")), "x": [0.5]}), drop / "nanoseconds.parquet")
    pq.write_table(pa.table({"other": ["u5"]}), drop / "other.parquet")
    (drop / "cut.parquet").write_bytes((drop / "other.parquet").read_bytes()[:-20])
    (drop / "events.jsonl").write_text('{"user": "u6"}\n{"user": "u7"}\n')
    (drop / "x.csv").write_text("user,n\nu8,8\n")
    json_lines = {"kind": "files", "name": "jl", "path": str(drop), "pattern": "*.jsonl", "format": "jsonl", "columns": {"user_id": "user"}}
    mapping = {"columns": {"user_id": "user", "quantity": "x"}}
    outcome = ingest_files([parquet_source(drop) | mapping, json_lines, csv_source(drop)], max_refused_share=0.7)
    assert (outcome.rows_out, outcome.rows_rejected) == (6, 3)
    reasons = {name: reason for name, status, reason in states(lake) if status == "refused"}
    assert reasons["nanoseconds.parquet"] == "at: nanoseconds, which Spark cannot read; write microseconds"
    assert str(reasons["other.parquet"]).startswith("lacks `x`, which the mapping uses; its columns are other")
    assert str(reasons["cut.parquet"]).startswith("truncated or broken Parquet")
    assert bronze(lake) == [
        ("x.csv", 0, "u8,8"),
        ("events.jsonl", 0, '{"user": "u6"}'),
        ("events.jsonl", 1, '{"user": "u7"}'),
        ("a b+c%20#1.parquet", 0, '{"user":"u1","at":"2024-01-02T03:04:05.123456Z","x":0.1}'),
        ("a b+c%20#1.parquet", 1, '{"user":"u2","x":2.0}'),
        ("whole_numbers.parquet", 0, '{"user":"u3","at":"2024-01-02T03:04:05.123456Z","x":1}'),
    ]
    schema = lake.read(ACTIVITY).where("payload like '%\"u2\"%'").select(F.col("context")["schema"]).first()
    assert schema is not None
    assert schema[0] == "`user` string, `at` timestamp, `x` double"


class Killed(BaseException):
    pass


def dead(*args: Any) -> None:
    raise Killed


@pytest.mark.parametrize("point", ["after the plan", "after one table", "before ingested"])
def test_a_death_at_any_point_ends_like_a_clean_run(
    point: str, ingest_files: Ingest, lake: Lake, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (drop / "x.csv").write_text("user,n\nu1,1\nu2,2\n")
    pq.write_table(pa.table({"user": ["u1"]}), drop / "u.parquet")
    sources = {"activity": [csv_source(drop)], "users": [parquet_source(drop)]}
    calls = {"record": 0, "replace": 0}
    stops = {
        "after the plan": ("record", 1, True),
        "after one table": ("replace", 1, True),
        "before ingested": ("record", 2, False),
    }
    where, number, after = stops[point]

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            stop = name == where and calls[name] == number
            if stop and not after:
                raise Killed
            result = real(*args, **kwargs)
            if stop:
                raise Killed
            return result

        return call

    with monkeypatch.context() as patch:
        patch.setattr(batches, "record", dying("record", batches.record))
        patch.setattr(Lake, "replace", dying("replace", Lake.replace))
        with pytest.raises(Killed):
            ingest_files(sources)
    os.utime(drop / "u.parquet", (1, 1))
    assert ingest_files(sources).note == "2 files, 3 rows"
    assert {status for name, status, _ in states(lake)[-2:]} == {"ingested"}
    assert bronze(lake) == [("x.csv", 0, "u1,1"), ("x.csv", 1, "u2,2")]
    assert bronze(lake, "users") == [("u.parquet", 0, '{"user":"u1"}')]
    planned = {row["recorded_at"] for row in lake.read(DELIVERIES).where("status = 'planned'").collect()}
    assert {row["ingested_at"] for row in lake.read(ACTIVITY).collect()} <= planned


def test_a_file_that_changed_after_the_death_is_a_new_delivery(
    ingest_files: Ingest, lake: Lake, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (drop / "x.csv").write_text("user,n\nu1,1\n")
    (drop / "y.csv").write_text("user,n\nu2,2\n")

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "replace", dead)
        with pytest.raises(Killed):
            ingest_files([csv_source(drop)])
    (drop / "x.csv").write_text("user,n\nu1,10\n")
    outcome = ingest_files([csv_source(drop)])
    assert (outcome.rows_out, outcome.rows_rejected) == (2, 1)
    assert bronze(lake) == [("x.csv", 0, "u1,10"), ("y.csv", 0, "u2,2")]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_that_changes_while_it_is_read_fails_the_batch(
    kind: str, ingest_files: Ingest, lake: Lake, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(value: str) -> None:
        (drop / "x.csv").write_text(f"user,n\n{value},1\n")
        pq.write_table(pa.table({"user": [value]}), drop / "u.parquet")

    sources = [csv_source(drop)] if kind == "csv" else [parquet_source(drop)]
    write("u1")
    real = batches.bronze_rows

    def changed_before(*args: Any) -> Any:
        write("another")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "bronze_rows", changed_before)
        with pytest.raises(Exception, match="changed while it was being ingested"):
            ingest_files(sources)
    ingest_files(sources)
    assert [payload for _, _, payload in bronze(lake)] == ["another,1" if kind == "csv" else '{"user":"another"}']


def test_rows_that_do_not_arrive_are_noticed(ingest_files: Ingest, lake: Lake, drop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (drop / "x.csv").write_text("user,n\nu1,1\nu2,2\n")
    real = batches.bronze_rows
    with monkeypatch.context() as patch:
        patch.setattr(batches, "bronze_rows", lambda *args: real(*args).limit(1))
        with pytest.raises(RowsLost, match="has 1 rows, 2 were found"):
            ingest_files([csv_source(drop)])
    ingest_files([csv_source(drop)])
    assert len(bronze(lake)) == 2


def put_page(lake: Lake, ticker: str, body: dict[str, Any], day: str = "2024-03-08") -> None:
    folder = Path(lake.root) / "landing" / "feed" / "custom_bars-day" / f"to={day}" / ticker
    folder.mkdir(parents=True)
    context = {"endpoint": "custom_bars", "ticker": ticker, "bar_size": "1d", "adjusted": "false"}
    (folder / "_request.json").write_text(json.dumps({"context": context}))
    (folder / "page-00000.json").write_text(json.dumps(body))


def test_pages_go_the_same_way_and_a_lake_can_be_moved(
    ingest_files: Ingest, spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = {"kind": "massive", "name": "feed", "base_url": "http://127.0.0.1:9", "endpoint": "custom_bars", "start": "2024-03-01"}
    monkeypatch.setenv("MASSIVE_API_KEY", "k")
    monkeypatch.setattr(ingest, "download", lambda *args, **kwargs: None)
    put_page(lake, "AAA", {"status": "OK", "results": [{"c": 1.5}, {"c": 2}]})
    put_page(lake, "BBB", {"status": "OK", "resultsCount": 0})
    assert ingest_files({"bars": [source]}).note == "2 files, 2 rows"
    rows = lake.read(BRONZE["bars"]).orderBy("line").collect()
    assert [(row["payload"], row["line"]) for row in rows] == [('{"c": 1.5}', 0), ('{"c": 2}', 1)]
    assert rows[0]["context"] == {"endpoint": "custom_bars", "ticker": "AAA", "bar_size": "1d", "adjusted": "false"}
    assert rows[0]["source_uri"] == "landing/feed/custom_bars-day/to=2024-03-08/AAA/page-00000.json"
    shutil.move(lake.root, tmp_path / "moved")
    moved = Lake(spark, lake.settings.model_copy(update={"root": str(tmp_path / "moved")}))
    settings = Settings.model_validate(
        {"dataset": "test", "lake": {"root": moved.root}, "publish": {"uri": "unused"}, "sources": {"bars": [source]}}
    )
    assert ingest.STAGE.execute(Run(spark, settings, moved, DAY, "run-2", datetime.now(UTC))).note == "nothing new"


def test_a_feed_that_has_nothing_yet(ingest_files: Ingest, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASSIVE_API_KEY", "k")
    source = {"kind": "massive", "name": "feed", "base_url": "http://127.0.0.1:9", "endpoint": "splits", "start": "2030-01-01"}
    assert ingest_files({"corporate_actions": [source]}).note == "nothing new"


def test_the_tables_it_writes(drop: Path) -> None:
    body = {"dataset": "t", "lake": {"root": "x"}, "publish": {"uri": "y"}, "sources": {"activity": [csv_source(drop)]}}
    assert [table.full_name for table in ingest.STAGE.writes(Settings.model_validate(body))] == ["bronze/activity", "bronze/deliveries"]


@pytest.mark.skipif(not (SHARED / "online_retail").is_dir(), reason=f"the real data set online_retail is not in {SHARED}")
def test_a_week_of_online_retail(ingest_files: Ingest, lake: Lake) -> None:
    columns = {"user_id": "CustomerID", "amount": "cast(Quantity as int) * UnitPrice"}
    source = csv_source(SHARED / "online_retail" / "by_day", pattern="2010-12-0*.csv.gz", columns=columns)
    assert ingest_files([source]).note == "8 files, 22,523 rows"


def test_a_folder_that_is_not_mounted_is_read_through_spark(
    ingest_files: Ingest, lake: Lake, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "local_path", lambda path: None)
    monkeypatch.setattr(accept, "local_path", lambda path: None)
    monkeypatch.setattr(accept, "MAX_REMOTE_BYTES", 1000)
    (drop / "_hidden").mkdir()
    for name, text in {
        "a b.csv": "user,n\nu1,1\n",
        "empty.csv": "",
        "_hidden/x.csv": "user,n\n",
        "large.csv": "user,n\n" + "u,1\n" * 400,
    }.items():
        (drop / name).write_text(text)
    with pytest.raises(SourceMissing, match="does not exist"):
        ingest_files([csv_source(drop / "nowhere")])
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "replace", dead)
        with pytest.raises(Killed):
            ingest_files([csv_source(drop)], max_refused_share=0.7)
    outcome = ingest_files([csv_source(drop)])
    assert (outcome.rows_out, outcome.rows_rejected) == (1, 2)
    assert {reason for _, status, reason in states(lake) if status == "refused"} == {
        "is empty: expected a header line",
        "is larger than 0 MiB, too large to be read whole: split it",
    }
    assert bronze(lake) == [("a b.csv", 0, "u1,1")]


def test_two_sources_may_read_the_same_file(ingest_files: Ingest, lake: Lake, drop: Path) -> None:
    (drop / "x.csv").write_text("user,n\nu1,1\n")
    pq.write_table(pa.table({"user": ["u2"]}), drop / "u.parquet")
    sources = [csv_source(drop), parquet_source(drop)]
    assert ingest_files([*sources, *({**source, "name": f"{source['name']}-2"} for source in sources)]).rows_out == 4
    assert [row["source"] for row in lake.read(ACTIVITY).orderBy("source").collect()] == ["drop", "drop-2", "pq", "pq-2"]


@pytest.mark.parametrize(
    ("folder", "uri"),
    [
        ("/a/b/", "file:/a/b"),
        ("file:///a/b", "file:/a/b"),
        ("file:/a", "file:/a"),
        ("s3a://bucket/a/", "s3a://bucket/a"),
        ("/Volumes/c/s/v", "dbfs:/Volumes/c/s/v"),
        ("dbfs:/Volumes/c", "dbfs:/Volumes/c"),
        ("a", f"file:{os.getcwd()}/a"),
    ],
)
def test_a_place_has_one_spelling(folder: str, uri: str) -> None:
    assert files.folder_uri(folder) == uri


def test_only_mounted_places_are_opened_by_python() -> None:
    paths = ["file:/a/b", "dbfs:/Volumes/c", "dbfs:/other", "s3a://bucket/a"]
    assert [files.local_path(path) for path in paths] == ["/a/b", "/Volumes/c", None, None]
