"""Who is who: the privacy key, keyed hashes of user ids, and the people who were erased."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from datetime import datetime

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from propensity_spark.config import Settings
from propensity_spark.errors import EnvironmentMissing, KeyChanged
from propensity_spark.platform import secret
from propensity_spark.schemas import ACTIVITY, ERASURES, IDENTITY, USERS
from propensity_spark.tables import Lake, local_frame

_SHORTEST = 16
_BLOCK = 64  # bytes of a block of SHA-256
_CHECK = "propensity-spark: is it the same key?"


@dataclass(frozen=True)
class PrivacyKey:
    """A secret that turns user ids into names that nobody can turn back or guess without it."""

    value: bytes = field(repr=False)

    def hash(self, text: str) -> str:
        """HMAC-SHA256 of the UTF-8 text, hex. Source: RFC 2104."""
        return hmac.digest(self.value, text.encode(), "sha256").hex()

    @property
    def check(self) -> str:
        """Equal for equal keys; says nothing else about the key."""
        return self.hash(_CHECK)[:16]

    def pads(self) -> tuple[bytes, bytes]:
        """The key as the inner and the outer hash of an HMAC begin with it."""
        block = (hashlib.sha256(self.value).digest() if len(self.value) > _BLOCK else self.value).ljust(_BLOCK, b"\0")
        return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)


def privacy_key(settings: Settings, spark: SparkSession | None) -> PrivacyKey:
    """The key from the secret scope when a secret is named, else from the environment.

    Raises EnvironmentMissing, which never shows the key, when there is none or it is too short to be one.
    """
    privacy = settings.privacy
    scope = privacy.secret_scope or settings.secret_scope
    if scope and privacy.secret_key:
        where, value = f"secret {scope}/{privacy.secret_key}", secret(spark, scope, privacy.secret_key)
    else:
        where, value = f"environment variable {privacy.key_env}", os.environ.get(privacy.key_env, "").strip()
    if len(value) < _SHORTEST:
        found = f"{len(value)} characters" if value else "nothing"
        raise EnvironmentMissing(
            f"privacy: {where} must hold the privacy key, at least {_SHORTEST} characters, found {found}; make one with "
            "`openssl rand -hex 32` and keep it: under another key nobody who was erased is recognised"
        )
    return PrivacyKey(value.encode())


def known_as(settings: Settings, spark: SparkSession | None, user: str) -> str:
    """What a user of the source is called from silver on: the id itself, or its keyed hash."""
    return privacy_key(settings, spark).hash(user) if settings.privacy.user_id == "hmac" else user


def as_known(settings: Settings, rows: DataFrame) -> DataFrame:
    """Rows with user ids of a source → rows with user ids as they are from silver on."""
    return with_keyed_hash(rows, "user_id", privacy_key(settings, rows.sparkSession)) if settings.privacy.user_id == "hmac" else rows


def with_keyed_hash(rows: DataFrame, column: str, key: PrivacyKey, name: str | None = None) -> DataFrame:
    """`rows` with the keyed hash (hex) of the text in `column`, in its place or as `name`; null stays null.

    HMAC-SHA256 made of Spark's own SHA-256: H(outer pad, H(inner pad, text)). The pads come as a frame of one row: a literal would
    show the key in plans, in Spark's pages and in its event log.
    """
    pads = local_frame(rows.sparkSession, [key.pads()], "_inner_pad binary, _outer_pad binary")
    inner = F.unhex(F.sha2(F.concat("_inner_pad", F.encode(F.col(column), "UTF-8")), 256))
    hashed = F.sha2(F.concat("_outer_pad", inner), 256)
    return rows.crossJoin(F.broadcast(pads)).withColumn(name or column, hashed).drop("_inner_pad", "_outer_pad")


@dataclass(frozen=True)
class Identities:
    """How the lake calls users, and whom it must not take in again. `erased` has `user_hash`; None: nobody was erased."""

    hashed: bool
    key: PrivacyKey | None
    erased: DataFrame | None

    def named(self, rows: DataFrame) -> DataFrame:
        """Rows with user ids of the source → rows with user ids as they are from silver on."""
        return with_keyed_hash(rows, "user_id", self.key) if self.hashed and self.key else rows

    def delivered(self, bronze: DataFrame) -> DataFrame:
        """Rows of bronze; in hashed mode the hash of their payload, by which one could guess ids, is keyed too."""
        return with_keyed_hash(bronze, "payload_hash", self.key) if self.hashed and self.key else bronze

    def is_erased(self, rows: DataFrame) -> DataFrame:
        """`rows` (user_id as it is from silver on) with the flag `erased`."""
        if self.erased is None or self.key is None:
            return rows.withColumn("erased", F.lit(False))
        marked = rows.withColumn("user_hash", F.col("user_id")) if self.hashed else with_keyed_hash(rows, "user_id", self.key, "user_hash")
        marked = marked.join(F.broadcast(self.erased.withColumn("erased", F.lit(True))), "user_hash", "left").drop("user_hash")
        return marked.withColumn("erased", F.coalesce("erased", F.lit(False)))


NOBODY = Identities(hashed=False, key=None, erased=None)
"""Ids as they come, nobody erased; also right for tables without persons."""


def identities(settings: Settings, lake: Lake, at: datetime) -> Identities:
    """What validate has to know. The key is asked for only where it is needed: in hashed mode, and once somebody was erased.

    The first hashed run leaves a check of its key in `ops/identity`. Raises KeyChanged when lake and settings do not agree: one user
    under two names would be two users, and an erased one would come back.
    """
    hashed, erased = settings.privacy.user_id == "hmac", lake.exists(ERASURES)
    known = lake.exists(IDENTITY)
    if known != hashed and (known or lake.exists(ACTIVITY) or lake.exists(USERS)):
        before, now = ("hmac", "raw") if known else ("raw", "hmac")
        raise KeyChanged(f"privacy.user_id is {now}, the users of this lake are {before}; set it back or begin another lake (lake.root)")
    if not (hashed or erased):
        return NOBODY
    key = privacy_key(settings, lake.spark)
    if hashed and not known:
        lake.append(local_frame(lake.spark, [("hmac", key.check, at)], IDENTITY.schema), IDENTITY)
    require_same_key(lake, key)
    people = lake.read(ERASURES).select("user_hash").distinct() if erased else None
    return Identities(hashed, key, people)


def require_same_key(lake: Lake, key: PrivacyKey) -> None:
    """Raise KeyChanged when hashes of this lake were made with another key."""
    for table in (IDENTITY, ERASURES):
        other = lake.read_or_empty(table).where(F.col("key_check") != key.check)
        if lake.exists(table) and not other.isEmpty():
            raise KeyChanged(f"{table.full_name}: the hashes there were made with another privacy key; give back the key of this lake")


def mentioning(rows: DataFrame, text: str, ids: DataFrame) -> DataFrame:
    """Rows in whose column `text` one of the ids (`user_id`) stands as a word of its own, for text that no mapping can read."""
    words = rows.withColumn("_words", _words(F.col(text)))
    asked = ids.select(_words(F.col("user_id")).alias("_asked"))
    return words.join(F.broadcast(asked), F.contains("_words", "_asked"), "left_semi").drop("_words")


def _words(text: Column) -> Column:
    return F.concat(F.lit(" "), F.regexp_replace(text, r"[^\p{Alnum}_-]+", " "), F.lit(" "))
