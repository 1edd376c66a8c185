"""A person is erased: every table, quarantine, every published run, the lake's own files; and, a week later, every file."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from shop import AS_OF, settings, write_orders

from propensity_spark import cli
from propensity_spark.config import Settings
from propensity_spark.erase import forget as forget_module
from propensity_spark.erase.find import People, rows_in, tables
from propensity_spark.erase.forget import forget
from propensity_spark.erase.purge import purge
from propensity_spark.errors import KeyChanged, PersonRemains
from propensity_spark.features.registry import USER_FEATURES, training_set_table
from propensity_spark.line import run_line, stage_named
from propensity_spark.publish import Provenance, publish_scores, read_published, verify
from propensity_spark.publish.erase import published_rows
from propensity_spark.run import Run
from propensity_spark.schemas import ACTIVITY, BRONZE, CHANGES, ERASURES, PROFILES, QUARANTINE, reasons_table, scores_table
from propensity_spark.tables import Lake, local_frame

KEY = "the key of these tests, not a secret"
WHO, OTHER = "c007", "c008"
BY_WORD_ALONE = f",s1,2023-03-03 10:00:00,for {WHO},5.00\n"
DAYS = (AS_OF - timedelta(days=1), AS_OF)
REASONS = reasons_table("user")
GOLD = (USER_FEATURES, training_set_table("user", False), REASONS, scores_table("user"))

PROVENANCE = Provenance("shop", {}, {}, "c0ffee", "0.1.0", "2024-01-01T00:00:00.000000Z")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROPENSITY_PRIVACY_KEY", KEY)


def _line(spark: SparkSession, chosen: Settings, *names: str) -> None:
    list(run_line(spark, chosen, AS_OF, [stage_named(name) for name in names]))


def _shifted(scores: DataFrame, day: date, by: float) -> DataFrame:
    return scores.where(F.col("as_of_date") == F.lit(day)).withColumn("purchase_probability", F.col("purchase_probability") + by)


def _publish(lake: Lake, chosen: Settings) -> None:
    """Gold without features and a model: what is erased there are rows, whoever made them."""
    table, model = scores_table("user"), "1"
    users = [row["user_id"] for row in lake.read(ACTIVITY).select("user_id").distinct().orderBy("user_id").collect()]
    rows = [(user, day, 1 / (2 + n), False, "Low", "m", model) for day in DAYS for n, user in enumerate(users)]
    scores = local_frame(lake.spark, rows, table.schema)
    lake.overwrite(scores, table)
    for day in DAYS:
        for shift in (0.0, 0.1):  # the first run of each date is not current any more
            of_day = _shifted(scores, day, shift)
            publish_scores(of_day, chosen.publish.uri, day, grain="user", provenance=PROVENANCE, files=2)
    nothing = {"base": F.lit(0.0), "reasons": F.array(), "others": F.lit(0.0)}
    why = scores.withColumns({name: value.cast(REASONS.schema[name].dataType) for name, value in nothing.items()})
    lake.overwrite(why.select(*REASONS.column_names), REASONS)
    for gold in (USER_FEATURES, training_set_table("user", False)):
        keys = {"as_of_date": F.col("as_of_date"), "user_id": F.col("user_id"), "split": F.lit("train")}
        lake.overwrite(scores.select(*(keys.get(c.name, F.lit(1)).cast(c.type).alias(c.name) for c in gold.columns)), gold)


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with a broken line that names the person, gold of two dates, and two runs of each date published."""
    place = tmp_path_factory.mktemp("shop")
    orders = place / "data" / "orders"
    write_orders(orders, customers=20)
    with (orders / "orders_2023-03.csv").open("a") as file:
        file.write(f"{WHO},s1,2023-03-03 10:00:00,o-x\n{WHO}0,s1,2023-03-03 10:00:00,o-y\n{WHO},s1,never,o-z,5.00\n")
        file.write(BY_WORD_ALONE)
    chosen = settings(place, place / "data")
    _line(spark, chosen, "ingest", "validate")
    _publish(Lake(spark, chosen.lake), chosen)
    return place


@pytest.fixture
def shop(spark: SparkSession, made: Path, tmp_path: Path) -> Settings:
    """A copy of it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return settings(tmp_path, tmp_path / "data")


def _run(spark: SparkSession, chosen: Settings, run_id: str = "forget-1") -> Run:
    return Run(spark, chosen, Lake(spark, chosen.lake), AS_OF, run_id, datetime.now(UTC))


def _people(spark: SparkSession, *users: str) -> People:
    frame = local_frame(spark, [(user,) for user in users], "user_id string")
    return People(frame, frame)


def _counts(run: Run, *users: str) -> dict[str, int]:
    people = _people(run.spark, *users)
    found = {table.full_name: rows_in(run, table, people).count() for table in tables(run)}
    return {**found, "published": published_rows(run.settings.publish.uri, people.known)}


def _all_rows(lake: Lake) -> dict[str, set[str]]:
    run = Run(lake.spark, None, lake, AS_OF, "", datetime.now(UTC))  # type: ignore[arg-type]
    every = (BRONZE["activity"], QUARANTINE, ACTIVITY, *GOLD)
    return {table.full_name: {repr(row) for row in run.lake.read(table).collect()} for table in every}


def test_a_person_is_gone_from_everywhere_and_nobody_else_is(spark: SparkSession, shop: Settings) -> None:
    run = _run(spark, shop)
    before, rows_before = _counts(run, WHO), _all_rows(run.lake)
    assert set(before) == {"bronze/activity", "silver/quarantine", "silver/activity", *(table.full_name for table in GOLD), "published"}
    assert all(before.values())
    assert before["silver/quarantine"] == 3  # one too short and one without a date, told by their column; one without a user, by the word
    runs = {path.name for path in Path(shop.publish.uri).glob("*/run_id=*")}

    outcome = forget(run, [WHO])

    assert set(_counts(run, WHO).values()) == {0}
    assert outcome.facts["remaining"] == "0"
    assert outcome.facts["gold/scores"] == f"{before['gold/scores']} found, 0 remain"
    assert outcome.rows_in == sum(before.values())
    rows_after = _all_rows(run.lake)
    for name, rows in rows_after.items():
        gone = rows_before[name] - rows
        assert rows <= rows_before[name], name
        assert len(gone) == before[name], name
        assert all(WHO in row and f"{WHO}0" not in row for row in gone), name
    assert _counts(run, f"{WHO}0")["bronze/activity"] == 1
    assert not runs & {path.name for path in Path(shop.publish.uri).glob("*/run_id=*")}
    assert [found.rows for found in verify(shop.publish.uri)] == [19, 19]
    scores = {row["user_id"]: row["purchase_probability"] for row in read_published(shop.publish.uri, AS_OF).collect()}
    assert WHO not in scores
    assert len(scores) == 19
    assert run.lake.read(CHANGES).where("run_id = 'forget-1'").count() == 1  # features of every date are computed again
    text = json.dumps([row.asDict() for row in run.lake.read(ERASURES).collect()], default=str)
    assert WHO not in text
    assert '"status": "erased"' in text
    assert "orders_2023-03.csv" in outcome.facts["your files that hold them"]
    current = {found.as_of_date: found.run_id for found in verify(shop.publish.uri)}
    remaining = _shifted(run.lake.read(scores_table("user")), AS_OF, 0.1)
    again = publish_scores(remaining, shop.publish.uri, AS_OF, grain="user", provenance=PROVENANCE, files=2)
    assert (again.run_id, again.is_new) == (current[str(AS_OF)], False)  # its id is the one that publish gives it


@pytest.mark.faults
def test_an_erased_person_does_not_come_back_with_the_next_file_and_every_row_is_accounted_for(
    spark: SparkSession, shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(spark, shop)
    forget(run, [WHO])
    orders = Path(str(shop.data)) / "orders" / "orders_2023-12b.csv"
    lines = [f"{who},s1,2023-12-2{n} 10:00:00,n{who}{n},5.00" for who in (WHO, OTHER) for n in range(3)]
    orders.write_text("\n".join(["customer,sku,ordered_at,order_no,total", *lines, f"{WHO},s1,never,o-z,5.00"]) + "\n")
    march = orders.with_name("orders_2023-03.csv")
    march.write_text(march.read_text().replace(BY_WORD_ALONE, ""))  # a keyed hash is all that is kept, and it knows no words
    rows, theirs = run.lake.read(ACTIVITY).count(), sum(path.read_text().count(f"\n{WHO},") for path in orders.parent.glob("*.csv"))
    _line(spark, shop, "ingest", "validate")  # in another folder than before, every file is a new one: all come again
    last = run.lake.read(PROFILES).where("measure like 'rows_%' and value is not null").orderBy("recorded_at").collect()
    measures = {row["measure"]: row["value"] for row in last}
    outcomes = ("rows_valid", "rows_repeated", "rows_rejected", "rows_erased")
    assert measures["rows_in"] == sum(measures[name] for name in outcomes)
    assert (measures["rows_valid"], measures["rows_erased"]) == (3, theirs)  # the line that is too short, too
    assert run.lake.read(ACTIVITY).count() == rows + 3
    assert set(_counts(run, WHO).values()) == {0}, "in bronze too: what came again is taken out before the batch counts as done"
    alone = f"customer,sku,ordered_at,order_no,total\n{WHO},s1,2023-12-29 10:00:00,%s,1.00\n"
    (orders.parent / "orders_2023-12c.csv").write_text(alone % "q1")
    _line(spark, shop, "ingest", "validate")  # nobody else in the batch: the gate lets it pass
    assert _counts(run, WHO)["bronze/activity"] == 0
    monkeypatch.setenv("PROPENSITY_PRIVACY_KEY", KEY[::-1])
    (orders.parent / "orders_2023-12d.csv").write_text(alone % "q2")
    with pytest.raises(KeyChanged):  # under another key nobody would be recognised
        _line(spark, shop, "ingest", "validate")


@pytest.mark.faults
def test_who_was_never_seen_is_not_remembered_and_a_second_request_changes_nothing(spark: SparkSession, shop: Settings) -> None:
    run = _run(spark, shop)
    assert "never seen" in forget(run, ["nobody"]).note
    assert not run.lake.exists(ERASURES)
    forget(run, [WHO, OTHER])
    versions = {table.full_name: run.lake.version(table) for table in (*tables(run), ERASURES)}
    again = forget(run, [WHO])
    assert again.note == "0 rows of 1 persons removed, 0 remain"
    assert {table.full_name: run.lake.version(table) for table in (*tables(run), ERASURES)} == versions


@pytest.mark.faults
def test_the_command_prints_the_proof_and_no_log_has_the_id(
    spark: SparkSession, shop: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ("--set", f"lake.root={shop.lake.root}", "--set", f"publish.uri={shop.publish.uri}")
    monkeypatch.setattr(cli, "load_settings", lambda *args, **options: shop)
    monkeypatch.setattr(cli, "_session", lambda *args: spark)
    assert cli.main(["forget", "--user", WHO, "--as-of", str(AS_OF), *paths]) == 0
    printed = capsys.readouterr()
    assert "published runs: 4 found, 0 remain" in printed.out
    assert "remaining: 0" in printed.out
    assert WHO not in printed.out + printed.err
    assert WHO not in (Path(shop.lake.root) / "logs" / "propensity.log").read_text()
    monkeypatch.delenv("PROPENSITY_PRIVACY_KEY")
    assert cli.main(["forget", "--user", OTHER, "--as-of", str(AS_OF), *paths]) == 2


@pytest.mark.faults
def test_something_that_remains_is_an_error(spark: SparkSession, shop: Settings) -> None:
    run = _run(spark, shop)
    with patch.object(forget_module, "erase_published"), pytest.raises(PersonRemains, match=r"published runs \(4\) remain"):
        forget(run, [WHO])
    assert [row["status"] for row in run.lake.read(ERASURES).orderBy("recorded_at").collect()] == ["requested", "requested"]
    forget(run, [WHO])
    assert set(_counts(run, WHO).values()) == {0}


@pytest.mark.faults
def test_files_of_the_lake_itself_are_rewritten_and_not_taken_twice(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    """The same shop, with its orders inside the lake: some as CSV; they stay ingested."""
    shutil.copytree(made / "data", tmp_path / "lake" / "drop")
    shutil.move(tmp_path / "lake" / "drop" / "conf", tmp_path / "conf")
    (tmp_path / "data").mkdir()
    shutil.move(tmp_path / "conf", tmp_path / "data" / "conf")
    source = "sources.activity=[{kind: files, name: orders, path: %s, pattern: '*.csv', columns: {user_id: customer, item_id: sku, event_type: \"'buy'\", event_ts: 'to_timestamp(ordered_at)', order_id: order_no, amount: 'cast(total as decimal(18,4))'}}]"  # noqa: E501
    chosen = settings(tmp_path, tmp_path / "data", source % (tmp_path / "lake" / "drop" / "orders"))
    _line(spark, chosen, "ingest", "validate")
    run = _run(spark, chosen)
    outcome = forget(run, [WHO])
    assert outcome.facts["files of the lake"] == "13 found, 0 remain"
    text = "".join(path.read_text() for path in (tmp_path / "lake" / "drop").rglob("*.csv"))
    assert not re.search(rf"^{WHO},", text, re.MULTILINE)
    assert f"{WHO}0,s1" in text
    rows = run.lake.read(BRONZE["activity"]).count()
    assert text.count("\n") - 13 == rows
    _line(spark, chosen, "ingest", "validate")
    assert run.lake.read(BRONZE["activity"]).count() == rows


# --- a week later ------------------------------------------------------------------------------------------------


def _a_week_later(lake: Path) -> None:
    """As if everything so far had been written eight days ago: Delta goes by the moments in its log and by the files' own."""
    past = datetime.now(UTC) - timedelta(days=8)
    for path in sorted(lake.rglob("*")):
        if path.parent.name == "_delta_log" and path.suffix == ".json":
            moments = r'"(deletionTimestamp|timestamp|inCommitTimestamp)":\d{13}'
            text = re.sub(moments, rf'"\1":{int(past.timestamp() * 1000)}', path.read_text())
            path.write_text(text)
            path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
        if path.is_file():
            os.utime(path, (past.timestamp(), past.timestamp()))
    SparkSession.active()._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]


def _asked_eight_days_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    from propensity_spark.erase import purge as module

    asked: Callable[..., dict[str, Any]] = module.asked_before
    early = lambda *args: {user: at and at - timedelta(days=8) for user, at in asked(*args).items()}  # noqa: E731
    monkeypatch.setattr(module, "asked_before", early)


@pytest.mark.faults
def test_a_week_later_every_file_is_searched_and_whatever_holds_the_person_is_named(
    spark: SparkSession, shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, root = _run(spark, shop), Path(shop.lake.root)
    forget(run, [WHO])
    with pytest.raises(PersonRemains, match="older versions stay 7 days; run it again from"):
        purge(run, [WHO])
    _asked_eight_days_ago(monkeypatch)
    with pytest.raises(PersonRemains, match=r"bronze/activity \(\d+ in older files\).*gold/scores"):
        purge(run, [WHO])  # the tables' clocks have not moved: VACUUM leaves the old files, and the proof sees the person in them
    _a_week_later(root)
    planted = root / "reports" / "note.html"
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f"<p>{WHO} called</p> but not {WHO}0")
    with pytest.raises(PersonRemains, match=r"1 places still hold a person: reports/note.html"):
        purge(run, [WHO])
    planted.write_text(f"nobody, and not {WHO}0")
    outcome = purge(run, [WHO])
    assert outcome.facts["remaining"] == "0"
    assert "older files are left and hold 0 rows" in outcome.facts["gold/scores"]
    assert run.lake.read(ERASURES).orderBy(F.desc("recorded_at")).first()["status"] == "purged"  # type: ignore[index]


def test_a_short_number_is_searched_for_as_a_value_and_doubtful_as_a_word(tmp_path: Path) -> None:
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    from propensity_spark.erase.search import search

    (tmp_path / "page.json").write_text('{"rows": 12345}')
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"user customer-17 was here"))
    nested = pa.table({"who": [[{"names": "12345"}]], "n": [1]})
    pq.write_table(nested, tmp_path / "nested.parquet")
    pq.write_table(pa.table({"n": [12345], "t": ["a 12345"]}), tmp_path / "numbers.parquet")
    found = search(tmp_path, ["12345"], ())
    assert (found.files, found.holding, found.doubtful) == (4, ("nested.parquet",), ("page.json",))
    assert search(tmp_path, ["customer-17"], ()).holding == ("log.gz",)
    assert search(tmp_path, ["customer-1"], ()).holding == ()


# --- the line dies ------------------------------------------------------------------------------------------------


class Death(BaseException):
    """What no `except Exception` stops."""


@pytest.mark.faults
def test_a_forget_that_dies_after_every_write_ends_with_nobody(spark: SparkSession, shop: Settings) -> None:
    from propensity_spark.publish.store import LocalStore

    run = _run(spark, shop)
    survived: set[str] = set()
    deaths = 0

    def watched(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def write(*args: Any, **options: Any) -> Any:
            result = original(*args, **options)
            place = f"{name} {args[2].full_name if name in ('append', 'merge') else args[1]}"
            if place not in survived:
                survived.add(place)
                raise Death
            return result

        return write

    while True:
        try:
            with ExitStack() as patches:
                for owner, name in ((Lake, "append"), (Lake, "merge"), (LocalStore, "write"), (LocalStore, "clear")):
                    patches.enter_context(patch.object(owner, name, watched(getattr(owner, name), name)))
                outcome = forget(run, [WHO])
            break
        except Death:
            deaths += 1
    assert deaths == len(survived) >= 15
    assert outcome.facts["remaining"] == "0"
    assert set(_counts(run, WHO).values()) == {0}
    assert [found.rows for found in verify(shop.publish.uri)] == [19, 19]
    assert len(list(Path(shop.publish.uri).glob("*/run_id=*/_manifest.json"))) == 4
