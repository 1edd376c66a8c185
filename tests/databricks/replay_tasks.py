"""How one Python task of a job is run here: by the entry point of the built wheel, or by spark-submit of its script.

Either way the wheel is installed into a virtual environment of its own, and only there. pyspark and the rest come from the environment
that the tests run in (the lock's), by one .pth line: site-packages named that way are importable, but their own .pth files are not
followed, so the editable project, which that environment has as well, is out of sight. `venv --system-site-packages` would not do: it
shows the packages of the Python under a virtual environment, not those of the environment itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from replay import Task, TaskFailed
from replay_references import ReplayError

from scripts.cluster import LOOPBACK, spark_home

TASK_VALUES = "PROPENSITY_TASK_VALUES"  # the file in which a task outside Databricks leaves its values, a JSON object
KEPT = ("PATH", "HOME", "JAVA_HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "AWS_ENDPOINT_URL")

LAUNCHER = '''\
"""Calls an entry point as a Python wheel task does: by its name in the distribution, words in sys.argv, whatever it returns ignored."""

import sys
from importlib.metadata import distribution
from pathlib import Path

package, name, *words = sys.argv[1:]
found = [entry for entry in distribution(package).entry_points if entry.name == name]
if not found:
    sys.exit(f"the wheel {package} has no entry point {name}")
sys.argv = [name, *words]
call = found[0].load()
module = sys.modules[found[0].module.partition(".")[0]]
if not Path(module.__file__).resolve().is_relative_to(Path(sys.prefix).resolve()):
    sys.exit(f"{module.__name__} is not the wheel's: {module.__file__}")
try:
    call()
except SystemExit as end:
    if end.code in (None, 0):
        sys.exit(f"the entry point {name} ended by sys.exit({end.code}), which a job takes for a failure")
    raise
'''


def install(wheel: Path, folder: Path) -> Path:
    """A virtual environment in `folder` with `wheel` and nothing else of its own; gives its Python. Asks no network."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    ours = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "environment.pth").write_text("".join(f"{path}\n" for path in ours))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run(
        [*pip, "--no-index", "--no-deps", "--ignore-installed", str(wheel)],
        capture_output=True,
        text=True,
        check=False,
        env=_environment({}),
    )
    if done.returncode:
        raise ReplayError(f"{wheel.name} cannot be installed:\n{done.stdout}{done.stderr}")
    return python


@dataclass(frozen=True)
class WheelTasks:
    """Runs wheel tasks by their entry points with `python`, from an empty folder. `environment`: further variables."""

    python: Path
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 900

    def __call__(self, task: Task, arguments: list[str], values: Path) -> None:
        wheel = task.get("python_wheel_task")
        if wheel is None:
            raise ReplayError(f"{task['task_key']}: is no Python wheel task")
        (self.folder / "launcher").mkdir(parents=True, exist_ok=True)
        launcher = self.folder / "launcher" / "launch.py"
        launcher.write_text(LAUNCHER)
        command = [str(self.python), str(launcher), wheel["package_name"], wheel["entry_point"], *arguments]
        _run(task["task_key"], command, self.folder, {**self.environment, TASK_VALUES: str(values)}, self.seconds)


@dataclass(frozen=True)
class SubmitTasks:
    """Runs the same tasks as `spark-submit <jobs>/<entry point>.py`, against the cluster at `master`.

    Driver and executors use `python`, in which the wheel is installed. The wheel is not sent with --py-files: Spark puts only .zip, .egg
    and .jar on the executors' path, and settings inside an archive are no files. `jars` go to every node, `conf` are Spark settings.
    """

    python: Path
    folder: Path
    master: str
    scripts: Path
    jars: Sequence[Path] = ()
    conf: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 900

    def __call__(self, task: Task, arguments: list[str], values: Path) -> None:
        _run(task["task_key"], self.command(task, arguments), self.folder, self._variables(values), self.seconds)

    def command(self, task: Task, arguments: list[str]) -> list[str]:
        """The words of the command line."""
        wheel = task.get("python_wheel_task") or {}
        script = self.scripts / f"{wheel.get('entry_point')}.py"
        if not script.is_file():
            raise ReplayError(f"{task['task_key']}: there is no {script}")
        conf = {"spark.driver.host": LOOPBACK, "spark.driver.bindAddress": LOOPBACK, "spark.ui.enabled": "false", **self.conf}
        settings = [word for name, value in conf.items() for word in ("--conf", f"{name}={value}")]
        jars = ["--jars", ",".join(str(path) for path in self.jars)] if self.jars else []
        return [str(spark_home() / "bin" / "spark-submit"), "--master", self.master, *settings, *jars, str(script), *arguments]

    def _variables(self, values: Path) -> dict[str, str]:
        (self.folder / "spark-conf").mkdir(parents=True, exist_ok=True)  # empty: no defaults of this machine
        spark = {"SPARK_HOME": str(spark_home()), "SPARK_CONF_DIR": str(self.folder / "spark-conf"), "SPARK_LOCAL_IP": LOOPBACK}
        python = {"PYSPARK_PYTHON": str(self.python), "PYSPARK_DRIVER_PYTHON": str(self.python)}
        return {**spark, **python, **self.environment, TASK_VALUES: str(values)}


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}


def _run(name: str, command: list[str], folder: Path, variables: Mapping[str, str], seconds: float) -> None:
    """Run it in `folder`, what it says going to <name>.log there. Raises TaskFailed with the end of that when it fails or is too slow."""
    folder.mkdir(parents=True, exist_ok=True)
    log, environment = folder / f"{name}.log", _environment(variables)
    with (
        log.open("wb") as said,
        subprocess.Popen(
            command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, cwd=folder, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            ended = f"exit code {process.wait(timeout=seconds)}"
        except subprocess.TimeoutExpired:
            ended = f"not finished after {seconds:.0f} seconds"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the JVM and the workers that it started
    if ended != "exit code 0":
        raise TaskFailed(f"task {name}: {ended}:\n{log.read_text('utf-8', errors='replace')[-4000:]}")
