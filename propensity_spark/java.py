"""Which Java Spark can start on. Standard library only: `scripts/bootstrap.py` asks this before anything is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from propensity_spark.errors import EnvironmentMissing

SUPPORTED = ("17", "21")
HINT = (
    "install Java 17 (Debian, Ubuntu: sudo apt-get install openjdk-17-jre-headless; Fedora: sudo dnf install java-17-openjdk-headless; "
    "macOS: brew install openjdk@17) and put its `java` on the PATH, or set JAVA_HOME to its folder"
)


def require_java() -> Path:
    """The `java` that Spark will start: JAVA_HOME's, else the PATH's. Raises EnvironmentMissing unless it is 17 or 21."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not Path(java).exists():
        raise EnvironmentMissing(f"Java was not found ({f'JAVA_HOME={home}' if home else 'no java on the PATH'}): {HINT}")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(1\.\d+|\d+)', answer)  # up to 8 they were called 1.x
    if found is None or found.group(1) not in SUPPORTED:
        version = f"Java {found.group(1)}" if found else f"not a Java that works ({answer.strip() or 'it printed no version'})"
        raise EnvironmentMissing(f"{java} is {version}; Spark 4.1 needs Java 17 or 21: {HINT}")
    return Path(java)
