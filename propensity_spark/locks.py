"""One process at a time on a lake in a folder."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from propensity_spark.config import LakeSettings
from propensity_spark.errors import LakeBusy

log = logging.getLogger(__name__)


@contextmanager
def alone_on(lake: LakeSettings, stage: str) -> Iterator[None]:
    """Hold the lake's lock for one stage. Raises LakeBusy, which names the holder, when another process has it.

    The lock ends with the process, however that ends, so nothing is left to clear away after a kill. S3, Unity Catalog and file systems
    without locks have none: there the scheduler must run one job at a time (the bundle's jobs have max_concurrent_runs: 1), and Delta
    refuses what collides all the same.
    """
    if lake.catalog or re.match(r"[A-Za-z][\w+.-]+:/", lake.root):
        yield
        return
    root = Path(lake.root)
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise LakeBusy(
                f"{root}: expected to be alone on this lake, and {file.read().strip() or 'another process'} is at work on it; "
                "wait until it is done and run again, nothing was changed"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                raise
            log.warning("%s: its file system has no locks; nothing here keeps two runs apart", root)
        file.truncate(0)
        file.write(f"process {os.getpid()} (stage {stage})\n")
        file.flush()
        yield
