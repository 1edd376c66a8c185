"""The command line: `propensity run` for the line, `propensity <stage>` for one, and a few commands beside it.

Exit codes: 0 done; 1 the line stopped and says why; 2 the caller's settings or machine are at fault; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, date, datetime
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import yaml
from rich.console import Console

from propensity_spark import __version__
from propensity_spark.as_of import as_of_date, days_between
from propensity_spark.config import CONF_DIR, FileSource, Settings, load_settings, load_table_settings
from propensity_spark.config.base import SAFE_NAME
from propensity_spark.console import (
    LineProgress,
    Result,
    analysis_lines,
    change_lines,
    change_table,
    closing_facts,
    closing_table,
    plan_lines,
    reproduced_lines,
)
from propensity_spark.errors import ConfigurationError, PropensityError, SourceMissing, WrongVersion
from propensity_spark.logs import log_file, log_folder, start_logging, stderr_to
from propensity_spark.own_table import command as own_table
from propensity_spark.platform import hand_over, is_connect, on_databricks, takes_values
from propensity_spark.run import Outcome, Run

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from propensity_spark.run import Stage

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # before `start_logging`, errors are printed and nothing more

STAGES = ("ingest", "validate", "features", "label", "train", "evaluate", "score", "publish", "monitor")
SCORE_ONLY = ("ingest", "validate", "features", "score", "publish", "monitor")
COMMANDS = {
    "run": "the whole line, or the stages named with --stages",
    **{name: f"the stage {name} alone" for name in STAGES},
    "replay": "judge quarantined rows of a silver table again, after a rule was mended",
    "backfill": "add new features to every date that gold has, without computing the others again",
    "vacuum": "remove data files that no version of the last lake.vacuum_days days (7 or more) and no registered model needs",
    "explain-change": "why the score of one user (and item) is not what it was: which features moved, and what each explains",
    "reproduce": "make a registered model again from the table versions it was made from, and hold it against the registered one",
    "compare": "other families of models on the same rows as XGBoost: a table and a page with paired intervals",
    "experiment": "an A/B test of acting on the scores: how many users it takes (plan), and what it showed (analyse)",
    "table": "a table of one's own, one row per customer: train on it, evaluate, score another",
    "forget": "remove persons from every table, quarantine and published run, and prove it",
    "verify": "hold a published run against its manifest",
    "rollback": "make an earlier published run of a date current again; with --model, the champion of before",
    "feed": "serve the simulated market over the feed's API until interrupted",
    "settings": "print the merged settings",
    "dates": "print the dates of a range, as what a job's for-each task goes over",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `propensity`. Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return (_WITHOUT_SETTINGS.get(options.command) or _with_settings)(options)
    except KeyboardInterrupt:
        _show("interrupted; the same command continues where it stopped", stderr=True)
        return 130
    except PropensityError as error:
        log.error("stopped: %s", error, exc_info=error)
        _show(f"{options.command}: {error}", stderr=True)
        return error.exit_code
    except Exception as error:
        if log_file() is None:
            raise
        log.exception("failed")
        _show(f"{options.command}: {type(error).__name__}: {_headline(error)}\nThe full traceback is in {log_file()}", stderr=True)
        return 1


def _with_settings(options: argparse.Namespace) -> int:
    if options.expect_version not in (None, __version__):
        raise WrongVersion(
            f"--expect-version {options.expect_version}: the installed propensity-spark is {__version__}; deploy the bundle again, "
            "which builds the wheel anew and sets the version in databricks.yml (variable code_version)"
        )
    settings = load_settings(options.conf, options.dataset, [*options.set, *_words(options.settings)], options.data)
    if options.command == "settings":
        _show(yaml.safe_dump(settings.shown(), sort_keys=False, allow_unicode=True).rstrip())
        return 0
    if beside := {"rollback": _rollback, "explain-change": _explain_change, "reproduce": _reproduce}.get(options.command):
        return beside(settings, options)
    as_of = as_of_date(settings, options.as_of, datetime.now(UTC))
    if options.command == "experiment":
        return _experiment(settings, as_of, options)
    if options.command == "compare":
        return _compare(settings, as_of, options)
    if options.command == "feed":
        return _feed(settings, as_of, options.port)
    names = _stages(options)
    if "ingest" in names:
        require_data(settings)
    if {"train", "evaluate", "score", "monitor"} & set(names):
        from propensity_spark.models import require_store

        require_store(settings)
    start_logging(log_folder(settings), options.verbose)
    return _run_stages(settings, as_of, names, options)


def _show(text: str, stderr: bool = False) -> None:
    Console(stderr=stderr).print(text, markup=False, highlight=False, soft_wrap=True)


def _show_and_log(settings: Settings, text: str) -> None:
    """For what somebody did by hand: the log tells it to whoever asks later why the scores are others."""
    _show(text)
    start_logging(log_folder(settings), verbose=False)
    log.info(text)


def _headline(error: Exception) -> str:
    """The one line that says most: the last of a Python worker's traceback, else the first."""
    lines = [line for line in str(error).split("JVM stacktrace:")[0].splitlines() if line.strip()]
    return lines[-1 if any(line.startswith("Traceback") for line in lines) else 0].strip() if lines else ""


def stage_main(stage: str) -> None:
    """What `jobs/<stage>.py` calls. Exits only on failure: some schedulers take any exit for one."""
    code = main([stage, *sys.argv[1:]])
    if code:
        sys.exit(code)


def require_data(settings: Settings) -> None:
    """Raise when a source lies under the data folder and the folder was not given or does not hold it."""
    for target, sources in settings.sources.items():
        for source in sources:
            if not isinstance(source, FileSource):
                continue
            where = f"sources.{target}: {source.name}"
            if "{data}" in source.path:
                raise ConfigurationError(
                    f"{where}: expects files {source.pattern} in {source.path}, and no data folder was given: "
                    f"make run DATASET={settings.dataset} DATA=<folder>, or --data <folder>"
                )
            if settings.data and "://" not in source.path and source.path.startswith(settings.data) and not Path(source.path).is_dir():
                raise SourceMissing(
                    f"{where}: expected files {source.pattern} in {source.path}, found no such folder; DATA (--data) is {settings.data}, "
                    f"see conf/datasets/{settings.dataset}.yml"
                )


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--conf",
        default=str(CONF_DIR / "local.yml"),
        help="settings of the environment, a file or its name (default: %(default)s)",
    )
    shared.add_argument(
        "--as-of",
        metavar="YYYY-MM-DD",
        help="as-of date; an instant: its yesterday (default: the setting, else yesterday)",
    )
    shared.add_argument("--expect-version", metavar="X.Y.Z", help="stop unless this version of propensity is installed")
    shared.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting; may be repeated")
    shared.add_argument("--settings", default="", metavar="'K=V …'", help="several overrides in one text, split as a shell splits words")
    shared.add_argument("--verbose", action="store_true", help="Spark's and every library's messages, and tracebacks")
    common = argparse.ArgumentParser(add_help=False, parents=[shared])
    common.add_argument("--dataset", default="stocks", help="a file in conf/datasets (default: %(default)s)")
    common.add_argument("--data", help="folder that the data set's YAML calls {data}")
    parser = argparse.ArgumentParser(prog="propensity", description="Who is likely to purchase what, and how sure are we?")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    parsers = {
        name: commands.add_parser(
            name, parents=[shared] if name == "table" else [] if name in _WITHOUT_SETTINGS else [common], help=text, description=text
        )
        for name, text in COMMANDS.items()
    }
    own_table.add_arguments(parsers["table"])
    parsers["run"].add_argument("--stages", metavar="A,B", help=f"some of {','.join(STAGES)}")
    parsers["run"].add_argument("--score-only", action="store_true", help=f"with yesterday's champion: --stages {','.join(SCORE_ONLY)}")
    parsers["replay"].add_argument("--table", required=True, help="silver table, such as activity")
    parsers["replay"].add_argument("--reason", help="only rows rejected for this rule")
    parsers["backfill"].add_argument(
        "--feature", action="append", required=True, metavar="NAME", help="a feature of features/registry.py; may be repeated"
    )
    parsers["rollback"].add_argument("uri", nargs="?", help="folder or s3a:// prefix that was published to (default: publish.uri)")
    parsers["rollback"].add_argument(
        "--model", action="store_true", help="the champion instead of a published run; the version that is left is not promoted again"
    )
    parsers["rollback"].add_argument(
        "--to",
        metavar="RUN_ID|VERSION",
        help="a complete run of the date (default: the one that the current run replaced); with --model a version that was champion once "
        "(default: the one that the champion was promoted over)",
    )
    parsers["explain-change"].add_argument("--user", required=True, help="user_id")
    parsers["explain-change"].add_argument("--item", help="item_id (grain user_item; default: the user's first in rank on the second date)")
    parsers["explain-change"].add_argument("--json", action="store_true", help="the numbers as JSON")
    parsers["reproduce"].add_argument("--model-version", metavar="N", help="version in the registry (default: the champion)")
    for command, first, last in (("explain-change", "earlier", "later"), ("dates", "first", "last")):
        parsers[command].add_argument("--from", dest="start", required=True, metavar="YYYY-MM-DD", help=f"{first} date")
        parsers[command].add_argument("--to", dest="end", required=True, metavar="YYYY-MM-DD", help=f"{last} date, included")
    parsers["compare"].add_argument("--models", default="", metavar="A,B", help="some of them (default: all)")
    parsers["compare"].add_argument(
        "--rows",
        type=_many_rows,
        default=200_000,
        metavar="N",
        help="train and validation rows of the sample, about (default: %(default)s)",
    )
    parsers["experiment"].add_argument("action", choices=("plan", "analyse"))
    parsers["experiment"].add_argument(
        "--scored", metavar="YYYY-MM-DD", help="day whose scores chose the users (plan: default the as-of date)"
    )
    parsers["experiment"].add_argument("--name", metavar="NAME", help="salt of the assignment; analyse needs it")
    parsers["experiment"].add_argument(
        "--segment", choices=("High", "Medium", "Low", "all"), help="the users of a segment, or all (default: those predicted to purchase)"
    )
    for option, default, text in (
        ("--share", 0.5, "share of the users in treatment"),
        ("--level", 0.95, "of the confidence intervals and, as 1 minus it, of the test"),
        ("--power", 0.8, "plan: chance to see the effect"),
        ("--effect", 0.1, "plan: relative change of the purchase rate, 0.1 for +10%%"),
    ):
        parsers["experiment"].add_argument(option, type=float, default=default, metavar="X", help=f"{text} (default: %(default)s)")
    parsers["experiment"].add_argument("--json", action="store_true", help="the numbers as JSON")
    parsers["forget"].add_argument(
        "--user",
        action="append",
        required=True,
        metavar="ID",
        help="as the source calls the person; repeatable; -: one a line from stdin",
    )
    parsers["forget"].add_argument("--purge", action="store_true", help="7 days later: remove the tables' old files and search every file")
    parsers["feed"].add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: any free one)")
    parsers["verify"].add_argument("uri", help="folder or s3a:// prefix that was published to")
    parsers["verify"].add_argument("--as-of", metavar="YYYY-MM-DD", help="only this date (default: every published one)")
    return parser


def _many_rows(text: str) -> int:
    if not text.isdigit() or int(text) < 1000:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of rows, 1000 or more")
    return int(text)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigurationError(f"settings {text!r}: {error}; expected key=value words, quoted as for a shell") from error


def _stages(options: argparse.Namespace) -> tuple[str, ...]:
    """The stages to run, in the order of the line."""
    if options.command != "run":
        return (options.command,)
    if options.score_only:
        return SCORE_ONLY
    if options.stages is None:
        return STAGES
    asked = {name.strip() for name in options.stages.split(",")}
    if unknown := sorted(asked - set(STAGES)):
        raise ConfigurationError(f"--stages: unknown {', '.join(map(repr, unknown))}; expected some of {', '.join(STAGES)}")
    return tuple(name for name in STAGES if name in asked)


def _session(settings: Settings, verbose: bool) -> SparkSession:
    """The Spark session; unless `verbose`, whatever its JVM has to say goes to `spark.log` beside our own log."""
    from propensity_spark.session import get_session

    # On Databricks the JVM runs already and its messages are the driver's own.
    with nullcontext() if verbose or on_databricks() else stderr_to(log_folder(settings) / "spark.log"):
        spark = get_session(settings.spark)
    if verbose and not is_connect(spark):
        spark.sparkContext.setLogLevel("WARN")
    return spark


def _import_ahead(names: Sequence[str]) -> None:
    """Import in the background what takes seconds and is needed later, while the JVM starts.

    An import that fails here fails again where it is needed, and says so there.
    """

    def load() -> None:
        with suppress(ImportError):
            import_module("propensity_spark.line")
            if "validate" in names:
                import_module("propensity_spark.validate.gate").library()
            import_module("mlflow")

    Thread(target=load, name="import-ahead", daemon=True).start()


def _run_stages(settings: Settings, as_of: date, names: Sequence[str], options: argparse.Namespace) -> int:
    _import_ahead(names)
    ran: list[tuple[Stage, Outcome | None, float]] = []
    with LineProgress(Console(stderr=True), names) as progress:
        spark = _session(settings, options.verbose)
        from propensity_spark.line import last_successes, outcome_of, run_line, stage_named
        from propensity_spark.tables import Lake

        stages = [_asked_for(name, options) or stage_named(name) for name in names]
        lake = Lake(spark, settings.lake)
        lake.require_schema()

        def recorded() -> dict[str, Outcome]:
            return {name: outcome_of(last) for name, last in last_successes(lake).items()}

        progress.start()
        for stage, outcome, seconds in run_line(spark, settings, as_of, stages, progress.say):
            ran.append((stage, outcome, seconds))
            if takes_values():
                hand_over(spark, _answers(settings, outcome or recorded().get(stage.name)))
            progress.finish(outcome, seconds)
        earlier = recorded() if any(outcome is None for _, outcome, _ in ran) else {}
    results = [Result(stage.name, outcome or earlier.get(stage.name), seconds, rested=outcome is None) for stage, outcome, seconds in ran]
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(closing_table(results))
    for line in closing_facts(results):
        _show(line)
    return 0


def _asked_for(name: str, options: argparse.Namespace) -> Stage | None:
    """What is not a stage of the line, made from the options; None for a stage of the line."""
    from propensity_spark.stages import vacuum
    from propensity_spark.stages.backfill import backfill_stage
    from propensity_spark.stages.forget import forget_stage
    from propensity_spark.stages.replay import replay_stage

    if name == "forget":
        words = [line.strip() for user in options.user for line in (sys.stdin if user == "-" else [user])]
        return forget_stage([word for word in words if word], options.purge)
    if name == "backfill":
        return backfill_stage(options.feature)
    if name == "replay":
        return replay_stage(options.table, options.reason)
    return vacuum.STAGE if name == "vacuum" else None


def _answers(settings: Settings, outcome: Outcome | None) -> dict[str, str]:
    """What the conditions of a job ask: each fact up to its colon (`retrain`: yes or no), and whether there is a champion."""
    from propensity_spark.models import champion_version

    facts = {name: text.partition(":")[0] for name, text in (outcome.facts if outcome else {}).items() if name.isidentifier()}
    return {**facts, "has_champion": "yes" if champion_version(settings) else "no"}


def _feed(settings: Settings, as_of: date, port: int) -> int:
    from propensity_spark.simulate.feed import serve

    serve(settings, port, as_of, _show)
    return 0


def _explain_change(settings: Settings, options: argparse.Namespace) -> int:
    between = days_between(options.start, options.end, datetime.now(UTC))
    if len(between) < 2:
        raise ConfigurationError(f"--from {options.start} --to {options.end}: expected two dates, the earlier one first")
    start_logging(log_folder(settings), options.verbose)
    spark = _session(settings, options.verbose)
    from propensity_spark.evaluate.change import as_json
    from propensity_spark.explain_change import explain_change
    from propensity_spark.tables import Lake

    found = explain_change(Lake(spark, settings.lake), settings, options.user, options.item, (between[0], between[-1]))
    if options.json:
        _show(json.dumps(as_json(found), indent=1, ensure_ascii=False))
        return 0
    for line in change_lines(found):
        _show(line)
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(change_table(found))
    return 0


def _reproduce(settings: Settings, options: argparse.Namespace) -> int:
    if options.model_version is not None and not options.model_version.isdigit():
        raise ConfigurationError(f"--model-version {options.model_version!r}: expected a number, such as 3")
    from propensity_spark.models import CHAMPION, require_store

    require_store(settings)
    start_logging(log_folder(settings), options.verbose)
    spark = _session(settings, options.verbose)
    from propensity_spark.reproduce import reproduce

    found = reproduce(spark, settings, options.model_version or CHAMPION)
    for line in reproduced_lines(found):
        _show(line)
    return 0 if found.is_same else 1


def _compare(settings: Settings, as_of: date, options: argparse.Namespace) -> int:
    from propensity_spark.models import require_store

    require_store(settings)
    start_logging(log_folder(settings), options.verbose)
    spark = _session(settings, options.verbose)
    from propensity_spark.compare.command import compare_lake
    from propensity_spark.compare.page import lines

    names = [name.strip() for name in options.models.split(",") if name.strip()]
    found, page = compare_lake(spark, settings, as_of, rows=options.rows, names=names, say=_show)
    for line in lines(found):
        _show(line)
    if page is not None:
        _show(f"report: {page}")
    return 0


def _experiment(settings: Settings, as_of: date, options: argparse.Namespace) -> int:
    name, segment, share, alpha = options.name, options.segment, options.share, 1 - options.level
    for option in ("share", "level", "power"):
        if not 0 < getattr(options, option) < 1:
            raise ConfigurationError(f"--{option}: expected a number between 0 and 1, found {getattr(options, option):g}")
    if name is not None and not SAFE_NAME.fullmatch(name):
        raise ConfigurationError(f"--name {name!r}: expected letters, digits, '_' or '-' only")
    if options.action == "analyse" and (name is None or options.scored is None):
        raise ConfigurationError("experiment analyse: expected --name and --scored, as the experiment was run with; found one or none")
    scored = as_of if options.scored is None else as_of_date(settings, options.scored, datetime.now(UTC))
    start_logging(log_folder(settings), options.verbose)
    spark = _session(settings, options.verbose)
    from propensity_spark.evaluate.experiment import rule
    from propensity_spark.experiment import analyse_experiment, plan_experiment
    from propensity_spark.tables import Lake

    lake = Lake(spark, settings.lake)
    if options.action == "plan":
        planned = plan_experiment(
            lake, settings, scored, segment=segment, effect=options.effect, share=share, alpha=alpha, power=options.power
        )
        lines, body = plan_lines(planned, name and rule(name, share), options.power), asdict(planned)
    else:
        found = analyse_experiment(lake, settings, scored, as_of, name=name, segment=segment, share=share, alpha=alpha)
        lines, body = analysis_lines(found, alpha), asdict(found) | {"lift": found.lift}
    for line in [json.dumps(body, indent=1)] if options.json else lines:
        _show(line)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from propensity_spark.publish import verify

    for run in verify(options.uri, options.as_of):
        held = f"{run.rows:,} rows in {run.files} files, {run.model_name} {run.model_version}"
        _show(f"as_of_date={run.as_of_date} run_id={run.run_id}: {held}: as its manifest says")
    return 0


def _rollback(settings: Settings, options: argparse.Namespace) -> int:
    if options.model:
        return _rollback_model(settings, options)
    from propensity_spark.publish import rollback

    if options.as_of is None:
        raise ConfigurationError("--as-of: expected the date whose run is to be taken back, such as 2024-12-31, found none")
    run = rollback(options.uri or settings.publish.uri, options.as_of, options.to)
    _show_and_log(
        settings,
        f"as_of_date={run.as_of_date} run_id={run.run_id} is current again: {run.rows:,} rows, {run.model_name} {run.model_version}. "
        "It stays so until this date is published again",
    )
    return 0


def _rollback_model(settings: Settings, options: argparse.Namespace) -> int:
    from propensity_spark.models import require_store, roll_back

    if options.uri or options.as_of:
        raise ConfigurationError("--model: takes neither --as-of nor an address; the model is that of --conf and --dataset")
    require_store(settings)
    left, champion = roll_back(settings, options.to)
    _show_and_log(
        settings,
        f"{settings.mlflow.model_name}: version {champion} is champion again, and version {left} is not promoted any more unless "
        f"--model --to {left} takes it back. The next score uses version {champion}; run the day again for one that is published already",
    )
    return 0


def _dates(options: argparse.Namespace) -> int:
    dates = [str(day) for day in days_between(options.start, options.end, datetime.now(UTC))]
    hand_over(None, {"dates": dates})
    _show(json.dumps(dates))
    return 0


def _table(options: argparse.Namespace) -> int:
    own_table.check(options)
    overrides = [*options.set, *_words(options.settings)]
    settings = load_table_settings(options.conf, own_table.name_of(options), overrides)
    now = datetime.now(UTC)
    as_of = as_of_date(settings, options.as_of or now.astimezone(ZoneInfo(settings.time_zone)).date().isoformat(), now)
    start_logging(log_folder(settings), options.verbose)
    spark = _session(settings, options.verbose)
    from propensity_spark.tables import Lake

    console = Console()

    def show(what: object) -> None:
        _show(what) if isinstance(what, str) else console.print(what)

    run = Run(spark, settings, Lake(spark, settings.lake), as_of, "table", now, lambda message: _show(message, stderr=True))
    own_table.act(run, options, show)
    return 0


_WITHOUT_SETTINGS: dict[str, Callable[[argparse.Namespace], int]] = {"verify": _verify, "dates": _dates, "table": _table}


if __name__ == "__main__":
    sys.exit(main())
