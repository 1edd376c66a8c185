"""What Spark and the system say about disks and files, as errors that a person can act on."""

from __future__ import annotations

import errno
import re

from propensity_spark.errors import NoRoom, PropensityError, TableDamaged
from propensity_spark.schemas import Table
from propensity_spark.tables import Lake

_FULL = re.compile(r"No space left on device|Disk quota exceeded|database or disk is full|\bENOSPC\b")
_UNREADABLE = re.compile(r"FAILED_READ_FILE\.(\w+)\].*?file ([a-z0-9]+:\S+?)\. ", re.DOTALL)
_LOG_GAP = re.compile(r"\[(DELTA_VERSIONS_NOT_CONTIGUOUS|DELTA_STATE_RECOVER_ERROR|DELTA_LOG_FILE_NOT_FOUND\w*)\][^\n]*")


def explained(error: BaseException, lake: Lake) -> PropensityError | None:
    """The failure of a stage in words: NoRoom for a full disk, TableDamaged for a file of the lake that cannot be read; None: neither."""
    if isinstance(error, PropensityError):
        return None
    text = str(error)
    full = _FULL.search(text)
    if full or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom(
            f"a disk is full ({full[0] if full else text}): expected room under {lake.root}, publish.uri and "
            "Spark's local folder (spark.local.dir). What was complete before is untouched; make room and run the same command again"
        )
    if found := _UNREADABLE.search(text):
        table = _table_of(found[2], lake)
        if table is not None:
            state = "is missing" if found[1] == "FILE_NOT_EXIST" else "cannot be read"
            return TableDamaged(f"{table.full_name} at {lake.location(table)}: {found[2]} {state}. {lake.way_back(table)}")
    if found := _LOG_GAP.search(text):
        return TableDamaged(f"a Delta log under {lake.root} has lost files: {found[0]}. Put them back from a copy of the lake")
    return None


def _table_of(path: str, lake: Lake) -> Table | None:
    """The table of the lake that a file belongs to, by `<layer>/<table>` in its path."""
    inside = path.partition(lake.root.partition("://")[2] or lake.root)[2]
    place = re.match(r"/(bronze|silver|gold|ops)/([^/]+)/", inside)
    return Table(place[1], place[2], "", (), ()) if place and not lake.settings.catalog else None
