"""Publishers on a real S3 server that are really killed (SIGKILL), while a reader keeps looking.

A process without Spark forks a publisher for every kill, before and after each request of a publication; its parts are made
beforehand. That Spark's own writing may be cut short anywhere is shown with a few whole publishers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import pytest
from prepared_run import DAY, planned, publish
from pyspark.sql import DataFrame, SparkSession
from s3_server import S3Server
from shop import SHORT_LIVED

from propensity_spark.config import SparkSettings
from propensity_spark.publish import Provenance, publish_scores, read_published, verify
from propensity_spark.publish.manifest import MANIFEST, check_files, current_manifest
from propensity_spark.publish.s3 import S3Store
from propensity_spark.publish.store import open_store
from propensity_spark.schemas import scores_table
from propensity_spark.session import get_session
from propensity_spark.tables import local_frame

pytestmark = pytest.mark.faults
KILLS = 50


def _die_around_request(point: int) -> None:
    """Die before (even) or after (odd) the request number point // 2, whichever library sends it."""
    from botocore.httpsession import URLLib3Session

    send, lock, count = URLLib3Session.send, threading.Lock(), 0

    def counted(session: URLLib3Session, request: object) -> object:
        nonlocal count
        with lock:
            mine, count = count, count + 1
            if mine == point // 2 and point % 2 == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = send(session, request)
            if mine == point // 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return answer

    URLLib3Session.send = counted


def _host(uri: str) -> None:
    """For every line `number point` of stdin: a forked process publishes the run and dies; the line says how it ended."""
    for line in sys.stdin:
        number, point = map(int, line.split())
        child = os.fork()
        if child == 0:
            _die_around_request(point)
            publish(open_store(uri), number)  # type: ignore[arg-type]
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{ended}\n")
        sys.stdout.flush()


class Poller(threading.Thread):
    """Reads the current run, whole and by its manifest, as fast as it can; remembers which it saw, in order, and what was wrong."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.store, self.seen, self.wrong, self.reads, self.ended = open_store(uri), list[str](), list[Exception](), 0, threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                manifest = current_manifest(self.store, f"as_of_date={DAY}")
                check_files(self.store, manifest, hashes=True, extra=False)
            except Exception as error:
                self.wrong.append(error)
                raise
            self.reads += 1
            if self.seen[-1:] != [manifest.run_id]:
                self.seen.append(manifest.run_id)


@contextmanager
def _polling(uri: str) -> Iterator[Poller]:
    poller = Poller(uri)
    poller.start()
    try:
        yield poller
    finally:
        poller.ended.set()
        poller.join()


def test_a_reader_sees_old_or_new_complete_runs_while_the_publisher_is_killed_at_fifty_points(server: S3Server, bucket: str) -> None:
    uri = f"s3a://{bucket}/scores"
    store = S3Store(bucket, "scores")
    publish(store, 0)
    command = [sys.executable, __file__, uri]
    environment = os.environ | SHORT_LIVED | server.environment
    moved = set()
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as host,
        _polling(uri) as poller,
    ):
        assert host.stdin is not None
        assert host.stdout is not None
        for point in range(KILLS):
            old, new = planned(point).run_id, planned(point + 1).run_id
            host.stdin.write(f"{point + 1} {point}\n")
            host.stdin.flush()
            assert int(host.stdout.readline()) == -signal.SIGKILL, f"nothing was killed at point {point}"
            (found,) = verify(uri, DAY)
            assert found.run_id in (old, new)
            moved.add(found.run_id == new)
            publish(store, point + 1)
            assert current_manifest(store, f"as_of_date={DAY}").run_id == new
    assert moved == {True, False}, "the kills did not reach from before the pointer moved to after it"
    assert poller.wrong == []
    assert poller.reads > KILLS
    order = [planned(number).run_id for number in range(KILLS + 1)]
    places = [order.index(run_id) for run_id in poller.seen]
    assert places == sorted(places)
    assert len(places) > KILLS / 2
    assert [run.run_id for run in verify(uri)] == [planned(KILLS).run_id]


SPARK_KILLS = ("while Spark writes", "before the manifest", "before the pointer")


def _rows(spark: SparkSession, probability: float) -> DataFrame:
    rows = [(f"u{n}", date.fromisoformat(DAY), probability, False, "Low", "m", "1") for n in range(200)]
    return local_frame(spark, rows, scores_table("user").schema)


def _publish_with_spark(spark: SparkSession, uri: str, probability: float) -> str:
    provenance = Provenance("shop", {}, {}, "c0ffee", "0.1.0", "2025-01-01")
    return publish_scores(_rows(spark, probability), uri, date.fromisoformat(DAY), grain="user", provenance=provenance, files=2).run_id


def _spark_publisher(uri: str, kill_at: str) -> None:
    """A whole publisher, with a JVM of its own, that is killed at one point."""
    write, store = S3Store.write, open_store(uri)

    def die_when_spark_writes() -> None:
        while not any("_attempt=" in name for name in store.sizes(f"as_of_date={DAY}")):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    def dying(mine: S3Store, key: str, body: bytes, expected: str | None) -> None:
        if key.endswith({"before the manifest": MANIFEST, "before the pointer": "_CURRENT"}[kill_at]):
            os.kill(os.getpid(), signal.SIGKILL)
        write(mine, key, body, expected)

    spark = get_session(SparkSettings(master="local[1]", driver_memory="1g", shuffle_partitions=1))
    if kill_at == "while Spark writes":
        threading.Thread(target=die_when_spark_writes, daemon=True).start()
    else:
        S3Store.write = dying  # type: ignore[method-assign]
    _publish_with_spark(spark, uri, 0.2)


def test_whole_publishers_with_spark_that_are_killed(spark: SparkSession, server: S3Server, s3a: str) -> None:
    environment = os.environ | SHORT_LIVED | server.environment
    old = _publish_with_spark(spark, f"{s3a}/scores", 0.1)
    for kill_at in SPARK_KILLS:
        with _polling(f"{s3a}/scores") as poller:
            command = [sys.executable, __file__, f"{s3a}/scores", kill_at]
            process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert (poller.wrong, poller.seen) == ([], [old])
    new = _publish_with_spark(spark, f"{s3a}/scores", 0.2)
    assert [(run.run_id, run.rows) for run in verify(f"{s3a}/scores")] == [(new, 200)]
    assert {row[0] for row in read_published(f"{s3a}/scores", DAY).select("purchase_probability").collect()} == {0.2}


if __name__ == "__main__":
    if sys.argv[2:]:
        _spark_publisher(sys.argv[1], sys.argv[2])
    else:
        _host(sys.argv[1])
