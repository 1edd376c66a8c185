"""A target of the bundle with includes, target overrides, variables and references resolved, as `databricks bundle deploy` does it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Tree = dict[str, Any]
USER, SHORT_NAME = "tester@example.com", "tester"
_REFERENCE = re.compile(r"\$\{([A-Za-z][\w-]*(?:\.[A-Za-z][\w-]*)+)\}")
_KEYS = ("task_key", "job_cluster_key", "environment_key", "name")  # list items of a target with the same key are merged
_PREFIXES = {"jobs": f"[dev {SHORT_NAME}] ", "experiments": f"[dev {SHORT_NAME}] "}
_UNDERSCORED = {"schemas": f"dev_{SHORT_NAME}_", "registered_models": f"dev_{SHORT_NAME}_"}


class BundleError(Exception):
    """The bundle cannot be resolved: a file is not YAML, a variable has no value, a reference leads nowhere."""


@dataclass
class Resolved:
    """One target. `config` has the shape of databricks.yml; `folder` tells where the file of a resource lies, for relative paths.

    `job_ids`: the number that stands for `${resources.jobs.<name>.id}`, which only a deployment knows.
    """

    root: Path
    target: str
    config: Tree
    folder: dict[tuple[str, str], Path] = field(default_factory=dict)
    job_ids: dict[str, int] = field(default_factory=dict)

    @property
    def jobs(self) -> dict[str, Tree]:
        jobs: dict[str, Tree] = self.config["resources"].get("jobs", {})
        return jobs


def targets(root: Path) -> list[str]:
    return list(_load(root / "databricks.yml").get("targets", {}))


def declared_variables(root: Path) -> dict[str, Tree]:
    variables: dict[str, Tree] = _with_includes(root)[0].get("variables", {})
    return variables


def resolve(root: Path, target: str, variables: Mapping[str, Any] | None = None) -> Resolved:
    """The target as it would be deployed by USER; `variables` as on the command line (`--var`). Raises BundleError."""
    config, folder = _with_includes(root)
    chosen = config.pop("targets", {})
    if target not in chosen:
        raise BundleError(f"databricks.yml: no target {target!r}; expected one of {', '.join(chosen)}")
    override = dict(chosen[target] or {})
    values = _variables(config, override.pop("variables", {}), variables or {}, target)
    config = _merge(config, {name: value for name, value in override.items() if name not in ("default", "mode")})
    config["bundle"] |= {"target": target, "mode": override.get("mode")}
    user = {"userName": USER, "short_name": SHORT_NAME}
    config["workspace"] = {"root_path": f"/Workspace/Users/{USER}/.bundle/{config['bundle']['name']}/{target}"} | config.get(
        "workspace", {}
    )
    words = {"bundle": config["bundle"], "workspace": config["workspace"] | {"current_user": user}, "var": values}
    values.update(_replace(values, words, "variables"))
    config = _replace(config, words, "databricks.yml")
    resources = config.setdefault("resources", {})
    _apply_presets(config, development=override.get("mode") == "development")
    job_ids = {name: number for number, name in enumerate(resources.get("jobs", {}), 1001)}
    known = {kind: {name: dict(body) for name, body in group.items()} for kind, group in resources.items()}
    for name, number in job_ids.items():
        known["jobs"][name]["id"] = number
    config = _without_empty_texts(_replace(config, {"resources": known}, "resources"))
    return Resolved(root, target, config, folder, job_ids)


def _load(path: Path) -> Tree:
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise BundleError(f"{path}: {error}") from error
    if not isinstance(body, dict):
        raise BundleError(f"{path}: expected a mapping, found {type(body).__name__}")
    return body


def _with_includes(root: Path) -> tuple[Tree, dict[tuple[str, str], Path]]:
    main = root / "databricks.yml"
    config = _load(main)
    folder: dict[tuple[str, str], Path] = {}
    files = [main]
    for pattern in config.get("include", []):
        found = sorted(root.glob(pattern))
        if not found:
            raise BundleError(f"databricks.yml: include {pattern}: no such files")
        files += found
    for path in files:
        part = config if path == main else _load(path)
        for kind, group in part.get("resources", {}).items():
            folder |= {(kind, name): path.parent for name in group}
        if path != main:
            config = _merge(config, part)
    return config, folder


def _merge(base: Any, over: Any) -> Any:
    """Maps are merged; of lists, items with the same key are merged and the others added; else `over` wins."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: _merge(base[key], value) if key in base else value for key, value in over.items()}}
    if isinstance(base, list) and isinstance(over, list):
        merged = list(base)
        for item in over:
            key = next((key for key in _KEYS if isinstance(item, dict) and key in item), None)
            at = next((n for n, old in enumerate(merged) if key and isinstance(old, dict) and old.get(key) == item[key]), None)
            if at is None:
                merged.append(item)
            else:
                merged[at] = _merge(merged[at], item)
        return merged
    return over


def _variables(config: Tree, of_target: Tree, given: Mapping[str, Any], target: str) -> Tree:
    """The value of each variable: given, else the target's, else its default."""
    declared: Tree = config.get("variables", {})
    if unknown := sorted({*of_target, *given} - {*declared}):
        raise BundleError(f"target {target}: sets variable {', '.join(unknown)}, which nothing declares")
    values = (
        {name: body["default"] for name, body in declared.items() if body and body.get("default") is not None} | of_target | dict(given)
    )
    if missing := sorted(set(declared) - set(values)):
        raise BundleError(f"target {target}: variable {', '.join(missing)} has no value: no default, none in the target, none given")
    return values


def _replace(value: Any, words: Tree, where: str, seen: tuple[str, ...] = ()) -> Any:
    """Every `${a.b}` whose first word is in `words`. A text that is one reference becomes what it refers to, whatever type that has."""
    if isinstance(value, dict):
        return {key: item if key == "variables" else _replace(item, words, f"{where}.{key}", seen) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, words, f"{where}[{n}]", seen) for n, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    for found in _REFERENCE.finditer(value):
        path = found.group(1)
        if path.split(".")[0] not in words:
            continue
        if path in seen:
            raise BundleError(f"{where}: ${{{path}}} refers to itself: {' -> '.join((*seen, path))}")
        new = _replace(_look_up(words, path, where), words, where, (*seen, path))
        if found.group(0) == value:
            return new
        if isinstance(new, dict | list):
            raise BundleError(f"{where}: ${{{path}}} is no text and cannot stand inside one: {value}")
        value = value.replace(found.group(0), str(new))
    return value


def _look_up(words: Tree, path: str, where: str) -> Any:
    found: Any = words
    parts = path.split(".")
    for n, part in enumerate(parts):
        if isinstance(found, str):  # a variable that is another variable
            found = _replace(found, words, where)
        if not isinstance(found, dict) or part not in found:
            raise BundleError(f"{where}: ${{{path}}}: there is no {'.'.join(parts[: n + 1])}")
        found = found[part]
    return found


def _apply_presets(config: Tree, *, development: bool) -> None:
    """Names of development mode, tags, paused schedules, the identity to run as and permissions, written into the resources."""
    presets = config.get("presets", {})
    for kind, name, body in _resources(config):
        if development and kind in _PREFIXES:
            parent, slash, last = str(body.get("name", name)).rpartition("/")
            body["name"] = f"{parent}{slash}{_PREFIXES[kind]}{last}"
        elif development and kind in _UNDERSCORED:
            body["name"] = _UNDERSCORED[kind] + body["name"]
        if kind != "jobs":
            continue
        body["tags"] = {**body.get("tags", {}), **presets.get("tags", {}), **({"dev": SHORT_NAME} if development else {})}
        if "schedule" in body:
            paused = "PAUSED" if development else presets.get("trigger_pause_status", "UNPAUSED")
            body["schedule"] = {"pause_status": paused, **body["schedule"]}
        if "run_as" in config:
            body.setdefault("run_as", config["run_as"])
        if "permissions" in config:
            body["permissions"] = [*body.get("permissions", []), *config["permissions"]]


def _resources(config: Tree) -> Iterator[tuple[str, str, Tree]]:
    for kind, group in config["resources"].items():
        for name, body in group.items():
            yield kind, name, body


def _without_empty_texts(value: Any) -> Any:
    """As the CLI since 1.10: an empty text on an optional field of a resource is not sent."""

    def cleaned(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: cleaned(inner) for key, inner in item.items() if inner != "" or key == "default"}
        return [cleaned(inner) for inner in item] if isinstance(item, list) else item

    return {**value, "resources": cleaned(value["resources"])}
