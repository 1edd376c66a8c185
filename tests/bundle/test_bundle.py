"""The bundle as it is, for every target and both kinds of compute; then one planted fault after the other. No Spark, no workspace."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from propensity_spark import __version__, entry_points
from propensity_spark.as_of import as_of_date
from propensity_spark.cli import STAGES, _parser
from propensity_spark.config import CONF_DIR, load_settings
from scripts.bundle import quartz
from scripts.bundle.__main__ import COMPUTE, main
from scripts.bundle.docs import render
from scripts.bundle.lint import lint, wheel_of
from scripts.bundle.official import check
from scripts.bundle.resolve import BundleError, Resolved, declared_variables, resolve, targets

ROOT = CONF_DIR.parent
SERVERLESS = {"compute": "${var.on_serverless}"}
RUN_VALUES = {
    "job.parameters.as_of": "2024-12-31T11:00:00",
    "job.parameters.dataset": "stocks",
    "job.parameters.refused": "report",
    "job.parameters.settings": "label.horizon_days=14",
    "job.parameters.start": "2024-12-02",
    "job.parameters.end": "2024-12-03",
}


def tasks_of(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["task_key"]: task for task in job["tasks"]}


# --- the bundle as it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("target", targets(ROOT))
def test_every_target_is_fine(target: str, compute: str) -> None:
    resolved = resolve(ROOT, target, {"compute": f"${{var.{compute}}}"})
    assert check(resolved) == []
    assert lint(resolved, wheel_of(ROOT)) == []


def test_the_check_says_so_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ROOT) == 0
    assert capsys.readouterr().out.splitlines() == [f"{target} {compute}: fine" for target in targets(ROOT) for compute in COMPUTE]


def test_the_line_is_in_the_jobs_in_its_order() -> None:
    jobs = resolve(ROOT, "prod").jobs
    assert list(jobs) == ["backfill", "daily", "weekly_training"]
    stages = {name: [task for task in tasks_of(job) if task in STAGES] for name, job in jobs.items()}
    assert stages == {
        "backfill": [],
        "daily": ["ingest", "validate", "features", "score", "publish", "monitor"],
        "weekly_training": ["label", "train", "evaluate"],
    }
    assert all(job["max_concurrent_runs"] == 1 and job["queue"] == {"enabled": True} for job in jobs.values())


def test_one_variable_chooses_where_stages_run_and_training_stays_on_its_cluster() -> None:
    for job in ("daily", "weekly_training"):
        cluster, serverless = (tasks_of(resolve(ROOT, "dev", given).jobs[job]) for given in ({}, SERVERLESS))
        for name in set(cluster) & set(STAGES) - {"train"}:
            assert cluster[name]["job_cluster_key"] == "stages"
            assert {"whl": "../dist/*.whl"} in cluster[name]["libraries"]
            assert "environment_key" not in cluster[name]
            assert serverless[name]["environment_key"] == "stages"
            assert "job_cluster_key" not in serverless[name]
            assert serverless[name]["libraries"] == []
    assert cluster["train"] == serverless["train"]
    assert resolve(ROOT, "dev", SERVERLESS).jobs["daily"]["job_clusters"] == []
    assert resolve(ROOT, "dev").jobs["daily"]["environments"] == []


@pytest.mark.parametrize("job", ["daily", "weekly_training", "backfill"])
@pytest.mark.parametrize("target", targets(ROOT))
def test_every_command_line_is_one_that_the_wheel_understands(target: str, job: str) -> None:
    for task in resolve(ROOT, target).jobs[job]["tasks"]:
        if "python_wheel_task" not in task:
            continue
        words = [re.sub(r"\{\{(.*?)\}\}", lambda found: RUN_VALUES[found[1]], word) for word in task["python_wheel_task"]["parameters"]]
        options = _parser().parse_args([task["python_wheel_task"]["entry_point"], *words])
        if task["task_key"] == "dates":
            continue
        settings = load_settings(options.conf, options.dataset, [*options.set, *options.settings.split()], options.data)
        catalog = {"dev": "main"}.get(target, target)
        schema = "dev_tester_propensity" if target == "dev" else "propensity"
        assert (settings.lake.catalog, settings.lake.schema_name) == (catalog, schema)
        assert settings.lake.root == f"/Volumes/{catalog}/{schema}/landing/stocks"
        assert settings.mlflow.model_name == f"{catalog}.{schema}.{schema}"
        assert settings.mlflow.registry_uri == "databricks-uc"
        assert settings.spark.master is None
        assert settings.train.num_workers is None
        assert settings.label.horizon_days == 14
        assert options.expect_version == __version__


def test_what_the_development_mode_changes() -> None:
    resolved = resolve(ROOT, "dev")
    assert resolved.jobs["daily"]["name"] == "[dev tester] propensity daily"
    assert resolved.jobs["daily"]["schedule"]["pause_status"] == "PAUSED"
    assert resolve(ROOT, "prod").jobs["daily"]["schedule"]["pause_status"] == "UNPAUSED"
    assert resolve(ROOT, "prod").jobs["daily"]["run_as"] == {"service_principal_name": "tester@example.com"}


def test_every_stage_has_its_entry_point() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name in (*STAGES, "dates"):
        assert scripts[name] == f"propensity_spark.entry_points:{name}"
        assert getattr(entry_points, name).args == (name,)


def test_the_wheel_asks_for_nothing_that_the_runtime_brings() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {re.split(r"[<>=\[]", text)[0] for text in project["dependencies"]}
    assert not asked & {"pyspark", "delta-spark", "xgboost", "mlflow", "pandas", "numpy", "pyarrow", "scikit-learn"}


@pytest.mark.parametrize("name", ["dist", "build", "data", "lake", "logs", "published", ".venv", ".jars", ".git"])
def test_what_is_never_uploaded(name: str) -> None:
    patterns = yaml.safe_load((ROOT / "databricks.yml").read_text())["sync"]["exclude"]
    folders = [pattern.removeprefix("/").removesuffix("/**") for pattern in patterns if pattern.endswith("/**")]
    as_regex = [re.compile(folder.replace(".", r"\.").replace("*", "[^/]*")) for folder in folders]
    assert any(pattern.fullmatch(name) for pattern in as_regex)
    assert not any(
        pattern.fullmatch(kept) for pattern in as_regex for kept in ("conf", "propensity_spark", "jobs", "notebooks", "resources")
    )


def test_the_default_of_as_of_is_an_instant_that_the_command_line_takes() -> None:
    for job in ("daily", "weekly_training"):
        default = {one["name"]: one["default"] for one in resolve(ROOT, "prod").jobs[job]["parameters"]}["as_of"]
        assert default == "{{job.trigger.time.iso_datetime}}"
    from datetime import UTC, date, datetime

    retail = load_settings(CONF_DIR / "local.yml", "retail", ["as_of=null", "time_zone=America/New_York"], "/data")
    assert as_of_date(retail, "2025-03-01T03:00:00", datetime(2025, 3, 9, tzinfo=UTC)) == date(2025, 2, 27)


def test_the_page_tells_every_variable() -> None:
    page = (ROOT / "docs" / "databricks.md").read_text(encoding="utf-8")
    assert render(page, ROOT) == page, "run `make docs`"
    with pytest.raises(ValueError, match="expected the markers"):
        render("# nothing", ROOT)


def test_the_workflow_calls_targets_that_exist_and_holds_no_token() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    made = {run.split()[1] for run in runs if run.startswith("make ")}
    known = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ": " in line and line[0].isalpha()}
    assert {"lint", "types", "test", "wheel", "bundle-check"} <= made <= known
    assert workflow["jobs"]["deploy"]["strategy"]["matrix"]["target"] == [name for name in targets(ROOT) if name != "dev"]
    assert workflow["jobs"]["deploy"]["permissions"]["id-token"] == "write"
    assert "${{ secrets." not in text
    variables = {name.removeprefix("BUNDLE_VAR_") for name in workflow["jobs"]["deploy"]["env"] if name.startswith("BUNDLE_VAR_")}
    assert variables <= set(declared_variables(ROOT))


# --- planted faults ----------------------------------------------------------------------------------------------


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., list[str]]:
    """The problems of a copy of the bundle in which `old` has become `new`."""

    def plant(file: str, old: str, new: str, target: str = "prod", variables: dict[str, str] | None = None) -> list[str]:
        shutil.copytree(ROOT / "resources", tmp_path / "resources")
        for name in ("databricks.yml", "pyproject.toml"):
            shutil.copyfile(ROOT / name, tmp_path / name)
        text = (tmp_path / file).read_text()
        assert old in text
        (tmp_path / file).write_text(text.replace(old, new, 1))
        resolved: Resolved = resolve(tmp_path, target, variables)
        return check(resolved) + lint(resolved, wheel_of(tmp_path))

    return plant


DAILY, WEEKLY, BACKFILL, COMPUTE_FILE = (f"resources/{name}.yml" for name in ("daily", "weekly_training", "backfill", "compute"))
FAULTS = [
    (
        DAILY,
        "depends_on: [{task_key: validate}]",
        "depends_on: [{task_key: validat}]",
        "daily.features: depends_on 'validat' names no task",
    ),
    (DAILY, "- task_key: ingest\n", "- task_key: ingest\n          depends_on: [{task_key: features}]\n", "depends on itself"),
    (DAILY, "0 0 6 * * ?", "0 0 6 * * *", "schedule '0 0 6 * * *': expected ? for exactly one"),
    (DAILY, "0 0 6 * * ?", "0 6 * * *", "expected 6 or 7 fields"),
    (DAILY, "0 0 6 * * ?", "0 0 24 * * ?", "hours: '24' is not within 0-23"),
    (DAILY, "{name: retrain, default: auto}", "{name: retraining, default: auto}", "the job declares no parameter 'retrain'"),
    (DAILY, "{name: retrain, default: auto}", "{name: other, default: auto}", "gives the parameter 'retrain', which"),
    (DAILY, "tasks.monitor.values", "tasks.evaluate.values", "tasks.evaluate.values.retrain}}: the task has not run before"),
    (DAILY, "entry_point: score", "entry_point: scores", "daily.score: entry point 'scores' is not in the wheel"),
    (DAILY, "entry_point: score", "entry_point: train", "the task's key must be the stage's name"),
    (DAILY, "package_name: propensity_spark, entry_point: score", "package_name: propensity, entry_point: score", "the wheel holds"),
    (DAILY, "max_retries: 2", "max_retry: 2", "unknown field"),
    (DAILY, "max_retries: 2", "max_retry: 2", "Unexpected field 'max_retry'"),
    (DAILY, "op: EQUAL_TO", "op: EQUALS", "databricks-bundles"),
    (DAILY, 'outcome: "true"}]\n          run_job_task', 'outcomes: "true"}]\n          run_job_task', "an outcome is for condition tasks"),
    (DAILY, "job_cluster_key: ${var.compute.job_cluster_key}", "job_cluster_key: stage", "job_cluster_key 'stage' is not defined"),
    (DAILY, "environment_key: ${var.compute.environment_key}", "environment_key: stage", "environment_key 'stage' is not defined"),
    (
        DAILY,
        "environment_key: ${var.compute.environment_key}",
        "existing_cluster_id: 0123",
        "expected one of environment_key, job_cluster_key",
    ),
    (DAILY, "job_id: ${resources.jobs.weekly_training.id}", "job_id: 7", "job_id 7 is no job of this bundle"),
    (DAILY, "iso_datetime}}", "iso_datetime}} ${oops}", "unresolved reference"),
    (DAILY, 'op: EQUAL_TO\n            left: "', 'op: EQUAL_TO\n            left: "{{today}}', "{{today}}: no such value"),
    (DAILY, "schedule:\n", "unheard_of: 1\n      schedule:\n", "Unexpected field 'unheard_of'"),
    (DAILY, "timezone_id: ${var.time_zone}", "timezone_id: Mars/Olympus", "'Mars/Olympus' is no IANA time zone"),
    (WEEKLY, "num_workers: ${var.training_workers}", "autoscale: {min_workers: 1, max_workers: 4}", "no autoscale"),
    (WEEKLY, 'enabled: "false"', 'enabled: "true"', "barrier mode fails under dynamic allocation"),
    (WEEKLY, "data_security_mode: SINGLE_USER", "data_security_mode: USER_ISOLATION", "training needs dedicated access"),
    (WEEKLY, "${var.training_runtime}", "${var.stages_runtime}", "is no ML runtime"),
    (WEEKLY, "- whl: ../dist/*.whl", "- whl: ./dist/*.whl", "library ./dist/*.whl: no artifact is built there (seen from resources/)"),
    (WEEKLY, "- task_key: evaluate", "- task_key: train", "two tasks are called 'train'"),
    (BACKFILL, "tasks.dates.values", "tasks.every.values", "the task has not run before"),
    (BACKFILL, "--to={{job.parameters.end}}", "--to={{job.parameters.until}}", "the job declares no parameter 'until'"),
    (BACKFILL, "--to={{job.parameters.end}}", "--to={{input}}", "{{input}} outside a for-each task"),
    ("databricks.yml", "dynamic_version", "dynamic_versions", "artifacts.wheel.dynamic_versions: unknown field"),
    ("databricks.yml", "default: 0.1.0", "default: 0.0.9", "--expect-version=0.0.9: the wheel is"),
    ("databricks.yml", "/Workspace/Users/${workspace.current_user.userName}/", "/Workspace/Shared/", "everybody could write the code"),
    ("databricks.yml", "service_principal_name: ${var.run_as}\n", "user_name: ${var.run_as}\n", "production runs as a service principal"),
    ("resources/unity_catalog.yml", "volume_type: MANAGED", "kind: MANAGED", "volumes.landing: databricks-sdk"),
]


@pytest.mark.parametrize(("file", "old", "new", "message"), FAULTS, ids=[f"{n}-{fault[3][:40]}" for n, fault in enumerate(FAULTS)])
def test_a_planted_fault_is_found(planted: Callable[..., list[str]], file: str, old: str, new: str, message: str) -> None:
    target = "staging" if "Workspace/Users" in old or "service_principal" in old else "prod"
    problems = planted(file, old, new, target)
    assert any(message in problem for problem in problems), problems


def test_libraries_on_serverless(planted: Callable[..., list[str]]) -> None:
    problems = planted(DAILY, "libraries: ${var.compute.libraries}", "libraries: [{whl: ../dist/*.whl}]", variables=SERVERLESS)
    assert problems == ["daily.ingest: serverless tasks take no `libraries`; name them under the environment's `dependencies`"]


def test_training_on_serverless(planted: Callable[..., list[str]]) -> None:
    text = (ROOT / WEEKLY).read_text()
    cluster = text[text.index("          new_cluster:") : text.index("          python_wheel_task", text.index("new_cluster:"))]
    problems = planted(WEEKLY, cluster, "          environment_key: stages\n", variables=SERVERLESS)
    assert problems == ["weekly_training.train: training is barrier mode over RDDs: it needs a cluster of its own, not serverless"]


@pytest.mark.parametrize(("kind", "key"), [("notebook_task", "notebook_path"), ("spark_python_task", "python_file")])
def test_a_file_that_does_not_exist(planted: Callable[..., list[str]], kind: str, key: str) -> None:
    wheel = 'python_wheel_task: {package_name: propensity_spark, entry_point: monitor, parameters: "${var.stage_parameters}"}'
    problems = planted(DAILY, wheel, f"{kind}: {{{key}: ../notebooks/gone}}")
    assert problems == [f"daily.monitor: {kind}: ../notebooks/gone does not exist (seen from resources/)"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("databricks.yml", "    default: main\n", "", "target dev: variable catalog has no value"),
        (
            "databricks.yml",
            "variables: {catalog: staging,",
            "variables: {catalogue: staging,",
            "sets variable catalogue, which nothing declares",
        ),
        (DAILY, "${var.notify}", "${var.notifies}", r"there is no var\.notifies"),
        (DAILY, "${resources.jobs.weekly_training.id}", "${resources.jobs.weekly.id}", r"there is no resources\.jobs\.weekly"),
        ("databricks.yml", "default: main\n", "default: ${var.catalog}\n", "refers to itself"),
        ("databricks.yml", "resources/*.yml", "resource/*.yml", "no such files"),
        (DAILY, "resources:\n", "resources: [\n", "daily.yml"),
        (DAILY, "name: propensity daily", "name: daily ${var.compute}", "is no text and cannot stand inside one"),
    ],
)
def test_what_cannot_be_resolved(planted: Callable[..., list[str]], file: str, old: str, new: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        planted(file, old, new, "staging" if "staging" in old else "dev")


def test_an_unknown_target() -> None:
    with pytest.raises(BundleError, match="no target 'production'; expected one of dev, staging, prod"):
        resolve(ROOT, "production")


@pytest.mark.parametrize(
    "expression",
    ["0 0 6 * * ?", "0 0/15 8-18 ? * MON-FRI", "0 0 0 L * ?", "0 0 12 ? * 6#3 2026", "0 5,35 * LW JAN,jun ?", "0 0 9 ? * SATL"],
)
def test_good_quartz_expressions(expression: str) -> None:
    assert quartz.problem(expression) is None


@pytest.mark.parametrize(
    "expression", ["0 0 6 * *", "0 60 6 * * ?", "0 0 6 ? * ?", "0 0 6 32 * ?", "0 0 6 ? * MOON", "0 */0 6 * * ?", "x 0 6 * * ?"]
)
def test_bad_quartz_expressions(expression: str) -> None:
    assert quartz.problem(expression) is not None
