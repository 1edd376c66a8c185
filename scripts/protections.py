"""`make protections`: does each test that plants a fault fail when the protection against the fault is taken out?

    python -m scripts.protections [topic …]

In a copy of the tracked files the tests that tests/protections.yml names run once, as the code is. Then, for each entry alone, its
protection is taken out and its test runs again, in a process of its own: it must fail, for a test that cannot fail proves nothing. What was
seen goes to docs/protections.md, where topics that are not run keep theirs. Exit code 1: some test failed before, or did not fail then.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "protections.md"
HEAD = """# Protections

Made by `make protections` from [tests/protections.yml](../tests/protections.yml): the fault that is planted, what holds nevertheless,
the test that plants it, the code that was taken out, and how the test was seen to fail without it.
"""
COLUMNS = "| fault | what holds nevertheless | test | taken out | seen |\n| --- | --- | --- | --- | --- |"


@dataclass(frozen=True)
class Entry:
    """One fault. `test`: a pytest node id, `only` narrows its cases; in the file `path` the one place `text` becomes `without`."""

    topic: str
    path: str
    text: str
    without: str
    fault: str
    promise: str
    test: str
    only: str = ""

    @property
    def cells(self) -> str:
        """Its row of the table, up to what was seen."""
        test, code = self.test.rpartition("/")[2], f"{self.path}: {' '.join(self.text.split())}"
        return f"| {self.fault} | {self.promise} | {_code(test)} | {_code(code)} |"


@dataclass
class Ran:
    """A test function, all its cases together. `outcome`: passed, skipped, error (it did not get to run), or the line that failed."""

    seconds: float = 0.0
    outcome: str = "error"


def entries() -> list[Entry]:
    topics = yaml.safe_load((ROOT / "tests" / "protections.yml").read_text(encoding="utf-8"))
    return [Entry(topic, **one.pop("protection"), **one) for topic, listed in topics.items() for one in listed]


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the tracked files, with links to the jars and tools that the set-up has brought."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="protections-", ignore_cleanup_errors=True) as place:
        for name in names.rstrip("\0").split("\0"):
            (Path(place) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, Path(place) / name)
        for name in (".jars", ".tools"):
            (ROOT / name).mkdir(exist_ok=True)
            (Path(place) / name).symlink_to(ROOT / name)
        yield Path(place)


def pytest(folder: Path, words: Sequence[str], seconds: float | None = None) -> dict[str, Ran] | None:
    """Run tests, whatever their marks, in `folder`; None when they are not done after `seconds`, and then their processes are ended."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *words, "-m", "faults or not faults", "--tb=short", f"--junitxml={report}"]
    # No bytecode: a file that was changed within a second and has the same size would not be compiled again.
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / "pytest.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    ran: dict[str, Ran] = {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        one = ran.setdefault(
            f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '').partition('[')[0]}", Ran(0, "passed")
        )
        one.seconds += float(case.get("time", 0))
        for child in case.iterfind("*"):
            if one.outcome in ("passed", "skipped") and child.tag in ("skipped", "error", "failure"):
                one.outcome = _how(child.get("message", ""), child.text or "") if child.tag == "failure" else child.tag
    return ran


def _how(message: str, trace: str) -> str:
    """The last line of a test in a traceback, and what was raised there where the line alone does not tell."""
    lines = re.findall(r"^tests/\S+:\d+: in .*\n    (.+)$", trace, re.MULTILINE)
    raised = (
        "" if message.startswith(("AssertionError", "assert ")) else re.sub(r"/\S+/|0x[0-9a-f]+", "…", message.partition("\n")[0])[:100]
    )
    return " ".join(filter(None, [_code(lines[-1]) if lines else "", raised.replace("|", r"\|")]))


def _code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`"


def without(folder: Path, entry: Entry, before: Mapping[str, Ran]) -> str:
    """What its test does when the protection is taken out. It hangs when it takes a start of Spark and four times as long as before."""
    name = entry.test.partition("[")[0]
    as_it_is = before.get(name, Ran())
    if as_it_is.outcome != "passed":
        return f"NOT seen to fail, as the code is: {as_it_is.outcome}"
    code = (folder / entry.path).read_text(encoding="utf-8")
    (folder / entry.path).write_text(code.replace(entry.text, entry.without), encoding="utf-8")
    ran = pytest(folder, [entry.test, "-x", *(["-k", entry.only] if entry.only else [])], 120 + 4 * as_it_is.seconds)
    (folder / entry.path).write_text(code, encoding="utf-8")
    outcome = "it hung" if ran is None else ran.get(name, Ran()).outcome
    return f"{'NOT seen' if outcome in ('passed', 'skipped', 'error') else 'seen'} to fail: {outcome}"


def write(every: Iterable[Entry], seen: Mapping[Entry, str]) -> None:
    """The table: what was seen now, else what it says already."""
    rows, lines, topic = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else [], [HEAD], ""
    for entry in every:
        lines += [f"\n## {entry.topic}\n", COLUMNS] if entry.topic != topic else []
        topic = entry.topic
        row = next((row for row in rows if row.startswith(entry.cells)), f"{entry.cells} not run yet |")
        lines.append(f"{entry.cells} {seen[entry]} |" if entry in seen else row)
    TABLE.write_text("\n".join(lines).replace("\n\n\n", "\n\n") + "\n", encoding="utf-8")


def main(topics: Sequence[str]) -> int:
    every = entries()
    chosen = [entry for entry in every if not topics or entry.topic in topics]
    seen: dict[Entry, str] = {}
    with copied() as folder:
        before = pytest(folder, list(dict.fromkeys(entry.test for entry in chosen))) or {}
        sys.stdout.write(f"as the code is: {len(before)} tests in {sum(ran.seconds for ran in before.values()):.0f} s\n")
        for number, entry in enumerate(chosen, 1):
            started = time.monotonic()
            seen[entry] = without(folder, entry, before)
            seconds = time.monotonic() - started
            sys.stdout.write(f"[{number}/{len(chosen)}] {entry.topic}: {entry.fault} ({seconds:.0f} s): {seen[entry]}\n")
            sys.stdout.flush()
            write(every, seen)
    missed = sum(said.startswith("NOT") for said in seen.values())
    sys.stdout.write(f"{len(seen)} protections taken out, one at a time; {missed} of them not missed by their tests\n")
    return 1 if missed or not seen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
