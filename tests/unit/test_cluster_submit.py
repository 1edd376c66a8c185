"""How the line is submitted stage by stage, with a stand-in for spark-submit: no cluster, no Spark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from propensity_spark.cli import STAGES
from propensity_spark.config import SparkSettings
from scripts import submit
from scripts.cluster_run import closing_facts, cluster_conf, main, run_stages
from scripts.submit import Submit

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """#!/bin/sh
case "$*" in
  *jobs/label.py*) echo "label: not enough history" >&2; exit 3;;
  *jobs/train.py*) echo $$ > "$PWD/pid"; sleep 60;;
esac
echo "[1/1] ingest: 12 files"
printf 'stage  rows in\ntogether  1.0\nAUC: 0.8\n'
echo "$*" >> "$PWD/words"
"""


@pytest.fixture
def how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submit:
    script = tmp_path / "bin" / "spark-submit"
    script.parent.mkdir()
    script.write_text(STAND_IN)
    script.chmod(0o755)
    monkeypatch.setattr(submit, "spark_home", lambda: tmp_path)
    return Submit(Path(sys.executable), "spark://x:1", [Path("/j/1.jar")], {"spark.task.cpus": "1"})


def test_each_stage_is_submitted_in_order_and_its_facts_come_last(how: Submit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stages(how, ["ingest", "validate"], ["--dataset", "stocks"], tmp_path) == 0
    words = (tmp_path / "words").read_text().splitlines()
    assert [line.rpartition("/jobs/")[2] for line in words] == ["ingest.py --dataset stocks", "validate.py --dataset stocks"]
    assert all("--master spark://x:1 " in line and "--jars /j/1.jar" in line for line in words)
    said = capsys.readouterr()
    assert said.out == "AUC: 0.8\nAUC: 0.8\n"
    assert "[1/2] ingest: 12 files" in said.err


def test_a_stage_that_fails_ends_the_run_with_its_error_and_its_exit_code(
    how: Submit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stages(how, ["ingest", "label", "validate"], [], tmp_path) == 3
    assert len((tmp_path / "words").read_text().splitlines()) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "label: not enough history\n\n[2/3] label: spark-submit ended with exit code 3" in said.err


def test_what_was_submitted_ends_with_an_interrupt(tmp_path: Path, how: Submit) -> None:
    """In a process of its own, which is sent Ctrl-C while a stage is at work."""
    code = (
        "import sys; from pathlib import Path; from scripts import submit; from scripts.cluster_run import run_stages\n"
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore Ctrl-C
        "folder = Path(sys.argv[1]); submit.spark_home = lambda: folder\n"
        "run_stages(submit.Submit(Path(sys.executable), 'spark://x:1'), ['train'], [], folder)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment, stderr=subprocess.DEVNULL) as process:
        pid = tmp_path / "pid"
        while not (pid.exists() and pid.read_text().strip()):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_words_after_the_closing_table_are_the_facts() -> None:
    assert closing_facts("AUC: old\ntogether   2.0\nchampion: version 1\nreport: r.html\n") == ["champion: version 1", "report: r.html"]
    assert closing_facts("no table") == []


def test_a_cluster_is_told_what_a_local_session_is_told() -> None:
    conf = cluster_conf(SparkSettings(shuffle_partitions=4, conf={"spark.sql.adaptive.enabled": "false"}), "1g", [Path("/j/1.jar")])
    assert conf["spark.sql.extensions"] == "io.delta.sql.DeltaSparkSessionExtension"
    assert (conf["spark.sql.shuffle.partitions"], conf["spark.sql.adaptive.enabled"]) == ("4", "false")
    assert conf["spark.executor.memory"] == "1g"
    assert conf["spark.driver.extraClassPath"] == conf["spark.executor.extraClassPath"] == "/j/1.jar"


def test_a_word_that_is_no_spark_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--wheel", "x.whl", "--spark-conf", "spark.sql.shuffle.partitions=8", "--spark-conf", "spark.sql.ansi.enabled"])
    assert stopped.value.code == 2
    assert "'spark.sql.ansi.enabled' is no setting: write NAME=VALUE" in capsys.readouterr().err


def test_every_stage_has_its_job() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(STAGES)
