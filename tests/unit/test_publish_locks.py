"""A mounted object store has no locks: publishing goes on and says so; any other refusal stops it."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from propensity_spark.publish import store


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(store.fcntl, "flock", refuse)
    monkeypatch.setattr(store.os, "fsync", refuse)
    with caplog.at_level(logging.WARNING), store.LocalStore(tmp_path).lock("as_of_date=2024-12-31"):
        store._sync_folder(tmp_path)
    assert "has no locks" in caplog.text


def test_another_failure_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "disk")

    monkeypatch.setattr(store.fcntl, "flock", broken)
    monkeypatch.setattr(store.os, "fsync", broken)
    with pytest.raises(OSError, match="disk"), store.LocalStore(tmp_path).lock("as_of_date=2024-12-31"):
        pass
    with pytest.raises(OSError, match="disk"):
        store._sync_folder(tmp_path)
