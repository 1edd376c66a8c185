"""`make bench-compare` finds what has become slower, and is not misled by a slower machine."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from benchmarks.compare import main
from benchmarks.measure import Measure
from benchmarks.scaling import slopes
from benchmarks.stored import with_results


def results(path: Path, **seconds: tuple[float, float | None]) -> str:
    measures = [{"name": name, "unit": "s", "value": value, "reference": reference} for name, (value, reference) in seconds.items()]
    machine = {"cores": 2, "cpu": "a cpu", "load_before": [0.1]}
    path.write_text(json.dumps({"machine": machine, "code": {"commit": "abc"}, "settings": [], "measures": measures}))
    return str(path)


def test_a_slower_machine_is_no_regression_but_a_slower_stage_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = results(tmp_path / "a.json", features=(40.0, 8.0), train=(40.0, 8.0), start=(9.0, None))
    on_a_slower_machine = results(tmp_path / "b.json", features=(80.0, 16.0), train=(90.0, 16.0), start=(10.0, None))
    assert main([before, on_a_slower_machine]) == 0
    slower = results(tmp_path / "c.json", features=(80.0, 16.0), train=(50.0, 8.0), start=(12.0, None))
    capsys.readouterr()
    assert main([before, slower]) == 1
    said = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if " s " in line}
    assert "regressed" not in said["features"]
    assert "regressed by 25%" in said["train"]
    assert "regressed by 33%" in said["start"]


def test_a_measure_of_one_file_alone_is_shown_and_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = results(tmp_path / "a.json", old=(1.0, None)), results(tmp_path / "b.json", new=(5.0, None))
    assert main([before, after]) == 0
    out = capsys.readouterr().out
    assert "old" in out
    assert "new" in out


def test_results_take_the_place_of_stored_figures_of_the_same_name(tmp_path: Path) -> None:
    first, second = (
        json.loads(Path(results(tmp_path / f"{name}.json", **seconds)).read_text())
        for name, seconds in (("a", {"fit": (9.0, 3.0), "start": (9.0, None)}), ("b", {"fit": (6.0, 3.0)}))
    )
    kept = with_results(with_results({}, first, datetime(2026, 1, 2)), second, datetime(2026, 3, 4))
    assert [(one["name"], one["value"], one["measured"]["on"]) for one in kept["measures"]] == [
        ("fit", 6.0, "2026-03-04"),
        ("start", 9.0, "2026-01-02"),
    ]


def test_what_a_customer_more_costs_is_the_difference_between_two_sizes() -> None:
    """Ten times the customers take 60 s where a tenth takes 15 s: 45 s of two cores for 900 customers, and 10 s for none."""
    measure = Measure("next day, by customers: features", 60.0, "s", 1000, 15.0, "100 customers", reference_rows=100, bytes_each=1250.0)
    other = Measure("history: features", 60.0, "s", 1000, 15.0, "after 400 days")
    (slope,) = slopes([measure, other])
    assert (slope.stage, slope.core_seconds, slope.shuffled, slope.fixed) == ("features", pytest.approx(0.1), 1250, pytest.approx(10))
