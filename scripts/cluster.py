"""A standalone Spark cluster on loopback, from the installed pyspark: a master and its workers, for as long as a block or a command lasts.

    python scripts/cluster.py --workers 2 --cores 1 --memory 1g -- spark-submit --master '{master}' jobs/features.py …

`{master}` in the command becomes the cluster's spark:// address. Without a command the cluster stays until it is interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

LOOPBACK = "127.0.0.1"
MASTER = "org.apache.spark.deploy.master.Master"
WORKER = "org.apache.spark.deploy.worker.Worker"


class ClusterFailed(Exception):
    """The cluster did not come up; the message ends with the log of the process that is to blame."""


def spark_home() -> Path:
    """The folder of the installed pyspark, which is a Spark distribution without a cluster's start scripts."""
    import pyspark

    home = Path(pyspark.__file__).resolve().parent
    if not (home / "bin" / "spark-class").is_file():
        raise ClusterFailed(f"{home}/bin/spark-class is missing: a cluster needs the full pyspark package, not a client of it")
    return home


@contextmanager
def standalone_cluster(workers: int = 2, cores: int = 1, memory: str = "1g", seconds: float = 60) -> Iterator[str]:
    """The spark:// address of a cluster whose `workers`, each with `cores` and `memory`, are registered.

    Ports are the system's choice, everything is bound to loopback, all files are in a temporary folder. Raises `ClusterFailed`, with the
    log, when a process ends or the workers are not there after `seconds`. Afterwards, also after a failure, exactly the processes started
    here are stopped.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spark-cluster-", ignore_cleanup_errors=True)))
        properties = folder / "master.conf"
        properties.write_text("spark.master.rest.enabled false\n")  # its port cannot be left to the system
        deadline = time.monotonic() + seconds
        own = ("--host", LOOPBACK, "--port", "0", "--webui-port", "0", "--properties-file", str(properties))
        master = stack.enter_context(_daemon(folder, "master", MASTER, *own))
        address = _in_log(folder, "master", master, r"Starting Spark master at (spark://\S+)", deadline)
        page = _in_log(folder, "master", master, r"MasterWebUI to \S+ and started at (http://\S+)", deadline)
        port = page.rsplit(":", 1)[1].rstrip("/")
        size = ("--cores", str(cores), "--memory", memory)
        started = {"master": master}
        for name in (f"worker-{number}" for number in range(1, workers + 1)):
            place = ("--host", LOOPBACK, "--port", "0", "--webui-port", "0", "--work-dir", str(folder / name))
            started[name] = stack.enter_context(_daemon(folder, name, WORKER, *place, *size, address))
        while (registered := _workers_alive(f"http://{LOOPBACK}:{port}/json/")) < workers:
            _check(folder, started, deadline, f"{registered} of {workers} workers registered with {address}")
            time.sleep(0.2)
        yield address


@contextmanager
def _daemon(folder: Path, name: str, main_class: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One JVM (spark-class replaces itself by it), the leader of its own process group, so that its executors end with it."""
    environment = {
        **os.environ,
        "SPARK_HOME": str(spark_home()),
        "SPARK_CONF_DIR": str(folder / "none"),  # neither the user's log settings nor the user's defaults reach the cluster
        "SPARK_LOCAL_IP": LOOPBACK,
        "SPARK_PUBLIC_DNS": LOOPBACK,
        "SPARK_LOCAL_DIRS": str(folder / "local"),
        "SPARK_DAEMON_MEMORY": "512m",
    }
    command = [str(spark_home() / "bin" / "spark-class"), main_class, *arguments]
    with group(command, folder / f"{name}.log", environment, signal.SIGTERM, signal.SIGKILL) as process:
        yield process


@contextmanager
def group(
    command: Sequence[str], log: Path, variables: Mapping[str, str], *signals: signal.Signals, folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group of its own, in `folder` (default: here), and says everything into `log`; ended when the block is left.

    An interruption that comes while it starts is felt as soon as it is there, or nobody would know what to end.
    """
    process = None
    try:
        with log.open("wb") as said, _held_back(signal.SIGINT, signal.SIGTERM):
            process = subprocess.Popen(
                command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, cwd=folder, env=variables, start_new_session=True
            )
        yield process
    finally:
        if process is not None:
            end_group(process, *signals)


@contextmanager
def _held_back(*signals: signal.Signals) -> Iterator[None]:
    """Signals that come inside the block are felt at its end. In the main thread alone, the one that Python tells of signals."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda found, _: came.append(found)) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for found in came:
            signal.raise_signal(found)


def end_group(process: subprocess.Popen[bytes], *signals: signal.Signals) -> None:
    """End the process group that `process` leads, by the next of `signals` where ten seconds after one somebody is still there.

    The leader may go first: a worker before its executors, spark-submit before the Python it started. So the group is waited for.
    """
    for number in signals:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + 10
        while _lives(process) and time.monotonic() < until:
            time.sleep(0.05)


def _lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether anybody of the group of `process` is there; its leader is reaped."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _in_log(folder: Path, name: str, process: subprocess.Popen[bytes], pattern: str, deadline: float) -> str:
    """What `pattern` catches in the log of `name`, as soon as it is there."""
    while not (match := re.search(pattern, _log(folder, name))):
        _check(folder, {name: process}, deadline, f"the log of the {name} does not have {pattern!r}")
        time.sleep(0.1)
    return match[1]


def _check(folder: Path, started: dict[str, subprocess.Popen[bytes]], deadline: float, missing: str) -> None:
    for name, process in started.items():
        if (code := process.poll()) is not None:
            raise ClusterFailed(f"the {name} ended with exit code {code}; its log:\n{_log(folder, name)[-4000:]}")
    if time.monotonic() > deadline:
        logs = "\n".join(f"--- {name}\n{_log(folder, name)[-2000:]}" for name in started)
        raise ClusterFailed(f"the cluster is not up in time: {missing}; the logs:\n{logs}")


def _workers_alive(url: str) -> int:
    """Workers that the master counts as alive, by its JSON page; none while the page does not answer yet."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback: past any proxy of the environment
    try:
        with opener.open(url, timeout=5) as answer:
            return sum(worker["state"] == "ALIVE" for worker in json.load(answer)["workers"])
    except (OSError, ValueError):
        return 0


def _log(folder: Path, name: str) -> str:
    return (folder / f"{name}.log").read_text("utf-8", errors="replace")


def main() -> int:
    parser = argparse.ArgumentParser(description="a standalone Spark cluster on loopback, for one command or until interrupted")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=1, help="of each worker (default: %(default)s)")
    parser.add_argument("--memory", default="1g", help="of each worker (default: %(default)s)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and a command; {master} in it becomes the address")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so the cluster stops too
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    try:
        with standalone_cluster(options.workers, options.cores, options.memory) as address:
            if command:
                return subprocess.run([word.replace("{master}", address) for word in command], check=False).returncode
            sys.stdout.write(f"{address}\n")
            sys.stdout.flush()
            signal.pause()
    except ClusterFailed as error:
        sys.stderr.write(f"cluster: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
