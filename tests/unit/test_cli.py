"""The command line: exit codes, as-of dates, what is said about a missing folder, and what a run shows and logs."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from propensity_spark import __version__, cli, line, models
from propensity_spark.config import CONF_DIR, Settings, load_settings
from propensity_spark.console import LineProgress, Result, closing_facts, closing_table
from propensity_spark.errors import ConfigurationError, GateFailed, SourceMissing
from propensity_spark.logs import log_fields, log_folder, start_logging, stderr_to
from propensity_spark.run import Outcome

ROOT = CONF_DIR.parent
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


def settings(*overrides: str, dataset: str = "stocks", data: str | None = None) -> Settings:
    return load_settings(CONF_DIR / "local.yml", dataset, overrides, data)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Logging as it was, whatever `start_logging` did."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()
    root.handlers[:], root.level = before, level
    logging.captureWarnings(False)


COUNTS = {"rows_in": 1, "rows_out": 1, "rows_rejected": 0}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """`propensity run` without Spark: every stage takes one row and gives two. Holds what was asked for."""
    asked: list[Any] = []

    def run_line(spark: object, settings: Settings, as_of: date, stages: list[Any], say: Any) -> Iterator[Any]:
        asked.append((settings, as_of, [stage.name for stage in stages]))
        for stage in stages:
            say(f"working on [{stage.name}]")
            yield stage, (None if stage.name == "label" else Outcome(1, 2, 3, f"{stage.name} done", {f"{stage.name} fact": "4"})), 0.5

    monkeypatch.setattr(line, "run_line", run_line)
    monkeypatch.setattr(line, "last_successes", lambda lake: {"label": {"facts": '{"label fact": "3"}', "note": None, **COUNTS}})
    monkeypatch.setattr(cli, "_session", lambda settings, verbose: None)
    return asked


def log_lines(lake: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (lake / "logs" / "propensity.log").read_text().splitlines()]


# --- the as-of date ----------------------------------------------------------------------------------------------


def test_the_as_of_date_is_the_one_given_else_the_setting_else_yesterday() -> None:
    assert cli.as_of_date(settings(), "2024-05-06", NOON) == date(2024, 5, 6)
    assert cli.as_of_date(settings(), None, NOON) == date(2024, 12, 31)
    assert cli.as_of_date(settings("as_of=null"), None, NOON) == date(2025, 2, 28)


def test_yesterday_is_the_data_sets_yesterday() -> None:
    late = datetime(2025, 3, 1, 3, tzinfo=UTC)  # still 28 February in New York
    assert cli.as_of_date(settings("as_of=null"), None, late) == date(2025, 2, 27)
    assert cli.as_of_date(settings("as_of=null", "time_zone=Asia/Tokyo"), None, late) == date(2025, 2, 28)


def test_today_may_be_asked_for_tomorrow_may_not() -> None:
    assert cli.as_of_date(settings(), "2025-03-01", NOON) == date(2025, 3, 1)
    with pytest.raises(ConfigurationError, match="2025-03-02: lies in the future; expected at most 2025-03-01"):
        cli.as_of_date(settings(), "2025-03-02", NOON)
    with pytest.raises(ConfigurationError, match="in the future"):
        cli.as_of_date(settings("as_of=2026-01-01"), None, NOON)


@pytest.mark.parametrize("text", ["yesterday", "2024-02-30", "31.12.2024", ""])
def test_an_as_of_date_that_is_no_date(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a date such as 2024-12-31"):
        cli.as_of_date(settings(), text, NOON)


# --- the data folder ---------------------------------------------------------------------------------------------


def test_a_data_set_that_needs_a_folder_says_what_it_expects_where() -> None:
    with pytest.raises(ConfigurationError) as caught:
        cli.require_data(settings(dataset="retail"))
    assert "sources.activity: invoices_by_day: expects files *.csv.gz in {data}/online_retail/by_day" in str(caught.value)
    assert "make run DATASET=retail DATA=<folder>" in str(caught.value)


def test_a_folder_that_does_not_hold_the_data(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match=r"expected files \*\.csv\.gz in .*online_retail/by_day, found no such folder; DATA"):
        cli.require_data(settings(dataset="retail", data=str(tmp_path)))


def test_a_folder_that_holds_it_and_places_that_are_not_on_this_disk(tmp_path: Path) -> None:
    (tmp_path / "online_retail" / "by_day").mkdir(parents=True)
    cli.require_data(settings(dataset="retail", data=str(tmp_path)))
    cli.require_data(settings(dataset="retail", data="s3a://bucket/data"))
    cli.require_data(settings(dataset="stocks"))


# --- what is run, and what is said -------------------------------------------------------------------------------


def test_the_stages_of_the_command_line_are_those_of_the_line() -> None:
    assert tuple(stage.name for stage in line.STAGES) == cli.STAGES
    assert [name for name in cli.STAGES if name in cli.SCORE_ONLY] == list(cli.SCORE_ONLY)
    assert sorted(path.stem for path in (ROOT / "jobs").glob("*.py")) == sorted(cli.STAGES)


def test_a_whole_run_ends_with_a_table_and_the_facts(ran: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = tmp_path / "lake"
    assert cli.main(["run", "--set", f"lake.root={lake}", "--settings", "label.horizon_days=3 'mlflow.experiment=a b'"]) == 0
    ((used, as_of, stages),) = ran
    assert (used.label.horizon_days, used.mlflow.experiment, as_of) == (3, "a b", date(2024, 12, 31))
    assert tuple(stages) == cli.STAGES
    out, progress = capsys.readouterr()
    table = out.splitlines()
    assert table[0].split() == ["stage", "rows", "in", "rows", "out", "rejected", "seconds", "note"]
    assert next(row for row in table if row.startswith("label")).split() == ["label", "0.5", "up", "to", "date"]
    assert next(row for row in table if row.startswith("ingest")).split() == ["ingest", "1", "2", "3", "0.5", "ingest", "done"]
    assert next(row for row in table if row.startswith("together")).split() == ["together", "4.5"]
    assert table[-9:] == [f"{name} fact: {3 if name == 'label' else 4}" for name in cli.STAGES]
    assert "[2/9] validate: working on [validate]\n[2/9] validate: 2 rows, 0.5 s" in progress
    assert "[4/9] label: up to date, 0.5 s" in progress
    assert "working on [score]" in [entry["message"] for entry in log_lines(lake)]


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        (["run", "--stages", "score, ingest"], ("ingest", "score")),
        (["run", "--score-only"], cli.SCORE_ONLY),
        (["publish"], ("publish",)),
        (["replay", "--table", "activity", "--reason", "price"], ("replay",)),
    ],
)
def test_some_stages_of_the_line(ran: list[Any], tmp_path: Path, words: list[str], stages: tuple[str, ...]) -> None:
    assert cli.main([*words, "--as-of", "2025-01-02", "--set", f"lake.root={tmp_path}"]) == 0
    assert tuple(ran[0][2]) == stages
    assert ran[0][1] == date(2025, 1, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--dataset", "none"], "unknown data set 'none'"),
        (["run", "--set", "label.horizon_day=3"], "unknown key 'label.horizon_day'"),
        (["run", "--settings", "label.horizon_days='3"], "No closing quotation"),
        (["run", "--stages", "ingest,polish"], "--stages: unknown 'polish'; expected some of ingest, validate"),
        (["run", "--as-of", "9999-01-01"], "lies in the future"),
        (["run", "--conf", "nowhere.yml"], "nowhere.yml: cannot be read"),
        (["run", "--dataset", "retail"], "DATA=<folder>"),
        (["verify", "s3a://b", "--as-of", "soon"], "found 'soon'"),
        (["rollback", "--set", "publish.uri=s3a://b"], "--as-of: expected the date"),
        (["rollback", "--model", "--as-of", "2024-12-31"], "--model: takes neither --as-of nor an address"),
        (["run", "--set", "lake.root=s3a://b/lake"], "mlflow.tracking_uri: is null, and an embedded store cannot live under"),
    ],
)
def test_a_mistake_in_the_words_is_one_message_exit_code_2_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    out, errors = capsys.readouterr()
    assert message in errors
    assert errors.startswith(f"{words[0]}: ")
    assert "Traceback" not in errors
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (GateFailed("activity: too many rejected"), 1, "run: activity: too many rejected\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues where it stopped\n"),
        (ZeroDivisionError("by [zero]\nand more"), 1, "run: ZeroDivisionError: by [zero]\nThe full traceback is in "),
        (
            RuntimeError("in a worker\nTraceback (most recent call last):\n  deep\nKeyError: 'x'\n\nJVM stacktrace:\nmore"),
            1,
            "RuntimeError: KeyError: 'x'\nThe",
        ),
        (ValueError(""), 1, "run: ValueError: \nThe full traceback is in "),
    ],
)
def test_a_failure_is_one_message_and_a_traceback_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_session", fail)
    assert cli.main(["run", "--set", f"lake.root={tmp_path}"]) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    if code == 1:
        assert f"{type(error).__name__}" in log_lines(tmp_path)[-1]["error"]


def test_verbose_shows_the_traceback_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise GateFailed("too many rejected")

    monkeypatch.setattr(cli, "_session", fail)
    assert cli.main(["run", "--verbose", "--set", f"lake.root={tmp_path}"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_before_there_is_a_log_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "load_settings", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run"])


def test_a_champion_that_is_taken_back_is_said_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(models, "roll_back", lambda settings, to: asked.append(to) or ("3", to))
    assert cli.main(["rollback", "--model", "--to", "1", "--set", f"lake.root={tmp_path}"]) == 0
    said = capsys.readouterr().out.strip()
    assert asked == ["1"]
    assert said.startswith("propensity-stocks: version 1 is champion again, and version 3 is not promoted any more unless --model --to 3")
    assert [line["message"] for line in log_lines(tmp_path)] == [said]


def test_settings_are_printed_as_they_were_merged(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["settings", "--set", "label.horizon_days=11"]) == 0
    assert "horizon_days: 11" in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"propensity {__version__}\n"


def test_a_job_file_passes_its_words_on_and_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []

    def main(words: list[str]) -> int:
        told.append(words)
        return len(told) - 1

    monkeypatch.setattr(cli, "main", main)
    monkeypatch.setattr(sys, "argv", ["features.py", "--dataset", "retail"])
    cli.stage_main("features")
    with pytest.raises(SystemExit) as caught:
        cli.stage_main("label")
    assert told == [["features", "--dataset", "retail"], ["label", "--dataset", "retail"]]
    assert caught.value.code == 1


def test_the_feed_is_served_on_the_port_that_was_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    feed = importlib.import_module("propensity_spark.simulate.feed")
    monkeypatch.setattr(feed, "serve", lambda settings, port, as_of, say: say(f"serving on {port} up to {as_of}"))
    assert cli.main(["feed", "--port", "8123"]) == 0
    assert capsys.readouterr().out == "serving on 8123 up to 2024-12-31\n"


# --- progress, logs ----------------------------------------------------------------------------------------------


def test_on_a_terminal_progress_is_drawn_and_finished_stages_stay() -> None:
    console = Console(force_terminal=True, record=True, width=100)
    with LineProgress(console, ["ingest", "score"]) as progress:
        progress.start()
        progress.say("[half] way")
        progress.finish(Outcome(1, 1234), 2.0)
        progress.finish(None, 0.0)
    text = console.export_text()
    assert "[1/2] ingest: 1,234 rows, 2.0 s" in text
    assert "[2/2] score: up to date, 0.0 s" in text


def test_brackets_in_a_note_are_text() -> None:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 (closed with the process)
    console.print(closing_table([Result("train", Outcome(1, 1, note="[bold]12 trees"), 1.0)]))
    assert "[bold]12 trees" in console.export_text()
    facts = {"AUC": "0.8", "trees": "12"}
    assert closing_facts([Result("label", None, 1.0), Result("train", Outcome(1, 1, facts=facts), 1.0)]) == ["AUC: 0.8", "trees: 12"]


def test_a_log_line_carries_run_stage_extras_and_traceback(tmp_path: Path) -> None:
    start_logging(tmp_path, verbose=False)
    log = logging.getLogger("propensity_spark.somewhere")
    with log_fields(run_id="r1"), log_fields(stage="train"):
        log.info("trees %d", 12, extra={"depth": 6, "day": date(2024, 1, 1)})
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(text) for text in (tmp_path / "propensity.log").read_text().splitlines())
    assert (first["run_id"], first["stage"], first["message"], first["depth"], first["day"]) == ("r1", "train", "trees 12", 6, "2024-01-01")
    assert first["level"] == "INFO"
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    assert "run_id" not in second
    assert second["error"].endswith("ValueError: no")


def test_logs_lie_in_the_lake_or_beside_us_when_the_lake_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert log_folder(settings("lake.root=here/lake")) == Path("here/lake/logs")
    for remote in ("s3a://bucket/lake", "dbfs:/lake"):
        assert log_folder(settings(f"lake.root={remote}")) == Path("logs/stocks")
    assert (tmp_path / "logs" / "stocks").is_dir()


def test_a_childs_stderr_goes_to_the_file_and_ours_comes_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spark.log"
    path.write_text("before\n")
    with stderr_to(path):
        subprocess.run(["/bin/sh", "-c", "echo noise >&2"], check=True)
    subprocess.run(["/bin/sh", "-c", "echo ours >&2"], check=True)
    assert path.read_text() == "before\nnoise\n"
    assert capfd.readouterr().err == "ours\n"


def test_a_large_file_of_noise_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("propensity_spark.logs.MAX_BYTES", 10)
    path = tmp_path / "spark.log"
    path.write_text("more than ten bytes")
    with stderr_to(path):
        pass
    assert (path.read_text(), (tmp_path / "spark.log.1").read_text()) == ("", "more than ten bytes")
