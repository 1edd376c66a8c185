"""The registry of models in MLflow: every version with its data versions; aliases `challenger` and `champion`."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from propensity_spark.config import Settings
from propensity_spark.errors import ConfigurationError, NoChampion, NoEarlierChampion
from propensity_spark.predictor import PropensityModel, ReferenceBins, read

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "SPEED",
    "PropensityModel",
    "ReferenceBins",
    "best_params",
    "champion_version",
    "is_rolled_back",
    "load",
    "log_evaluation",
    "logged",
    "logged_document",
    "oldest_inputs",
    "promote",
    "register",
    "registered",
    "roll_back",
    "study_storage",
    "version_of",
]

CHAMPION, CHALLENGER = "champion", "challenger"
SPEED = "score_rows_per_second"
_FINGERPRINT = "fingerprint"
_INPUT = "input."  # tags of a run: the versions of the tables that its model was made from
_BEFORE, _ROLLED_BACK = "promoted_over", "rolled_back"
_FOLDER = "propensity"


def registered(settings: Settings, fingerprint: str) -> str | None:
    """The version made from exactly these inputs, settings and code, now the challenger again; None when there is none."""
    client = _client(settings)
    name = settings.mlflow.model_name
    same = [version for version, tags in _tags_by_version(client, name).items() if tags.get(_FINGERPRINT) == fingerprint]
    if not same:
        return None
    version = min(same, key=int)
    client.set_registered_model_alias(name, CHALLENGER, version)
    return version


def register(
    settings: Settings,
    model: PropensityModel,
    *,
    fingerprint: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    documents: Mapping[str, Any],
) -> str:
    """Log the model, its parameters, metrics and documents (JSON by name) to MLflow; returns the new version, alias `challenger`.

    The tag `fingerprint` is set together with the version, so that a run repeated after a kill finds it (`registered`). The version is
    made last, of an MLflow run that has ended: none of a model's runs stays "running" for ever.
    """
    import mlflow

    client = _client(settings)
    name = settings.mlflow.model_name
    experiment = _experiment(client, settings)
    with mlflow.start_run(experiment_id=experiment) as run, tempfile.TemporaryDirectory() as parent, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*An input example was not provided", UserWarning)  # the signature is stated below
        mlflow.log_params(params)
        mlflow.log_metrics(dict(metrics))
        mlflow.set_tags({f"{_INPUT}{table}": str(version) for table, version in model.inputs.items()})
        for document, body in documents.items():
            mlflow.log_dict(body, document)
        folder = Path(parent) / _FOLDER
        folder.mkdir()
        model.save(folder)
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).parent / "train" / "pyfunc.py"),
            artifacts={"model": str(folder)},
            signature=_signature(model),
            code_paths=[str(Path(__file__).parent)],
            pip_requirements=["numpy", "pandas", "pydantic", "pyyaml", "xgboost"],
        )
    _create_if_missing(client, name)
    tags = {_FINGERPRINT: fingerprint, "grain": model.grain, "train_from": str(model.train_from), "train_to": str(model.train_to)}
    created = client.create_model_version(name, logged.model_uri, run.info.run_id, tags, model_id=logged.model_id)
    client.set_registered_model_alias(name, CHALLENGER, created.version)
    return str(created.version)


def load(settings: Settings, alias_or_version: str) -> PropensityModel:
    """The registered model by version or alias. Raises NoChampion when there is no such version yet."""
    import mlflow

    version = alias_or_version if alias_or_version.isdigit() else version_of(settings, alias_or_version)
    name = settings.mlflow.model_name
    if version is None:
        raise NoChampion(
            f"model {name!r} has no {alias_or_version} yet: train registers a challenger, evaluate promotes "
            "it when it beats the baseline by the margin in conf/; without a champion nothing is scored and what was published stays"
        )
    _client(settings)
    folder = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/{version}")
    return replace(read(Path(folder) / "artifacts" / _FOLDER), name=name, version=version)


def version_of(settings: Settings, alias: str) -> str | None:
    """The version with this alias, or None. Does not create an embedded store."""
    from mlflow.exceptions import MlflowException

    if settings.mlflow.tracking_uri is None and not _embedded_database(settings).exists():
        return None
    try:
        return str(_client(settings).get_model_version_by_alias(settings.mlflow.model_name, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def champion_version(settings: Settings) -> str | None:
    """The version that scores, or None when nothing has been promoted yet."""
    return version_of(settings, CHAMPION)


def promote(settings: Settings, version: str) -> None:
    """Make this version the champion. Its tag `promoted_over` remembers the one before it ("none": it is the first)."""
    client, name, before = _client(settings), settings.mlflow.model_name, champion_version(settings)
    if before != version:
        client.set_model_version_tag(name, version, _BEFORE, before or "none")
    client.set_registered_model_alias(name, CHAMPION, version)


def roll_back(settings: Settings, to: str | None = None) -> tuple[str, str]:
    """Make an earlier champion the champion again. Returns the version that was left and the one that scores now.

    `to`: its version; None: the one that the champion was promoted over. The version that is left gets the tag `rolled_back`, so
    that no evaluation promotes it again; `to` loses that tag. Raises NoEarlierChampion when there is none to go back to.
    """
    name, champion = settings.mlflow.model_name, champion_version(settings)
    if champion is None:
        raise NoEarlierChampion(f"model {name!r} has no champion")
    client = _client(settings)
    tags = _tags_by_version(client, name)
    once = sorted((version for version, known in tags.items() if _BEFORE in known and version != champion), key=int)
    there = f"others that were champion once, for --to: {', '.join(once) or 'none'}"
    earlier = to or tags[champion].get(_BEFORE, "none")
    if earlier == "none":
        raise NoEarlierChampion(f"model {name!r}: version {champion} was promoted over none; {there}")
    if earlier not in once:
        raise NoEarlierChampion(f"model {name!r}: expected a champion before version {champion}, found {earlier!r}; {there}")
    client.set_model_version_tag(name, champion, _ROLLED_BACK, "true")
    if _ROLLED_BACK in tags[earlier]:
        client.delete_model_version_tag(name, earlier, _ROLLED_BACK)
    client.set_registered_model_alias(name, CHAMPION, earlier)
    return champion, earlier


def is_rolled_back(settings: Settings, version: str) -> bool:
    """Whether this version was champion and `roll_back` left it."""
    return _ROLLED_BACK in _client(settings).get_model_version(settings.mlflow.model_name, version).tags


def log_evaluation(settings: Settings, version: str, metrics: Mapping[str, float], artifacts: Iterable[Path]) -> None:
    """Add metrics and files (under `evaluation/`) to the run that made this version."""
    client = _client(settings)
    run_id = client.get_model_version(settings.mlflow.model_name, version).run_id
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    for path in artifacts:
        client.log_artifact(run_id, str(path), "evaluation")


def logged(settings: Settings, version: str) -> tuple[dict[str, str], dict[str, float]]:
    """Parameters and metrics of the MLflow run that made this version."""
    client = _client(settings)
    run = client.get_run(client.get_model_version(settings.mlflow.model_name, version).run_id)
    return dict(run.data.params), dict(run.data.metrics)


def best_params(settings: Settings, version: str) -> dict[str, Any]:
    """XGBoost's parameters of the trial that became this version."""
    best = logged_document(settings, version, "trials.json")["trials"][0]
    return {name: value for name, value in best.items() if name not in ("rounds", "validation_log_loss")}


def oldest_inputs(settings: Settings) -> dict[str, int]:
    """Table → the oldest of its versions that a registered model was made from; nothing where there is no model yet."""
    if settings.mlflow.tracking_uri is None and not _embedded_database(settings).exists():
        return {}
    client, oldest = _client(settings), dict[str, int]()
    for found in client.search_model_versions(f"name = '{settings.mlflow.model_name}'"):
        tags = client.get_run(found.run_id).data.tags
        inputs = {name.removeprefix(_INPUT): int(version) for name, version in tags.items() if name.startswith(_INPUT)}
        oldest |= {table: min(version, oldest.get(table, version)) for table, version in inputs.items()}
    return oldest


def logged_document(settings: Settings, version: str, path: str) -> dict[str, Any]:
    """A JSON file of the MLflow run that made this version, such as `trials.json` or `evaluation/report.json`."""
    import mlflow

    run_id = _client(settings).get_model_version(settings.mlflow.model_name, version).run_id
    with tempfile.TemporaryDirectory() as folder:
        file = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=folder))
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _tags_by_version(client: MlflowClient, name: str) -> dict[str, dict[str, str]]:
    """Each version is asked for its tags: Unity Catalog's search tells none."""
    versions = [str(found.version) for found in client.search_model_versions(f"name = '{name}'")]
    return {version: client.get_model_version(name, version).tags for version in versions}


def _client(settings: Settings) -> MlflowClient:
    """MLflow pointed at the configured store; null: SQLite and files under the lake root, created at first use."""
    import mlflow

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    uri = settings.mlflow.tracking_uri
    if uri is None:
        database = _embedded_database(settings)
        database.parent.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{database}"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(settings.mlflow.registry_uri or uri)
    return mlflow.MlflowClient()


def _embedded_database(settings: Settings) -> Path:
    """File of the embedded store. Raises ConfigurationError where the lake root is not a local folder."""
    root = settings.lake.root.removeprefix("file://")
    if "://" in root:
        raise ConfigurationError(
            f"mlflow.tracking_uri: is null, and an embedded store cannot live under lake.root={root}: set the address of a tracking "
            "server, or sqlite:///<file> with mlflow.artifact_location"
        )
    return Path(root).resolve() / "mlflow" / "mlflow.db"


def study_storage(settings: Settings) -> str | None:
    """Address of the database for Optuna's studies, beside the embedded store; null with a tracking server, which has no place for one."""
    if settings.mlflow.tracking_uri is not None:
        return None
    _client(settings)  # makes the folder
    return f"sqlite:///{_embedded_database(settings).with_name('tuning.db')}"


def require_store(settings: Settings) -> None:
    """Raises ConfigurationError where there is neither a tracking server nor a folder for an embedded store."""
    if settings.mlflow.tracking_uri is None:
        _embedded_database(settings)


def _create_if_missing(client: MlflowClient, name: str) -> None:
    """Unity Catalog cannot be searched by name, so the model is asked for."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)


def _experiment(client: MlflowClient, settings: Settings) -> str:
    found = client.get_experiment_by_name(settings.mlflow.experiment)
    if found is not None:
        return str(found.experiment_id)
    location = settings.mlflow.artifact_location
    if location is None and settings.mlflow.tracking_uri is None:
        location = (_embedded_database(settings).parent / "artifacts").as_uri()
    return str(client.create_experiment(settings.mlflow.experiment, artifact_location=location))


def _signature(model: PropensityModel) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs = Schema([ColSpec("double", name, required=False) for name in model.features])
    return ModelSignature(inputs, Schema([TensorSpec(np.dtype(np.float64), (-1,), "purchase_probability")]))
