"""How one Python task of a job is run here: by the entry point of the built wheel, or by spark-submit of its script.

Either way with the Python of an environment in which the wheel is installed, see `scripts/submit.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from replay import Task, TaskFailed
from replay_references import ReplayError

from scripts.submit import Submit, environment

TASK_VALUES = "PROPENSITY_TASK_VALUES"  # the file in which a task outside Databricks leaves its values, a JSON object
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
    """Runs the same tasks as `spark-submit <scripts>/<entry point>.py`, as `submit` says."""

    submit: Submit
    folder: Path
    scripts: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 900

    def __call__(self, task: Task, arguments: list[str], values: Path) -> None:
        script = self.scripts / f"{(task.get('python_wheel_task') or {}).get('entry_point')}.py"
        if not script.is_file():
            raise ReplayError(f"{task['task_key']}: there is no {script}")
        variables = {**self.submit.variables(self.folder), **self.environment, TASK_VALUES: str(values)}
        _run(task["task_key"], self.submit.command(script, arguments), self.folder, variables, self.seconds)


def _run(name: str, command: list[str], folder: Path, variables: Mapping[str, str], seconds: float) -> None:
    """Run it in `folder`, what it says going to <name>.log there. Raises TaskFailed with the end of that when it fails or is too slow."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with (
        log.open("wb") as said,
        subprocess.Popen(
            command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, cwd=folder, env=environment(variables), start_new_session=True
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
