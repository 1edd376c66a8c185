"""Back to an earlier run, and which runs go: in a folder."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prepared_run import DAY, planned, publish

from propensity_spark.cli import main
from propensity_spark.config import PublishSettings
from propensity_spark.errors import NoEarlierRun, PublishConflict, PublishedRunInvalid
from propensity_spark.publish import Tidied, rollback, tidy, verify
from propensity_spark.publish.manifest import current_manifest
from propensity_spark.publish.retention import StoredRun, expired
from propensity_spark.publish.store import LocalStore

NOW = datetime(2025, 1, 31, tzinfo=UTC)


def _run(run_id: str, replaces: str | None, days_ago: float) -> StoredRun:
    return StoredRun(run_id, replaces, NOW - timedelta(days=days_ago))


A, B, C, D = _run("a", None, 9), _run("b", "a", 8), _run("c", "b", 7), _run("d", "c", 6)


@pytest.mark.parametrize(
    ("runs", "current", "keep_runs", "keep_days", "gone"),
    [
        ([A, B, C, D], "d", None, None, ""),
        ([A, B, C, D], "d", 2, None, "ba"),
        ([A, B, C, D], "d", None, 7, "ba"),  # stored more than 7 days ago; 7 days are not more
        ([A, B, C, D], "d", 3, 7, "ba"),
        ([A, B, C, D], "d", 1, 1, "cba"),  # the current one stays, however old
        ([A], "a", 1, 1, ""),
        ([A, B, C, D], "b", 1, None, "adc"),  # after a rollback: what b replaced comes before what was taken back
        ([A, B, C, D], "b", 3, None, "c"),
        ([A, B], None, 1, 1, "a"),  # nothing is current: the newest stays
        ([A, _run("b", "gone", 8), _run("c", "b", 7)], "c", 2, None, "a"),
        ([_run("a", "b", 9), _run("b", "a", 8)], "a", 1, None, "b"),  # written anew while the other was current: no end without a guard
        ([_run("a", None, -400), _run("b", "a", 400)], "b", 1, None, "a"),  # a clock that was wrong by years does not decide
        ([], None, 1, 1, ""),
    ],
)
def test_which_runs_go(runs: list[StoredRun], current: str | None, keep_runs: int | None, keep_days: int | None, gone: str) -> None:
    found = expired(runs, current, keep_runs=keep_runs, keep_days=keep_days, now=NOW)
    assert "".join(run.run_id for run in found) == gone


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    found = LocalStore(tmp_path / "published")
    for number in (1, 2, 3):
        publish(found, number)
    return found


def _current(store: LocalStore) -> str:
    (run,) = verify(str(store.root))
    return run.run_id


def test_back_and_forth(store: LocalStore) -> None:
    uri = str(store.root)
    assert rollback(uri, DAY).run_id == _current(store) == planned(2).run_id
    assert rollback(uri, DAY).run_id == _current(store) == planned(1).run_id
    with pytest.raises(NoEarlierRun, match=r"replaced none\. Complete runs of the date: .*; name one with --to"):
        rollback(uri, DAY)
    assert rollback(uri, DAY, planned(3).run_id).run_id == _current(store) == planned(3).run_id
    publish(store, 1)  # stored already, made current again
    with pytest.raises(NoEarlierRun, match="replaced none"):
        rollback(uri, DAY)
    rollback(uri, DAY, planned(2).run_id)
    publish(store, 4)
    assert rollback(uri, DAY).run_id == planned(2).run_id, "what was current before, not what was written before"


def test_a_damaged_run_is_not_gone_back_to(store: LocalStore) -> None:
    part = next((store.root / planned(2).folder).glob("part-*"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(PublishedRunInvalid, match="expected SHA-256"):
        rollback(str(store.root), DAY)
    assert _current(store) == planned(3).run_id
    with pytest.raises(PublishedRunInvalid, match="nothing has been published"):
        rollback(str(store.root), "2020-01-01")
    assert not (store.root / "as_of_date=2020-01-01").exists()


def test_while_somebody_publishes_there_is_no_way_back(store: LocalStore) -> None:
    with store.lock(f"as_of_date={DAY}"), pytest.raises(PublishConflict, match="another process is publishing"):
        rollback(str(store.root), DAY)


def test_old_runs_go_and_every_date_keeps_its_last(store: LocalStore) -> None:
    uri = str(store.root)
    publish(store, 1, "2024-12-30")
    publish(store, 2, "2024-12-29")
    publish(store, 3, "2024-12-29")
    two = PublishSettings(uri=uri, keep_runs=2)
    assert tidy(uri, PublishSettings(uri=uri)) == Tidied()
    assert [tidy(uri, two), tidy(uri, two)] == [Tidied(runs=1), Tidied()]
    one = PublishSettings(uri=uri, keep_runs=1, keep_days=1)
    assert [tidy(uri, one), tidy(uri, one)] == [Tidied(runs=2), Tidied()]
    assert {(run.as_of_date, run.run_id) for run in verify(uri)} == {
        ("2024-12-29", planned(3).run_id),
        ("2024-12-30", planned(1).run_id),
        (DAY, planned(3).run_id),
    }


def test_a_reader_that_finds_its_run_removed_reads_the_one_that_took_its_place(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read = LocalStore.read

    def meanwhile(mine: LocalStore, key: str) -> tuple[bytes, str] | None:
        found = read(mine, key)
        monkeypatch.setattr(LocalStore, "read", read)
        publish(store, 4)  # other processes, just after the pointer was read
        tidy(str(store.root), PublishSettings(uri=str(store.root), keep_runs=1))
        return found

    monkeypatch.setattr(LocalStore, "read", meanwhile)
    assert current_manifest(store, f"as_of_date={DAY}").run_id == planned(4).run_id


def _age(folder: Path, hours: int) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - hours * 3600))


def test_runs_go_by_the_age_of_their_files(store: LocalStore) -> None:
    uri = str(store.root)
    for number, days in ((1, 11), (2, 9), (3, 400)):
        _age(store.root / planned(number).folder, 24 * days)
    assert tidy(uri, PublishSettings(uri=uri, keep_days=10)) == Tidied(runs=1)
    assert rollback(uri, DAY).run_id == planned(2).run_id


class _Killed(BaseException):
    pass


def test_a_removal_cut_short_leaves_no_run_that_looks_complete(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(store.root)

    def dying(path: object) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr("propensity_spark.publish.store.shutil.rmtree", dying)
        with pytest.raises(_Killed):
            tidy(uri, PublishSettings(uri=uri, keep_runs=2))
    half = store.root / planned(1).folder
    assert [path.name.split("-")[0] for path in half.iterdir()] == ["part"] * 3
    with pytest.raises(NoEarlierRun, match=f"expected run {planned(1).run_id}, found none"):
        rollback(uri, DAY, planned(1).run_id)
    assert tidy(uri, PublishSettings(uri=uri, keep_runs=2)) == Tidied()  # too young: it might be a writer's
    _age(half, 25)
    assert tidy(uri, PublishSettings(uri=uri)) == Tidied(unfinished=1)
    assert not half.exists()


def test_a_date_being_published_and_a_damaged_one_are_passed_over(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    uri = str(store.root)
    with store.lock(f"as_of_date={DAY}"):
        assert tidy(uri, PublishSettings(uri=uri, keep_runs=1)) == Tidied()
    (store.root / f"as_of_date={DAY}" / "_CURRENT").write_text("run_id=?")
    assert tidy(uri, PublishSettings(uri=uri, keep_runs=1)) == Tidied()
    assert len(re.findall("is not tidied", caplog.text)) == 2


def test_the_command(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback", str(store.root), "--as-of", DAY]) == 0
    assert f"run_id={planned(2).run_id} is current again: 120 rows" in capsys.readouterr().out
    setting = ["--set", f"publish.uri={store.root}"]
    assert main(["rollback", *setting, "--as-of", DAY, "--to", planned(3).run_id]) == 0
    assert _current(store) == planned(3).run_id
    assert main(["rollback", *setting, "--as-of", DAY, "--to", "0" * 16]) == 1
    assert main(["rollback", *setting]) == 2
    assert "--as-of: expected the date" in capsys.readouterr().err
