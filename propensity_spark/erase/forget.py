"""Erasure: find, remember whom not to take in again, remove from the source downwards, look again, prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pyspark.sql import functions as F

from propensity_spark.config import VACUUM_DAYS
from propensity_spark.erase.files import is_own, rewrite, rewrite_truth
from propensity_spark.erase.find import HoldingFile, People, rows_in, source_files, tables
from propensity_spark.erase.log import asked_before, note_down
from propensity_spark.errors import ConfigurationError, PersonRemains
from propensity_spark.ingest.deliveries import Delivery, unfinished
from propensity_spark.ingest.files import folder_uri
from propensity_spark.privacy import PrivacyKey, known_as, privacy_key, require_same_key
from propensity_spark.publish.erase import erase_published, published_rows
from propensity_spark.run import Outcome, Run
from propensity_spark.schemas import ACTIVITY, USERS, Table
from propensity_spark.tables import local_frame
from propensity_spark.validate.parse import ROW, SAME_ROW
from propensity_spark.validate.silver import announce


@dataclass(frozen=True)
class Asked:
    """Who is to be forgotten: `users` as sources call them, `names` as the lake does from silver on, both also as `people`."""

    users: tuple[str, ...]
    names: tuple[str, ...]
    people: People
    key: PrivacyKey


@dataclass(frozen=True)
class Found:
    """Rows of the persons by place, files of the lake and files of others that hold them, files that nobody can read."""

    rows: dict[str, int]
    own: list[HoldingFile]
    others: list[HoldingFile]
    unread: list[Delivery]

    @property
    def places(self) -> dict[str, int]:
        """What has to be empty in the end."""
        return {**self.rows, "files of the lake": len(self.own)}

    @property
    def left(self) -> list[str]:
        return [f"{place} ({count:,})" for place, count in self.places.items() if count]


def forget(run: Run, users: Sequence[str]) -> Outcome:
    """Erase the persons. After a death at any point the same again goes on.

    Raises ConfigurationError when nobody is named or an ingest is unfinished, KeyChanged and EnvironmentMissing about the key, and,
    after the proof is written, PersonRemains when something is left. Of a person who was never seen nothing is remembered.
    """
    asked = asked_for(run, users)
    before, found = asked_before(run, asked.key, asked.users), look(run, asked.people)
    if not (found.left or found.others or before):
        return Outcome(0, 0, note=f"{len(asked.users)} persons: never seen, nothing to remove")
    if not found.left and all(before.get(user) for user in asked.users):
        remain, due = found, max(at for at in before.values() if at) + timedelta(days=VACUUM_DAYS)
    else:
        note_down(run, asked.key, asked.users, "requested")
        _remove(run, asked, found)
        remain, due = look(run, asked.people), datetime.now(UTC) + timedelta(days=VACUUM_DAYS)
        proof = {place: f"{count:,} found, {remain.places[place]:,} remain" for place, count in found.places.items()}
        note_down(
            run, asked.key, asked.users, "requested" if remain.left else "erased", proof=proof, purge_from=None if remain.left else due
        )
    if remain.left:
        raise PersonRemains(f"forget: {', '.join(remain.left)} remain; is a stage at work? Run forget again")
    return _outcome(asked, found, remain, due)


def asked_for(run: Run, users: Sequence[str]) -> Asked:
    chosen = tuple(sorted(set(users)))
    if not chosen:
        raise ConfigurationError("forget: --user names nobody; expected an id as the source writes it")
    if unfinished(run.lake, folder_uri(run.lake.root)):
        raise ConfigurationError("forget: an ingest was broken off and will write its batch again; run `propensity ingest` first")
    key = privacy_key(run.settings, run.spark)
    require_same_key(run.lake, key)
    names = tuple(known_as(run.settings, run.spark, user) for user in chosen)
    frames = (local_frame(run.spark, [(name,) for name in listed], "user_id string") for listed in (chosen, names))
    return Asked(chosen, names, People(*frames), key)


def look(run: Run, people: People) -> Found:
    """Everything there is of the persons now."""
    rows = {table.full_name: rows_in(run, table, people).count() for table in tables(run)}
    rows["published runs"] = published_rows(run.settings.publish.uri, people.known)
    holding, unread = source_files(run, people.given)
    own = [file for file in holding if is_own(file.delivery)]
    return Found(rows, own, [file for file in holding if file not in own], unread)


def _remove(run: Run, asked: Asked, found: Found) -> None:
    for table in tables(run):
        if found.rows[table.full_name]:
            _remove_rows(run, table, asked.people)
    if found.rows["published runs"]:
        erase_published(run.settings.publish.uri, asked.people.known)
    rewrite(run, found.own)
    if run.settings.simulate and "://" not in run.lake.root:
        rewrite_truth(Path(run.lake.root), asked.users)


def _remove_rows(run: Run, table: Table, people: People) -> None:
    """A MERGE, whose condition names columns alone: the predicate of a DELETE would leave the id in Delta's log."""
    rows = rows_in(run, table, people)
    if table in (USERS, ACTIVITY):  # the next features run computes every aggregate again that they were part of
        first = rows.agg(F.min("visible_date")).first()
        announce(run, table, first[0] if first else None)
    if "user_id" in table.column_names:
        run.lake.merge(people.known, table, "t.user_id = s.user_id", delete_when="true", insert=False)
    else:
        run.lake.merge(rows.select(*ROW).distinct(), table, SAME_ROW, delete_when="true", insert=False)


def _outcome(asked: Asked, found: Found, remain: Found, due: datetime) -> Outcome:
    facts = {place: f"{count:,} found, {remain.places[place]:,} remain" for place, count in found.places.items()}
    facts["remaining"] = "0"
    facts["purge"] = f"older versions of the tables hold them until {due:%Y-%m-%d %H:%M} UTC; then: propensity forget --purge --user …"
    if remain.others:
        names = ", ".join(sorted(file.delivery.uri for file in remain.others))
        facts["your files that hold them"] = f"{names}: not changed; validate drops these persons whenever they come"
    if remain.unread:
        facts["files that nobody can read"] = ", ".join(sorted(delivery.uri for delivery in remain.unread))
    removed = sum(found.rows.values())
    return Outcome(removed, 0, note=f"{removed:,} rows of {len(asked.users)} persons removed, 0 remain", facts=facts)
