"""How a job's task is run here: a tiny wheel in an environment of its own, and the command line of spark-submit."""

from __future__ import annotations

import stat
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from replay import Replay, Task, TaskFailed
from replay_references import ReplayError
from replay_tasks import TASK_VALUES, SubmitTasks, WheelTasks

from scripts import cluster, submit
from scripts.submit import NotInstalled, Submit, install

NOW = datetime(2024, 12, 31, tzinfo=UTC)


def task(key: str, *words: str, **more: Any) -> Task:
    return {"task_key": key, "python_wheel_task": {"package_name": "tiny", "entry_point": key, "parameters": list(words)}, **more}


def job(*tasks: Task) -> dict[str, Any]:
    return {"name": "j", "tasks": list(tasks)}


TINY = """
import json, os, sys

def publish():
    with open(os.environ["PROPENSITY_TASK_VALUES"], "w") as file:
        json.dump({"retrain": "yes"}, file)

def show():
    import pyspark
    print("words:", sys.argv, "at", os.getcwd(), "prefix", sys.prefix)
    try:
        import propensity_spark
    except ImportError:
        print("the project is out of sight")
    return 5

def fail():
    raise ValueError("no space left on the lake")

def leave():
    sys.exit(0)

def hang():
    import time
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which a tiny wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel, info = folder / "tiny-1.0-py3-none-any.whl", "tiny-1.0.dist-info"
    names = ("publish", "show", "fail", "leave", "hang")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", TINY)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", "[console_scripts]\n" + "".join(f"{name} = tiny:{name}\n" for name in names))
        archive.writestr(f"{info}/RECORD", "")
    return install(wheel, folder / "environment")


def test_wheel_tasks_publish_values_and_ignore_what_is_returned(python: Path, tmp_path: Path) -> None:
    run = Replay(WheelTasks(python, tmp_path / "work"), tmp_path, NOW)
    steps = run.run(job(task("publish"), task("show", "{{tasks.publish.values.retrain}}", "a b", depends_on=[{"task_key": "publish"}])))
    assert steps[0].values == {"retrain": "yes"}
    said = (tmp_path / "work" / "show.log").read_text()
    assert f"words: ['show', 'yes', 'a b'] at {tmp_path / 'work'} prefix {python.parent.parent}" in said
    assert "the project is out of sight" in said


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("fail", "task fail: exit code 1(?s:.)*ValueError: no space left on the lake"),
        ("leave", r"ended by sys.exit\(0\), which a job takes for a failure"),
        ("missing", "the wheel tiny has no entry point missing"),
        ("hang", "task hang: not finished after 3 seconds"),
    ],
)
def test_a_wheel_task_that_fails(python: Path, tmp_path: Path, key: str, message: str) -> None:
    with pytest.raises(TaskFailed, match=message):
        Replay(WheelTasks(python, tmp_path, seconds=3), tmp_path, NOW).run(job(task(key)))


def test_what_is_no_wheel_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "tiny-1.0-py3-none-any.whl").write_text("no archive")
    with pytest.raises(NotInstalled, match=r"tiny-1.0-py3-none-any.whl cannot be installed:(?s:.)*ERROR"):
        install(tmp_path / "tiny-1.0-py3-none-any.whl", tmp_path / "environment")


def test_spark_submit_is_called_with_the_script_and_the_tasks_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that shows its words and variables: no cluster, no Spark."""
    stand_in = tmp_path / "bin" / "spark-submit"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@"\necho "$PYSPARK_PYTHON" "$PYSPARK_DRIVER_PYTHON" "$SPARK_HOME" "${TASK_VALUES}"\n')
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(submit, "spark_home", lambda: tmp_path)
    (tmp_path / "a.py").touch()
    how = Submit(Path("/v/python"), "spark://x:1", jars=[Path("/j/1.jar")], conf={"spark.task.cpus": "1"})
    tasks = SubmitTasks(how, tmp_path / "work", tmp_path)
    Replay(tasks, tmp_path, NOW).run(job(task("a", "--as-of", "{{task.name}}")))
    said = (tmp_path / "work" / "a.log").read_text().splitlines()
    assert said[:2] == ["--master", "spark://x:1"]
    assert said[said.index("--jars") : -1] == ["--jars", "/j/1.jar", str(tmp_path / "a.py"), "--as-of", "a"]
    assert "spark.task.cpus=1" in said
    assert said[-1].startswith(f"/v/python /v/python {tmp_path} {tmp_path}")
    with pytest.raises(ReplayError, match="b: there is no"):
        Replay(tasks, tmp_path, NOW).run(job(task("b")))


def test_the_installed_pyspark_can_submit() -> None:
    assert (cluster.spark_home() / "bin" / "spark-submit").is_file()
