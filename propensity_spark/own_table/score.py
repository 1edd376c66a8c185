"""`propensity table score`: a file of customers and the champion → who will order, in a file of any size."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from propensity_spark.errors import ConfigurationError, TableRefused
from propensity_spark.models import CHAMPION, load, logged_document
from propensity_spark.own_table import columns as C
from propensity_spark.own_table.read import column, read_input
from propensity_spark.own_table.train import RECORD
from propensity_spark.predictor import PropensityModel
from propensity_spark.run import Run
from propensity_spark.score import PROBABILITY, segment_of, threshold_of, with_probability


@dataclass(frozen=True)
class Scored:
    """`rows` written to `path`, how many are predicted to order, by segment, and what to know about the file's columns."""

    path: str
    rows: int
    predicted: int
    by_segment: dict[str, int]
    version: str
    notes: tuple[str, ...]


def score(run: Run, path: str, output: str, *, absent_as_zero: bool = False) -> Scored:
    """Score every row of `path` with the champion and write `output`: one CSV where it is called so, else a folder of Parquet.

    Out, in the file's order: its id column, `predicted_<label>` (0 or 1), `purchase_probability`, `prediction_timestamp` (the run's
    start, UTC), `segment`. A column that the model knows and the file lacks counts as missing (0 when `absent_as_zero`),
    and a note names it; one that the model does not know is left out. Rows stream through: the file may be larger than memory. `output`
    appears whole or not at all.
    Raises NoChampion, TableRefused (no column in common, no id, no row), ConfigurationError (an output that is the input).
    """
    settings, spark = run.settings, run.spark
    _require_place(path, output)
    model = load(settings, CHAMPION)
    columns = C.from_json(logged_document(settings, model.version, RECORD)["columns"])
    frame = read_input(spark, path, as_text=None)
    notes = _notes(frame, columns, absent_as_zero)
    wrong = C.unreadable(frame, columns)
    notes += [f"{name}: {rows:,} values are not of the type they had in training and count as missing" for name, rows in wrong.items()]
    aside = f"{output.rstrip('/')}.{uuid.uuid4().hex[:8]}.part"
    try:
        scored = _scored(run, frame, columns, model, absent_as_zero=absent_as_zero)
        _write(scored, aside, as_csv=_is_csv(output))
        written = _read_back(spark, aside, scored, as_csv=_is_csv(output))
        counted = {row["segment"]: (row["rows"], row["predicted"]) for row in _counts(written, columns).collect()}
        if not counted:
            raise TableRefused(f"--input {path}: no row to score; expected one per customer")
        _put(aside, output, scored.columns)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    rows, predicted = (sum(pair[place] for pair in counted.values()) for place in (0, 1))
    by_segment = {name: counted.get(name, (0, 0))[0] for name in ("High", "Medium", "Low")}
    return Scored(output, rows, predicted, by_segment, model.version, tuple(notes))


def _scored(run: Run, frame: DataFrame, columns: C.Columns, model: PropensityModel, *, absent_as_zero: bool) -> DataFrame:
    settings, now = run.settings.score, run.started_at.astimezone(UTC)
    rows = frame.select(
        column(columns.id).cast("string").alias("user_id"),
        *C.values(columns, frame.columns, F.lit(run.as_of), absent_as_zero=absent_as_zero),
    )
    probability = F.col(PROBABILITY)
    return with_probability(rows, model).select(
        F.col("user_id").alias(columns.id),
        (probability >= threshold_of(model, settings)).cast("int").alias(_predicted(columns)),
        probability,
        F.lit(now.strftime("%Y-%m-%dT%H:%M:%SZ")).alias("prediction_timestamp"),
        segment_of(probability, settings).alias("segment"),
    )


def _predicted(columns: C.Columns) -> str:
    return f"predicted_{columns.label}"


def _notes(frame: DataFrame, columns: C.Columns, absent_as_zero: bool) -> list[str]:
    """What to say of the columns. Raises TableRefused when the file has no id, or none of the model's columns."""
    known = [one.column for one in columns.features]
    if columns.id not in frame.columns:
        raise TableRefused(f"the table has no column {columns.id} (the customer's id in training); it has {', '.join(frame.columns)}")
    absent = [name for name in known if name not in frame.columns]
    if len(absent) == len(known):
        raise TableRefused(
            f"this table is not of the model's kind: it has none of its columns. The model knows {', '.join(known)}; "
            f"the table has {', '.join(frame.columns)}"
        )
    counted = "0" if absent_as_zero else "missing in every row"
    said = [f"{name}: the model knows it and the table has no such column; it counts as {counted}" for name in absent]
    strange = [name for name in frame.columns if name not in {*known, columns.id, columns.label, columns.time, *columns.ignored}]
    return said + ([f"left out, for the model does not know them: {', '.join(strange)}"] if strange else [])


def _require_place(path: str, output: str) -> None:
    if "://" in output:
        raise ConfigurationError(
            f"--output {output}: expected a local path; scores for others are published by a data set and `propensity run`"
        )
    if Path(output).resolve() == Path(path).resolve():
        raise ConfigurationError(f"--output {output}: is the input itself; expected another file")
    if not Path(output).resolve().parent.is_dir():
        raise ConfigurationError(f"--output {output}: no folder {Path(output).resolve().parent}; make it first")


def _is_csv(output: str) -> bool:
    return output.lower().endswith(".csv")


def _write(scored: DataFrame, aside: str, *, as_csv: bool) -> None:
    writer = scored.write.option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
    writer.option("header", False).option("escape", '"').csv(aside) if as_csv else writer.parquet(aside)


def _read_back(spark: SparkSession, aside: str, scored: DataFrame, *, as_csv: bool) -> DataFrame:
    return spark.read.schema(scored.schema).option("escape", '"').csv(aside) if as_csv else spark.read.parquet(aside)


def _counts(written: DataFrame, columns: C.Columns) -> DataFrame:
    return written.groupBy("segment").agg(F.count("*").alias("rows"), F.sum(column(_predicted(columns))).alias("predicted"))


def _put(aside: str, output: str, header: list[str]) -> None:
    """Move what was written into place: of a CSV the parts, which are in the file's order, become one file with one header."""
    if not _is_csv(output):
        if Path(output).exists():
            shutil.rmtree(output) if Path(output).is_dir() else Path(output).unlink()
        os.replace(aside, output)
        return
    whole = Path(aside) / "whole"
    with whole.open("wb") as file:
        file.write((",".join(_quoted(name) for name in header) + "\n").encode())
        for part in sorted(Path(aside).glob("part-*")):
            with part.open("rb") as rows:
                shutil.copyfileobj(rows, file, 1 << 20)
    os.replace(whole, output)


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"' if any(mark in name for mark in ',"\n') else name
