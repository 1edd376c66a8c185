"""`make cluster-run`: the line on a standalone cluster on loopback, one spark-submit a stage, with the built wheel.

    python -m scripts.cluster_run --wheel dist/propensity_spark-0.1.0-py3-none-any.whl --dataset stocks --workers 2

What it starts it stops, also when a stage fails or somebody presses Ctrl-C. Exit code: that of the first stage that fails, whose error is
shown; 130 when interrupted. The lake and what is published lie apart from those of `make run`: `lake/cluster/…`, `published/cluster/…`.
"""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from propensity_spark.cli import STAGES
from propensity_spark.config import CONF_DIR, SparkSettings
from propensity_spark.session import JARS_DIR, own_jvm, spark_conf
from scripts.cluster import ClusterFailed, group, standalone_cluster
from scripts.submit import NotInstalled, Submit, environment, install

ROOT = CONF_DIR.parent
_STEP = re.compile(r"^\[1/1\] (\w+): (.*)$")


def cluster_conf(spark: SparkSettings, executor_memory: str, jars: Sequence[Path]) -> dict[str, str]:
    """What a session of ours is told, for spark-submit: `spark` as for a local one, and one executor a worker; all are on this machine."""
    ours = {"spark.executor.memory": executor_memory, "spark.executor.extraJavaOptions": "-Duser.timezone=UTC -Dfile.encoding=UTF-8"}
    conf, paths = {**spark_conf(spark), **ours}, [str(path) for path in jars]
    return {**conf, **own_jvm(paths, conf), **own_jvm(paths, conf, "executor")}


def run_stages(submit: Submit, stages: Sequence[str], arguments: Sequence[str], folder: Path) -> int:
    """Submit `jobs/<stage>.py` one after the other; 0, or the exit code of the first that fails, after its last words."""
    facts: list[str] = []
    for number, stage in enumerate(stages, 1):
        started, log = time.monotonic(), folder / f"{stage}.log"
        with _submitted(submit, ROOT / "jobs" / f"{stage}.py", arguments, log) as process:
            _follow(process, log, f"[{number}/{len(stages)}]")
        said = log.read_text("utf-8", errors="replace")
        if process.returncode:
            _say(f"{said[-4000:]}\n[{number}/{len(stages)}] {stage}: spark-submit ended with exit code {process.returncode}")
            return process.returncode
        _say(f"[{number}/{len(stages)}] {stage}: {time.monotonic() - started:.1f} s with the start of its Spark")
        facts += closing_facts(said)
    for fact in facts:
        sys.stdout.write(f"{fact}\n")
    return 0


def closing_facts(said: str) -> list[str]:
    """What a stage says after its closing table, `name: value`."""
    _, found, after = said.rpartition("\ntogether ")
    return after.splitlines()[1:] if found else []


@contextmanager
def _submitted(submit: Submit, script: Path, arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """spark-submit at work, ended with its JVM and the Python that this started when the block is left early."""
    command, variables = submit.command(script, arguments), environment(submit.variables(log.parent))
    with group(command, log, variables, signal.SIGKILL, folder=log.parent) as process:
        yield process


def _follow(process: subprocess.Popen[bytes], log: Path, heading: str) -> None:
    """Pass the stage's own progress on until it ends."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        ended = False
        while not ended:
            ended = process.poll() is not None  # asked first: what it said last is read once more
            for line in lines:
                if found := _STEP.match(line.rstrip()):
                    _say(f"{heading} {found[1]}: {found[2]}")
            if not ended:
                time.sleep(0.2)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _arguments(options: argparse.Namespace) -> list[str]:
    """The words of every stage. Spark runs elsewhere, so places are absolute; a setting that is given wins."""
    places = {"lake.root": "lake", "publish.uri": "published"}
    own = [f"{name}={Path.cwd() / folder / 'cluster' / options.dataset}" for name, folder in places.items()]
    own.append(f"train.num_workers={options.workers * options.cores}")
    words = ["--conf", str(Path(options.conf).absolute()), "--dataset", options.dataset]
    words += ["--data", str(Path(options.data).absolute())] if options.data else []
    words += ["--as-of", options.as_of] if options.as_of else []
    return [*words, "--settings", shlex.join([*own, *shlex.split(options.settings)])]


def _spark_setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no setting: write NAME=VALUE")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="the line on a standalone cluster on loopback")
    parser.add_argument("--wheel", type=Path, required=True, help="the built wheel")
    parser.add_argument("--conf", default=str(ROOT / "conf" / "cluster.yml"))
    parser.add_argument("--dataset", default="stocks")
    parser.add_argument("--data", help="folder that the data set's YAML calls {data}")
    parser.add_argument("--as-of", metavar="YYYY-MM-DD")
    parser.add_argument("--settings", default="", metavar="'K=V …'", help="overrides, as for propensity")
    parser.add_argument("--stages", default=",".join(STAGES), help="some of the stages, in this order (default: all)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=1, help="of each worker (default: %(default)s)")
    parser.add_argument("--memory", default="2g", help="of each worker (default: %(default)s)")
    parser.add_argument("--driver-memory", default="3g")
    own = "a Spark setting of your own, such as spark.sql.shuffle.partitions=8; may be repeated"
    parser.add_argument("--spark-conf", type=_spark_setting, action="append", default=[], metavar="NAME=VALUE", help=own)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)
    jars = sorted(JARS_DIR.glob("*.jar"))
    spark = SparkSettings(driver_memory=options.driver_memory, shuffle_partitions=4, conf=dict(options.spark_conf))
    conf = cluster_conf(spark, options.memory, jars)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that everything stops
    try:
        with tempfile.TemporaryDirectory(prefix="cluster-run-") as parent:
            folder = Path(parent)
            python = install(options.wheel.absolute(), folder / "environment")
            with standalone_cluster(options.workers, options.cores, options.memory) as master:
                _say(f"a cluster of {options.workers} workers is up at {master}")
                return run_stages(Submit(python, master, conf=conf), options.stages.split(","), _arguments(options), folder)
    except (ClusterFailed, NotInstalled) as error:
        _say(f"cluster-run: {error}")
        return 1
    except KeyboardInterrupt:
        _say("cluster-run: interrupted; the same command continues where it stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
