"""One S3 server for all tests of this folder, and a bucket of its own for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession
from s3_server import ACCESS, REGION, SECRET, S3Server, s3_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its name; boto3's default chain leads to the server."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return server.new_bucket()


@pytest.fixture
def s3a(spark: SparkSession, server: S3Server, bucket: str) -> Iterator[str]:
    """`s3a://<bucket>`, which the session reads and writes: what `session.py` sets from the environment of a new one."""
    hadoop = spark._jsc.hadoopConfiguration()  # type: ignore[attr-defined]
    said = {
        "endpoint": server.endpoint,
        "path.style.access": "true",
        "endpoint.region": REGION,
        "access.key": ACCESS,
        "secret.key": SECRET,
    }
    for name, value in said.items():
        hadoop.set(f"fs.s3a.{name}", value)
    yield f"s3a://{bucket}"
    for name in said:
        hadoop.unset(f"fs.s3a.{name}")
