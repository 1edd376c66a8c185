"""Where published runs are kept: a local folder or an S3 prefix, behind the same few operations.

Small objects (manifest, pointer) are read with a version and written only if that version still stands, which is what
makes moving `_CURRENT` safe: a rename under a lock locally, a conditional PUT on S3 (`s3.py`).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, TypeAlias

from propensity_spark.errors import ConfigurationError, PublishConflict
from propensity_spark.publish.s3 import S3Store

log = logging.getLogger(__name__)

_NOT_SUPPORTED = (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What a mounted object store, such as a Databricks volume, may say to a lock or to forcing a folder to the disk."""


@dataclass(frozen=True)
class LocalStore:
    """Published runs in a folder. The version of a small object is its content."""

    root: Path

    def spark_path(self, key: str) -> str:
        """The location Spark reads or writes for a key."""
        return str(self.root / key)

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Content and version of a small object; None when there is none."""
        try:
            body = (self.root / key).read_bytes()
        except FileNotFoundError:
            return None
        return body, body.decode(errors="replace")

    def write(self, key: str, body: bytes, expected: str | None) -> None:
        """Write a small object, atomically and to the disk, if its version is still `expected` (None: not there).

        Raises PublishConflict when somebody else wrote it meanwhile; the same body already there is success.
        The caller holds `lock`.
        """
        found = self.read(key)
        if found is not None and found[0] == body:
            return
        if (found[1] if found else None) != expected:
            raise PublishConflict(
                f"{self.root / key}: expected {expected!r}, found {found[1] if found else None!r}: "
                "another publisher was faster. Run publish again to publish over it"
            )
        path = self.root / key
        temporary = path.with_name(f"{path.name}.tmp")
        with temporary.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every file in a run's folder by file name, nested ones by their relative path."""
        base = self.root / folder
        return {path.relative_to(base).as_posix(): path.stat().st_size for path in sorted(base.rglob("*")) if path.is_file()}

    def open(self, key: str) -> BinaryIO:
        """The stored bytes, seekable. The caller closes it."""
        return (self.root / key).open("rb")

    def clear(self, folder: str) -> None:
        """Remove a folder that nobody reads, manifest first: what has none is no run."""
        base = self.root / folder
        if base.exists():
            (base / "_manifest.json").unlink(missing_ok=True)
            shutil.rmtree(base)

    def move(self, source: str, folder: str, names: Iterable[str]) -> None:
        """Move files into a run's folder, forced to the disk."""
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            with (self.root / source / name).open("rb") as file:
                os.fsync(file.fileno())
            (self.root / source / name).replace(self.root / folder / name)
        _sync_folder(self.root / folder)

    def settle(self, folder: str, keep: Collection[str]) -> None:
        """Drop everything in a run's folder but `keep`: what a dying or slower writer left."""
        for path in (self.root / folder).iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in keep:
                path.unlink()

    def remove(self, key: str) -> None:
        """Remove one file, if it is there."""
        (self.root / key).unlink(missing_ok=True)

    def listing(self) -> tuple[datetime, dict[str, datetime]]:
        """The present instant, and the last change of every file by key, both by the store's clock."""
        files = [path for path in self.root.glob("as_of_date=*/**/*") if path.is_file()]
        changed = {path.relative_to(self.root).as_posix(): datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in files}
        return datetime.now(UTC), changed

    def abort_uploads(self, older_than: timedelta) -> int:
        """Nothing: a file system has no uploads in parts."""
        return 0

    def days(self) -> list[str]:
        """The `as_of_date=…` folders, oldest first."""
        return sorted(path.name for path in self.root.glob("as_of_date=*") if path.is_dir())

    @contextmanager
    def lock(self, day: str) -> Iterator[None]:
        """Only one process at a time publishes a date; the lock ends with the process, however it ends."""
        folder = self.root / day
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            _lock_or_refuse(handle, folder)
            yield
        finally:
            os.close(handle)


Store: TypeAlias = LocalStore | S3Store


def open_store(uri: str) -> Store:
    """The store of a `publish.uri`: a folder, `file://…`, or `s3://` / `s3a://` with bucket and prefix."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalStore(Path(uri).absolute())
    if scheme == "file":
        return LocalStore(Path(rest))
    if scheme in ("s3", "s3a"):
        bucket, _, prefix = rest.partition("/")
        return S3Store(bucket, prefix.strip("/"))
    raise ConfigurationError(f"publish.uri: expected a folder, s3://bucket/prefix or s3a://bucket/prefix, found {uri!r}")


def _lock_or_refuse(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PublishConflict(f"{folder}: another process is publishing this date; wait for it and run publish again") from error
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        log.warning("%s: its file system has no locks; nothing here keeps two publishers of one date apart", folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(handle)
