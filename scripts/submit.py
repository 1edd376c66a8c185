"""spark-submit of `jobs/<stage>.py` with the built wheel: what `make cluster-run` and the replay of the deployed jobs share.

The wheel is installed into a virtual environment of its own, and only there; driver and executors use its Python. pyspark and the rest
come from the environment that runs this (the lock's), by one .pth line: site-packages named that way are importable, but their own .pth
files are not followed, so the editable project, which that environment has as well, is out of sight. `venv --system-site-packages` would
not do: it shows the packages of the Python under a virtual environment, not those of the environment itself. The wheel is not sent with
--py-files: Spark puts only .zip, .egg and .jar on the executors' path, and settings inside an archive are no files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.cluster import LOOPBACK, spark_home

KEPT = ("PATH", "HOME", "JAVA_HOME", "JDK_JAVA_OPTIONS", "LANG", "LC_ALL", "TZ", "TMPDIR", "AWS_ENDPOINT_URL")


class NotInstalled(Exception):
    """The wheel cannot be installed; the message ends with what pip said."""


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """The variables a process of ours starts with: few of this machine's, so that no PYTHONPATH reaches it, and `more`."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}


def install(wheel: Path, folder: Path) -> Path:
    """A virtual environment in `folder` with `wheel` and nothing else of its own; gives its Python. Asks no network."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    ours = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "environment.pth").write_text("".join(f"{path}\n" for path in ours))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "--quiet"]
    words = [*pip, "--no-index", "--no-deps", "--ignore-installed", str(wheel)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment({}))
    if done.returncode:
        raise NotInstalled(f"{wheel.name} cannot be installed:\n{done.stdout}{done.stderr}")
    return python


@dataclass(frozen=True)
class Submit:
    """How to call spark-submit: `python` has the wheel, `jars` go to every node, `conf` are Spark settings."""

    python: Path
    master: str
    jars: Sequence[Path] = ()
    conf: Mapping[str, str] = field(default_factory=dict)

    def command(self, script: Path, arguments: Sequence[str]) -> list[str]:
        """The words of the command line."""
        conf = {"spark.driver.host": LOOPBACK, "spark.driver.bindAddress": LOOPBACK, "spark.ui.enabled": "false", **self.conf}
        settings = [word for name, value in conf.items() for word in ("--conf", f"{name}={value}")]
        jars = ["--jars", ",".join(str(path) for path in self.jars)] if self.jars else []
        return [str(spark_home() / "bin" / "spark-submit"), "--master", self.master, *settings, *jars, str(script), *arguments]

    def variables(self, folder: Path) -> dict[str, str]:
        """The variables it needs. Spark's own settings are a folder in `folder` that is not there: no defaults of this machine count.

        An empty one would be a part of the class path, and the archive of Spark's classes holds for its class path alone.
        """
        spark = {"SPARK_HOME": str(spark_home()), "SPARK_CONF_DIR": str(folder / "spark-conf"), "SPARK_LOCAL_IP": LOOPBACK}
        return {**spark, "PYSPARK_PYTHON": str(self.python), "PYSPARK_DRIVER_PYTHON": str(self.python)}
