"""Publishing to a local folder: what is written, what a reader sees whatever happens, what verify finds."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import prepared_run
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession

import propensity_spark
from propensity_spark.config import CONF_DIR, load_settings
from propensity_spark.errors import ConfigurationError, NothingToPublish, PublishConflict, PublishedRunInvalid, TableMissing
from propensity_spark.publish import Provenance, Published, publish_scores, read_published, verify
from propensity_spark.publish import write as write_module
from propensity_spark.publish.manifest import current_manifest
from propensity_spark.publish.store import LocalStore, open_store
from propensity_spark.run import Run
from propensity_spark.schemas import RUNS, published_table, scores_table
from propensity_spark.stages import publish as publish_stage
from propensity_spark.tables import Lake, local_frame

DAY = date(2024, 12, 31)
PROVENANCE = Provenance(
    dataset="stocks",
    feature_table_versions={"gold/user_features": 4},
    input_table_versions={"silver/activity": 9},
    config_version="c0ffee",
    code_version="0.1.0",
    scored_at="2025-01-01T02:03:04.000005Z",
)
Row = tuple[object, ...]


def _rows(shift: float = 0.0, version: str = "1") -> list[Row]:
    return [
        (f"u{user}", f"i{item}", DAY, 0.9 / item - shift, item == 1, "High", item, "m", version) for user in range(20) for item in (1, 2, 3)
    ]


def _frame(spark: SparkSession, rows: list[Row], grain: str = "user_item") -> DataFrame:
    return local_frame(spark, rows, scores_table(grain).schema)


@pytest.fixture
def publish(spark: SparkSession, tmp_path: Path) -> Callable[..., Published]:
    def run(rows: list[Row], provenance: Provenance = PROVENANCE) -> Published:
        return publish_scores(_frame(spark, rows), str(tmp_path), DAY, grain="user_item", provenance=provenance, files=2)

    return run


@pytest.fixture(scope="module")
def published_once(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    publish_scores(_frame(spark, _rows()), str(root), DAY, grain="user_item", provenance=PROVENANCE, files=2)
    return root


def _read(uri: Path) -> list[Row]:
    return sorted(tuple(row) for row in read_published(str(uri), DAY).collect())


def _without_date(rows: list[Row]) -> list[Row]:
    return sorted((*row[:2], *row[3:]) for row in rows)


def _stored(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout_manifest_and_rows(publish: Callable[..., Published], tmp_path: Path) -> None:
    published = publish(_rows())
    day = tmp_path / "as_of_date=2024-12-31"
    folder = day / f"run_id={published.run_id}"
    assert published == Published(str(folder), published.run_id, 60, True)
    assert (day / "_CURRENT").read_text() == f"run_id={published.run_id}\n"
    assert sorted(path.name for path in day.iterdir()) == ["_CURRENT", folder.name]
    manifest = json.loads((folder / "_manifest.json").read_text())
    files = manifest.pop("files")
    assert len(manifest.pop("manifest_sha256")) == 64
    assert manifest == {
        "as_of_date": "2024-12-31",
        "run_id": published.run_id,
        "dataset": "stocks",
        "grain": "user_item",
        "model_name": "m",
        "model_version": "1",
        "feature_table_versions": {"gold/user_features": 4},
        "input_table_versions": {"silver/activity": 9},
        "config_version": "c0ffee",
        "code_version": "0.1.0",
        "scored_at": "2025-01-01T02:03:04.000005Z",
        "rows": 60,
        "replaces": None,
    }
    assert sorted(path.name for path in folder.iterdir()) == sorted(["_manifest.json", *(file["key"] for file in files)])
    assert len(files) == 2
    for file in files:
        body = (folder / file["key"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
        assert file["rows"] == pq.read_metadata(folder / file["key"]).num_rows
    assert _read(tmp_path) == _without_date(_rows())
    assert read_published(str(tmp_path), "2024-12-31").schema == published_table("user_item").schema


def test_read_published_is_public_at_the_top() -> None:
    assert propensity_spark.read_published is read_published
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = propensity_spark.no_such_thing


def test_parts_are_sorted_and_keep_a_user_together(publish: Callable[..., Published]) -> None:
    parts = [pq.read_table(path).to_pylist() for path in Path(publish(_rows()).location).glob("part-*.parquet")]
    for part in parts:
        keys = [(row["user_id"], row["rank"]) for row in part]
        assert keys == sorted(keys)
    users = [{row["user_id"] for row in part} for part in parts]
    assert not users[0] & users[1]


def test_the_same_scores_again_change_nothing(publish: Callable[..., Published], tmp_path: Path) -> None:
    first = publish(_rows())
    before = _stored(tmp_path)
    again = publish(list(reversed(_rows())))
    assert (again.run_id, again.is_new) == (first.run_id, False)
    assert _stored(tmp_path) == before


def test_delta_version_numbers_alone_make_no_new_run(publish: Callable[..., Published]) -> None:
    moved = Provenance("stocks", {"gold/user_features": 5}, {"silver/activity": 10}, "c0ffee", "0.1.0", "2025-01-02T00:00:00.000000Z")
    assert publish(_rows()).run_id == publish(_rows(), moved).run_id


@pytest.mark.parametrize(
    ("rows", "provenance"),
    [
        (_rows(shift=1e-12), PROVENANCE),
        (_rows(version="2"), PROVENANCE),
        (_rows()[:-1], PROVENANCE),
        (_rows(), Provenance("stocks", {}, {}, "another", "0.1.0", "")),
        (_rows(), Provenance("stocks", {}, {}, "c0ffee", "0.2.0", "")),
        (_rows(), Provenance("sp500", {}, {}, "c0ffee", "0.1.0", "")),
    ],
    ids=["content", "model", "rows", "config", "code", "dataset"],
)
def test_other_inputs_are_another_run_and_the_old_one_stays(
    publish: Callable[..., Published], tmp_path: Path, rows: list[Row], provenance: Provenance
) -> None:
    old = publish(_rows())
    kept = _stored(Path(old.location))
    new = publish(rows, provenance)
    assert new.run_id != old.run_id
    assert _stored(Path(old.location)) == kept
    assert _read(tmp_path) == _without_date(rows)
    assert [run.run_id for run in verify(str(tmp_path))] == [new.run_id]


def test_an_earlier_run_becomes_current_again_untouched(publish: Callable[..., Published], tmp_path: Path) -> None:
    old = publish(_rows())
    kept = _stored(Path(old.location))
    publish(_rows(shift=0.1))
    assert not publish(_rows()).is_new
    assert _stored(Path(old.location)) == kept
    assert _read(tmp_path) == _without_date(_rows())


def test_no_rows_are_refused_and_yesterday_stays(publish: Callable[..., Published], tmp_path: Path) -> None:
    publish(_rows())
    before = _stored(tmp_path)
    with pytest.raises(NothingToPublish, match="2024-12-31, found none"):
        publish([])
    assert _stored(tmp_path) == before


def test_two_models_in_one_date_are_refused(publish: Callable[..., Published], tmp_path: Path) -> None:
    with pytest.raises(PublishConflict, match="one model"):
        publish([*_rows()[:30], *_rows(version="2")[30:]])
    assert _stored(tmp_path) == {}


def test_user_grain(spark: SparkSession, tmp_path: Path) -> None:
    rows: list[Row] = [(f"u{n}", DAY, n / 10, n > 5, "Low", "m", "1") for n in range(10)]
    publish_scores(_frame(spark, rows, "user"), str(tmp_path), DAY, grain="user", provenance=PROVENANCE, files=3)
    found = read_published(str(tmp_path), DAY)
    assert found.columns == ["user_id", "purchase_probability", "predicted_purchase", "segment", "model_name", "model_version"]
    assert sorted(tuple(row) for row in found.collect()) == [(row[0], *row[2:]) for row in rows]
    assert [run.rows for run in verify(f"file://{tmp_path}")] == [10]


STEPS = ["clear", "spark_write", "settle", "describe_part", "manifest", "pointer"]


class _Killed(BaseException):
    pass


def _kill_at(step: str, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process 'die' just before or just after one step of publish."""

    def dying(original: Callable[..., object], applies: Callable[..., bool] = lambda *args: True) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if not applies(*args):
                return original(*args, **kwargs)
            if after:
                original(*args, **kwargs)
            raise _Killed

        return call

    if step in ("clear", "settle"):
        monkeypatch.setattr(LocalStore, step, dying(getattr(LocalStore, step)))
    elif step == "spark_write":
        monkeypatch.setattr(DataFrameWriter, "parquet", dying(DataFrameWriter.parquet))
    elif step == "describe_part":
        monkeypatch.setattr(write_module, "describe_part", dying(write_module.describe_part))
    else:
        name = {"manifest": "_manifest.json", "pointer": "_CURRENT"}[step]
        monkeypatch.setattr(LocalStore, "write", dying(LocalStore.write, lambda store, key, *rest: key.endswith(name)))


@pytest.mark.parametrize("moment", [(step, after) for step in STEPS for after in (False, True)], ids=str)
def test_killed_at_any_step_readers_keep_the_old_run_and_a_rerun_finishes(
    published_once: Path, publish: Callable[..., Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: tuple[str, bool]
) -> None:
    shutil.copytree(published_once, tmp_path, dirs_exist_ok=True)
    with monkeypatch.context() as patch:
        _kill_at(*moment, patch)
        with pytest.raises(_Killed):
            publish(_rows(shift=0.1))
    moved = moment == ("pointer", True)
    assert _read(tmp_path) == _without_date(_rows(shift=0.1) if moved else _rows())
    assert len(verify(str(tmp_path))) == 1
    publish(_rows(shift=0.1))
    assert _read(tmp_path) == _without_date(_rows(shift=0.1))
    assert [run.rows for run in verify(str(tmp_path), DAY)] == [60]


def test_leftovers_of_an_interrupted_write_are_removed(publish: Callable[..., Published], tmp_path: Path) -> None:
    clean = publish(_rows())
    (Path(clean.location) / "_manifest.json").unlink()
    litter = Path(clean.location) / "_temporary" / "0" / "part-00000-old.snappy.parquet"
    litter.parent.mkdir(parents=True)
    litter.write_bytes(b"half")
    (Path(clean.location) / "part-00009-old.snappy.parquet").write_bytes(b"half")
    assert publish(_rows()).is_new
    names = {path.name for path in Path(clean.location).iterdir()}
    assert len(names) == 3
    assert "part-00009-old.snappy.parquet" not in names
    assert len(verify(str(tmp_path))) == 1


def test_a_damaged_run_is_rebuilt_by_publishing_again(publish: Callable[..., Published], tmp_path: Path) -> None:
    first = publish(_rows())
    next(Path(first.location).glob("part-*")).unlink()
    with pytest.raises(PublishedRunInvalid, match="expected, not found"):
        _read(tmp_path)
    assert publish(_rows()).is_new
    assert _read(tmp_path) == _without_date(_rows())


def test_rows_that_change_during_the_write_are_noticed(
    publish: Callable[..., Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = DataFrameWriter.parquet

    def parquet(writer: DataFrameWriter, path: str) -> None:
        original(writer, path)
        part = next(Path(path).glob("part-*"))
        (part.parent / "part-of-another.parquet").write_bytes(part.read_bytes())

    monkeypatch.setattr(DataFrameWriter, "parquet", parquet)
    with pytest.raises(PublishConflict, match="expected 60 rows, found"):
        publish(_rows())
    assert not (tmp_path / "as_of_date=2024-12-31" / "_CURRENT").exists()


def test_a_part_that_is_not_parquet_is_noticed(publish: Callable[..., Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parquet(writer: DataFrameWriter, path: str) -> None:
        Path(path).mkdir(parents=True)
        (Path(path) / "part-0.parquet").write_bytes(b"half")

    monkeypatch.setattr(DataFrameWriter, "parquet", parquet)
    with pytest.raises(PublishedRunInvalid, match=r"part-0.parquet: expected Parquet, found 4 other bytes"):
        publish(_rows())


def test_a_stray_file_does_not_disturb_readers_and_goes_at_the_next_publication(publish: Callable[..., Published], tmp_path: Path) -> None:
    location = Path(publish(_rows()).location)
    kept = _stored(location)
    (location / "part-stray.parquet").write_bytes(b"from a writer that died late")
    (location / "_temporary" / "0").mkdir(parents=True)
    assert _read(tmp_path) == _without_date(_rows())
    with pytest.raises(PublishedRunInvalid, match=r"part-stray.parquet: found, but not in the manifest"):
        verify(str(tmp_path))
    assert not publish(_rows()).is_new
    assert _stored(location) == kept


def test_only_one_process_publishes_a_date(publish: Callable[..., Published], tmp_path: Path) -> None:
    with LocalStore(tmp_path).lock("as_of_date=2024-12-31"), pytest.raises(PublishConflict, match="another process"):
        publish(_rows())
    assert publish(_rows()).is_new


def test_a_pointer_moved_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("_CURRENT", b"run_id=a\n", None)
    store.write("_CURRENT", b"run_id=b\n", "run_id=a\n")
    with pytest.raises(PublishConflict, match="expected 'run_id=a"):
        store.write("_CURRENT", b"run_id=c\n", "run_id=a\n")
    with pytest.raises(PublishConflict, match="expected None"):
        store.write("_CURRENT", b"run_id=c\n", None)
    store.write("_CURRENT", b"run_id=b\n", "run_id=a\n")
    assert (tmp_path / "_CURRENT").read_bytes() == b"run_id=b\n"
    assert [path.name for path in tmp_path.iterdir()] == ["_CURRENT"]


def test_locations() -> None:
    assert open_store("published").spark_path("x") == str(Path("published").absolute() / "x")
    assert open_store("s3://bucket/a/b/").spark_path("x") == "s3a://bucket/a/b/x"
    assert open_store("s3a://bucket").spark_path("x") == "s3a://bucket/x"
    with pytest.raises(ConfigurationError, match="gs://"):
        open_store("gs://bucket/x")


# --- verify ------------------------------------------------------------------------------------------------------


def test_verify_goes_through_every_date_and_passes_over_an_unfinished_first_one(
    spark: SparkSession, publish: Callable[..., Published], tmp_path: Path
) -> None:
    first = publish(_rows())
    publish_scores(_frame(spark, _rows()), str(tmp_path), date(2025, 1, 1), grain="user_item", provenance=PROVENANCE, files=1)
    (tmp_path / "as_of_date=2025-01-02").mkdir()
    summary = verify(str(tmp_path))
    assert [(run.as_of_date, run.rows, run.files) for run in summary] == [("2024-12-31", 60, 2), ("2025-01-01", 60, 1)]
    assert summary[0].bytes == sum(path.stat().st_size for path in Path(first.location).glob("part-*"))
    with pytest.raises(PublishedRunInvalid, match="_CURRENT: missing"):
        verify(str(tmp_path), "2025-01-02")


def test_verify_where_nothing_was_published(tmp_path: Path) -> None:
    with pytest.raises(PublishedRunInvalid, match="found none"):
        verify(str(tmp_path / "nowhere"))
    with pytest.raises(PublishedRunInvalid, match="nothing has been published"):
        read_published(str(tmp_path), DAY)
    with pytest.raises(ConfigurationError, match="YYYY-MM-DD"):
        read_published(str(tmp_path), "31.12.2024")


def _flip(part: Path, manifest: Path) -> None:
    body = bytearray(part.read_bytes())
    body[len(body) // 2] ^= 1
    part.write_bytes(bytes(body))


def _edit(sealed: bool = False, **changes: object) -> Callable[[Path, Path], None]:
    """Change fields of the manifest; unless `sealed` without the digest over them, as those of version 0.1.0 are."""

    def damage(part: Path, manifest: Path) -> None:
        fields = json.loads(manifest.read_text()) | changes
        if not sealed:
            del fields["manifest_sha256"]
        manifest.write_text(json.dumps(fields))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda part, manifest: part.unlink(), r"part-.*: expected, not found"),
        (lambda part, manifest: part.with_name("part-x.parquet").write_bytes(b""), r"part-x.parquet: found, but not in the manifest"),
        (lambda part, manifest: part.write_bytes(part.read_bytes() + b"x"), r"part-.*: expected \d+ bytes, found \d+"),
        (_flip, r"part-.*: expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"),
        (lambda part, manifest: manifest.unlink(), r"_manifest.json: missing"),
        (lambda part, manifest: manifest.write_text("{"), r"_manifest.json: not a manifest"),
        (lambda part, manifest: manifest.write_text("[]"), r"_manifest.json: not a manifest"),
        (lambda part, manifest: manifest.write_text(manifest.read_text() + "x"), r"_manifest.json: not a manifest"),
        (_edit(sealed=True, code_version="0.9.9"), r"not what its manifest_sha256 says"),
        (_edit(rows=61), r"rows is 61, its files have 60"),
        (_edit(grain="item"), r"grain is 'item'"),
        (_edit(grain="user"), r"expected columns"),
        (_edit(run_id="0000"), r"expected run [0-9a-f]{16} of as_of_date=2024-12-31, found run 0000"),
        (_edit(model_version="2"), r"expected model_version '2', found \['1'\]"),
        (lambda part, manifest: (manifest.parent.parent / "_CURRENT").write_text("run_id=../x\n"), r"_CURRENT: expected one line"),
        (lambda part, manifest: (manifest.parent.parent / "_CURRENT").write_text("run_id=abc\n"), r"run_id=abc/_manifest.json: missing"),
    ],
)
def test_verify_names_what_is_wrong(published_once: Path, tmp_path: Path, damage: Callable[[Path, Path], None], message: str) -> None:
    shutil.copytree(published_once, tmp_path / "copy")
    manifest = next((tmp_path / "copy").rglob("_manifest.json"))
    damage(next(manifest.parent.glob("part-*")), manifest)
    with pytest.raises(PublishedRunInvalid, match=message):
        verify(str(tmp_path / "copy"))


def test_bits_of_pointer_and_manifest_do_not_flip_unseen(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    prepared_run.publish(store, 1)
    for path in (tmp_path / f"as_of_date={prepared_run.DAY}" / "_CURRENT", next(tmp_path.rglob("_manifest.json"))):
        body = path.read_bytes()
        for bit in range(0, len(body) * 8, 3):
            flipped = bytearray(body)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(PublishedRunInvalid):
                current_manifest(store, f"as_of_date={prepared_run.DAY}")
        path.write_bytes(body)
    assert current_manifest(store, f"as_of_date={prepared_run.DAY}").run_id == prepared_run.planned(1).run_id


GOOD = {
    "user_id": ["a", "a", "b"],
    "item_id": ["x", "y", "x"],
    "purchase_probability": [0.0, 1.0, 0.5],
    "predicted_purchase": [True, False, True],
    "segment": ["High", "Low", "Medium"],
    "rank": pa.array([1, 2, 1], pa.int32()),
    "model_name": ["m"] * 3,
    "model_version": ["1"] * 3,
}


def _plant(root: Path, *tables: dict[str, object], rows: int | None = None) -> None:
    """A run whose manifest agrees with its bytes, so that only its rows can be wrong."""
    folder = root / "as_of_date=2024-12-31" / "run_id=abc"
    folder.mkdir(parents=True)
    files = []
    for number, columns in enumerate(tables):
        path = folder / f"part-{number}.parquet"
        pq.write_table(pa.table(columns), path)
        body = path.read_bytes()
        count = rows if rows is not None else pq.read_metadata(path).num_rows
        files.append({"key": path.name, "bytes": len(body), "rows": count, "sha256": hashlib.sha256(body).hexdigest()})
    manifest = {
        **{"as_of_date": "2024-12-31", "run_id": "abc", "dataset": "d", "grain": "user_item", "model_name": "m", "model_version": "1"},
        **{"feature_table_versions": {}, "input_table_versions": {}, "config_version": "", "code_version": "", "scored_at": ""},
        "rows": sum(int(str(file["rows"])) for file in files),
        "files": files,
    }
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    (folder.parent / "_CURRENT").write_text("run_id=abc")


def test_verify_accepts_good_rows(tmp_path: Path) -> None:
    _plant(tmp_path, GOOD)
    assert [(run.run_id, run.rows) for run in verify(str(tmp_path))] == [("abc", 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"purchase_probability": [0.0, 1.5, 0.5]}, r"in \[0, 1\], found 1.5"),
        ({"purchase_probability": [0.0, float("nan"), 0.5]}, r"in \[0, 1\], found nan"),
        ({"segment": ["High", None, "Low"]}, r"no null in segment, found 1"),
        ({"item_id": ["x", "x", "x"]}, r"expected unique \['user_id', 'item_id'\]"),
        ({"rank": pa.array([1, 3, 1], pa.int32())}, r"ranks 1 … n for each user"),
        ({"rank": pa.array([2, 2, 1], pa.int32())}, r"ranks 1 … n for each user"),
        ({"rank": [1, 2, 1]}, r"expected columns .*'rank': 'int'.*'rank': 'int64'"),
        ({"extra": [1, 2, 3]}, r"expected columns"),
        ({"model_name": ["m", "m", "n"]}, r"expected model_name 'm'"),
    ],
)
def test_verify_judges_the_rows(tmp_path: Path, change: dict[str, object], message: str) -> None:
    _plant(tmp_path, GOOD | change)
    with pytest.raises(PublishedRunInvalid, match=message):
        verify(str(tmp_path))


def test_verify_counts_rows_and_keeps_users_in_one_file(tmp_path: Path) -> None:
    _plant(tmp_path / "rows", GOOD, rows=4)
    with pytest.raises(PublishedRunInvalid, match="expected 4 rows, found 3"):
        verify(str(tmp_path / "rows"))
    _plant(tmp_path / "users", GOOD, GOOD)
    with pytest.raises(PublishedRunInvalid, match=r"part-1.parquet: 2 users are in another file too"):
        verify(str(tmp_path / "users"))


# --- the stage ---------------------------------------------------------------------------------------------------


def _run_row(stage: str, day: date, hour: int, status: str, inputs: dict[str, int]) -> Row:
    started = datetime(2025, 1, 1, hour, 30, tzinfo=UTC)
    return (
        f"{stage}-{hour}",
        stage,
        "stocks",
        day,
        "f",
        inputs,
        {},
        1,
        1,
        0,
        1.0,
        f"config{hour}",
        "0.1.0",
        status,
        None,
        "{}",
        None,
        started,
    )


def test_stage_publishes_the_scores_of_its_date_with_their_provenance(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    overrides = [f"lake.root={tmp_path / 'lake'}", f"publish.uri={tmp_path / 'out'}"]
    run = Run(spark, load_settings(CONF_DIR / "local.yml", "stocks", overrides), lake, DAY, "publish-1", datetime(2025, 1, 2, tzinfo=UTC))
    other = [(*row[:2], date(2024, 12, 30), *row[3:]) for row in _rows(shift=0.1)]
    lake.append(_frame(spark, _rows() + other), scores_table("user_item"))
    runs = [
        _run_row("features", DAY, 1, "succeeded", {"silver/activity": 7}),
        _run_row("score", DAY, 2, "succeeded", {"gold/user_features": 1}),
        _run_row("score", date(2024, 12, 30), 9, "succeeded", {"gold/user_features": 9}),
        _run_row("score", DAY, 8, "failed", {"gold/user_features": 8}),
    ]
    lake.append(local_frame(spark, runs[:1] + runs[2:], RUNS.schema), RUNS)
    with pytest.raises(TableMissing, match="expected a successful score run for as_of_date=2024-12-31"):
        publish_stage.STAGE.execute(run)
    lake.append(local_frame(spark, [runs[1], _run_row("score", DAY, 3, "succeeded", {"gold/user_features": 2})], RUNS.schema), RUNS)
    outcome = publish_stage.STAGE.execute(run)
    assert (outcome.rows_in, outcome.rows_out) == (60, 60)
    assert _read(tmp_path / "out") == _without_date(_rows())
    manifest = json.loads((Path(outcome.facts["published"]) / "_manifest.json").read_text())
    assert manifest["feature_table_versions"] == {"gold/user_features": 2}
    assert manifest["input_table_versions"] == {"silver/activity": 7}
    assert (manifest["config_version"], manifest["scored_at"]) == ("config3", "2025-01-01T03:30:00.000000Z")
    assert outcome.facts["run_id"] in outcome.note
    again = publish_stage.STAGE.execute(run)
    assert again.facts == outcome.facts
    assert "unchanged" in again.note
