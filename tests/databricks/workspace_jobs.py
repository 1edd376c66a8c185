"""Jobs and their runs. A run is over at once, successfully, and has run nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from workspace_answers import Request, absent, field_of, invalid

DONE = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"}


class Jobs:
    """`settings` by job id; `runs` by run id, with the runs of their tasks; `task_runs`: id of the run by id of the task's run."""

    def __init__(self, ids: Iterator[int], user: str) -> None:
        self._ids, self._user = ids, user
        self.settings: dict[int, dict[str, Any]] = {}
        self.runs: dict[int, dict[str, Any]] = {}
        self.task_runs: dict[int, int] = {}

    def routes(self) -> list[tuple[str, str, Any]]:
        base = r"/api/2\.[012]/jobs/"
        return [
            ("POST", base + "create", self.create),
            ("POST", base + "reset", self.reset),
            ("POST", base + "update", self.update),
            ("POST", base + "delete", self.delete),
            ("GET", base + "get", self.get),
            ("GET", base + "list", self.list_all),
            ("POST", base + "run-now", self.run_now),
            ("GET", base + "runs/get", self.get_run),
            ("GET", base + "runs/get-output", self.get_output),
            ("GET", base + "runs/list", self.list_runs),
            ("POST", base + "runs/cancel", self.cancel),
        ]

    def by_name(self) -> dict[str, dict[str, Any]]:
        """Settings of the deployed jobs by the jobs' names."""
        return {settings["name"]: settings for settings in self.settings.values()}

    def exists(self, job_id: str) -> bool:
        return job_id.isdecimal() and int(job_id) in self.settings

    def create(self, request: Request) -> dict[str, Any]:
        settings = _checked(request.json())
        job_id = next(self._ids)
        self.settings[job_id] = settings
        return {"job_id": job_id}

    def reset(self, request: Request) -> dict[str, Any]:
        job_id = self._known(request.required("job_id", int))
        self.settings[job_id] = _checked(request.required("new_settings", dict))
        return {}

    def update(self, request: Request) -> dict[str, Any]:
        """Fields of `new_settings` replace those of the job; `fields_to_remove` go."""
        job_id = self._known(request.required("job_id", int))
        changed = {**self.settings[job_id], **request.json().get("new_settings", {})}
        for name in request.json().get("fields_to_remove", []):
            changed.pop(name, None)
        self.settings[job_id] = _checked(changed)
        return {}

    def delete(self, request: Request) -> dict[str, Any]:
        del self.settings[self._known(request.required("job_id", int))]
        return {}

    def get(self, request: Request) -> dict[str, Any]:
        return self._job(self._known(request.number("job_id")))

    def list_all(self, request: Request) -> dict[str, Any]:
        """All jobs, or those of one `name`; with their tasks only when `expand_tasks` is asked for."""
        name, expand = request.query.get("name"), request.query.get("expand_tasks") == "true"
        jobs = [self._job(job_id) for job_id, settings in self.settings.items() if name in (None, settings["name"])]
        for job in jobs:
            if not expand:
                job["settings"] = {key: value for key, value in job["settings"].items() if key not in ("tasks", "job_clusters")}
        return {"jobs": jobs, "has_more": False} if jobs else {"has_more": False}

    def run_now(self, request: Request) -> dict[str, Any]:
        job_id = self._known(request.required("job_id", int))
        settings = self.settings[job_id]
        declared = {parameter["name"] for parameter in settings.get("parameters", [])}
        given = request.json().get("job_parameters", {})
        if undeclared := sorted(set(given) - declared):
            raise invalid(f"job_parameters: {', '.join(undeclared)} not declared by {settings['name']}")
        run_id = next(self._ids)
        tasks = [{"task_key": task["task_key"], "run_id": next(self._ids), "state": dict(DONE)} for task in settings.get("tasks", [])]
        self.task_runs |= {task["run_id"]: run_id for task in tasks}
        self.runs[run_id] = {
            "run_id": run_id,
            "job_id": job_id,
            "run_name": settings["name"],
            "run_page_url": f"http://127.0.0.1/jobs/{job_id}/runs/{run_id}",
            "run_type": "JOB_RUN",
            "state": dict(DONE),
            "tasks": tasks,
        } | ({"job_parameters": [{"name": name, "value": value} for name, value in given.items()]} if given else {})
        return {"run_id": run_id}

    def get_run(self, request: Request) -> dict[str, Any]:
        run_id = request.number("run_id")
        run_id = self.task_runs.get(run_id, run_id)
        if run_id not in self.runs:
            raise absent(f"run {run_id}")
        return copy.deepcopy(self.runs[run_id])

    def get_output(self, request: Request) -> dict[str, Any]:
        """Output belongs to a task's run; the run of a job with several tasks has none."""
        run_id = request.number("run_id")
        if run_id in self.runs:
            raise invalid(f"run {run_id} has several tasks: ask for the output of one of them")
        if run_id not in self.task_runs:
            raise absent(f"run {run_id}")
        return {"logs": "this workspace runs nothing\n"}

    def list_runs(self, request: Request) -> dict[str, Any]:
        wanted = request.query.get("job_id")
        over = request.query.get("active_only") == "true"
        runs = [] if over else [copy.deepcopy(run) for run in self.runs.values() if wanted in (None, str(run["job_id"]))]
        return {"runs": runs, "has_more": False} if runs else {"has_more": False}

    def cancel(self, request: Request) -> dict[str, Any]:
        if (run_id := request.required("run_id", int)) not in self.runs:
            raise absent(f"run {run_id}")
        return {}

    def _known(self, job_id: int) -> int:
        if job_id not in self.settings:
            raise absent(f"job {job_id}")
        return job_id

    def _job(self, job_id: int) -> dict[str, Any]:
        return {"job_id": job_id, "settings": copy.deepcopy(self.settings[job_id]), "creator_user_name": self._user}


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a job as given. Task keys are there and unique; what a task depends on and the cluster it names are there."""
    field_of(settings, "name")
    tasks = settings.get("tasks", [])
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise invalid("tasks: expected a list of objects")
    keys = [field_of(task, "task_key") for task in tasks]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        raise invalid(f"task_key: {', '.join(repeated)} more than once")
    clusters = {cluster.get("job_cluster_key") for cluster in settings.get("job_clusters", [])}
    for task in tasks:
        if unknown := sorted({dependency["task_key"] for dependency in task.get("depends_on", [])} - set(keys)):
            raise invalid(f"task {task['task_key']}: depends on {', '.join(unknown)}, which the job does not have")
        if (cluster := task.get("job_cluster_key")) and cluster not in clusters:
            raise invalid(f"task {task['task_key']}: job cluster {cluster} is not among the job's")
    return copy.deepcopy(settings)
