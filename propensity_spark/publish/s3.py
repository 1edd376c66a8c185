"""Published runs in S3: Spark writes the data through S3A, boto3 does what needs a condition or the stored bytes."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from time import sleep
from typing import TYPE_CHECKING, BinaryIO, cast

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

from propensity_spark.errors import PublishConflict

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CopySourceTypeDef

log = logging.getLogger(__name__)

_ATTEMPTS = 6
_FIRST_WAIT_SECONDS = 0.2
_IN_MEMORY_BYTES = 64 * 1024 * 1024
_ONE_REQUEST = TransferConfig(multipart_threshold=5 * 1024**3, multipart_chunksize=1024**3)  # larger ones cannot be copied in one
_OF_A_RUN = r"as_of_date=\d{4}-\d\d-\d\d/(_attempt|run_id)=[0-9a-f]+/"


@dataclass(frozen=True)
class S3Store:
    """Published runs under `s3://bucket/prefix`. The version of a small object is its ETag.

    Endpoint, region and credentials come from boto3's default chain (AWS_ENDPOINT_URL for another server); AWS_REGION, which
    S3A reads and boto3 does not, counts too.
    """

    bucket: str
    prefix: str

    @cached_property
    def client(self) -> S3Client:
        # What is stored is judged by the manifest's digests: a damaged pointer or manifest must be readable, to be replaced.
        config = Config(response_checksum_validation="when_required")
        return boto3.client("s3", region_name=os.environ.get("AWS_REGION"), config=config)

    def spark_path(self, key: str) -> str:
        """The location Spark reads or writes for a key."""
        return f"s3a://{self.bucket}/{self._key(key)}"

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Content and ETag of a small object; None when there is none."""
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=self._key(key))
        except ClientError as error:
            if not _is_missing(error):
                raise
            return None
        return answer["Body"].read(), answer["ETag"]

    def write(self, key: str, body: bytes, expected: str | None) -> None:
        """PUT a small object if its ETag is still `expected` (None: not there).

        Refused (412, 404), disturbed (409: two conditional writes at once, 5xx) or with the answer lost on the way:
        read back. Our body there is success, anything else than `expected` is PublishConflict, and while nothing has
        changed it is tried again a few times with growing waits.
        """
        for attempt in range(_ATTEMPTS):
            try:
                self._put_if(key, body, expected)
                return
            except (ClientError, HTTPClientError) as error:
                if isinstance(error, ClientError) and _status(error) not in (404, 409, 412) and _status(error) < 500:
                    raise
                found = self.read(key)
                if found is not None and found[0] == body:
                    return
                if (found[1] if found else None) != expected:
                    raise PublishConflict(
                        f"{self.spark_path(key)}: expected ETag {expected}, found {found[1] if found else None}: "
                        "another publisher was faster. Run publish again to publish over it"
                    ) from error
                if attempt == _ATTEMPTS - 1:
                    raise
                sleep(_FIRST_WAIT_SECONDS * 2**attempt)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every object in a run's folder by file name, nested ones by their relative path."""
        prefix = self._key(folder) + "/"
        found = {key.removeprefix(prefix): size for key, size, _ in self._objects(prefix)}
        return {name: size for name, size in found.items() if name and not name.endswith("/")}

    def open(self, key: str) -> BinaryIO:
        """The stored bytes, seekable: streamed once into a temporary file. The caller closes it."""
        answer = self.client.get_object(Bucket=self.bucket, Key=self._key(key))
        file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115
        for chunk in answer["Body"].iter_chunks(1024 * 1024):
            file.write(chunk)
        file.seek(0)
        return cast(BinaryIO, file)

    def clear(self, folder: str) -> None:
        """Remove a folder that nobody reads, manifest first: what has none is no run."""
        self.remove(f"{folder}/_manifest.json")
        for key, _, _ in self._objects(self._key(folder) + "/"):
            self._delete(key)

    def move(self, source: str, folder: str, names: Iterable[str]) -> None:
        """Copy files into a run's folder, inside the server; what is left in `source` is the caller's to clear."""
        for name in names:
            origin: CopySourceTypeDef = {"Bucket": self.bucket, "Key": self._key(f"{source}/{name}")}
            self.client.copy(origin, self.bucket, self._key(f"{folder}/{name}"), Config=_ONE_REQUEST)

    def settle(self, folder: str, keep: Collection[str]) -> None:
        """Drop everything in a run's folder but `keep`: what a dying or slower writer left."""
        for name in self.sizes(folder):
            if name not in keep:
                self.remove(f"{folder}/{name}")

    def remove(self, key: str) -> None:
        """Remove one object, if it is there."""
        self._delete(self._key(key))

    def days(self) -> list[str]:
        """The `as_of_date=…` prefixes, oldest first."""
        start = self._key("as_of_date=")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start, Delimiter="/")
        found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        return sorted(prefix.rstrip("/").rsplit("/", 1)[-1] for prefix in found)

    def listing(self) -> tuple[datetime, dict[str, datetime]]:
        """The present instant, and the last change of every object by key, both by the server's clock."""
        start = self._key("")
        changed = {key.removeprefix(start): modified for key, _, modified in self._objects(self._key("as_of_date="))}
        return self._now(), changed

    def abort_uploads(self, older_than: timedelta) -> int:
        """Abort uploads in parts that writers of ours began and never ended; returns how many.

        Ours is what lies under `as_of_date=…/_attempt=…/` or `as_of_date=…/run_id=…/` of this prefix, old is what began longer ago
        than `older_than` by the server's clock. Everything else in the bucket is left alone. Where we may not look, a warning says so.
        """
        try:
            return self._abort_uploads(older_than)
        except ClientError as error:
            if _status(error) not in (403, 501):
                raise
            log.warning(
                "%s: uploads that were never ended cannot be cleaned up (%s): allow s3:ListBucketMultipartUploads and "
                "s3:AbortMultipartUpload here, or let a lifecycle rule of the bucket abort them",
                self.spark_path(""),
                error,
            )
            return 0

    def _abort_uploads(self, older_than: timedelta) -> int:
        ours = re.compile(re.escape(self._key("")) + _OF_A_RUN)
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self._key("as_of_date="))
        uploads = [upload for page in pages for upload in page.get("Uploads", [])]
        now = self._now()
        stale = [upload for upload in uploads if ours.match(upload["Key"]) and now - upload["Initiated"] > older_than]
        for upload in stale:
            with suppress(self.client.exceptions.NoSuchUpload):  # somebody else was faster
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(stale)

    @contextmanager
    def lock(self, day: str) -> Iterator[None]:
        """No lock: every attempt writes files of its own, and conditional PUTs decide whose manifest and pointer count."""
        yield

    def _now(self) -> datetime:
        answer = self.client.head_bucket(Bucket=self.bucket)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def _put_if(self, key: str, body: bytes, expected: str | None) -> None:
        if expected is None:
            self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=body, IfNoneMatch="*")
        else:
            self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=body, IfMatch=expected)

    def _delete(self, key: str) -> None:
        try:
            self.client.delete_object(Bucket=self.bucket, Key=key)
        except ClientError as error:  # Amazon's server says nothing of an object that is gone; others do when two remove it at once
            if not _is_missing(error):
                raise

    def _objects(self, prefix: str) -> Iterator[tuple[str, int, datetime]]:
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            yield from ((entry["Key"], entry["Size"], entry["LastModified"]) for entry in page.get("Contents", []))

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _is_missing(error: ClientError) -> bool:
    """Whether the object, not its bucket, is what was not found."""
    return _status(error) == 404 and error.response["Error"]["Code"] != "NoSuchBucket"
