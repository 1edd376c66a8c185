"""Settings from files: `conf/base.yml` → environment (`conf/local.yml`) → data set (`conf/datasets/<name>.yml`) → `--set key=value`.

Merged in this order, later wins. An unknown key is an error that names the file, the key and what is allowed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from propensity_spark.config.base import SAFE_NAME, SECRET
from propensity_spark.config.settings import Settings
from propensity_spark.config.sources import FileSource, MassiveSource
from propensity_spark.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parents[1]
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""Settings: in a wheel inside the package, in a checkout beside it."""


def load_settings(
    environment: Path | str,
    dataset: str,
    overrides: Sequence[str] = (),
    data: str | None = None,
    conf_dir: Path = CONF_DIR,
) -> Settings:
    """Merge base → environment → data set → `key=value` overrides and check the result.

    `environment` is a file, or the name of one in `conf_dir`, such as `databricks` (which a wheel brings along).

    Inside any text value `{dataset}` and `{data}` become the data set's name and the folder given as `data`, and
    `{lake_root}` the lake's root.
    Raises ConfigurationError that names the file and key.
    """
    dataset_file = conf_dir / "datasets" / f"{dataset}.yml"
    if not SAFE_NAME.fullmatch(dataset) or not dataset_file.is_file():
        known = sorted(path.stem for path in (conf_dir / "datasets").glob("*.yml"))
        raise ConfigurationError(f"unknown data set {dataset!r}: expected one of {known} (files in {conf_dir / 'datasets'})")
    return _settings((conf_dir / "base.yml", _environment_file(environment, conf_dir), dataset_file), dataset, overrides, data)


def load_table_settings(environment: Path | str, name: str, overrides: Sequence[str] = (), conf_dir: Path = CONF_DIR) -> Settings:
    """The settings of `propensity table` for a table called `name`: as `load_settings`, with `conf/table.yml` in the data set's place."""
    if not SAFE_NAME.fullmatch(name):
        raise ConfigurationError(f"--name {name!r}: expected letters, digits, '_' or '-' only")
    return _settings((conf_dir / "base.yml", _environment_file(environment, conf_dir), conf_dir / "table.yml"), name, overrides, None)


def _settings(files: Sequence[Path], dataset: str, overrides: Sequence[str], data: str | None) -> Settings:
    merged: dict[str, Any] = {"dataset": dataset}
    origin: dict[str, str] = {}
    for path in files:
        _merge(merged, _read_yaml(path), str(path), origin)
    for override in overrides:
        _merge(merged, _parse_override(override), f"--set {_shown(override)}", origin)
    if data is not None:
        merged["data"] = data
    words = {"dataset": dataset, "data": merged.get("data")}
    merged = _substitute(merged, words)
    lake = merged.get("lake")
    try:
        return Settings.model_validate(_substitute(merged, {"lake_root": lake.get("root") if isinstance(lake, dict) else None}))
    except ValidationError as error:
        raise ConfigurationError(_explain(error, origin)) from error


def _environment_file(environment: Path | str, conf_dir: Path) -> Path:
    named = conf_dir / f"{environment}.yml"
    return named if SAFE_NAME.fullmatch(str(environment)) and named.is_file() else Path(environment)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); expected a YAML file of settings") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(body, dict):
        raise ConfigurationError(f"{path}: expected a mapping of settings, found {type(body).__name__}")
    return body


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*", key):
        raise ConfigurationError(f"--set {_shown(text)!r}: expected key=value, such as label.horizon_days=14")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        reason = "" if _shown(text) != text else f": {error}"
        raise ConfigurationError(f"--set {_shown(text)!r}: the value is not valid YAML{reason}") from error
    for part in reversed(key.split(".")):
        nested = {part: nested}
    result: dict[str, Any] = nested
    return result


def _shown(override: str) -> str:
    """An override for people: without its value where any part of it speaks of a secret."""
    return re.split(r"[^\w.-]", override)[0] + "=***" if SECRET.search(override) else override


def _merge(into: dict[str, Any], new: Mapping[str, Any], source: str, origin: dict[str, str], prefix: str = "") -> None:
    for key, value in new.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value, source, origin, f"{path}.")
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
            origin[path] = source


def _substitute(value: Any, words: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, words) for item in value]
    if isinstance(value, str):
        for word, replacement in words.items():
            if isinstance(replacement, str):
                value = value.replace(f"{{{word}}}", replacement)
    return value


def _explain(error: ValidationError, origin: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        parts = [str(part) for part in problem["loc"]]
        key = ".".join(parts)
        where = next((origin[".".join(parts[:n])] for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in origin), "settings")
        message = f"{where}: {key}: {problem['msg']}"
        if problem["type"] == "extra_forbidden":
            allowed = _allowed_keys(parts[:-1])
            close = difflib.get_close_matches(parts[-1], allowed, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            message = f"{where}: unknown key {key!r}.{hint} Allowed here: {', '.join(allowed)}"
        elif problem["type"] != "missing":
            message += f" (found {'a value that is not shown' if SECRET.search(key) else repr(problem['input'])})"
        lines.append(message)
    return "\n".join(lines)


def _allowed_keys(parts: Sequence[str]) -> list[str]:
    """The keys a section allows; inside lists and unions, those of the source kinds."""
    model: Any = Settings
    for part in parts:
        if part in ("files", "massive"):
            model = FileSource if part == "files" else MassiveSource
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            continue
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
    return sorted(model.model_fields)
