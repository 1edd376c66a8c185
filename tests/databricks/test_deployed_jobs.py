"""What the bundle deploys is what is run: `daily` and `weekly_training`, resolved for a target, on a small simulated market.

The tasks' words are the deployed ones. What differs is the job parameter `settings`, by which any run of a job may override settings:
tables go to folders instead of Unity Catalog, models to an embedded store. Once by the entry points of the built wheel on local Spark,
once by spark-submit of `jobs/<stage>.py` against a standalone cluster. The branches of the jobs are gone through without any of that.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from line_support import AS_OF, SMALL
from replay import Replay, Task, TaskFailed
from replay_tasks import SubmitTasks, WheelTasks
from wheel_support import built_wheel

from propensity_spark.config import CONF_DIR, SparkSettings
from propensity_spark.publish import verify
from scripts.bundle.resolve import resolve
from scripts.cluster import standalone_cluster
from scripts.cluster_run import cluster_conf
from scripts.submit import Submit, install

ROOT = CONF_DIR.parent
JARS = sorted((ROOT / ".jars").glob("*.jar"))
TARGET = "dev"
CONF = cluster_conf(SparkSettings(driver_memory="2g", shuffle_partitions=2), "1g", JARS)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a clean environment with the wheel, built from the files of this checkout and nothing that earlier builds left."""
    folder = tmp_path_factory.mktemp("wheel")
    return install(built_wheel(folder), folder / "environment")


@pytest.fixture(scope="module")
def jobs() -> dict[str, dict[str, Any]]:
    """The jobs of the target by name, and by the number that stands for each in `run_job_task`."""
    resolved = resolve(ROOT, TARGET)
    return resolved.jobs | {str(number): resolved.jobs[name] for name, number in resolved.job_ids.items()}


def settings(folder: Path, *more: str) -> str:
    """A value for the job parameter `settings`: everything in `folder`, and a small market."""
    places = (
        "lake.catalog=null",
        "lake.schema_name=null",
        f"lake.root={folder / 'lake'}",
        f"publish.uri={folder / 'published'}",
        "mlflow.tracking_uri=null",
        "mlflow.registry_uri=null",
        "mlflow.model_name=propensity",
        "mlflow.experiment=propensity",
        "secret_scope=null",
    )
    return shlex.join([*places, *SMALL, *more])


def here() -> tuple[str, ...]:
    """Settings by which an entry point makes its own local session."""
    return (
        "spark.master=local[2]",
        "spark.driver_memory=2g",
        "spark.shuffle_partitions=2",
        f"spark.jars_dir={ROOT / '.jars'}",
        "train.num_workers=1",
    )


def run(replay: Replay, jobs: dict[str, dict[str, Any]], words: str) -> None:
    """daily on an empty lake, which trains its first champion by weekly_training; then weekly_training by itself."""
    parameters = {"as_of": str(AS_OF), "settings": words}
    replay.run(jobs["daily"], parameters)
    stages = ["ingest", "validate", "features", "score", "publish", "monitor"]
    states = {step.name: step.state for step in replay.steps}
    assert [name for name in states if name in stages] == stages
    assert {states[name] for name in stages} == {"SUCCESS"}
    trained = [name for name in states if name.startswith("first_training/")]
    assert [name.partition("/")[2] for name in trained] == ["label", "train", "evaluate"]
    before = len(replay.steps)
    replay.run(jobs["weekly_training"], parameters)
    assert [(step.name, step.state) for step in replay.steps[before:]] == [(name, "SUCCESS") for name in ("label", "train", "evaluate")]


def published(folder: Path) -> None:
    """Scores of the day are out, complete, as their manifest says."""
    (day,) = verify(str(folder / "published"))
    assert str(day.as_of_date) == str(AS_OF)
    assert day.rows > 0
    assert day.model_name == "propensity"


DAY = ["ingest", "validate", "features", "score", "publish", "monitor"]
TRAINING = ["label", "train", "evaluate"]


@pytest.mark.parametrize(
    ("has_champion", "retrain", "parameters", "expected"),
    [
        ("yes", "no", {}, DAY),
        ("no", "no", {}, [*DAY[:3], *TRAINING, *DAY[3:]]),
        ("yes", "yes", {}, [*DAY, *TRAINING]),
        ("yes", "yes", {"retrain": "never"}, DAY),
    ],
)
def test_branches_of_a_day(
    jobs: dict[str, dict[str, Any]], tmp_path: Path, has_champion: str, retrain: str, parameters: dict[str, str], expected: list[str]
) -> None:
    """Which stages a day runs, by what features and monitor hand over. Nothing is run: each task only notes its name."""
    stages: list[str] = []

    def note(task: Task, arguments: list[str], values: Path) -> None:
        stages.append(task["python_wheel_task"]["entry_point"])
        values.write_text(json.dumps({"has_champion": has_champion, "retrain": retrain}))

    Replay(note, tmp_path, datetime.now(UTC), jobs).run(jobs["daily"], parameters)
    assert stages == expected


def test_backfill_is_a_day_for_each_date(jobs: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    days: list[str] = []

    def note(task: Task, arguments: list[str], values: Path) -> None:
        days.extend(word for word in arguments if word.startswith("--as-of=") and task["task_key"] == "ingest")
        values.write_text(json.dumps({"dates": ["2024-12-02", "2024-12-03"], "has_champion": "yes", "retrain": "yes"}))

    steps = Replay(note, tmp_path, datetime.now(UTC), jobs).run(jobs["backfill"], {"start": "2024-12-02", "end": "2024-12-03"})
    assert days == ["--as-of=2024-12-02", "--as-of=2024-12-03"]
    assert not [step for step in steps if "/retrain/" in step.name], "a backfill trains nothing"


@pytest.mark.replay
@pytest.mark.skipif(not JARS, reason="no JVM jars in .jars: run `make setup`")
def test_by_the_entry_points_of_the_wheel(python: Path, jobs: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    replay = Replay(WheelTasks(python, tmp_path / "work"), tmp_path, datetime.now(UTC), jobs)
    run(replay, jobs, settings(tmp_path, *here()))
    published(tmp_path)


@pytest.mark.replay
@pytest.mark.skipif(not JARS, reason="no JVM jars in .jars: run `make setup`")
def test_by_spark_submit_on_a_standalone_cluster(python: Path, jobs: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Two workers of one core: XGBoost trains on both at once, in barrier mode."""
    with standalone_cluster(workers=2, cores=1, memory="1g") as master:
        tasks = SubmitTasks(Submit(python, master, conf=CONF), tmp_path / "work", ROOT / "jobs")
        replay = Replay(tasks, tmp_path, datetime.now(UTC), jobs)
        run(replay, jobs, settings(tmp_path, "train.num_workers=2"))
    published(tmp_path)


@pytest.mark.parametrize(
    ("word", "parameters", "message"),
    [
        ("--set=features.nothing=1", {}, r"features\.nothing"),
        ("--expect-version=0.0.1", {}, "the installed propensity-spark is"),
        ("", {"as_of": "2999-01-01"}, "lies in the future"),
        ("", {"as_of": "yesterday"}, "expected a date such as"),
    ],
)
def test_a_broken_task_ends_the_replay_with_its_own_error(
    python: Path, jobs: dict[str, dict[str, Any]], tmp_path: Path, word: str, parameters: dict[str, str], message: str
) -> None:
    """The first task is broken, before it needs Spark; what follows does not run, and nothing is published."""
    daily = copy.deepcopy(jobs["daily"])
    ingest = next(task for task in daily["tasks"] if task["task_key"] == "ingest")
    ingest["python_wheel_task"]["parameters"] += [word] if word else []
    replay = Replay(WheelTasks(python, tmp_path / "work"), tmp_path, datetime.now(UTC), jobs)
    with pytest.raises(TaskFailed, match=rf"task ingest: exit code [12]:(?s:.)*{message}") as failure:
        replay.run(daily, {"settings": settings(tmp_path, *here()), **parameters})
    assert not re.search("Traceback", str(failure.value)), "an error, not a traceback"
    states = {step.name: step.state for step in replay.steps}
    assert states["ingest"] == "FAILED"
    assert {state for name, state in states.items() if name != "ingest"} <= {"UPSTREAM_FAILED", "EXCLUDED"}
    assert not (tmp_path / "published").exists()
