"""tests/protections.yml names code and tests that are there. That the tests fail without the code is seen by `make protections`."""

from __future__ import annotations

import ast

import pytest
import yaml

from scripts.protections import ROOT, TABLE, Entry, entries, main


def is_taken_out(entry: Entry) -> bool:
    """Once in its file, which without it is still Python (or YAML), and another."""
    code = (ROOT / entry.path).read_text(encoding="utf-8")
    changed = code.replace(entry.text, entry.without)
    if entry.path.endswith(".py"):
        return code.count(entry.text) == 1 and ast.dump(ast.parse(changed)) != ast.dump(ast.parse(code))
    return code.count(entry.text) == 1 and yaml.safe_load(changed) != yaml.safe_load(code)


def is_there(entry: Entry) -> bool:
    path, _, name = entry.test.partition("[")[0].partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_protection_is_in_the_code_once_and_can_be_taken_out() -> None:
    assert [entry.fault for entry in entries() if not is_taken_out(entry)] == []


def test_each_test_is_there() -> None:
    assert [entry.test for entry in entries() if not is_there(entry)] == []


def test_each_has_its_row_of_the_table() -> None:
    written, rows = TABLE.read_text(encoding="utf-8"), [entry.cells for entry in entries()]
    assert len(set(rows)) == len(rows)
    assert [row for row in rows if row not in written] == [], "run `make protections`"


def test_a_word_that_names_nothing_takes_nothing_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["s4"]) == 2
    assert "s4: expected topics (s3, " in capsys.readouterr().err
