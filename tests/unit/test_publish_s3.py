"""Publishing to S3: who wins a race for the pointer, what a lost answer does, and the whole way through S3A."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import date, timedelta

import boto3
import botocore.client
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from moto import mock_aws
from moto.server import ThreadedMotoServer
from pyspark.sql import SparkSession

from propensity_spark.errors import NothingToPublish, PublishConflict, PublishedRunInvalid
from propensity_spark.publish import Provenance, publish_scores, read_published, s3, verify
from propensity_spark.publish.s3 import S3Store
from propensity_spark.schemas import scores_table
from propensity_spark.tables import local_frame

DAY = date(2024, 12, 31)
PROVENANCE = Provenance("stocks", {"gold/user_features": 4}, {}, "c0ffee", "0.1.0", "2025-01-01T00:00:00.000000Z")
POINTER = "as_of_date=2024-12-31/_CURRENT"


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCESS_KEY_ID": "testing", "SECRET_ACCESS_KEY": "testing", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture
def store() -> Iterator[S3Store]:
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield S3Store("bucket", "prefix")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(s3, "sleep", found.append)
    return found


def _refusal(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")  # type: ignore[typeddict-item]


class _Puts:
    """Puts a list of happenings before (an error: the PUT never arrived) or after (it arrived, the answer is lost) each PUT."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, before: list[Exception] = [], after: list[Exception] = []) -> None:  # noqa: B006
        self.calls = 0
        before, after = list(before), list(after)
        original = botocore.client.BaseClient._make_api_call

        def call(client: object, operation: str, arguments: dict[str, object]) -> object:
            if operation != "PutObject":
                return original(client, operation, arguments)  # type: ignore[arg-type]
            self.calls += 1
            if before:
                raise before.pop(0)
            answer = original(client, operation, arguments)  # type: ignore[arg-type]
            if after:
                raise after.pop(0)
            return answer

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)


def _body(store: S3Store) -> bytes:
    found = store.read(POINTER)
    assert found is not None
    return found[0]


def test_first_publication_and_the_next(store: S3Store) -> None:
    assert store.read(POINTER) is None
    store.write(POINTER, b"run_id=a\n", None)
    body, etag = store.read(POINTER) or (b"", "")
    assert body == b"run_id=a\n"
    store.write(POINTER, b"run_id=b\n", etag)
    assert _body(store) == b"run_id=b\n"


def test_lost_race_for_the_first_pointer(store: S3Store) -> None:
    store.write(POINTER, b"run_id=a\n", None)
    with pytest.raises(PublishConflict, match=r"expected ETag None, found .*_CURRENT|_CURRENT: expected ETag None"):
        store.write(POINTER, b"run_id=b\n", None)
    assert _body(store) == b"run_id=a\n"


def test_lost_race_for_a_later_pointer(store: S3Store) -> None:
    store.write(POINTER, b"run_id=a\n", None)
    etag = (store.read(POINTER) or (b"", ""))[1]
    store.write(POINTER, b"run_id=b\n", etag)
    with pytest.raises(PublishConflict, match=f"expected ETag {etag}, found"):
        store.write(POINTER, b"run_id=c\n", etag)
    assert _body(store) == b"run_id=b\n"


def test_race_lost_to_the_same_run_is_success(store: S3Store) -> None:
    store.write(POINTER, b"run_id=a\n", None)
    store.write(POINTER, b"run_id=a\n", None)
    store.write(POINTER, b"run_id=a\n", '"of something older"')
    assert _body(store) == b"run_id=a\n"


def test_pointer_removed_meanwhile_is_a_conflict(store: S3Store) -> None:
    with pytest.raises(PublishConflict, match="found None"):
        store.write(POINTER, b"run_id=b\n", '"gone"')


def test_two_writes_at_once_are_tried_again_with_growing_waits(store: S3Store, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    puts = _Puts(monkeypatch, before=[_refusal("ConditionalRequestConflict", 409)] * 3)
    store.write(POINTER, b"run_id=a\n", None)
    assert (_body(store), puts.calls, waits) == (b"run_id=a\n", 4, [0.2, 0.4, 0.8])


def test_two_writes_at_once_without_end_give_up(store: S3Store, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    puts = _Puts(monkeypatch, before=[_refusal("ConditionalRequestConflict", 409)] * 99)
    with pytest.raises(ClientError, match="ConditionalRequestConflict"):
        store.write(POINTER, b"run_id=a\n", None)
    assert (store.read(POINTER), puts.calls, len(waits)) == (None, 6, 5)


@pytest.mark.parametrize("error", [ReadTimeoutError(endpoint_url="s3"), _refusal("InternalError", 500)], ids=["timeout", "500"])
def test_answer_lost_after_the_write_is_read_back(
    store: S3Store, waits: list[float], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    puts = _Puts(monkeypatch, after=[error])
    store.write(POINTER, b"run_id=a\n", None)
    assert (_body(store), puts.calls, waits) == (b"run_id=a\n", 1, [])


def test_answer_lost_before_the_write_is_tried_again(store: S3Store, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    puts = _Puts(monkeypatch, before=[ReadTimeoutError(endpoint_url="s3")])
    store.write(POINTER, b"run_id=a\n", None)
    assert (_body(store), puts.calls, waits) == (b"run_id=a\n", 2, [0.2])


def test_forbidden_and_a_missing_bucket_are_raised_at_once(store: S3Store, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        S3Store("nowhere", "").read(POINTER)
    _Puts(monkeypatch, before=[_refusal("AccessDenied", 403)])
    with pytest.raises(ClientError, match="AccessDenied"):
        store.write(POINTER, b"run_id=a\n", None)
    assert waits == []


def test_listing_opening_and_clearing(store: S3Store) -> None:
    for key, body in {"part-0": b"abc", "_SUCCESS": b"", "_temporary/0/part-0": b"x", "_manifest.json": b"{}"}.items():
        store.client.put_object(Bucket="bucket", Key=f"prefix/as_of_date=2024-12-31/run_id=a/{key}", Body=body)
    store.client.put_object(Bucket="bucket", Key="prefix/as_of_date=2024-12-31/run_id=a/", Body=b"")
    store.client.put_object(Bucket="bucket", Key="prefix/as_of_date=2024-12-31/run_id=ab/part-0", Body=b"other run")
    folder = "as_of_date=2024-12-31/run_id=a"
    assert store.days() == ["as_of_date=2024-12-31"]
    assert store.sizes(folder) == {"part-0": 3, "_SUCCESS": 0, "_temporary/0/part-0": 1, "_manifest.json": 2}
    with store.open(f"{folder}/part-0") as file:
        assert io.BytesIO(file.read()).getvalue() == b"abc"
    store.settle(folder, ["part-0"])
    assert store.sizes(folder) == {"part-0": 3}
    store.clear(folder)
    assert store.sizes(folder) == {}
    assert store.sizes(folder + "b") == {"part-0": 9}


def test_uploads_that_may_not_be_listed_are_a_warning(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = botocore.client.BaseClient._make_api_call
    status = 403

    def call(client: object, operation: str, arguments: dict[str, object]) -> object:
        if operation == "ListMultipartUploads":
            raise _refusal("AccessDenied", status)
        return original(client, operation, arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)
    assert store.abort_uploads(timedelta(hours=1)) == 0
    assert "allow s3:ListBucketMultipartUploads" in caplog.text
    status = 400
    with pytest.raises(ClientError, match="AccessDenied"):
        store.abort_uploads(timedelta(hours=1))


def test_the_whole_way_through_s3a(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    hadoop = spark._jsc.hadoopConfiguration()  # type: ignore[attr-defined]
    for name, value in {
        "endpoint": f"http://{host}:{port}",
        "path.style.access": "true",
        "endpoint.region": "us-east-1",
        "access.key": "testing",
        "secret.key": "testing",
    }.items():
        hadoop.set(f"fs.s3a.{name}", value)
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        rows = [(f"u{user}", f"i{item}", DAY, 0.5 / item, False, "Low", item, "m", "1") for user in range(20) for item in (1, 2)]
        scores = local_frame(spark, rows, scores_table("user_item").schema)
        uri = "s3a://bucket/published"
        first = publish_scores(scores, uri, DAY, grain="user_item", provenance=PROVENANCE, files=2)
        assert first.is_new
        assert not publish_scores(scores, uri, DAY, grain="user_item", provenance=PROVENANCE, files=2).is_new
        assert sorted(tuple(row) for row in read_published(uri, DAY).collect()) == sorted((*row[:2], *row[3:]) for row in rows)
        second = publish_scores(scores.where("rank = 1"), uri, DAY, grain="user_item", provenance=PROVENANCE, files=2)
        assert [(run.run_id, run.rows) for run in verify("s3://bucket/published")] == [(second.run_id, 20)]
        with pytest.raises(NothingToPublish):
            publish_scores(scores.where("rank = 9"), uri, DAY, grain="user_item", provenance=PROVENANCE, files=2)
        names = {entry["Key"].rsplit("/", 1)[-1] for entry in client.list_objects_v2(Bucket="bucket")["Contents"]}
        assert {name for name in names if name and not name.startswith("part-")} == {"_manifest.json", "_CURRENT"}
        part = next(key for key in S3Store("bucket", "published").sizes(f"as_of_date=2024-12-31/run_id={second.run_id}") if key[0] == "p")
        client.delete_object(Bucket="bucket", Key=f"published/as_of_date=2024-12-31/run_id={second.run_id}/{part}")
        with pytest.raises(PublishedRunInvalid, match="expected, not found"):
            verify(uri, DAY)
    finally:
        server.stop()
        for name in ("endpoint", "path.style.access", "endpoint.region", "access.key", "secret.key"):
            hadoop.unset(f"fs.s3a.{name}")
