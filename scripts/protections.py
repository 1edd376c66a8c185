"""`make protections`: does each test that plants a fault fail when the protection against it is taken out?

In a copy of the tracked files the tests that tests/protections.yml names run once, as the code is. Then, for each entry alone, its
protection is taken out and its test runs again, in a process of its own: it must fail, for a test that cannot fail proves nothing. What was
seen goes to docs/protections.md, where what is not run keeps its own. Exit code 1: some test failed before, or did not fail then; 2: no
test was chosen.
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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "protections.md"
HEAD = """# Protections

Made by `make protections` from [tests/protections.yml](../tests/protections.yml): the fault that is planted, what holds nevertheless,
the test that plants it, the code that was taken out, and how the test was seen to fail without it."""
Ran = dict[str, tuple[float, str]]
"""Test function → seconds of all its cases, and passed, skipped, error (it could not begin) or the line that failed."""


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
        taken_out = f"{_code(self.text)} → {_code(self.without)}" if self.without else _code(self.text)
        return f"| {self.fault} | {self.promise} | {_code(self.test.rpartition('/')[2])} | {self.path}: {taken_out} |"


def entries() -> list[Entry]:
    topics = yaml.safe_load((ROOT / "tests" / "protections.yml").read_text(encoding="utf-8"))
    return [Entry(topic, **one.pop("protection"), **one) for topic, listed in topics.items() for one in listed]


def copy_to(folder: Path) -> None:
    """Copy the tracked files, and link the jars and tools that the set-up has brought."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.rstrip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for name in (".jars", ".tools"):
        (ROOT / name).mkdir(exist_ok=True)
        (folder / name).symlink_to(ROOT / name)


def pytest(folder: Path, words: Sequence[str], seconds: float | None = None) -> Ran | None:
    """Run tests, whatever their marks, in `folder`; None when they are not done after `seconds`, and then their processes are ended."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *words, "-m", "faults or not faults", "--tb=short", f"--junitxml={report}"]
    variables = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}  # the time and size of a file tell too little
    with (folder / "pytest.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()
            _end_processes_in(folder)
    ran: Ran = {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '').partition('[')[0]}"
        before, outcome = ran.get(name, (0.0, "passed"))
        for child in case.iterfind("*"):
            if outcome in ("passed", "skipped") and child.tag in ("skipped", "error", "failure"):
                outcome = _how(child.get("message", ""), child.text or "") if child.tag == "failure" else child.tag
        ran[name] = before + float(case.get("time", 0)), outcome
    return ran


def _end_processes_in(folder: Path) -> None:
    """Without its protection a test may leave something running, in a session of its own."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if Path(os.readlink(process / "cwd")) == folder:
                os.kill(int(process.name), signal.SIGKILL)


def _how(message: str, trace: str) -> str:
    """The last line of a test in a traceback, and what was raised there where the line alone does not tell."""
    lines = re.findall(r"^tests/\S+:\d+: in .*\n    (.+)$", trace, re.MULTILINE)
    raised = re.sub(r"/\S+/|0x[0-9a-f]+", "…", message.partition("\n")[0])[:100].replace("|", r"\|")
    return " ".join([*map(_code, lines[-1:]), *([] if raised.startswith(("AssertionError", "assert ")) else [raised])])


def _code(text: str) -> str:
    return f"`{' '.join(text.split()).replace('|', chr(92) + '|')}`"


def without(folder: Path, entry: Entry, before: Ran) -> str:
    """What its test does when the protection is taken out. It hangs when it takes far longer than the slowest of its file did."""
    name = entry.test.partition("[")[0]
    _, as_it_is = before.get(name, (0.0, "error"))
    if as_it_is != "passed":
        return f"NOT seen to fail, as the code is: {as_it_is}"
    code = (folder / entry.path).read_text(encoding="utf-8")
    (folder / entry.path).write_text(code.replace(entry.text, entry.without), encoding="utf-8")
    slowest = max(seconds for other, (seconds, _) in before.items() if other.partition("::")[0] == name.partition("::")[0])
    ran = pytest(
        folder, [entry.test, "-x", "--hypothesis-profile=first failure", *(["-k", entry.only] if entry.only else [])], 90 + 3 * slowest
    )
    (folder / entry.path).write_text(code, encoding="utf-8")
    _, outcome = (0.0, "it hung") if ran is None else ran.get(name, (0.0, "error"))
    return f"{'NOT seen' if outcome in ('passed', 'skipped', 'error') else 'seen'} to fail: {outcome}"


def write(every: Iterable[Entry], seen: Mapping[Entry, str]) -> None:
    """The table: what was seen now, else what it says already."""
    rows, lines, topic = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else [], [HEAD], ""
    for entry in every:
        if entry.topic != topic:
            topic = entry.topic
            lines.append(f"\n## {topic}\n\n| fault | what holds nevertheless | test | taken out | seen |\n| --- | --- | --- | --- | --- |")
        row = next((row for row in rows if row.startswith(entry.cells)), f"{entry.cells} not run yet |")
        lines.append(f"{entry.cells} {seen[entry]} |" if entry in seen else row)
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(words: Sequence[str]) -> int:
    """`words`: topics, or parts of the names of tests; none: all."""
    every, seen = entries(), dict[Entry, str]()
    chosen = [entry for entry in every if not words or any(word == entry.topic or word in entry.test for word in words)]
    if not chosen:
        topics = ", ".join(dict.fromkeys(entry.topic for entry in every))
        sys.stderr.write(f"{' '.join(words)}: expected topics ({topics}), or parts of the names of tests; found none of them\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="protections-", ignore_cleanup_errors=True) as place:
        folder = Path(place).resolve()
        copy_to(folder)
        before = pytest(folder, list(dict.fromkeys(entry.test for entry in chosen))) or {}
        sys.stderr.write(f"as the code is: {len(before)} tests in {sum(seconds for seconds, _ in before.values()):.0f} s\n")
        for number, entry in enumerate(chosen, 1):
            started = time.monotonic()
            seen[entry] = without(folder, entry, before)
            seconds = time.monotonic() - started
            sys.stderr.write(f"[{number}/{len(chosen)}] {entry.topic}: {entry.fault} ({seconds:.0f} s): {seen[entry]}\n")
            write(every, seen)
    missed = sum(said.startswith("NOT") for said in seen.values())
    sys.stdout.write(f"{len(seen)} protections taken out, one at a time; {missed} of them not missed by their tests\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
