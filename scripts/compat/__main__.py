"""`python scripts/compat [RUNTIME …] -- PYTEST ARGUMENTS`: the test suite with the library versions of the Databricks runtimes.

For each runtime a copy of the checkout in `.compat/<runtime>`, in which the runtime's locks take the place of requirements.lock
and jars.lock; then the README's test command in it. Runs on the system's Python; exit code 1 when a runtime's tests fail.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COPIES = ROOT / ".compat"
RUNTIMES = sorted(folder.name for folder in HERE.iterdir() if (folder / "libraries.txt").is_file())
PYTHON = "3.12"  # of both runtimes
VERSIONS = """
import platform, sys
from importlib.metadata import version
print("python==" + platform.python_version(), *(f"{name}=={version(name)}" for name in sys.argv[1:]), sep="\\n")
"""
NOT_HERE = "Databricks' own builds of Spark, Delta, Photon and MLflow's client, Unity Catalog, and whatever else the runtime adds"


def say(text: str) -> None:
    sys.stderr.write(f"compat: {text}\n")
    sys.stderr.flush()


def python_command(asked: str | None) -> str:
    """The interpreter asked for, else the runtimes' own version when it is installed, else the one that runs this."""
    named = f"python{PYTHON}"
    if asked:
        return asked
    # A version manager's stand-in is on the PATH and still may not run.
    runs = shutil.which(named) and subprocess.run([named, "--version"], capture_output=True, check=False).returncode == 0
    return named if runs else sys.executable


def copy_checkout(runtime: str) -> Path:
    """The checkout's files as they are now, with the runtime's locks; what the copy's own set-up and tests made is kept."""
    copy = COPIES / runtime
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    remembered = copy / ".copied"
    for name in set(remembered.read_text().splitlines() if remembered.is_file() else []) - names:
        (copy / name).unlink(missing_ok=True)
    for name in sorted(names):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    remembered.write_text("\n".join(sorted(names)))
    for lock in ("requirements.lock", "jars.lock"):
        if (HERE / runtime / lock).is_file():
            shutil.copy2(HERE / runtime / lock, copy / lock)
    return copy


def wanted(runtime: str) -> dict[str, str]:
    """Library -> the version that the runtime holds."""
    lines = (HERE / runtime / "libraries.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def compared(runtime: str, copy: Path) -> str:
    """The libraries in the copy's environment, and those that are not in the runtime's version."""
    answer = subprocess.run(
        [copy / ".venv" / "bin" / "python", "-c", VERSIONS, *wanted(runtime)], capture_output=True, text=True, check=True
    )
    found = dict(line.split("==", 1) for line in answer.stdout.splitlines())
    others = [f"{name} {found[name]} instead of {version}" for name, version in wanted(runtime).items() if found[name] != version]
    if not found["python"].startswith(f"{PYTHON}."):
        others.append(f"python {found['python']} instead of {PYTHON}")
    return f"with {', '.join(' '.join(pair) for pair in found.items())}; other than the runtime's: {', '.join(others) or 'none of these'}"


def run_tests(runtime: str, python: str, arguments: str) -> tuple[int, str]:
    """Exit code of `make test` in the copy, and pytest's closing line."""
    copy = copy_checkout(runtime)
    # The copy's own make: what this one was told (targets' variables, jobs) must not reach it.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHONPATH")}
    environment |= {"ARGS": f"--no-cov {arguments}"}  # coverage is a matter of the checkout's own `make test`, and of all tests
    say(f"{runtime}: make test in {copy}")
    process = subprocess.Popen(["make", "test", f"PYTHON={python}"], cwd=copy, env=environment, stdout=subprocess.PIPE, text=True)
    closing = "no test ran"
    for line in process.stdout or ():
        sys.stdout.write(line)
        sys.stdout.flush()
        if re.search(r"\d+ (passed|failed|error)", line):
            closing = line.strip()
    return process.wait(), closing


def main() -> int:
    words = sys.argv[1:]
    chosen, arguments = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    if unknown := sorted(set(chosen) - set(RUNTIMES)):
        say(f"unknown runtime {', '.join(unknown)}; expected some of {', '.join(RUNTIMES)}")
        return 2
    python = python_command(os.environ.get("COMPAT_PYTHON"))
    failed, lines = False, []
    for runtime in chosen or RUNTIMES:
        code, closing = run_tests(runtime, python, " ".join(arguments))
        failed |= code != 0
        copy = COPIES / runtime
        libraries = compared(runtime, copy) if (copy / ".venv" / ".installed").is_file() else "its set-up did not finish"
        lines.append(f"{runtime}: {'failed' if code else 'passed'}: {closing}; {libraries}")
    for line in lines:
        say(line)
    say(f"not installable here, so not covered: {NOT_HERE}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
