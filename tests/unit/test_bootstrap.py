"""Set-up: a jar gets in only when its hash is right, and what is right is left alone."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from propensity_spark.config import CONF_DIR
from propensity_spark.errors import EnvironmentMissing

ROOT = CONF_DIR.parent
SCRIPT = ROOT / "scripts" / "bootstrap.py"
JAVA = Path("java")
BODIES = {"org.a:left:1.0": b"left", "org.b:right_2.13:2.0": b"right"}
NAMES = ["org.a_left-1.0.jar", "org.b_right_2.13-2.0.jar"]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with folders of its own and a lock of two jars."""
    script = load_script()
    lines = [f"{hashlib.sha256(body).hexdigest()}  {coordinate}\n" for coordinate, body in BODIES.items()]
    (tmp_path / "jars.lock").write_text("# two jars\n\n" + "".join(lines))
    for name, path in {"JARS": ".jars", "JARS_LOCK": "jars.lock", "VENV": ".venv", "REQUIREMENTS": "requirements.lock"}.items():
        monkeypatch.setattr(script, name, tmp_path / path)
    return script


def resolver(asked: list[list[str]], bodies: dict[str, bytes]) -> Callable[[Path, list[str], Path], None]:
    """Stands in for Ivy: writes the bodies it is asked for under the names Ivy would use."""

    def resolve(java: Path, coordinates: list[str], folder: Path) -> None:
        asked.append(coordinates)
        (folder / "jars").mkdir()
        for coordinate in coordinates:
            group, artifact, version = coordinate.split(":")
            (folder / "jars" / f"{group}_{artifact}-{version}.jar").write_bytes(bodies[coordinate])

    return resolve


def test_jars_are_fetched_once_and_only_what_is_wrong_again(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "resolve", resolver(asked, BODIES))
    bootstrap.fetch_jars(JAVA)
    bootstrap.fetch_jars(JAVA)
    assert asked == [list(BODIES)]
    (bootstrap.JARS / NAMES[0]).write_bytes(b"lef")
    (bootstrap.JARS / "other-1.0.jar").write_bytes(b"left over")
    bootstrap.fetch_jars(JAVA)
    assert asked[1:] == [["org.a:left:1.0"]]
    assert {path.name: path.read_bytes() for path in bootstrap.JARS.iterdir()} == dict(zip(NAMES, BODIES.values(), strict=True))


def test_a_jar_with_another_hash_is_not_taken(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "resolve", resolver([], {**BODIES, "org.b:right_2.13:2.0": b"wrong"}))
    with pytest.raises(EnvironmentMissing, match=r"org\.b:right_2\.13:2\.0: expected SHA-256 .* \(jars\.lock\), got .*; not taken"):
        bootstrap.fetch_jars(JAVA)
    assert not (bootstrap.JARS / NAMES[1]).exists()


def test_one_package_is_cut_out_of_the_lock_with_its_hashes(bootstrap: ModuleType) -> None:
    bootstrap.REQUIREMENTS.write_text(
        "rich==14.0 \\\n    --hash=sha256:aa\nsetuptools==80.9 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\nzipp==3.0 \\\n"
    )
    assert bootstrap.locked_package("setuptools") == "setuptools==80.9 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"
    with pytest.raises(EnvironmentMissing, match="does not hold wheel"):
        bootstrap.locked_package("wheel")


def test_the_real_locks_can_be_read() -> None:
    script = load_script()
    jars = script.locked_jars()
    spark = re.match(r"pyspark==(\d+\.\d+)\.", script.locked_package("pyspark"))
    assert spark, "the lock holds a release of pyspark"
    assert f"io.delta_delta-spark_{spark[1]}_2.13-4.3.1.jar" in jars, "Delta is the one built for that Spark"
    assert all(len(digest) == 64 and coordinate.count(":") == 2 for coordinate, digest in jars.values())


@pytest.mark.parametrize("runtime", sorted(path.parent.name for path in (ROOT / "scripts" / "compat").glob("*/libraries.txt")))
def test_the_lock_of_a_databricks_runtime_holds_its_libraries(runtime: str) -> None:
    folder = ROOT / "scripts" / "compat" / runtime
    libraries = [line for line in (folder / "libraries.txt").read_text().splitlines() if not line.startswith("#")]
    locked = (folder / "requirements.lock").read_text()
    assert {"pyspark", "delta-spark", "xgboost", "mlflow"} <= {line.split("==")[0] for line in libraries}
    assert [line for line in libraries if f"{line} \\\n" not in locked] == []


def test_wrong_java_ends_the_set_up_before_it_begins(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    assert bootstrap.main() == 2
    assert "Java was not found" in capsys.readouterr().err
    assert not bootstrap.VENV.exists()
    assert not bootstrap.JARS.exists()


def test_classes_are_archived_once_for_each_java_and_not_at_all_is_no_error(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if command[1:] == ["-version"]:
            return subprocess.CompletedProcess(command, 0, "", f"openjdk {command[0]}")
        return subprocess.CompletedProcess(command, 1, "", "No space left on device")

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    (tmp_path / ".venv").mkdir()
    bootstrap.REQUIREMENTS.write_text("")
    for java in ("17", "17", "21"):
        bootstrap.archive_classes(Path(java))
    assert [command[0] for command in calls if command[1:] != ["-version"]] == [str(bootstrap.PYTHON)] * 2
    assert capsys.readouterr().err.count("sessions start some seconds later than they could: No space left on device") == 2
