"""Java and jars: what is asked of the machine, and what is said when it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from py4j.java_gateway import JavaClass
from pyspark.sql import SparkSession

from propensity_spark.config import SparkSettings
from propensity_spark.errors import EnvironmentMissing
from propensity_spark.java import require_java
from propensity_spark.session import ASKED_FOR_BY_EVERY_COLUMN, class_archive, get_session


def fake_java(home: Path, says: str) -> None:
    (home / "bin").mkdir(parents=True)
    java = home / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    java.chmod(0o755)


@pytest.mark.parametrize("version", ["17.0.15", "21.0.2"])
def test_java_17_and_21_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    fake_java(tmp_path, f'openjdk version "{version}" 2024-01-16')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert require_java() == tmp_path / "bin" / "java"


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ('openjdk version "11.0.22" 2024-01-16', "is Java 11;"),
        ('java version "1.8.0_401"', "is Java 1.8;"),
        ('openjdk version "25" 2025-09-16', "is Java 25;"),
        ("The operation could not be completed. Unable to locate a Java Runtime.", "Unable to locate a Java Runtime"),
        ("", "it printed no version"),
    ],
)
def test_another_java_is_refused_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, found: str) -> None:
    fake_java(tmp_path, says)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EnvironmentMissing) as caught:
        require_java()
    assert found in str(caught.value)
    assert "needs Java 17 or 21" in str(caught.value)
    assert "apt-get install openjdk-17" in str(caught.value)
    assert caught.value.exit_code == 2


def test_no_java_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(EnvironmentMissing, match=r"Java was not found \(JAVA_HOME=.*gone\): install Java 17"):
        require_java()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentMissing, match=r"Java was not found \(no java on the PATH\)"):
        require_java()


def test_java_on_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(tmp_path, 'openjdk version "17.0.15"')
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    assert require_java() == tmp_path / "bin" / "java"


def test_no_jars_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMissing, match=r"no JVM jars in .*: run `make setup` once"):
        get_session(SparkSettings(master="local[1]", jars_dir=str(tmp_path)))


def test_without_a_master_the_session_that_is_there_is_taken_and_told_utc(spark: SparkSession) -> None:
    spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    taken = get_session(SparkSettings(master=None))
    assert taken.sparkContext is spark.sparkContext
    assert taken.conf.get("spark.sql.session.timeZone") == "UTC"


def test_the_local_session_knows_delta_and_another_s3(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    session = get_session(SparkSettings(master="local[2]", shuffle_partitions=2))
    assert session.conf.get("spark.sql.extensions") == "io.delta.sql.DeltaSparkSessionExtension"
    assert session.conf.get("spark.hadoop.fs.s3a.endpoint") == "http://127.0.0.1:9000"
    assert session.conf.get("spark.hadoop.fs.s3a.path.style.access") == "true"
    assert session.conf.get("spark.hadoop.fs.s3a.endpoint.region") == "eu-west-3"
    for key in ("endpoint", "path.style.access", "endpoint.region"):
        session.conf.unset(f"spark.hadoop.fs.s3a.{key}")


@pytest.mark.skipif(class_archive() is None, reason="no archive of classes in this environment: `make setup` makes one")
def test_the_jvm_of_a_local_session_maps_the_archive_of_classes(spark: SparkSession) -> None:
    process = spark._jvm.java.lang.ProcessHandle.current().pid()  # type: ignore[union-attr]
    assert str(class_archive()) in Path(f"/proc/{process}/maps").read_text()


def test_only_a_whole_archive_of_classes_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert class_archive() is None
    (tmp_path / "spark-classes-6.jsa").write_bytes(b"short")
    (tmp_path / "spark-classes-partial.jsa").write_bytes(b"begun")
    assert class_archive() is None
    (tmp_path / "spark-classes-6.jsa").write_bytes(b"whole!")
    assert class_archive() == tmp_path / "spark-classes-6.jsa"


@pytest.mark.parametrize("name", ASKED_FOR_BY_EVERY_COLUMN)
def test_what_every_column_asks_for_is_there_by_its_short_name(spark: SparkSession, name: str) -> None:
    found = getattr(spark._jvm, name.rpartition(".")[2])
    assert isinstance(found, JavaClass)
    assert found._fqn == name
