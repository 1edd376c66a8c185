"""Every notebook, top to bottom, in a kernel of its own, against the lake of a small run of the line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from line_support import SMALL, Finished
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def finished_settings(finished: Finished) -> str:
    """PROPENSITY_SETTINGS of the finished line; values without spaces, as words are split there."""
    words = [word for word in SMALL if " " not in word]
    places = [f"lake.root={finished.settings.lake.root}", f"publish.uri={finished.settings.publish.uri}"]
    return " ".join([*places, "spark.driver_memory=2g", *words])


def test_the_notebooks_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_exploration", "02_features", "03_training", "04_evaluation"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_top_to_bottom(path: Path, finished_settings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROPENSITY_SETTINGS", finished_settings)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_clean(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None and cell.metadata == {} for cell in code)
    assert [cell.id for cell in book.cells] == [f"{path.stem[3:]}-{n:02d}" for n in range(1, len(book.cells) + 1)]
    assert book.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def test_ruff_finds_nothing_in_them() -> None:
    command = [sys.executable, "-m", "ruff"]
    for words in (["check"], ["format", "--check"]):
        result = subprocess.run([*command, *words, "notebooks"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
