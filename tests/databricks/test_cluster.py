"""The cluster on loopback: once for real, without any job; and how it fails, with a stand-in for spark-class."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from scripts import cluster
from scripts.cluster import ClusterFailed, group, standalone_cluster

MASTER = f"""#!{sys.executable}
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
open(os.path.join({{pids!r}}, str(os.getpid())), "w").close()
if "Worker" in sys.argv[1]:
    time.sleep(60)

class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({{{{"workers": [{{{{"state": "ALIVE"}}}}] * {{workers}}}}}}).encode())

server = HTTPServer(("127.0.0.1", 0), Page)
print("Starting Spark master at spark://127.0.0.1:7077", flush=True)
print(f"Bound MasterWebUI to 127.0.0.1, and started at http://127.0.0.1:{{{{server.server_port}}}}", flush=True)
server.serve_forever()
"""


def spark_class(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, spark-class is this script."""
    script = folder / "bin" / "spark-class"
    script.parent.mkdir()
    script.write_text(text)
    script.chmod(0o755)
    monkeypatch.setattr(cluster, "spark_home", lambda: folder)


def running(folder: Path) -> list[int]:
    """Those of the processes that noted their ids in `folder` which are there."""
    return [int(path.name) for path in folder.iterdir() if Path("/proc", path.name).exists()]


def _fail_inside(pids: Path) -> None:
    with standalone_cluster(workers=2) as address:
        assert address == "spark://127.0.0.1:7077"
        assert running(pids)
        raise ZeroDivisionError


def test_two_workers_register_and_everything_stops() -> None:
    """A real master and real workers; the address takes connections inside the block and none after it."""
    with standalone_cluster(workers=2, cores=1, memory="512m") as address:
        host, port = address.removeprefix("spark://").split(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port)), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc for processes")
def test_what_was_started_is_stopped_also_when_the_block_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pids := tmp_path / "pids").mkdir()
    spark_class(tmp_path, MASTER.format(pids=str(pids), workers=2), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        _fail_inside(pids)
    assert running(pids) == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc for processes")
def test_workers_that_do_not_register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pids := tmp_path / "pids").mkdir()
    spark_class(tmp_path, MASTER.format(pids=str(pids), workers=1), monkeypatch)
    with pytest.raises(ClusterFailed, match="1 of 2 workers registered"), standalone_cluster(workers=2, seconds=2):
        pytest.fail("the cluster is not up")
    assert running(pids) == []


def test_a_master_that_ends_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spark_class(tmp_path, "#!/bin/sh\necho no Java here >&2\nexit 3\n", monkeypatch)
    with pytest.raises(ClusterFailed, match=r"exit code 3(?s:.)*no Java here"), standalone_cluster():
        pytest.fail("the cluster is not up")


def test_a_pyspark_without_spark_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pyspark" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    monkeypatch.setattr("pyspark.__file__", str(package))
    with pytest.raises(ClusterFailed, match="spark-class is missing"), standalone_cluster():
        pytest.fail("the cluster is not up")


def test_an_interruption_while_a_process_starts_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(Popen(*arguments, **options))
        signal.raise_signal(signal.SIGINT)
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    heeds = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), group(["sleep", "60"], tmp_path / "log", os.environ, signal.SIGKILL):
            raise AssertionError("the block is not entered")
    finally:
        signal.signal(signal.SIGINT, heeds)
    assert started[0].poll() == -signal.SIGKILL
