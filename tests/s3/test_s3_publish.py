"""Publishing on a real S3 server: races, refusals, lost answers, flipped bits, uploads never ended, old runs."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import date

import pytest
from prepared_run import DAY, planned, publish
from pyspark.sql import SparkSession
from s3_proxy import S3Proxy, s3_proxy
from s3_server import S3Server

from propensity_spark.config import PublishSettings
from propensity_spark.errors import NoEarlierRun, PublishConflict, PublishedRunInvalid
from propensity_spark.publish import Provenance, publish_scores, read_published, rollback, s3, tidy, verify
from propensity_spark.publish.s3 import S3Store
from propensity_spark.schemas import scores_table
from propensity_spark.tables import local_frame

POINTER = f"as_of_date={DAY}/_CURRENT"


@pytest.fixture
def store(bucket: str) -> S3Store:
    return S3Store(bucket, "scores")


@pytest.fixture
def uri(store: S3Store) -> str:
    return f"s3a://{store.bucket}/{store.prefix}"


def _at_once(*works: Callable[[], object]) -> list[object]:
    """What each gave or raised, begun together in threads."""
    start, found = threading.Barrier(len(works)), [None] * len(works)  # type: ignore[var-annotated]

    def run(place: int) -> None:
        start.wait()
        try:
            found[place] = works[place]()
        except PublishConflict as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=[place]) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _meet_before_the_pointer(monkeypatch: pytest.MonkeyPatch, publishers: int) -> None:
    """Every publisher has read the old pointer and written its run before the first one moves the pointer."""
    meeting, write = threading.Barrier(publishers), S3Store.write

    def waiting(store: S3Store, key: str, body: bytes, expected: str | None) -> None:
        if key == POINTER:
            meeting.wait()
        write(store, key, body, expected)

    monkeypatch.setattr(S3Store, "write", waiting)


@pytest.mark.parametrize("first", [None, 1], ids=["first publication", "over an older run"])
def test_of_two_runs_at_once_one_wins(store: S3Store, uri: str, monkeypatch: pytest.MonkeyPatch, first: int | None) -> None:
    if first is not None:
        publish(store, first)
    _meet_before_the_pointer(monkeypatch, 2)
    found = _at_once(*(lambda number=number: publish(S3Store(store.bucket, store.prefix), number) for number in (2, 3)))
    (lost,) = (result for result in found if isinstance(result, PublishConflict))
    (won,) = (result for result in found if not isinstance(result, PublishConflict))
    assert "another publisher was faster" in str(lost)
    assert [run.run_id for run in verify(uri)] == [won.run_id]  # type: ignore[attr-defined]


def test_the_same_run_at_once_is_one_run(store: S3Store, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, move = threading.Barrier(4), S3Store.move

    def waiting(mine: S3Store, source: str, folder: str, names: list[str]) -> None:
        meeting.wait()
        move(mine, source, folder, names)

    monkeypatch.setattr(S3Store, "move", waiting)
    found = _at_once(*[lambda: publish(S3Store(store.bucket, store.prefix), 7)] * 4)
    assert [type(result).__name__ for result in found] == ["Published"] * 4
    assert sum(result.is_new for result in found) == 1  # type: ignore[attr-defined]
    publish(store, 7)  # what a slower one copied after the faster one had tidied up goes now
    assert [run.run_id for run in verify(uri)] == [planned(7).run_id]
    assert {name.split("=")[0] for name in store.sizes(f"as_of_date={DAY}") if "/" in name} == {"run_id"}


@pytest.fixture
def proxy(server: S3Server, store: S3Store, monkeypatch: pytest.MonkeyPatch) -> S3Proxy:
    monkeypatch.setattr(s3, "_FIRST_WAIT_SECONDS", 0.001)
    with s3_proxy(server.endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running  # type: ignore[misc]


def test_a_stray_that_another_publisher_removes_at_the_same_time_is_gone(store: S3Store, uri: str, proxy: S3Proxy) -> None:
    publish(store, 7)
    store.write(f"as_of_date={DAY}/run_id={planned(7).run_id}/stray", b"left by a slower one", None)
    proxy.refuse("DELETE", "/stray", 404, 1)
    publish(S3Store(store.bucket, store.prefix), 7)
    assert proxy.count("DELETE", "/stray") == 1
    assert [run.run_id for run in verify(uri)] == [planned(7).run_id]


def test_a_conditional_put_that_met_another_is_tried_again(store: S3Store, uri: str, proxy: S3Proxy) -> None:
    proxy.refuse("PUT", "_CURRENT", 409, 3)
    publish(store, 1)
    assert proxy.count("PUT", "_CURRENT") == 4
    assert [run.run_id for run in verify(uri)] == [planned(1).run_id]


def test_a_refused_put_is_read_back(store: S3Store, uri: str, proxy: S3Proxy) -> None:
    publish(store, 1)
    proxy.refuse("PUT", "_CURRENT", 412, 1)
    publish(store, 1)
    assert proxy.count("PUT", "_CURRENT") == 2, "our very line is there: success, without another PUT"
    with pytest.raises(PublishConflict, match="another publisher was faster"):
        store.write(POINTER, b"run_id=ff\n", '"an older one"')
    assert [run.run_id for run in verify(uri)] == [planned(1).run_id]


@pytest.mark.parametrize("lost", ["_CURRENT", "_manifest.json"])
@pytest.mark.parametrize("times", [1, 99], ids=["once", "every time"])
def test_an_answer_lost_after_the_write_is_read_back_and_nothing_is_deleted(
    store: S3Store, uri: str, proxy: S3Proxy, lost: str, times: int
) -> None:
    publish(store, 1)
    proxy.lose("PUT", lost, times)
    published = publish(store, 2)
    assert published.is_new
    assert proxy.faults[0][-1] < times, "the fault was planted and never met"
    assert not [path for verb, path in proxy.passed if verb == "DELETE" and "_attempt=" not in path]
    assert [run.run_id for run in verify(uri)] == [planned(2).run_id]


def test_every_flipped_bit_is_refused(spark: SparkSession, server: S3Server, s3a: str, bucket: str) -> None:
    """One bit at several places of each file: the pointer and the manifest everywhere, a part at its ends and in its middle."""
    uri = f"{s3a}/scores"
    rows = [(f"u{n}", date(2024, 12, 31), 0.25, False, "Low", "m", "1") for n in range(20)]
    frame = local_frame(spark, rows, scores_table("user").schema)
    provenance = Provenance("shop", {"gold/user_features": 4}, {"silver/activity": 9}, "c0ffee", "0.1.0", "2025-01-01")
    publish_scores(frame, uri, date(2024, 12, 31), grain="user", provenance=provenance, files=2)
    objects = {entry["Key"]: entry["Size"] for entry in server.client.list_objects_v2(Bucket=bucket, Prefix="scores/")["Contents"]}
    files = {key: size for key, size in objects.items() if size}
    assert sorted(key.rsplit("/", 1)[-1].split("-")[0] for key in files) == ["_CURRENT", "_manifest.json", "part", "part"]
    assert read_published(uri, DAY).count() == 20
    for key, size in files.items():
        step = 3 if key.endswith("_CURRENT") else size // 7
        for bit in range(0, size * 8, max(1, step * 8 + 1)):
            server.flip(bucket, key, bit)
            with pytest.raises(PublishedRunInvalid):
                verify(uri, DAY)
            with pytest.raises(PublishedRunInvalid):
                read_published(uri, DAY)
            server.flip(bucket, key, bit)
    assert [run.rows for run in verify(uri)] == [20]


def test_a_damaged_pointer_and_manifest_are_replaced_by_publishing_again(server: S3Server, store: S3Store, uri: str) -> None:
    publish(store, 1)
    folder = f"scores/{planned(1).folder}"
    server.flip(store.bucket, f"scores/{POINTER}", 4)
    server.flip(store.bucket, f"{folder}/_manifest.json", 80)
    with pytest.raises(PublishedRunInvalid):
        verify(uri, DAY)
    assert publish(store, 1).is_new
    assert [run.run_id for run in verify(uri)] == [planned(1).run_id]


def test_old_uploads_of_our_own_are_aborted_and_no_others(server: S3Server, store: S3Store, uri: str) -> None:
    if server.folder is None:
        pytest.skip("moto dates every upload to one day of 2010")
    ours = ["scores/as_of_date=2024-01-01/_attempt=0a/_temporary/part-0", f"scores/as_of_date={DAY}/run_id=ab/part-1"]
    others = [
        "scores/as_of_date=2024-01-01/notes",
        "scores/as_of_date=2024-01-01/run_id=NOT-HEX/part-0",
        "scores-of-others/as_of_date=2024-01-01/run_id=ab/part-0",
        "other/scores/as_of_date=2024-01-01/run_id=ab/part-0",
    ]
    uploads = {key: server.client.create_multipart_upload(Bucket=store.bucket, Key=key)["UploadId"] for key in [*ours, *others]}
    for folder in (server.folder / store.bucket / ".sgwtmp" / "multipart").glob("*/*"):
        os.utime(folder, (folder.stat().st_atime, folder.stat().st_mtime - 25 * 3600))
    young = "scores/as_of_date=2024-01-01/_attempt=0b/part-0"
    server.client.create_multipart_upload(Bucket=store.bucket, Key=young)
    assert tidy(uri, PublishSettings(uri=uri)).uploads == len(ours)
    left = {upload["Key"] for upload in server.client.list_multipart_uploads(Bucket=store.bucket)["Uploads"]}
    assert left == {*others, young}
    assert uploads.keys() - left == {*ours}
    assert tidy(uri, PublishSettings(uri=uri)).uploads == 0


def test_what_dead_publishers_left_goes_after_its_age(server: S3Server, store: S3Store, uri: str) -> None:
    if server.folder is None:
        pytest.skip("moto tells no age of its own")
    publish(store, 1)
    dead = ["_attempt=0a/part-0.parquet", "run_id=00ff/part-0.parquet"]
    for name in [*dead, "_attempt=0b/part-0.parquet", "somebody-elses/part-0.parquet"]:
        server.client.put_object(Bucket=store.bucket, Key=f"scores/as_of_date={DAY}/{name}", Body=b"half")
    for name in dead:
        path = server.folder / store.bucket / "scores" / f"as_of_date={DAY}" / name
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 25 * 3600))
    assert tidy(uri, PublishSettings(uri=uri)).unfinished == 2
    left = {name.split("/")[0] for name in store.sizes(f"as_of_date={DAY}")}
    assert left == {"_CURRENT", f"run_id={planned(1).run_id}", "_attempt=0b", "somebody-elses"}


def test_back_to_the_run_before_and_old_ones_go(store: S3Store, uri: str) -> None:
    for number in range(1, 6):
        publish(store, number)
    assert rollback(uri, DAY).run_id == planned(4).run_id
    assert rollback(uri, DAY).run_id == planned(3).run_id
    assert [run.run_id for run in verify(uri)] == [planned(3).run_id]
    assert tidy(uri, PublishSettings(uri=uri, keep_runs=2)).runs == 3
    assert tidy(uri, PublishSettings(uri=uri, keep_runs=2)).runs == 0
    assert [run.run_id for run in verify(uri)] == [planned(3).run_id]
    assert rollback(uri, DAY).run_id == planned(2).run_id
    with pytest.raises(NoEarlierRun, match=f"expected run {planned(1).run_id}, found none .*Complete runs of the date: "):
        rollback(uri, DAY)
    with pytest.raises(NoEarlierRun, match=f"expected run {planned(5).run_id}, found none"):
        rollback(uri, DAY, planned(5).run_id)


def test_a_run_made_current_while_it_is_removed_stays_whole(store: S3Store, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, 1)
    publish(store, 2)
    remove = S3Store.remove

    def meanwhile(mine: S3Store, key: str) -> None:
        monkeypatch.setattr(S3Store, "remove", remove)
        rollback(uri, DAY)  # another process, just before the manifest goes
        remove(mine, key)

    monkeypatch.setattr(S3Store, "remove", meanwhile)
    assert tidy(uri, PublishSettings(uri=uri, keep_runs=1)).runs == 0
    assert [run.run_id for run in verify(uri)] == [planned(1).run_id]


def test_a_run_removed_while_it_is_made_current_is_not_pointed_to(store: S3Store, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, 1)
    publish(store, 2)
    write = S3Store.write

    def meanwhile(mine: S3Store, key: str, body: bytes, expected: str | None) -> None:
        monkeypatch.setattr(S3Store, "write", write)
        tidy(uri, PublishSettings(uri=uri, keep_runs=1))  # another process, just before the pointer moves
        write(mine, key, body, expected)

    monkeypatch.setattr(S3Store, "write", meanwhile)
    with pytest.raises(PublishConflict, match="was removed while it was made current"):
        rollback(uri, DAY)
    assert [run.run_id for run in verify(uri)] == [planned(2).run_id]


def test_manifest_names_what_it_replaced(store: S3Store, uri: str) -> None:
    publish(store, 1)
    publish(store, 2)
    bodies = [json.loads((store.read(f"{planned(number).folder}/_manifest.json") or (b"",))[0]) for number in (1, 2)]
    assert [body["replaces"] for body in bodies] == [None, planned(1).run_id]
