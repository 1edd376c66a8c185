"""The workspace for tests, by itself: each kind of object from creation to deletion, and bad calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from workspace import Workspace, serve
from workspace_client import Client

JOB = {"name": "daily", "tasks": [{"task_key": "a"}, {"task_key": "b", "depends_on": [{"task_key": "a"}]}]}


def test_identity_needs_a_token(workspace: Workspace) -> None:
    with serve(workspace) as url:
        assert Client(url).get("/api/2.0/preview/scim/v2/Me") == (200, {"id": "1", "userName": "tester@example.com"})
        status, answer = Client(url, token="").get("/api/2.0/preview/scim/v2/Me")
        assert (status, answer["error_code"]) == (401, "UNAUTHENTICATED")
        assert Client(url, token="").get("/.well-known/databricks-config")[0] == 200


def test_an_unknown_call_is_404_and_remembered(workspace: Workspace, client: Client) -> None:
    status, answer = client.get("/api/2.0/pipelines")
    assert (status, answer["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
    assert workspace.unknown == ["GET /api/2.0/pipelines"]


def test_job_from_creation_to_deletion(client: Client) -> None:
    assert client.get("/api/2.2/jobs/list") == (200, {"has_more": False})
    job_id = client.post("/api/2.2/jobs/create", **JOB)[1]["job_id"]
    assert client.get("/api/2.2/jobs/get", job_id=job_id)[1]["settings"] == JOB
    assert client.post("/api/2.2/jobs/update", job_id=job_id, new_settings={"tags": {"a": "b"}})[0] == 200
    assert client.get("/api/2.2/jobs/get", job_id=job_id)[1]["settings"] == {**JOB, "tags": {"a": "b"}}
    assert client.post("/api/2.2/jobs/reset", job_id=job_id, new_settings={**JOB, "name": "other"})[0] == 200
    listed = client.get("/api/2.2/jobs/list", name="other")[1]["jobs"]
    assert [job["settings"] for job in listed] == [{"name": "other"}]
    assert client.get("/api/2.2/jobs/list", name="daily") == (200, {"has_more": False})
    assert client.post("/api/2.2/jobs/delete", job_id=job_id) == (200, {})
    assert client.get("/api/2.2/jobs/get", job_id=job_id)[0] == 404


@pytest.mark.parametrize(
    "settings",
    [
        {"tasks": []},
        {"name": "x", "tasks": "a"},
        {"name": "x", "tasks": [{}]},
        {"name": "x", "tasks": [{"task_key": "a"}, {"task_key": "a"}]},
        {"name": "x", "tasks": [{"task_key": "a", "depends_on": [{"task_key": "missing"}]}]},
        {"name": "x", "tasks": [{"task_key": "a", "job_cluster_key": "missing"}]},
    ],
)
def test_a_job_that_cannot_be_is_refused(workspace: Workspace, client: Client, settings: dict[str, Any]) -> None:
    status, answer = client.post("/api/2.2/jobs/create", **settings)
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert workspace.jobs.settings == {}


def test_run_of_a_job(client: Client) -> None:
    job = {**JOB, "parameters": [{"name": "as_of", "default": "2024-12-31"}]}
    job_id = client.post("/api/2.2/jobs/create", **job)[1]["job_id"]
    run_id = client.post("/api/2.2/jobs/run-now", job_id=job_id, job_parameters={"as_of": "2025-01-01"})[1]["run_id"]
    run = client.get("/api/2.2/jobs/runs/get", run_id=run_id)[1]
    assert run["job_parameters"] == [{"name": "as_of", "value": "2025-01-01"}]
    assert [task["task_key"] for task in run["tasks"]] == ["a", "b"]
    assert client.get("/api/2.2/jobs/runs/get-output", run_id=run["tasks"][0]["run_id"])[0] == 200
    assert client.get("/api/2.2/jobs/runs/get-output", run_id=run_id)[0] == 400
    assert len(client.get("/api/2.2/jobs/runs/list", job_id=job_id)[1]["runs"]) == 1
    assert client.get("/api/2.2/jobs/runs/list", job_id=job_id, active_only="true")[1] == {"has_more": False}
    assert client.post("/api/2.2/jobs/run-now", job_id=job_id, job_parameters={"day": "1"})[0] == 400
    assert client.post("/api/2.2/jobs/run-now", job_id=1)[0] == 404
    assert client.get("/api/2.2/jobs/runs/get", run_id=1)[0] == 404


def test_files_from_folder_to_deletion(client: Client) -> None:
    folder, name = "/Workspace/Users/a/b", "/api/2.0/workspace-files/import-file/Workspace%2FUsers%2Fa%2Fb%2Fc+d.txt"
    assert client.send("POST", name, "overwrite=false", b"1")[0] == 404
    assert client.post("/api/2.0/workspace/mkdirs", path=folder) == (200, {})
    assert client.send("POST", name, "overwrite=false", b"1") == (200, {})
    assert client.send("POST", name, "overwrite=false", b"2")[0] == 409
    assert client.get("/api/2.0/workspace/export", path=f"{folder}/c+d.txt", direct_download="true") == (200, b"1")
    assert client.get("/api/2.0/workspace/export", path="/Users/a/b/c+d.txt") == (200, {"content": "MQ=="})
    assert client.send("POST", name, "overwrite=true", b"2") == (200, {})
    assert client.get("/api/2.0/workspace/export", path=f"{folder}/c+d.txt", direct_download="true") == (200, b"2")
    listed = client.get("/api/2.0/workspace/list", path="/Workspace/Users/a")[1]["objects"]
    assert [(one["object_type"], one["path"]) for one in listed] == [("DIRECTORY", folder)]
    assert client.post("/api/2.0/workspace/delete", path=folder)[0] == 400
    assert client.post("/api/2.0/workspace/delete", path=folder, recursive=True) == (200, {})
    for path in (folder, f"{folder}/c+d.txt"):
        assert client.get("/api/2.0/workspace/get-status", path=path)[0] == 404
    assert client.get("/api/2.0/workspace/get-status", path="/Workspace/Users/a")[1]["object_type"] == "DIRECTORY"


def test_a_notebook_loses_its_extension(workspace: Workspace, client: Client) -> None:
    client.post("/api/2.0/workspace/mkdirs", path="/Shared/n")
    base = "/api/2.0/workspace-files/import-file/Workspace/Shared/n/"
    for name, content in (("one.py", b"# Databricks notebook source\n1"), ("two.ipynb", b"{}"), ("three.py", b"1")):
        assert client.send("POST", base + name, "overwrite=true", content)[0] == 200
    assert sorted(workspace.files.notebooks) == ["/Workspace/Shared/n/one", "/Workspace/Shared/n/two"]
    assert client.get("/api/2.0/workspace/get-status", path="/Shared/n/one")[1]["object_type"] == "NOTEBOOK"
    assert client.get("/api/2.0/workspace/get-status", path="/Shared/n/three.py")[1]["object_type"] == "FILE"


def test_experiment_from_creation_to_deletion(client: Client) -> None:
    base = "/api/2.0/mlflow/experiments/"
    experiment_id = client.post(base + "create", name="/Shared/e")[1]["experiment_id"]
    assert client.post(base + "create", name="/Shared/e")[0] == 400
    assert client.post(base + "create", name="e")[0] == 400
    assert client.post(base + "set-experiment-tag", experiment_id=experiment_id, key="k", value="v") == (200, {})
    assert client.post(base + "update", experiment_id=experiment_id, new_name="/Shared/f") == (200, {})
    assert client.get(base + "get-by-name", experiment_name="/Shared/f")[1]["experiment"]["tags"] == [{"key": "k", "value": "v"}]
    assert [one["name"] for one in client.get(base + "list")[1]["experiments"]] == ["/Shared/f"]
    assert client.post(base + "delete", experiment_id=experiment_id) == (200, {})
    assert client.get(base + "get", experiment_id=experiment_id)[1]["experiment"]["lifecycle_stage"] == "deleted"
    assert client.get(base + "list")[1]["experiments"] == []
    assert client.get(base + "get", experiment_id="1")[0] == 404


SCHEMA = {"catalog_name": "c", "name": "s"}
PARTS = [
    ("schemas", SCHEMA, "c.s", "schemas"),
    ("volumes", {**SCHEMA, "schema_name": "s", "name": "v", "volume_type": "MANAGED"}, "c.s.v", "volumes"),
    ("models", {**SCHEMA, "schema_name": "s", "name": "m"}, "c.s.m", "registered_models"),
]


@pytest.mark.parametrize(("kind", "body", "full_name", "listed"), PARTS)
def test_catalog_object_from_creation_to_deletion(client: Client, kind: str, body: dict[str, Any], full_name: str, listed: str) -> None:
    base = f"/api/2.1/unity-catalog/{kind}"
    if kind != "schemas":
        assert client.post(base, **body)[0] == 404, "without its schema"
        client.post("/api/2.1/unity-catalog/schemas", **SCHEMA)
    assert client.get(f"{base}/{full_name}")[0] == 404
    assert client.post(base, **body)[1]["full_name"] == full_name
    assert client.post(base, **body)[0] == 409
    assert client.send("PATCH", f"{base}/{full_name}", None, b'{"comment": "x"}')[1]["comment"] == "x"
    assert client.get(f"{base}/{full_name}")[1] == {**body, "full_name": full_name, "owner": "tester@example.com", "comment": "x"}
    assert [one["full_name"] for one in client.get(base, catalog_name="c")[1][listed]] == [full_name]
    assert client.get(base, catalog_name="other")[1] == {}
    assert client.send("DELETE", f"{base}/{full_name}") == (200, {})
    assert client.send("DELETE", f"{base}/{full_name}")[0] == 404


def test_a_schema_with_something_in_it_needs_force(workspace: Workspace, client: Client) -> None:
    for kind, body, _, _ in PARTS:
        client.post(f"/api/2.1/unity-catalog/{kind}", **body)
    assert client.send("DELETE", "/api/2.1/unity-catalog/schemas/c.s")[0] == 400
    assert client.send("DELETE", "/api/2.1/unity-catalog/schemas/c.s", "force=true") == (200, {})
    assert workspace.catalog.objects == {"schemas": {}, "volumes": {}, "models": {}}


def test_a_catalog_that_does_not_exist() -> None:
    with serve(Workspace(catalogs=frozenset({"dev"}))) as url:
        client = Client(url)
        assert client.post("/api/2.1/unity-catalog/schemas", catalog_name="prod", name="s")[0] == 404
        assert client.post("/api/2.1/unity-catalog/schemas", catalog_name="dev", name="s")[0] == 200
        assert client.get("/api/2.1/unity-catalog/catalogs/prod")[0] == 404


def test_grants(client: Client) -> None:
    client.post("/api/2.1/unity-catalog/schemas", **SCHEMA)
    path = "/api/2.1/unity-catalog/permissions/schema/c.s"
    assert client.get(path) == (200, {})
    granted = {"changes": [{"principal": "team", "add": ["SELECT", "USE_SCHEMA"]}]}
    client.send("PATCH", path, None, json.dumps(granted).encode())
    replaced = {"changes": [{"principal": "team", "add": ["MODIFY"], "remove": ["ALL_PRIVILEGES"]}]}
    expected = {"privilege_assignments": [{"principal": "team", "privileges": ["MODIFY"]}]}
    assert client.send("PATCH", path, None, json.dumps(replaced).encode()) == (200, expected)
    assert client.get(path) == (200, expected)
    assert client.get("/api/2.1/unity-catalog/permissions/schema/c.other")[0] == 404


def test_permissions_go_with_an_object(client: Client) -> None:
    job_id = client.post("/api/2.2/jobs/create", **JOB)[1]["job_id"]
    path, entry = f"/api/2.0/permissions/jobs/{job_id}", {"group_name": "g", "permission_level": "CAN_VIEW"}
    assert client.get(path) == (200, {"access_control_list": []})
    body = {"access_control_list": [entry]}
    assert client.send("PUT", path, None, json.dumps(body).encode()) == (200, body)
    more = {"access_control_list": [{**entry, "permission_level": "CAN_MANAGE"}]}
    assert client.send("PATCH", path, None, json.dumps(more).encode()) == (200, more)
    assert client.send("PUT", path, None, b'{"access_control_list": [{"permission_level": "CAN_VIEW"}]}')[0] == 400
    assert client.send("PUT", "/api/2.0/permissions/jobs/1", None, json.dumps(body).encode())[0] == 404


def test_secret_scope_from_creation_to_deletion(client: Client) -> None:
    base = "/api/2.0/secrets/"
    assert client.get(base + "list", scope="s")[0] == 404
    assert client.post(base + "scopes/create", scope="s") == (200, {})
    assert client.post(base + "scopes/create", scope="s")[0] == 400
    assert client.post(base + "put", scope="s", key="k", string_value="never kept") == (200, {})
    assert client.get(base + "list", scope="s") == (200, {"secrets": [{"key": "k"}]})
    assert client.post(base + "acls/put", scope="s", principal="p", permission="READ") == (200, {})
    assert client.get(base + "acls/list", scope="s") == (200, {"items": [{"principal": "p", "permission": "READ"}]})
    assert client.post(base + "acls/delete", scope="s", principal="p") == (200, {})
    assert client.get(base + "acls/list", scope="s") == (200, {})
    assert client.post(base + "scopes/delete", scope="s") == (200, {})
    assert client.get(base + "scopes/list") == (200, {})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"'])
def test_a_body_that_is_no_object_is_400(client: Client, body: bytes) -> None:
    for path in ("/api/2.2/jobs/create", "/api/2.0/workspace/mkdirs", "/api/2.1/unity-catalog/schemas", "/api/2.0/secrets/put"):
        status, answer = client.send("POST", path, None, body)
        assert (status, answer["error_code"]) == (400, "MALFORMED_REQUEST"), path


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/2.2/jobs/delete", {"job_id": "1"}),
        ("/api/2.2/jobs/delete", {"job_id": True}),
        ("/api/2.2/jobs/reset", {}),
        ("/api/2.0/workspace/mkdirs", {"path": ""}),
        ("/api/2.1/unity-catalog/schemas", {"catalog_name": "c"}),
    ],
)
def test_a_missing_or_mistyped_field_is_400(client: Client, path: str, body: dict[str, Any]) -> None:
    status, answer = client.post(path, **body)
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert client.get("/api/2.2/jobs/get", job_id="x")[0] == 400


def test_the_official_sdk_reads_what_it_deployed(workspace: Workspace) -> None:
    """The same calls by another client: databricks-sdk, which knows nothing of this workspace."""
    sdk = pytest.importorskip("databricks.sdk", reason="databricks-sdk is not installed")
    from databricks.sdk.service.jobs import JobSettings

    with serve(workspace) as url:
        client = sdk.WorkspaceClient(host=url, token="x")
        assert client.current_user.me().user_name == "tester@example.com"
        job_id = client.jobs.create(**JobSettings.from_dict(JOB).as_shallow_dict()).job_id
        assert [job.job_id for job in client.jobs.list()] == [job_id]
        assert client.jobs.get(job_id).settings.as_dict() == JOB
        run = client.jobs.run_now(job_id=job_id).result()
        assert [task.state.result_state.value for task in run.tasks] == ["SUCCESS", "SUCCESS"]
        client.schemas.create(name="s", catalog_name="c")
        assert [schema.full_name for schema in client.schemas.list(catalog_name="c")] == ["c.s"]
        client.jobs.delete(job_id)
        with pytest.raises(sdk.errors.NotFound):
            client.jobs.get(job_id)
    assert workspace.unknown == []
