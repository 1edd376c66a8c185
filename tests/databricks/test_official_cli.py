"""The official CLI `databricks` deploys, runs and destroys the bundle in the workspace for tests, for every target.

It is not on every machine; without it these tests are skipped, and only `test_recorded_calls.py` holds the workspace against what it asks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from workspace import Workspace, serve

from propensity_spark.config import CONF_DIR

ROOT = CONF_DIR.parent
CLI = shutil.which("databricks")
TARGETS = list(yaml.safe_load((ROOT / "databricks.yml").read_text("utf-8")).get("targets", {}))
NEVER_UPLOADED = ("dist", "build", "lake", "published", "logs", ".venv", ".jars", ".git", ".databricks")

pytestmark = [
    pytest.mark.skipif(CLI is None, reason="the official CLI `databricks` is not on the PATH: the bundle is not deployed by it here"),
    pytest.mark.skipif(not TARGETS, reason="databricks.yml has no targets"),
]


@dataclass(frozen=True)
class Cli:
    """The CLI in a copy of the project, talking to `workspace`; no profile, no telemetry, nothing of this machine's settings."""

    workspace: Workspace
    project: Path
    environment: dict[str, str]

    def bundle(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(CLI), "bundle", *words]
        return subprocess.run(command, cwd=self.project, env=self.environment, capture_output=True, text=True, timeout=300, check=False)

    def done(self, *words: str) -> str:
        """What the command wrote; it has to succeed and to ask nothing that the workspace does not know."""
        done = self.bundle(*words)
        assert done.returncode == 0, f"databricks bundle {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        assert self.workspace.unknown == []
        return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the checkout that git knows or would take, the environment that builds the wheel, and files that must not travel."""
    folder = tmp_path_factory.mktemp("project")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("lake/gold/part-0.parquet", "published/_CURRENT", "dist/propensity_spark-0.0.1-py3-none-any.whl", "build/lib/stale.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not to be uploaded")
    return folder


@pytest.fixture
def cli(project: Path, tmp_path: Path) -> Iterator[Cli]:
    workspace = Workspace()
    with serve(workspace) as url:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        environment = {
            **kept,
            "HOME": str(tmp_path),
            "DATABRICKS_HOST": url,
            "DATABRICKS_TOKEN": "x",
            "DATABRICKS_BUNDLE_ENGINE": "direct",
            "DATABRICKS_CLI_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        yield Cli(workspace, project, environment)
    shutil.rmtree(project / ".databricks", ignore_errors=True)


def _resources(configuration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Resources of a resolved bundle by kind.key."""
    return {f"{kind}.{key}": one for kind, some in configuration["resources"].items() for key, one in some.items()}


@pytest.mark.parametrize("target", TARGETS)
def test_deploy_run_destroy(cli: Cli, target: str) -> None:
    """From validation to destruction: the jobs that the CLI resolved are the jobs that arrive; nothing is left behind."""
    cli.done("validate", "--strict", "-t", target)
    resolved = _resources(json.loads(cli.done("validate", "-t", target, "-o", "json")))
    cli.done("deploy", "-t", target, "--auto-approve")
    jobs = {one["name"]: one for name, one in resolved.items() if name.startswith("jobs.")}
    deployed = cli.workspace.jobs.by_name()
    assert sorted(deployed) == sorted(jobs)
    for name, job in jobs.items():
        assert {task["task_key"] for task in deployed[name]["tasks"]} == {task["task_key"] for task in job["tasks"]}
    _everything_named_is_there(cli.workspace)

    summary = _resources(json.loads(cli.done("summary", "-t", target, "-o", "json")))
    assert sorted(name for name, one in summary.items() if one.get("id")) == sorted(resolved)

    cli.done("run", "daily", "-t", target)
    (run,) = cli.workspace.jobs.runs.values()
    assert run["run_name"] == next(one["name"] for name, one in resolved.items() if name == "jobs.daily")

    ids = set(cli.workspace.jobs.settings)
    cli.done("deploy", "-t", target, "--auto-approve")
    assert set(cli.workspace.jobs.settings) == ids, "a second deployment changes the jobs in place"

    cli.done("destroy", "-t", target, "--auto-approve")
    assert cli.workspace.jobs.settings == {}
    assert [one for one in cli.workspace.experiments.known.values() if one["lifecycle_stage"] == "active"] == []
    assert cli.workspace.catalog.objects == {"schemas": {}, "volumes": {}, "models": {}}
    assert cli.workspace.files.contents == {}


def _everything_named_is_there(workspace: Workspace) -> None:
    """Wheels and notebooks that tasks name are among the uploaded files; what must stay here is not."""
    wheels = {path: content for path, content in workspace.files.contents.items() if path.endswith(".whl")}
    assert len(wheels) == 1, f"one wheel, and no stale one: {sorted(wheels)}"
    assert next(iter(wheels.values())).startswith(b"PK"), "the wheel is an archive"
    for name, job in workspace.jobs.by_name().items():
        text = json.dumps(job)
        assert "${" not in text, name
        for task in job["tasks"]:
            assert {library["whl"] for library in task.get("libraries", []) if "whl" in library} <= set(wheels), task["task_key"]
            if "notebook_task" in task:
                assert task["notebook_task"]["notebook_path"] in workspace.files.notebooks
        packages = {one for spec in job.get("environments", []) for one in spec["spec"].get("dependencies", []) if one.endswith(".whl")}
        assert packages <= set(wheels), name
    uploaded = [path.split("/files/", 1)[1] for path in workspace.files.contents if "/files/" in path]
    assert uploaded
    assert [path for path in uploaded if path.split("/")[0] in NEVER_UPLOADED] == []


def test_a_target_that_does_not_exist(cli: Cli) -> None:
    done = cli.bundle("validate", "--strict", "-t", "nowhere")
    assert done.returncode != 0
    assert "nowhere" in done.stderr
    assert cli.workspace.files.contents == {}
