"""MLflow experiments."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from workspace_answers import Failure, Request, absent, invalid


class Experiments:
    """`known` by id. A deleted one stays, marked so, and its name is free again."""

    def __init__(self, ids: Iterator[int]) -> None:
        self._ids = ids
        self.known: dict[str, dict[str, Any]] = {}

    def routes(self) -> list[tuple[str, str, Any]]:
        base = r"/api/2\.0/mlflow/experiments/"
        return [
            ("POST", base + "create", self.create),
            ("GET", base + "get", self.get),
            ("GET", base + "get-by-name", self.get_by_name),
            ("GET", base + "list", self.list_all),
            ("POST", base + "update", self.update),
            ("POST", base + "set-experiment-tag", self.set_tag),
            ("POST", base + "delete", self.delete),
        ]

    def exists(self, experiment_id: str) -> bool:
        return self.known.get(experiment_id, {}).get("lifecycle_stage") == "active"

    def create(self, request: Request) -> dict[str, Any]:
        name = request.required("name")
        if not name.startswith("/"):
            raise invalid(f"name {name!r}: expected a workspace path")
        self._free(name)
        experiment_id = str(next(self._ids))
        self.known[experiment_id] = {**request.json(), "experiment_id": experiment_id, "lifecycle_stage": "active"}
        return {"experiment_id": experiment_id}

    def get(self, request: Request) -> dict[str, Any]:
        return {"experiment": copy.deepcopy(self._known(request.query.get("experiment_id", "")))}

    def get_by_name(self, request: Request) -> dict[str, Any]:
        name = request.query.get("experiment_name", "")
        for experiment in self._active():
            if experiment["name"] == name:
                return {"experiment": copy.deepcopy(experiment)}
        raise absent(f"experiment {name!r}")

    def list_all(self, request: Request) -> dict[str, Any]:
        return {"experiments": copy.deepcopy(self._active())}

    def update(self, request: Request) -> dict[str, Any]:
        experiment = self._known(request.required("experiment_id"))
        name = request.required("new_name")
        if name != experiment["name"]:
            self._free(name)
        experiment["name"] = name
        return {}

    def set_tag(self, request: Request) -> dict[str, Any]:
        experiment = self._known(request.required("experiment_id"))
        tag = {"key": request.required("key"), "value": request.required("value")}
        experiment["tags"] = [*(known for known in experiment.get("tags", []) if known["key"] != tag["key"]), tag]
        return {}

    def delete(self, request: Request) -> dict[str, Any]:
        self._known(request.required("experiment_id"))["lifecycle_stage"] = "deleted"
        return {}

    def _known(self, experiment_id: str) -> dict[str, Any]:
        if experiment_id not in self.known:
            raise absent(f"experiment {experiment_id!r}")
        return self.known[experiment_id]

    def _active(self) -> list[dict[str, Any]]:
        return [experiment for experiment in self.known.values() if experiment["lifecycle_stage"] == "active"]

    def _free(self, name: str) -> None:
        if any(experiment["name"] == name for experiment in self._active()):
            raise Failure(400, "RESOURCE_ALREADY_EXISTS", f"experiment {name!r} already exists")
