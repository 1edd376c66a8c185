"""The second step, a week later: the files of older table versions go, and every file of the lake is searched."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path

from propensity_spark.config import VACUUM_DAYS
from propensity_spark.erase.find import People, tables
from propensity_spark.erase.forget import asked_for, forget, look
from propensity_spark.erase.log import asked_before, note_down
from propensity_spark.erase.search import Searched, old_files, rows_in_old_files, search
from propensity_spark.errors import PersonRemains
from propensity_spark.run import Outcome, Run
from propensity_spark.schemas import Table


def purge(run: Run, users: Sequence[str]) -> Outcome:
    """`forget`, then VACUUM of the tables that held persons, then the search; the proof goes to `ops/erasures`.

    Raises PersonRemains when a week has not passed since the last row went, and when any file still holds a person.
    """
    erased = forget(run, users)
    asked = asked_for(run, users)
    gone = asked_before(run, asked.key, asked.users)
    if not gone:
        return erased
    due = max((at for at in gone.values() if at), default=run.started_at) + timedelta(days=VACUUM_DAYS)
    if datetime.now(UTC) < due:
        raise PersonRemains(f"forget --purge: older versions stay {VACUUM_DAYS} days; run it again from {due:%Y-%m-%d %H:%M} UTC on")
    left = look(run, asked.people).left
    proof: dict[str, str] = {}
    for table in tables(run):
        rows, proof[table.full_name] = _vacuumed(run, table, asked.people)
        left += [f"{table.full_name} ({rows:,} in older files)"] if rows else []
    found = _searched(run, [*asked.users, *asked.names])
    proof["files"] = "not searched: the lake is not a folder of this machine" if found is None else f"{found.files:,} searched"
    if found is not None:
        left += found.holding
        proof |= {"equal numbers, to be looked at": ", ".join(found.doubtful)} if found.doubtful else {}
    proof["remaining"] = str(len(left))
    note_down(run, asked.key, asked.users, "requested" if left else "purged", proof=proof, purge_from=due)
    if left:
        raise PersonRemains(f"forget --purge: {len(left)} places still hold a person: {', '.join(left)}")
    return Outcome(0, 0, note=f"{len(asked.users)} persons: no file holds them", facts=proof)


def _vacuumed(run: Run, table: Table, people: People) -> tuple[int, str]:
    run.lake.vacuum(table, VACUUM_DAYS)
    files = old_files(run, table)
    if files is None:
        return 0, "VACUUM; files of a catalog cannot be listed here"
    rows = rows_in_old_files(run, table, people)
    return rows, f"VACUUM; {len(files)} older files are left and hold {rows:,} rows"


def _searched(run: Run, names: Sequence[str]) -> Searched | None:
    """Every file under the lake's root but the present data files of tables, whose rows are looked at one by one, and their logs."""
    if "://" in run.lake.root:
        return None
    root = Path(run.lake.root).resolve()
    data = [] if run.settings.lake.catalog else [Path(run.lake.location(table)).resolve() for table in tables(run)]
    parts = [search(root, names, data), *(search(folder / "_delta_log", names, ()) for folder in data)]
    return reduce(Searched.__add__, parts)
