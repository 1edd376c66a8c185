"""A resolved target against Databricks' own packages: `databricks-bundles` knows fields and enums, `databricks-sdk` the API's shape."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from databricks.bundles.experiments import MlflowExperiment
from databricks.bundles.jobs import Job
from databricks.bundles.registered_models import RegisteredModel
from databricks.bundles.schemas import Schema
from databricks.bundles.volumes import Volume
from databricks.sdk.service.catalog import RegisteredModelsAPI, SchemasAPI, VolumesAPI
from databricks.sdk.service.jobs import JobSettings
from databricks.sdk.service.ml import ExperimentsAPI

from scripts.bundle.resolve import Resolved

_BUNDLES: dict[str, Any] = {
    "jobs": Job,
    "schemas": Schema,
    "volumes": Volume,
    "registered_models": RegisteredModel,
    "experiments": MlflowExperiment,
}
_CREATE: dict[str, Callable[..., Any]] = {
    "schemas": SchemasAPI.create,
    "volumes": VolumesAPI.create,
    "registered_models": RegisteredModelsAPI.create,
    "experiments": ExperimentsAPI.create_experiment,
}
_KNOWN: dict[str, set[str]] = {
    "databricks.yml": {"artifacts", "bundle", "include", "permissions", "presets", "resources", "run_as", "sync", "variables", "workspace"},
    "bundle": {"cluster_id", "compute_id", "databricks_cli_version", "deployment", "engine", "git", "name", "uuid", "target", "mode"},
    "sync": {"exclude", "include", "paths"},
    "workspace": {"artifact_path", "auth_type", "client_id", "file_path", "host", "profile", "resource_path", "root_path", "state_path"},
    "presets": {
        *("artifacts_dynamic_version", "jobs_max_concurrent_runs", "name_prefix", "pipelines_development", "source_linked_deployment"),
        *("tags", "trigger_pause_status"),
    },
    "run_as": {"group_name", "service_principal_name", "user_name"},
}
_ARTIFACT = {"build", "dynamic_version", "executable", "files", "path", "type"}
_VARIABLE = {"default", "description", "lookup", "type"}


def check(resolved: Resolved) -> list[str]:
    """What the packages refuse, or silently leave out, one line each."""
    problems = _unknown_in_the_bundle(resolved.config)
    for kind, group in resolved.config["resources"].items():
        if kind not in _BUNDLES:
            problems.append(f"resources.{kind}: expected one of {', '.join(_BUNDLES)}")
            continue
        for name, body in group.items():
            sent = {key: value for key, value in body.items() if key != "id"}
            problems += _of_package(f"{kind}.{name}", _BUNDLES[kind].from_dict, sent)
            sent.pop("permissions", None)  # sent in a call of their own
            problems += _of_job(f"{kind}.{name}", sent) if kind == "jobs" else _of_call(f"{kind}.{name}", _CREATE[kind], sent)
    return problems


def _of_package(where: str, from_dict: Callable[[Any], Any], body: dict[str, Any]) -> list[str]:
    try:
        from_dict(body)
    except (ValueError, TypeError, KeyError) as error:
        return [f"{where}: databricks-bundles: {error}"]
    return []


def _of_job(where: str, body: dict[str, Any]) -> list[str]:
    try:
        back = JobSettings.from_dict(body).as_dict()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return [f"{where}: databricks-sdk: {error}"]
    return [f"{where}.{path}: unknown field, the API would not see it (databricks-sdk)" for path in _lost(body, back)]


def _of_call(where: str, create: Callable[..., Any], body: dict[str, Any]) -> list[str]:
    try:
        inspect.signature(create).bind(None, **body)
    except TypeError as error:
        return [f"{where}: databricks-sdk: {error}"]
    return []


def _lost(sent: Any, back: Any, path: str = "") -> list[str]:
    """Paths of what was sent and did not come back; what is empty need not."""
    if sent in (None, "", [], {}):
        return []
    if back is None:
        return [path]
    if isinstance(sent, dict):
        return [lost for key, value in sent.items() for lost in _lost(value, back.get(key), f"{path}.{key}".lstrip("."))]
    if isinstance(sent, list):
        return [lost for n, (one, other) in enumerate(zip(sent, back, strict=False)) for lost in _lost(one, other, f"{path}[{n}]")]
    return []


def _unknown_in_the_bundle(config: dict[str, Any]) -> list[str]:
    parts = [("databricks.yml", config, _KNOWN["databricks.yml"])]
    parts += [(name, config.get(name) or {}, keys) for name, keys in _KNOWN.items() if name != "databricks.yml"]
    parts += [(f"artifacts.{name}", body, _ARTIFACT) for name, body in config.get("artifacts", {}).items()]
    parts += [(f"variables.{name}", body, _VARIABLE) for name, body in config.get("variables", {}).items()]
    return [f"{where}.{key}: unknown field" for where, body, known in parts for key in body if key not in known]
