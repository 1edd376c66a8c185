"""Faults of a resolved target that Databricks' packages and `databricks bundle validate` let through."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from scripts.bundle import quartz
from scripts.bundle.resolve import Resolved

Tree = dict[str, Any]
BARRIER_STAGES = ("train",)
_DYNAMIC = re.compile(r"\{\{(.*?)\}\}")
_OF_A_RUN = re.compile(r"(job|task)\.[\w.]+|workspace\.(id|url)|input(\.\w+)*")
_COMPUTE = ("environment_key", "job_cluster_key", "new_cluster", "existing_cluster_id")
_FILES = {"notebook_task": "notebook_path", "spark_python_task": "python_file"}


@dataclass(frozen=True)
class Wheel:
    """What the wheel of the project promises: its importable name, version and entry points."""

    package: str
    version: str
    entry_points: frozenset[str]


def lint(resolved: Resolved, wheel: Wheel) -> list[str]:
    """Every fault, one line each, `<job>.<task>: what is wrong`."""
    problems = list(_unresolved(resolved.config["resources"], "resources"))
    for name, job in resolved.jobs.items():
        problems += [f"{name}: {text}" for text in _job(job)]
        for task in _tasks(job):
            where = f"{name}.{task.get('task_key')}"
            checks = (_compute(task, job), _dependencies(task, job), _wheel(task, job, wheel), _barrier(task, job), _called(task, resolved))
            problems += [f"{where}: {text}" for check in checks for text in check]
            problems += [f"{where}: {text}" for text in _values(task, job)]
            problems += [f"{where}: {text}" for text in _paths(task, resolved, name)]
        for environment in job.get("environments", []):
            local = [{"whl": text} for text in environment["spec"].get("dependencies", []) if text.startswith(".")]
            problems += [f"{name}.{environment['environment_key']}: {text}" for text in _paths({"libraries": local}, resolved, name)]
    return [*problems, *_target(resolved)]


def _tasks(job: Tree) -> Iterator[Tree]:
    """The tasks, each followed by the one that it runs for each input."""
    for task in job.get("tasks", []):
        yield task
        if inner := task.get("for_each_task", {}).get("task"):
            yield inner


def _unresolved(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _unresolved(item, f"{where}.{key}")
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from _unresolved(item, f"{where}[{n}]")
    elif isinstance(value, str) and "${" in value:
        yield f"{where}: unresolved reference in {value!r}"


def _job(job: Tree) -> Iterator[str]:
    keys = [task.get("task_key") for task in job.get("tasks", [])]
    yield from (f"two tasks are called {key!r}" for key in sorted({str(key) for key in keys if keys.count(key) > 1}))
    if schedule := job.get("schedule"):
        if fault := quartz.problem(schedule["quartz_cron_expression"]):
            yield f"schedule {schedule['quartz_cron_expression']!r}: {fault}"
        try:
            ZoneInfo(schedule["timezone_id"])
        except (KeyError, ValueError, OSError):
            yield f"schedule: timezone_id {schedule['timezone_id']!r} is no IANA time zone"
    for key in keys:
        if key in _ancestors(job, str(key)):
            yield f"task {key!r} depends on itself, by way of others"


def _ancestors(job: Tree, key: str) -> set[str]:
    """Every task that has ended when `key` begins."""
    direct = {task["task_key"]: [one["task_key"] for one in task.get("depends_on", [])] for task in job.get("tasks", [])}
    found: set[str] = set()
    waiting = list(direct.get(key, []))
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += direct.get(one, [])
    return found


def _compute(task: Tree, job: Tree) -> Iterator[str]:
    chosen = [key for key in _COMPUTE if key in task]
    runs_code = any(key in task for key in ("python_wheel_task", *_FILES))
    clusters = [cluster["job_cluster_key"] for cluster in job.get("job_clusters", [])]
    environments = [environment["environment_key"] for environment in job.get("environments", [])]
    if (key := task.get("job_cluster_key")) and key not in clusters:
        yield f"job_cluster_key {key!r} is not defined; the job has {clusters or 'none'}"
    if (key := task.get("environment_key")) and key not in environments:
        yield f"environment_key {key!r} is not defined; the job has {environments or 'none'}"
    if runs_code and len(chosen) != 1 and "python_wheel_task" in task:
        yield f"expected one of {', '.join(_COMPUTE)}, found {' and '.join(chosen) or 'none'}"
    if task.get("libraries") and not {"job_cluster_key", "new_cluster", "existing_cluster_id"} & set(chosen):
        yield "serverless tasks take no `libraries`; name them under the environment's `dependencies`"
    if not runs_code and (chosen or task.get("libraries")):
        yield f"{', '.join(chosen) or 'libraries'} on a task that runs no code of its own"


def _dependencies(task: Tree, job: Tree) -> Iterator[str]:
    by_key = {one["task_key"]: one for one in job.get("tasks", [])}
    for dependency in task.get("depends_on", []):
        key = dependency["task_key"]
        if key not in by_key:
            yield f"depends_on {key!r} names no task; the job has {', '.join(by_key)}"
        elif ("outcome" in dependency) != ("condition_task" in by_key[key]):
            yield f"depends_on {key!r}: an outcome is for condition tasks, and they need one"
    if "for_each_task" in task.get("for_each_task", {}).get("task", {}):
        yield "a for-each task cannot hold another"


def _wheel(task: Tree, job: Tree, wheel: Wheel) -> Iterator[str]:
    if not (body := task.get("python_wheel_task")):
        return
    if body["package_name"] != wheel.package:
        yield f"package_name {body['package_name']!r}: the wheel holds {wheel.package!r}"
    if body["entry_point"] not in wheel.entry_points:
        yield f"entry point {body['entry_point']!r} is not in the wheel, which has {', '.join(sorted(wheel.entry_points))}"
    elif body["entry_point"] != task["task_key"]:
        yield f"runs the stage {body['entry_point']!r}: the task's key must be the stage's name"
    named = [f"--{key}={value}" for key, value in body.get("named_parameters", {}).items()]
    for word in [*body.get("parameters", []), *named]:
        if word.startswith("--expect-version=") and word.partition("=")[2] != wheel.version:
            yield f"{word}: the wheel is {wheel.version}; set the variable code_version to it"


def _barrier(task: Tree, job: Tree) -> Iterator[str]:
    if task.get("python_wheel_task", {}).get("entry_point") not in BARRIER_STAGES:
        return
    clusters = {cluster["job_cluster_key"]: cluster.get("new_cluster", {}) for cluster in job.get("job_clusters", [])}
    cluster = task.get("new_cluster") or clusters.get(task.get("job_cluster_key"))
    if not cluster:
        yield "training is barrier mode over RDDs: it needs a cluster of its own, not serverless"
        return
    conf = cluster.get("spark_conf", {})
    if "autoscale" in cluster or not isinstance(cluster.get("num_workers"), int | str):
        yield "barrier mode needs a fixed num_workers, no autoscale"
    if str(conf.get("spark.dynamicAllocation.enabled", "false")).lower() != "false":
        yield "barrier mode fails under dynamic allocation"
    if cluster.get("data_security_mode") not in ("SINGLE_USER", "DATA_SECURITY_MODE_DEDICATED"):
        yield "training needs dedicated access (data_security_mode SINGLE_USER)"
    if "-ml-" not in str(cluster.get("spark_version")):
        yield f"spark_version {cluster.get('spark_version')!r} is no ML runtime, which brings xgboost.spark"


def _called(task: Tree, resolved: Resolved) -> Iterator[str]:
    """The job that a task starts must be there and declare the parameters it is given."""
    if not (body := task.get("run_job_task")):
        return
    job = next((resolved.jobs[name] for name, number in resolved.job_ids.items() if number == body.get("job_id")), None)
    if job is None:
        yield f"run_job_task: job_id {body.get('job_id')!r} is no job of this bundle"
        return
    declared = {parameter["name"] for parameter in job.get("parameters", [])}
    for name in sorted(set(body.get("job_parameters", {})) - declared):
        yield f"run_job_task gives the parameter {name!r}, which {job['name']!r} does not declare"


def _values(task: Tree, job: Tree) -> Iterator[str]:
    """`{{…}}` must name a parameter of the job, a value of a task that ran before, or something of the run itself."""
    declared = {parameter["name"] for parameter in job.get("parameters", [])}
    owner = next((one for one in job["tasks"] if one is task or one.get("for_each_task", {}).get("task") is task), task)
    before = _ancestors(job, owner["task_key"])
    body = {key: value for key, value in task.items() if key != "for_each_task"} | {
        "inputs": task.get("for_each_task", {}).get("inputs", "")
    }
    for found in _DYNAMIC.finditer(str(body)):
        reference = found.group(1).strip()
        words = reference.split(".")
        if words[:2] == ["job", "parameters"]:
            if words[2:] and words[2] not in declared:
                yield f"{{{{{reference}}}}}: the job declares no parameter {words[2]!r}; it has {', '.join(sorted(declared)) or 'none'}"
        elif words[0] == "tasks":
            if len(words) < 2 or words[1] not in before:
                yield f"{{{{{reference}}}}}: the task has not run before this one"
        elif words[0] == "input" and owner is task:
            yield "{{input}} outside a for-each task"
        elif not _OF_A_RUN.fullmatch(reference):
            yield f"{{{{{reference}}}}}: no such value; it would be passed on as this very text"


def _paths(task: Tree, resolved: Resolved, job: str) -> Iterator[str]:
    """Files, notebooks and wheels, relative to the file that the job is in."""
    folder = resolved.folder.get(("jobs", job), resolved.root)
    for kind, key in _FILES.items():
        path = str(task.get(kind, {}).get(key, ""))
        if path and not path.startswith("/") and not any((folder / f"{path}{ending}").is_file() for ending in ("", ".py", ".ipynb")):
            yield f"{kind}: {path} does not exist (seen from {folder.name}/)"
    built = [(resolved.root / body.get("path", ".") / "dist").resolve() for body in resolved.config.get("artifacts", {}).values()]
    for library in task.get("libraries", []):
        path = str(library.get("whl", ""))
        if path.startswith(".") and (folder / path).parent.resolve() not in built and not list(folder.glob(path)):
            yield f"library {path}: no artifact is built there (seen from {folder.name}/)"


def _target(resolved: Resolved) -> Iterator[str]:
    config = resolved.config
    if config["bundle"].get("mode") != "production":
        return
    root_path = str(config["workspace"].get("root_path"))
    if root_path.startswith("/Workspace/Shared") or not root_path.startswith("/Workspace/Users/"):
        yield f"workspace.root_path {root_path}: everybody could write the code that runs; expected a path under /Workspace/Users/"
    if not config.get("run_as", {}).get("service_principal_name"):
        yield "run_as: production runs as a service principal"
    if not config.get("permissions"):
        yield "permissions: expected who may manage and who may see what is deployed"


def wheel_of(root: Path) -> Wheel:
    """What the wheel built from pyproject.toml will promise."""
    import tomllib

    from propensity_spark import __version__

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return Wheel(project["name"].replace("-", "_"), __version__, frozenset(project.get("scripts", {})))
