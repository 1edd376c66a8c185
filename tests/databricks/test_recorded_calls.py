"""The workspace for tests, held against what the official CLI was seen to ask and to be answered.

The recorded calls are a file beside the checkout, not part of it: `$PROPENSITY_SHARED_DATA/databricks_cli/transcript.json`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from workspace import Workspace
from workspace_client import Client

SHARED = Path(os.environ.get("PROPENSITY_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
TRANSCRIPT = SHARED / "databricks_cli" / "transcript.json"
ID_OF_PATH = {"jobs": "job_id", "experiments": "experiment_id"}


class Ids:
    """Recorded ids beside ours, learnt where an answer gives an id under the same field as the recorded answer does.

    Kinds are kept apart (job_id, experiment_id, run_id), because the recorded workspace counts all of them with one counter. An id that no
    answer has given yet is sent as it was recorded: ours start elsewhere, so an unknown object stays unknown.
    """

    def __init__(self) -> None:
        self.ours: dict[tuple[str, str], str] = {}

    def learn(self, recorded: Any, answer: Any) -> None:
        if isinstance(recorded, dict) and isinstance(answer, dict):
            for name, value in recorded.items():
                if name in ("job_id", "experiment_id", "run_id") and name in answer:
                    known = self.ours.setdefault((name, str(value)), str(answer[name]))
                    assert known == str(answer[name]), f"{name} {value} was {known} and is now {answer[name]}"
                else:
                    self.learn(value, answer.get(name))
        elif isinstance(recorded, list) and isinstance(answer, list):
            for one, other in zip(recorded, answer, strict=True):
                self.learn(one, other)

    def path(self, text: str) -> str:
        """A path such as /api/2.0/permissions/jobs/1006 with our id."""
        return re.sub(
            r"(?<=/permissions/)(jobs|experiments)/(\d+)$", lambda m: f"{m[1]}/{self.ours.get((ID_OF_PATH[m[1]], m[2]), m[2])}", text
        )

    def query(self, text: str | None) -> str | None:
        return text and re.sub(r"\b(job_id|experiment_id|run_id)=(\d+)", lambda m: f"{m[1]}={self.ours.get((m[1], m[2]), m[2])}", text)

    def body(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._value(name, item) for name, item in value.items()}
        return [self.body(item) for item in value] if isinstance(value, list) else value

    def _value(self, name: str, value: Any) -> Any:
        ours = self.ours.get((name, str(value))) if isinstance(value, int | str) else None
        return self.body(value) if ours is None else type(value)(ours)


def shape(value: Any) -> Any:
    """Names and types of an answer. Lists keep their length: tasks of a run, entries of an access control list."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in sorted(value.items())}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def _recorded() -> list[dict[str, Any]]:
    if not TRANSCRIPT.is_file():
        pytest.skip(f"the calls recorded of the official CLI are not in {TRANSCRIPT}: set PROPENSITY_SHARED_DATA")
    return json.loads(TRANSCRIPT.read_text("utf-8"))


def test_recorded_calls_are_answered_alike(workspace: Workspace, client: Client) -> None:
    """Every recorded call, in order: same status, same names and types, same error code; ids are mapped. None is unknown here."""
    ids, differences = Ids(), []
    calls = [(command["command"], call) for command in _recorded() for call in command["calls"]]
    for number, (command, call) in enumerate(calls):
        body = b"<bytes>" if "import-file" in call["path"] else None
        if call["body"] is not None:
            body = json.dumps(ids.body(call["body"])).encode()
        status, answer = client.send(call["method"], ids.path(call["path"]), ids.query(call["query"]), body)
        found, expected = (status, shape(answer)), (call["status"], shape(call["response"]))
        if call["response"] == "<bytes>":
            expected = (call["status"], "bytes")
        if found != expected or (status >= 400 and answer["error_code"] != call["response"]["error_code"]):
            differences.append(f"{number} of {command}: {call['method']} {call['path']}: expected {expected}, found {found}")
        elif status < 400:
            ids.learn(call["response"], answer)
    assert differences == []
    assert len(workspace.calls) == len(calls) > 100
    assert workspace.unknown == []


def test_recorded_calls_leave_what_they_deployed(workspace: Workspace, client: Client) -> None:
    """dev was deployed, run and destroyed; prod was deployed: what is there is prod's, with the settings and bytes that were sent."""
    ids, sent = Ids(), {}
    for command in _recorded():
        for call in command["calls"]:
            body = None if call["body"] is None else json.dumps(ids.body(call["body"])).encode()
            _, answer = client.send(call["method"], ids.path(call["path"]), ids.query(call["query"]), body)
            ids.learn(call["response"], answer)
            if call["path"].endswith("/jobs/create"):
                sent[call["body"]["name"]] = call["body"]
    (name,) = workspace.jobs.by_name()
    assert workspace.jobs.by_name()[name] == sent[name]
    prod = "/Workspace/Shared/.bundle/demo/prod"
    wheels = [task["libraries"][0]["whl"] for task in sent[name]["tasks"] if "libraries" in task]
    assert wheels
    assert set(wheels) <= set(workspace.files.contents)
    state = json.loads(workspace.files.contents[f"{prod}/state/resources.json"])
    assert state["state_version"] == 2
    assert f"{prod}/state/deploy.lock" not in workspace.files.contents
    assert all(path.startswith(prod) for path in workspace.files.contents)
    assert list(workspace.catalog.objects["schemas"]) == ["dev.propensity"]
    assert sorted(kind for kind, _ in workspace.permissions.lists) == ["experiments", "jobs"]
    assert [run["run_name"] for run in workspace.jobs.runs.values()] == ["[dev tester] demo-daily"]
