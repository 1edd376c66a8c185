"""Runs the tasks of a deployed job here: the job's settings as the Jobs API has them, the tasks in dependency order.

What a task is run with is given (`replay_tasks.py`: the built wheel, or spark-submit); what happens between tasks is here: references
replaced, conditions evaluated, `run_if` and outcomes respected, other jobs run, for-each inputs gone through one after the other. What the
service alone does is not: no clusters, schedules, retries, timeouts, queues or notifications.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from replay_references import ReplayError, resolve, text_of, times

SUCCESS, FAILED, UPSTREAM_FAILED, EXCLUDED = "SUCCESS", "FAILED", "UPSTREAM_FAILED", "EXCLUDED"
NUMERIC = {
    "GREATER_THAN": operator.gt,
    "GREATER_THAN_OR_EQUAL": operator.ge,
    "LESS_THAN": operator.lt,
    "LESS_THAN_OR_EQUAL": operator.le,
}
Task = dict[str, Any]
RunTask = Callable[[Task, list[str], Path], None]


class TaskFailed(Exception):
    """A task ended with an error; the message ends with what the task itself said."""


@dataclass(frozen=True)
class Step:
    """One task that was come to: its name (`retrain/train` inside another job), how it ended, its words, the values it published."""

    name: str
    state: str
    arguments: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    outcome: str | None = None  # of a condition: "true" or "false"


@dataclass(frozen=True)
class Replay:
    """How to run jobs here.

    `run_task(task, arguments, values)` runs one Python task and raises TaskFailed; the task may leave values for later ones as a JSON
    object in the file `values`. `jobs`: the other jobs by resource key or id. `steps`: what was run, in order.
    """

    run_task: RunTask
    folder: Path
    now: datetime
    jobs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def run(self, job: dict[str, Any], parameters: Mapping[str, str] | None = None, prefix: str = "") -> list[Step]:
        """Run `job`; `parameters` instead of its defaults. Raises the first task's own error, after the tasks that run in spite of it."""
        known = {"job.name": job.get("name", ""), **times(self.now)}
        known |= {f"job.parameters.{name}": value for name, value in self._parameters(job, parameters or {}, known, prefix).items()}
        ended: dict[str, Step] = {}
        failure: TaskFailed | None = None
        for task in in_dependency_order(job["tasks"], prefix):
            key = task["task_key"]
            try:
                skipped = state_without_running(task, ended)
                step = Step(prefix + key, skipped) if skipped else self._task(task, known, prefix)
            except TaskFailed as error:
                failure = failure or error
                step = Step(prefix + key, FAILED)
            ended[key] = step
            self.steps.append(step)
            known[f"tasks.{key}.result_state"] = step.state.lower()
            known |= {f"tasks.{key}.values.{name}": value for name, value in step.values.items()}
        if failure:
            raise failure
        return self.steps

    def _parameters(self, job: dict[str, Any], given: Mapping[str, str], known: Mapping[str, object], prefix: str) -> dict[str, str]:
        declared = {parameter["name"]: parameter["default"] for parameter in job.get("parameters", [])}
        if undeclared := sorted(set(given) - set(declared)):
            raise ReplayError(f"{prefix}{job.get('name')}: parameters {', '.join(undeclared)} are not declared by the job")
        resolved: dict[str, str] = resolve({**declared, **given}, known, f"{prefix}{job.get('name')}: parameters")
        return resolved

    def _task(self, task: Task, known: dict[str, object], prefix: str) -> Step:
        """Run one task of any kind that is known here."""
        name = prefix + task["task_key"]
        known = {**known, "task.name": task["task_key"]}
        if wheel := task.get("python_wheel_task"):
            return self._python(task, _wheel_arguments(wheel, known, name), known, name)
        if script := task.get("spark_python_task"):
            return self._python(task, script.get("parameters", []), known, name)
        if condition := task.get("condition_task"):
            return Step(name, SUCCESS, outcome="true" if holds(resolve(condition, known, name), name) else "false")
        if other := task.get("run_job_task"):
            given = resolve(other.get("job_parameters", {}), known, name)
            return self._run_job(str(other["job_id"]), given, known, name)
        if each := task.get("for_each_task"):
            return self._for_each(each, known, name)
        raise ReplayError(f"{name}: no kind of task that can be run here; found {', '.join(sorted(task))}")

    def _python(self, task: Task, arguments: list[str], known: Mapping[str, object], name: str) -> Step:
        words = resolve(arguments, known, name)
        values = self.folder / f"{len(self.steps):03}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.values"
        self.run_task(task, words, values)
        return Step(name, SUCCESS, words, json.loads(values.read_text("utf-8")) if values.exists() else {})

    def _run_job(self, job_id: str, given: Mapping[str, str], known: Mapping[str, Any], name: str) -> Step:
        """The job that a task names, with the task's parameters and those of this job that it declares too."""
        reference = re.fullmatch(r"\$\{resources\.jobs\.(\w+)\.id\}", job_id)
        job = self.jobs.get(reference[1] if reference else job_id)
        if job is None:
            raise ReplayError(f"{name}: job {job_id} is not here; known: {', '.join(self.jobs) or 'none'}")
        declared = {parameter["name"] for parameter in job.get("parameters", [])}
        handed = {short: value for short, value in _job_parameters(known).items() if short in declared}
        self.run(job, _with_handed_down(given, handed, name), f"{name}/")
        return Step(name, SUCCESS)

    def _for_each(self, each: dict[str, Any], known: Mapping[str, object], name: str) -> Step:
        """The inner task once for each input, in order, whatever `concurrency` says."""
        text = resolve(each["inputs"], known, f"{name}.inputs")
        try:
            inputs = json.loads(text)
        except ValueError as error:
            raise ReplayError(f"{name}.inputs: {text!r} is not a JSON array") from error
        if not isinstance(inputs, list):
            raise ReplayError(f"{name}.inputs: {text!r} is not a JSON array")
        for one in inputs:
            fields = {f"input.{key}": value for key, value in one.items()} if isinstance(one, dict) else {}
            self.steps.append(self._task(each["task"], {**known, "input": one, **fields}, f"{name}[{text_of(one)}]/"))
        return Step(name, SUCCESS)


def in_dependency_order(tasks: list[Task], prefix: str = "") -> list[Task]:
    """The tasks, each after what it depends on, otherwise as written. A dependency that is no task, or a circle, raises ReplayError."""
    keys = [task["task_key"] for task in tasks]
    for task in tasks:
        if unknown := sorted({one["task_key"] for one in task.get("depends_on", [])} - set(keys)):
            raise ReplayError(f"{prefix}{task['task_key']}: depends on {', '.join(unknown)}, which is no task of the job")
    ordered: list[Task] = []
    waiting = list(tasks)
    while waiting:
        done = {task["task_key"] for task in ordered}
        ready = next((task for task in waiting if {one["task_key"] for one in task.get("depends_on", [])} <= done), None)
        if ready is None:
            raise ReplayError(f"{prefix}{', '.join(task['task_key'] for task in waiting)}: depend on each other in a circle")
        ordered.append(ready)
        waiting.remove(ready)
    return ordered


def state_without_running(task: Task, ended: Mapping[str, Step]) -> str | None:
    """The state that a task gets without running, by `run_if` and the states of what it depends on; None when it is to run.

    A branch that a condition did not take is excluded. Excluded tasks count as successful, but a task with excluded ones alone is excluded.
    """
    dependencies = task.get("depends_on", [])
    if not dependencies:
        return None
    run_if = task.get("run_if", "ALL_SUCCESS")
    steps = [(ended[one["task_key"]], one.get("outcome")) for one in dependencies]
    not_taken = [outcome is not None and step.outcome is not None and step.outcome != outcome for step, outcome in steps]
    states = [EXCLUDED if other else step.state for (step, _), other in zip(steps, not_taken, strict=True)]
    failed = [state in (FAILED, UPSTREAM_FAILED) for state in states]
    if set(states) == {EXCLUDED} or (run_if == "ALL_SUCCESS" and any(not_taken)):
        return EXCLUDED
    rules = {
        "ALL_SUCCESS": (not any(failed), UPSTREAM_FAILED),
        "AT_LEAST_ONE_SUCCESS": (SUCCESS in states, UPSTREAM_FAILED),
        "NONE_FAILED": (not any(failed), UPSTREAM_FAILED),
        "ALL_DONE": (True, EXCLUDED),
        "AT_LEAST_ONE_FAILED": (any(failed), EXCLUDED),
        "ALL_FAILED": (all(failed), EXCLUDED),
    }
    if run_if not in rules:
        raise ReplayError(f"{task['task_key']}: run_if {run_if!r} is not one of {', '.join(rules)}")
    met, otherwise = rules[run_if]
    return None if met else otherwise


def holds(condition: Mapping[str, str], where: str) -> bool:
    """A resolved condition: equality compares texts (12.0 is not 12), everything else compares numbers."""
    kind, left, right = condition["op"], condition["left"], condition["right"]
    if kind in ("EQUAL_TO", "NOT_EQUAL"):
        return (left == right) is (kind == "EQUAL_TO")
    if kind not in NUMERIC:
        raise ReplayError(f"{where}: op {kind!r} is not one of EQUAL_TO, NOT_EQUAL, {', '.join(NUMERIC)}")
    try:
        return bool(NUMERIC[kind](float(left), float(right)))
    except ValueError as error:
        raise ReplayError(f"{where}: {kind} compares numbers, found {left!r} and {right!r}") from error


def _wheel_arguments(wheel: Mapping[str, Any], known: Mapping[str, object], name: str) -> list[str]:
    """Positional parameters as they are; named ones, to which the job's are handed down, as --name=value."""
    if "named_parameters" not in wheel:
        return list(wheel.get("parameters", []))
    named = resolve(wheel["named_parameters"], known, name)
    return [f"--{short}={value}" for short, value in _with_handed_down(named, _job_parameters(known), name).items()]


def _job_parameters(known: Mapping[str, object]) -> dict[str, str]:
    prefix = "job.parameters."
    return {name.removeprefix(prefix): text_of(value) for name, value in known.items() if name.startswith(prefix)}


def _with_handed_down(given: Mapping[str, str], handed: Mapping[str, str], where: str) -> dict[str, str]:
    """A task's own key-value parameters and the job's. On Databricks the job's win, silently: one that would change raises ReplayError."""
    if lost := sorted(name for name in given if name in handed and handed[name] != given[name]):
        raise ReplayError(
            f"{where}: gives {', '.join(lost)}, but the job's own parameter of that name is handed down and wins; use another name"
        )
    return {**given, **handed}
