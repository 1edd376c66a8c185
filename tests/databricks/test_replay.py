"""What runs a job's tasks here: order, references, conditions, other jobs, for-each; with a double that runs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from replay import Replay, Task, TaskFailed, in_dependency_order
from replay_references import ReplayError, resolve, times

NOW = datetime(2024, 12, 31, 23, 30, tzinfo=UTC)


def task(key: str, *after: str, words: list[str] | None = None, **more: Any) -> Task:
    wheel = {"package_name": "tiny", "entry_point": key, "parameters": words or []}
    kind = {} if set(more) & {"condition_task", "run_job_task", "for_each_task"} else {"python_wheel_task": wheel}
    return {"task_key": key, "depends_on": [{"task_key": one} for one in after], **kind, **more}


class Tasks:
    """Runs nothing: notes what it was asked to run; publishes `values` and fails as told, by task key."""

    def __init__(self, failing: tuple[str, ...] = (), **values: dict[str, Any]) -> None:
        self.failing, self.values = failing, values
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self, task: Task, arguments: list[str], values: Path) -> None:
        key = task["task_key"]
        self.calls.append((key, arguments))
        if key in self.failing:
            raise TaskFailed(f"task {key}: no space left")
        if key in self.values:
            values.write_text(json.dumps(self.values[key]))


@pytest.fixture
def replay(tmp_path: Path) -> Callable[..., Replay]:
    return lambda tasks, jobs=None: Replay(tasks, tmp_path, NOW, jobs or {})


def states(replay: Replay) -> dict[str, str]:
    return {step.name: step.state for step in replay.steps}


def job(*tasks: Task, **parameters: str) -> dict[str, Any]:
    return {"name": "j", "tasks": list(tasks), "parameters": [{"name": name, "default": value} for name, value in parameters.items()]}


def test_tasks_run_after_what_they_depend_on(replay: Callable[..., Replay]) -> None:
    tasks = Tasks()
    replay(tasks).run(job(task("c", "b"), task("b", "a"), task("d"), task("a")))
    assert [key for key, _ in tasks.calls] == ["d", "a", "b", "c"]


def test_a_dependency_that_is_no_task_and_a_circle() -> None:
    with pytest.raises(ReplayError, match="b: depends on missing, which is no task"):
        in_dependency_order([task("a"), task("b", "missing")])
    with pytest.raises(ReplayError, match="a, b: depend on each other in a circle"):
        in_dependency_order([task("a", "b"), task("b", "a")])


def test_references_are_replaced(replay: Callable[..., Replay]) -> None:
    tasks = Tasks(a={"n": 3, "names": ["x", "y"], "ok": True})
    words = ["{{job.parameters.day}}", "{{ tasks.a.values.n }}{{tasks.`a`.values.ok}}", "{{tasks.a.values.names}}", "{{task.name}}"]
    replay(tasks).run(job(task("a"), task("b", "a", words=words), day="{{job.start_time.iso_date}}", other="x"))
    assert tasks.calls[1] == ("b", ["2024-12-31", "3true", '["x","y"]', "b"])
    replay(tasks).run(job(task("a"), task("b", "a", words=words), day="x"), {"day": "2020-01-01"})
    assert tasks.calls[-1][1][0] == "2020-01-01"


def test_times_are_in_utc() -> None:
    known = times(datetime.fromisoformat("2024-12-31T20:00:00-05:00"))
    assert resolve("{{job.trigger.time.iso_datetime}} {{job.start_time.day}}", known, "x") == "2025-01-01T01:00:00Z 1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{{job.parameters.nothing}}"], r"b\[0\]: .*refers to nothing; known here: .*job.parameters.day"),
        (["ok", "{{tasks.a.values.n}}"], r"b\[1\]: .*refers to nothing"),
        (["{{tasks.z.values.n}}"], "refers to nothing"),
        (["${var.catalog}"], "bundle variable"),
    ],
)
def test_a_reference_to_nothing(replay: Callable[..., Replay], words: list[str], message: str) -> None:
    with pytest.raises(ReplayError, match=message):
        replay(Tasks()).run(job(task("a"), task("b", "a", words=words), day="x"))


def test_an_undeclared_parameter_is_refused(replay: Callable[..., Replay]) -> None:
    with pytest.raises(ReplayError, match="dya are not declared"):
        replay(Tasks()).run(job(task("a"), day="x"), {"dya": "1"})


def test_named_parameters_come_with_the_jobs_own(replay: Callable[..., Replay]) -> None:
    tasks = Tasks()
    named = {"package_name": "tiny", "entry_point": "a", "named_parameters": {"level": "{{job.parameters.day}}"}}
    replay(tasks).run(job(task("a", python_wheel_task=named), day="2"))
    assert tasks.calls == [("a", ["--level=2", "--day=2"])]
    with pytest.raises(ReplayError, match="a: gives day, but the job's own parameter of that name is handed down"):
        replay(tasks).run(job(task("a", python_wheel_task={**named, "named_parameters": {"day": "1"}}), day="2"))


@pytest.mark.parametrize(
    ("operation", "left", "right", "taken"),
    [
        ("EQUAL_TO", "{{tasks.a.values.n}}", "12", True),
        ("EQUAL_TO", "12.0", "12", False),
        ("NOT_EQUAL", "12.0", "12", True),
        ("GREATER_THAN", "{{tasks.a.values.n}}", "9", True),
        ("GREATER_THAN_OR_EQUAL", "12.0", "12", True),
        ("LESS_THAN", "12", "12", False),
        ("LESS_THAN_OR_EQUAL", "12", "12.5", True),
    ],
)
def test_a_condition_chooses_the_branch(replay: Callable[..., Replay], operation: str, left: str, right: str, taken: bool) -> None:
    one, other = ({"depends_on": [{"task_key": "if", "outcome": outcome}]} for outcome in ("true", "false"))
    condition = {"op": operation, "left": left, "right": right}
    run = replay(tasks := Tasks(a={"n": 12}))
    run.run(job(task("a"), task("if", "a", condition_task=condition), task("yes", **one), task("no", **other), task("after", "no")))
    assert [key for key, _ in tasks.calls] == (["a", "yes"] if taken else ["a", "no", "after"])
    assert states(run)["no" if taken else "yes"] == "EXCLUDED"


def test_a_condition_that_cannot_be_judged(replay: Callable[..., Replay]) -> None:
    for operation, message in (("LESS_THAN", "compares numbers, found 'a' and '1'"), ("LIKE", "op 'LIKE' is not one of")):
        with pytest.raises(ReplayError, match=message):
            replay(Tasks()).run(job(task("if", condition_task={"op": operation, "left": "a", "right": "1"})))


def test_a_failing_task_ends_the_job_with_its_own_error(replay: Callable[..., Replay]) -> None:
    run = replay(tasks := Tasks(failing=("b",)))
    with pytest.raises(TaskFailed, match="task b: no space left"):
        run.run(job(task("a"), task("b", "a"), task("c", "b"), task("clean_up", "c", run_if="ALL_DONE"), task("d", "a")))
    assert [key for key, _ in tasks.calls] == ["a", "b", "clean_up", "d"]
    assert states(run) == {"a": "SUCCESS", "b": "FAILED", "c": "UPSTREAM_FAILED", "clean_up": "SUCCESS", "d": "SUCCESS"}


@pytest.mark.parametrize(
    ("run_if", "failing", "state"),
    [
        ("ALL_SUCCESS", (), "SUCCESS"),
        ("ALL_SUCCESS", ("a",), "UPSTREAM_FAILED"),
        ("AT_LEAST_ONE_SUCCESS", ("a",), "SUCCESS"),
        ("AT_LEAST_ONE_SUCCESS", ("a", "b"), "UPSTREAM_FAILED"),
        ("NONE_FAILED", ("a",), "UPSTREAM_FAILED"),
        ("ALL_DONE", ("a", "b"), "SUCCESS"),
        ("AT_LEAST_ONE_FAILED", (), "EXCLUDED"),
        ("AT_LEAST_ONE_FAILED", ("a",), "SUCCESS"),
        ("ALL_FAILED", ("a",), "EXCLUDED"),
        ("ALL_FAILED", ("a", "b"), "SUCCESS"),
    ],
)
def test_run_if(replay: Callable[..., Replay], run_if: str, failing: tuple[str, ...], state: str) -> None:
    run = replay(Tasks(failing=failing))
    steps = job(task("a"), task("b"), task("c", "a", "b", run_if=run_if))
    if failing:
        with pytest.raises(TaskFailed):
            run.run(steps)
    else:
        run.run(steps)
    assert states(run)["c"] == state
    with pytest.raises(ReplayError, match="run_if 'SOMETIMES'"):
        replay(Tasks()).run(job(task("a"), task("b", "a", run_if="SOMETIMES")))


def test_another_job_is_run_with_its_parameters(replay: Callable[..., Replay]) -> None:
    training = {**job(task("train", words=["{{job.parameters.day}}", "{{job.parameters.kind}}"]), day="never", kind="none"), "name": "t"}
    for job_id, known in (("${resources.jobs.training.id}", "training"), (77, "77")):
        start = {"job_id": job_id, "job_parameters": {"kind": "full"}}
        run = replay(tasks := Tasks(), {known: training})
        run.run(job(task("retrain", run_job_task=start), day="2024-01-01"))
        assert tasks.calls == [("train", ["2024-01-01", "full"])]
        assert states(run) == {"retrain/train": "SUCCESS", "retrain": "SUCCESS"}
    with pytest.raises(ReplayError, match="retrain: gives kind, but the job's own"):
        replay(Tasks(), {"77": training}).run(job(task("retrain", run_job_task={**start, "job_id": 77}), kind="small"))
    with pytest.raises(ReplayError, match="retrain: job 77 is not here; known: training"):
        replay(Tasks(), {"training": training}).run(job(task("retrain", run_job_task={"job_id": 77})))
    run = replay(Tasks(failing=("train",)), {"77": training})
    with pytest.raises(TaskFailed, match="task train: no space left"):
        run.run(job(task("retrain", run_job_task={"job_id": 77}), task("after", "retrain")))
    assert states(run) == {"retrain/train": "FAILED", "retrain": "FAILED", "after": "UPSTREAM_FAILED"}


def test_for_each_input_in_order(replay: Callable[..., Replay]) -> None:
    inner = task("date", words=["{{input}}", "{{job.parameters.level}}"])
    each = {"inputs": "{{tasks.dates.values.dates}}", "task": inner}
    run = replay(tasks := Tasks(dates={"dates": ["2024-01-01", "2024-01-02"]}))
    run.run(job(task("dates"), task("every", "dates", for_each_task=each), level="x"))
    assert tasks.calls[1:] == [("date", ["2024-01-01", "x"]), ("date", ["2024-01-02", "x"])]
    assert list(states(run)) == ["dates", "every[2024-01-01]/date", "every[2024-01-02]/date", "every"]
    for inputs in ("2024-01-01", '"2024-01-01"'):
        with pytest.raises(ReplayError, match="is not a JSON array"):
            replay(Tasks()).run(job(task("every", for_each_task={**each, "inputs": inputs}), level="x"))


def test_a_task_that_cannot_be_run_here(replay: Callable[..., Replay]) -> None:
    with pytest.raises(ReplayError, match=r"a: no kind of task .* found notebook_task, task_key"):
        replay(Tasks()).run(job({"task_key": "a", "notebook_task": {}}))
