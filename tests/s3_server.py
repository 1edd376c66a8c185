"""A real S3 server on loopback for tests: versitygw over a folder; moto's server only where Go is missing."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

VERSION = "v1.8.0"
REGION = "eu-test-1"  # not the default one, so that a client that was not told it is refused
TOOLS = Path(__file__).resolve().parent.parent / ".tools" / "bin"
ACCESS, SECRET = "testing", "testing-secret"


@dataclass(frozen=True)
class S3Server:
    """`folder` holds what the server keeps, an object a file (None: moto, which keeps it in memory)."""

    endpoint: str
    folder: Path | None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def client(self) -> S3Client:
        return boto3.client("s3", endpoint_url=self.endpoint, region_name=REGION, aws_access_key_id=ACCESS, aws_secret_access_key=SECRET)

    def new_bucket(self) -> str:
        """A bucket of its own for every test: Hadoop keeps a file system per bucket for the life of the JVM."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name

    def flip(self, bucket: str, key: str, bit: int) -> None:
        """Flip one bit of a stored object: behind the server's back where it keeps files."""
        if self.folder is not None:
            path = self.folder / bucket / key
            path.write_bytes(_flipped(path.read_bytes(), bit))
        else:
            body = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
            self.client.put_object(Bucket=bucket, Key=key, Body=_flipped(body, bit))


def _flipped(body: bytes, bit: int) -> bytes:
    changed = bytearray(body)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def versitygw() -> Path | None:
    """The server's program, built once with Go and kept in `.tools/bin`; None where Go is missing."""
    program = TOOLS / "versitygw"
    TOOLS.mkdir(parents=True, exist_ok=True)
    with (TOOLS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists() and VERSION in subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout:
            return program
        go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
        if go is None:
            return None
        environment = os.environ | {"GOBIN": str(TOOLS)}
        subprocess.run([go, "install", f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"], check=True, env=environment)
        return program


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A running server that keeps its objects under `folder`; stopped at the end."""
    program = versitygw()
    if program is None:
        warnings.warn("Go was not found: these S3 tests ran against moto's emulation, not against a real S3 server", stacklevel=2)
        with _moto() as server:
            yield server
        return
    objects, metadata = folder / "objects", folder / "metadata"
    objects.mkdir(parents=True)
    metadata.mkdir()
    port = _free_port()
    command = [program, "--port", f"127.0.0.1:{port}", "--region", REGION, "--keep-alive", "--quiet"]
    process = subprocess.Popen(
        [*command, "posix", "--sidecar", str(metadata), str(objects)],  # metadata aside: not every file system has extended attributes
        env=os.environ | {"ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET},
        stdout=(folder / "server.log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_for(port, process, folder / "server.log")
        yield S3Server(f"http://127.0.0.1:{port}", objects)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _moto() -> Iterator[S3Server]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}", None)
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"versitygw did not start: {log.read_text()}")
