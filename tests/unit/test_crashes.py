"""Torn logs, lost files, two writers at once, full disks, fits that fail or hang: a clear refusal, and nothing half-done."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark import cloudpickle
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from xgboost.callback import TrainingCallback
from xgboost.spark import SparkXGBClassifier

from propensity_spark.config import CONF_DIR, LakeSettings, Settings, SparkSettings, TrainSettings, load_settings
from propensity_spark.errors import ConfigurationError, FitFailed, LakeBusy, NoRoom, TableDamaged, WriteConflict
from propensity_spark.failures import explained
from propensity_spark.line import run_line
from propensity_spark.locks import alone_on
from propensity_spark.run import Outcome, Run, Stage
from propensity_spark.schemas import LONG as LONG_TYPE
from propensity_spark.schemas import RUNS, Column, Table
from propensity_spark.tables import Lake, local_frame
from propensity_spark.train import fit as fitting

DAY = date(2024, 12, 31)
BOXES = Table("gold", "boxes", "one box", ("box",), (Column("box", LONG_TYPE, "which"),))
SENT = Table("silver", "sent", "one box sent", ("box",), (Column("box", LONG_TYPE, "which"),))


def boxes(spark: SparkSession, *numbers: int) -> DataFrame:
    return local_frame(spark, [(number,) for number in numbers], BOXES.schema)


@pytest.fixture
def settings(lake: Lake) -> Settings:
    return load_settings(CONF_DIR / "local.yml", "stocks", [f"lake.root={lake.root}"])


def send(run: Run) -> Outcome:
    """The stage under test: reads BOXES, writes SENT, which here stands for what is published."""
    run.lake.overwrite(run.lake.read(BOXES), SENT)
    return Outcome(0, 0)


SEND = Stage("send", "", send, lambda settings: (BOXES,), lambda settings: (SENT,))


def line(lake: Lake, settings: Settings, stage: Stage = SEND) -> None:
    list(run_line(lake.spark, settings, DAY, [stage]))


@pytest.fixture
def three(spark: SparkSession, lake: Lake, settings: Settings) -> Path:
    """A table of three commits, which a run has seen; returns its folder. The JVM has forgotten what it knew of it."""
    for number in range(3):
        lake.append(boxes(spark, number), BOXES)
    line(lake, settings)
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]
    return Path(lake.location(BOXES))


def empty(folder: Path) -> None:
    (folder / f"_delta_log/{2:020}.json").write_bytes(b"")


def cut(folder: Path) -> None:
    commit = folder / f"_delta_log/{2:020}.json"
    commit.write_bytes(commit.read_bytes()[:-30])


def cut_between_lines(folder: Path) -> None:
    commit = folder / f"_delta_log/{2:020}.json"
    commit.write_bytes(commit.read_bytes().splitlines(keepends=True)[0])


def lose_the_middle(folder: Path) -> None:
    (folder / f"_delta_log/{1:020}.json").unlink()


def lose_the_last(folder: Path) -> None:
    (folder / f"_delta_log/{2:020}.json").unlink()


def lose_all(folder: Path) -> None:
    for commit in (folder / "_delta_log").glob("*.json"):
        commit.unlink()


def lose_data(folder: Path) -> None:
    next(folder.glob("part-*.parquet")).unlink()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (empty, r"0{19}2\.json is empty: a commit was torn"),
        (cut, r"0{19}2\.json is torn \(its last line has no end\)"),
        (cut_between_lines, r"0{19}2\.json is torn \(it lists files of 0 rows, 1 were written\)"),
        (lose_the_middle, r"0{19}1\.json is missing, expected every commit from 0 to 2"),
        (lose_the_last, r"found version 1, expected at least 2, which a run left"),
        (lose_all, r"found no commit, expected at least 2, which a run left"),
        (lose_data, r"part-.*\.parquet is missing"),
    ],
)
def test_a_damaged_table_is_refused_and_the_way_back_that_is_named_leads_back(
    spark: SparkSession, lake: Lake, settings: Settings, three: Path, fault: Callable[[Path], None], says: str
) -> None:
    before = lake.version(SENT)
    copy = three.with_name("copy")
    shutil.copytree(three, copy)
    for log in (three / "_delta_log").glob(".*.crc"):
        log.unlink()  # Hadoop's checksums would find some of it on a local disk; no other storage has them
    fault(three)
    again = Stage("send", "", send, SEND.reads, SEND.writes, always=True)
    with pytest.raises(TableDamaged, match=f"gold/boxes at .*{says}") as caught:
        line(lake, settings, again)
    assert f"Put the file back from a copy of the lake; without one remove {three} and run the line again" in str(caught.value)
    assert lake.version(SENT) == before
    shutil.rmtree(three)
    shutil.copytree(copy, three)  # the first way back
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]
    line(lake, settings, again)
    shutil.rmtree(three)  # the second: made anew, with fewer commits than the run has seen
    lake.overwrite(boxes(spark, 7), BOXES)
    line(lake, settings)
    assert [row["box"] for row in lake.read(SENT).collect()] == [7]


def test_what_a_writer_leaves_that_is_killed_before_the_first_commit_is_no_table(
    spark: SparkSession, lake: Lake, settings: Settings
) -> None:
    lake.append(boxes(spark, 1), BOXES)
    killed = Path(lake.location(SENT))
    (killed / "_delta_log" / "_staged_commits").mkdir(parents=True)
    shutil.copy(next(Path(lake.location(BOXES)).glob("part-*.parquet")), killed)
    line(lake, settings)
    assert [row["box"] for row in lake.read(SENT).collect()] == [1]


def test_commits_without_rows_are_whole_and_a_delete_can_be_torn_too(spark: SparkSession, lake: Lake) -> None:
    lake.create(BOXES)  # Delta counts the file without a row that Spark wrote, and leaves it out
    lake.require_whole(BOXES)
    lake.append(boxes(spark, 1, 2).coalesce(1), BOXES)
    lake.delete(BOXES, "box = 1")
    lake.require_whole(BOXES)
    lake.append(boxes(spark), BOXES)
    lake.require_whole(BOXES)
    lake.append(boxes(spark, 3, 4).coalesce(1), BOXES)
    lake.delete(BOXES, "box = 3")
    commit = Path(lake.location(BOXES), f"_delta_log/{lake.version(BOXES):020}.json")
    commit.write_bytes(b"".join(line for line in commit.read_bytes().splitlines(keepends=True) if b'"add"' not in line))
    with pytest.raises(TableDamaged, match=r"it lists files of 0 rows, 1 were written"):
        lake.require_whole(BOXES)


def test_a_torn_record_of_runs_stops_the_line(lake: Lake, settings: Settings, three: Path) -> None:
    commits = sorted(Path(lake.location(RUNS), "_delta_log").glob("0*.json"))
    commits[-1].write_bytes(b"")
    with pytest.raises(TableDamaged, match=r"ops/runs.*is empty.*keep .*landing"):
        line(lake, settings)


def test_logs_on_other_file_systems_are_listed_by_hadoop(spark: SparkSession, lake: Lake, three: Path) -> None:
    elsewhere = Lake(spark, LakeSettings(root=f"file:{lake.root}"))
    elsewhere.require_whole(BOXES)
    (three / f"_delta_log/.{2:020}.json.crc").unlink()
    cut(three)
    with pytest.raises(TableDamaged, match="is torn"):
        elsewhere.require_whole(BOXES)


def test_a_checkpoint_holds_what_is_older_than_it(spark: SparkSession, lake: Lake) -> None:
    for number in range(12):
        lake.append(boxes(spark, number), BOXES)
    log = Path(lake.location(BOXES)) / "_delta_log"
    (log / f"{4:020}.json").unlink()
    lake.require_whole(BOXES, (11, datetime.now(UTC)))
    with pytest.raises(TableDamaged, match="found version 11, expected at least 12"):
        lake.require_whole(BOXES, (12, datetime.now(UTC)))
    (log / f"{10:020}.checkpoint.parquet").unlink()
    with pytest.raises(TableDamaged, match=r"4\.json is missing"):
        lake.require_whole(BOXES)


# --- two at once --------------------------------------------------------------------------------------------------


def both(act: Callable[[int], None]) -> list[BaseException]:
    """Run `act` twice at the same time; what was raised."""
    start, raised = threading.Barrier(2), []

    def one(number: int) -> None:
        start.wait()
        try:
            act(number)
        except BaseException as error:  # noqa: BLE001 (handed to the test)
            raised.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("how", ["merge", "merge into nothing", "replace", "append to nothing"])
def test_two_writers_at_once_end_like_one_after_the_other(spark: SparkSession, lake: Lake, how: str) -> None:
    if "nothing" not in how:
        lake.append(boxes(spark, 0), BOXES)
    acts: dict[str, Callable[[int], None]] = {
        "merge": lambda number: lake.merge(boxes(spark, 7, 8 + number), BOXES, "t.box = s.box", update_when="true"),
        "merge into nothing": lambda number: lake.merge(boxes(spark, 0, 7, 8 + number), BOXES, "t.box = s.box", update_when="true"),
        "replace": lambda number: lake.replace(boxes(spark, 7, 8, 9), BOXES, "box >= 7"),
        "append to nothing": lambda number: lake.append(boxes(spark, *([0, 7], [8, 9])[number]), BOXES),
    }
    assert both(acts[how]) == []
    assert sorted(row["box"] for row in lake.read(BOXES).collect()) == [0, 7, 8, 9]


def test_a_writer_that_never_wins_gives_up_and_says_so(spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.append(boxes(spark, 0), BOXES)
    tried = []

    def overtaken(self: Lake, writer: object, table: Table) -> None:
        tried.append(table.full_name)
        from delta.exceptions import ConcurrentAppendException

        raise ConcurrentAppendException("[DELTA_CONCURRENT_APPEND] somebody was faster")

    monkeypatch.setattr(Lake, "_save", overtaken)
    with pytest.raises(WriteConflict, match=r"gold/boxes: expected to write it within 5 attempts.*nothing of this write is there"):
        lake.replace(boxes(spark, 1), BOXES, "box = 1")
    assert tried == ["gold/boxes"] * 5


def test_two_runs_on_one_lake_one_is_refused_and_the_lock_ends_with_its_process(lake: Lake, settings: Settings, three: Path) -> None:
    script = (
        "import sys, signal; from propensity_spark.config import LakeSettings; from propensity_spark.locks import alone_on\n"
        "with alone_on(LakeSettings(root=sys.argv[1]), 'ingest'): print('in', flush=True); signal.pause()"
    )
    environment = os.environ | {"PYTHONPATH": str(CONF_DIR.parent)}
    other = subprocess.Popen([sys.executable, "-c", script, lake.root], stdout=subprocess.PIPE, env=environment)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(LakeBusy, match=rf"process {other.pid} \(stage ingest\) is at work on it; wait"):
            line(lake, settings)
    finally:
        other.kill()
        other.communicate()
    line(lake, settings)
    with alone_on(LakeSettings(root="s3a://bucket/lake"), "ingest"), alone_on(LakeSettings(root="s3a://bucket/lake"), "ingest"):
        pass  # no lock there


# --- disks, retention ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk may not be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_stops_the_run_changes_nothing_and_with_room_the_run_goes_on(spark: SparkSession, small_disk: Path) -> None:
    settings = load_settings(CONF_DIR / "local.yml", "stocks", [f"lake.root={small_disk}"])
    lake = Lake(spark, settings.lake)
    lake.append(boxes(spark, 1), BOXES)
    line(lake, settings)
    before = (lake.version(SENT), lake.version(RUNS))
    lake.append(boxes(spark, 2), BOXES)
    ballast = small_disk / "ballast"
    room = shutil.disk_usage(small_disk).free
    ballast.write_bytes(b"0" * room)
    with pytest.raises(NoRoom, match=r"a disk is full \(No space left on device\).*make room and run the same command again"):
        line(lake, settings)
    assert (lake.version(SENT), lake.version(RUNS)) == before
    assert [row["box"] for row in lake.read(SENT).collect()] == [1]
    ballast.unlink()
    line(lake, settings)
    assert sorted(row["box"] for row in lake.read(SENT).collect()) == [1, 2]


def test_what_nobody_knows_stays_what_it_was(lake: Lake) -> None:
    assert explained(ValueError("no water"), lake) is None
    assert isinstance(explained(OSError(errno.ENOSPC, "full"), lake), NoRoom)


def test_a_vacuum_never_takes_what_is_younger_than_seven_days(spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"vacuum_days(?s:.)*greater than or equal to 7"):
        load_settings(CONF_DIR / "local.yml", "stocks", ["lake.vacuum_days=6"])
    off = "spark.databricks.delta.retentionDurationCheck.enabled"
    with pytest.raises(ValueError, match=f"{off}=false is refused"):
        SparkSettings(conf={off: "false"})
    lake.append(boxes(spark, 1), BOXES)
    lake.overwrite(boxes(spark, 2), BOXES)
    old, young = sorted(Path(lake.location(BOXES)).glob("part-*.parquet"), key=lambda part: part.stat().st_mtime)
    lake.vacuum(BOXES, 30)
    assert old.exists()
    assert lake.version(BOXES) == 1
    spark.conf.set(off, "false")
    try:
        with pytest.raises(ConfigurationError, match=f"{off}: expected true"):
            lake.vacuum(BOXES, 30)
    finally:
        spark.conf.unset(off)
    assert young.exists()


# --- fits ---------------------------------------------------------------------------------------------------------


class Fault(TrainingCallback):
    """At round 3 of the first attempt the Python worker is killed, or hangs."""

    def __init__(self, place: Path, hang: bool) -> None:
        super().__init__()
        self.place, self.hang = place, hang

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        import os
        import signal
        import time

        if epoch == 3 and not self.place.exists():
            if self.hang:
                time.sleep(600)
            self.place.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return False


@pytest.fixture
def rows(spark: SparkSession) -> DataFrame:
    noise = (F.hash("id") % 100).cast("float")
    known = spark.range(400).select("id", noise.alias("x"), (noise > 20).cast("int").alias("label"), F.lit(1.0).alias("sample_weight"))
    split = F.when(F.col("id") % 4 == 0, "validation").otherwise("train")
    return fitting.arranged(known.withColumn("split", split), ["x"], ["id"], 1)


def with_fault(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Spark's workers cannot import this module
    monkeypatch.setattr(fitting, "SparkXGBClassifier", lambda **options: SparkXGBClassifier(**options, callbacks=[fault]))


def test_a_fit_that_loses_a_worker_is_done_again_with_the_same_model(
    rows: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = TrainSettings(rounds=10, num_workers=1)
    undisturbed = fitting.fit(rows, ["x"], train)
    with_fault(monkeypatch, Fault(tmp_path / "killed", hang=False))
    assert fitting.fit(rows, ["x"], train) == undisturbed
    assert (tmp_path / "killed").exists()
    (tmp_path / "killed").unlink()
    with pytest.raises(FitFailed, match=r"failed 1 times \(train.attempts\), at last with: .*the champion stays"):
        fitting.fit(rows, ["x"], train.model_copy(update={"attempts": 1}))


def test_a_fit_that_hangs_is_cancelled_at_its_deadline(rows: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_fault(monkeypatch, Fault(tmp_path / "never", hang=True))
    with pytest.raises(FitFailed, match=r"within 5 seconds \(train.deadline_seconds\), it was cancelled in attempt 1"):
        fitting.fit(rows, ["x"], TrainSettings(rounds=10, num_workers=1, deadline_seconds=5))
    assert rows.count() == 400  # the session is free again


def test_a_table_made_after_a_run_is_not_held_against_it(spark: SparkSession, lake: Lake) -> None:
    lake.append(boxes(spark, 1), BOXES)
    lake.require_whole(BOXES, (9, datetime.now(UTC) - timedelta(hours=1)))
    with pytest.raises(TableDamaged, match="found version 0, expected at least 9"):
        lake.require_whole(BOXES, (9, datetime.now(UTC) + timedelta(hours=1)))
