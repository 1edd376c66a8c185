"""All set-up there is: `.venv` from requirements.lock, this package in it, and the JVM jars of jars.lock in `.jars`.

Runs on the system's own Python before anything is installed. What is there and right is left alone: a second start
compares stamps and hashes and asks the network for nothing. Whatever is wrong or was cut short is made again.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV, JARS = ROOT / ".venv", ROOT / ".jars"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS, JARS_LOCK = ROOT / "requirements.lock", ROOT / "jars.lock"
CLASS_ARCHIVE = ROOT / "scripts" / "class_archive.py"

if sys.version_info < (3, 11):  # noqa: UP036 (the system may have an older one)
    sys.exit(
        f"set-up: Python 3.11 or newer is needed, found {sys.version_info[0]}.{sys.version_info[1]} ({sys.executable}). "
        "Install one and name it: make setup PYTHON=python3.12"
    )

sys.path.insert(0, str(ROOT))
from propensity_spark.errors import EnvironmentMissing  # noqa: E402
from propensity_spark.java import require_java  # noqa: E402


def say(text: str) -> None:
    sys.stderr.write(f"set-up: {text}\n")
    sys.stderr.flush()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def up_to_date(stamp: Path, wanted: str) -> bool:
    return stamp.is_file() and stamp.read_text() == wanted


def make_environment() -> None:
    """`.venv` with exactly the locked wheels. A moved checkout or another Python means a new one."""
    identity = f"{VENV} {sys.version_info[0]}.{sys.version_info[1]}"
    stamp, wanted = VENV / ".installed", f"{identity} {sha256(REQUIREMENTS)}"
    if up_to_date(stamp, wanted) and PYTHON.exists():
        return
    if not (stamp.is_file() and stamp.read_text().startswith(identity) and PYTHON.exists()):
        say(f"making {VENV}")
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise EnvironmentMissing(
                f"{sys.executable} cannot make a virtual environment: {(made.stdout + made.stderr).strip()}\n"
                "Install its venv module (Debian, Ubuntu: sudo apt-get install python3-venv) or name another Python: "
                "make setup PYTHON=python3.12"
            )
    say("installing the locked packages into .venv; once, a few minutes")
    with tempfile.TemporaryDirectory() as folder:
        builder = Path(folder) / "builder.lock"
        builder.write_text(locked_package("setuptools"))
        pip("install", "--require-hashes", "--no-deps", "-r", str(builder))
    # pyspark comes as source only: without isolation it is built with the setuptools of the lock, not with any that pip would fetch.
    pip("install", "--require-hashes", "--no-deps", "--no-build-isolation", "-r", str(REQUIREMENTS))
    stamp.write_text(wanted)


def locked_package(name: str) -> str:
    """The lines of requirements.lock about one package."""
    found = re.search(rf"^{name}==.*(\n    --hash=.*)+$", REQUIREMENTS.read_text(), re.MULTILINE)
    if found is None:
        raise EnvironmentMissing(f"{REQUIREMENTS} does not hold {name}: run `make lock`")
    return found.group() + "\n"


def install_package() -> None:
    """This checkout, editable, without dependencies (they are locked) and without build isolation (that would ask the network)."""
    stamp, wanted = VENV / ".package", sha256(ROOT / "pyproject.toml")
    if not up_to_date(stamp, wanted):
        pip("install", "--no-deps", "--no-build-isolation", "--no-index", "--editable", str(ROOT))
        stamp.write_text(wanted)


def pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        raise EnvironmentMissing(f"pip failed (its message is above): {' '.join(command)}\nRun the same make command again to continue.")


def locked_jars() -> dict[str, tuple[str, str]]:
    """File name in `.jars` -> (coordinate group:artifact:version, SHA-256)."""
    rows = [line.split() for line in JARS_LOCK.read_text().splitlines() if line and not line.startswith("#")]
    return {"{}_{}-{}.jar".format(*coordinate.split(":")): (coordinate, digest) for digest, coordinate in rows}


def fetch_jars(java: Path) -> None:
    """Bring `.jars` to exactly what jars.lock says. A jar gets in only when its hash is right."""
    JARS.mkdir(exist_ok=True)
    locked = locked_jars()
    for stray in set(JARS.iterdir()) - {JARS / name for name in locked}:
        stray.unlink()
    wrong = {name: row for name, row in locked.items() if not (JARS / name).is_file() or sha256(JARS / name) != row[1]}
    if not wrong:
        return
    say(f"resolving {len(wrong)} of {len(locked)} JVM jars (Delta, S3A) with the Ivy that comes with pyspark; once, up to a minute")
    with tempfile.TemporaryDirectory() as folder:
        resolve(java, [coordinate for coordinate, _ in wrong.values()], Path(folder))
        for name, (coordinate, digest) in wrong.items():
            fetched = Path(folder) / "jars" / name
            found = sha256(fetched) if fetched.is_file() else "nothing"
            if found != digest:
                raise EnvironmentMissing(
                    f"{coordinate}: expected SHA-256 {digest} (jars.lock), got {found}; not taken. Try again on another network"
                )
            partial = JARS / f"{name}.partial"
            shutil.copyfile(fetched, partial)
            partial.replace(JARS / name)


def resolve(java: Path, coordinates: list[str], folder: Path) -> None:
    """Let Ivy fetch exactly these artifacts, no dependencies of theirs, into `folder`/jars."""
    ivy = next((VENV / "lib").glob("python*/site-packages/pyspark/jars/ivy-*.jar"), None)
    if ivy is None:
        raise EnvironmentMissing(f"pyspark in {VENV} has no Ivy jar: delete {VENV} and run `make setup` again")
    lines = ['<dependency org="{}" name="{}" rev="{}" transitive="false" conf="default"/>'.format(*c.split(":")) for c in coordinates]
    module = folder / "ivy.xml"
    module.write_text(
        f'<ivy-module version="2.0"><info organisation="local" module="jars"/><dependencies>{"".join(lines)}</dependencies></ivy-module>'
    )
    pattern = str(folder / "jars" / "[organisation]_[artifact]-[revision].[ext]")
    command = [
        str(java),
        "-cp",
        str(ivy),
        "org.apache.ivy.Main",
        "-cache",
        str(folder / "cache"),
        "-ivy",
        str(module),
        "-retrieve",
        pattern,
    ]
    answer = subprocess.run([*command, "-types", "jar", "bundle"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        problems = "\n".join(line for line in answer.stdout.splitlines() if "UNRESOLVED" in line or "FAILED" in line)
        raise EnvironmentMissing(
            f"the JVM jars could not be resolved:\n{problems or answer.stderr[-2000:]}\nIs there a network? Then run the command again"
        )


def archive_classes(java: Path) -> None:
    """Spark's classes in `.venv` (scripts/class_archive.py), for this Java. Without one everything works, but starts slower."""
    version = subprocess.run([str(java), "-version"], capture_output=True, text=True, check=False).stderr
    stamp, wanted = VENV / ".classes", f"{sha256(REQUIREMENTS)} {sha256(JARS_LOCK)} {sha256(CLASS_ARCHIVE)} {version}"
    if up_to_date(stamp, wanted):
        return
    say("keeping Spark's classes for faster starts; once, up to a minute")
    command = [str(PYTHON), "-m", "scripts.class_archive"]
    made = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        say(f"that failed, so sessions start some seconds later than they could: {(made.stdout + made.stderr).strip()[-500:]}")
    stamp.write_text(wanted)


def main() -> int:
    try:
        java = require_java()
        with JARS_LOCK.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at once wait for each other
            make_environment()
            install_package()
            fetch_jars(java)
            archive_classes(java)
    except EnvironmentMissing as error:
        say(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    for variable in ("PYTHONPATH", "PYTHONHOME"):  # they would make another Python's packages look like ours
        os.environ.pop(variable, None)
    sys.exit(main())
