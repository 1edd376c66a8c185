"""The wheel of this checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from propensity_spark import __version__
from propensity_spark.config import CONF_DIR

ROOT = CONF_DIR.parent


def built_wheel(folder: Path) -> Path:
    """Built in `folder` from the files of this checkout and nothing that earlier builds left. Asks no network."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    for name in ("propensity_spark", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    built = subprocess.run([*pip, str(source)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    assert wheel.name == f"propensity_spark-{__version__}-py3-none-any.whl"
    return wheel
