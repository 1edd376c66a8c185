"""The profile of a settled batch: how many rows became what and why, measured in one aggregate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from propensity_spark.errors import RowsUnaccounted
from propensity_spark.run import Run
from propensity_spark.schemas import PROFILES, Table
from propensity_spark.tables import local_frame
from propensity_spark.validate.mapping import DERIVED
from propensity_spark.validate.rules import Rule

_DATES = {"bars": "session_date", "activity": "event_date"}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Profile:
    """Measures of a batch by name (null: not measurable), and what the writes need to know."""

    measures: Mapping[str, float | None]
    changed_from: date | None
    changes: Mapping[str, int]
    displaced: bool
    rejected_again: bool
    released: bool

    def rows(self, name: str) -> int:
        return int(self.measures[f"rows_{name}"] or 0)

    def reasons(self) -> dict[str, int]:
        return rejected_by(self.measures)


def rejected_by(measures: Mapping[str, float | None]) -> dict[str, int]:
    """Rejected rows by rule, most frequent first."""
    found = {name.removeprefix("reason:"): int(count) for name, count in measures.items() if name.startswith("reason:") and count}
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))


def profile(run: Run, settled: DataFrame, table: Table, rules: list[Rule], delivered: int) -> Profile:
    """Measure new rows: one job for counts, one for dates and sessions. Raises RowsUnaccounted when rows were lost or doubled."""
    counts = _counts(settled, table, rules)
    measures: dict[str, float | None] = {name: value for name, value in counts.items() if name.startswith(("rows_", "reason:", "warn:"))}
    found = sum(counts[f"rows_{outcome}"] for outcome in ("valid", "repeated", "rejected", "excluded"))
    if not delivered == found == counts["rows_settled"]:
        parts = ", ".join(f"{name} {counts[f'rows_{name}']}" for name in ("valid", "repeated", "rejected", "excluded"))
        raise RowsUnaccounted(
            f"silver/{table.name}: {delivered} rows were delivered but {found} accounted for ({parts}). Has a source been renamed "
            "or removed from conf/ before its batch was validated? Put it back and run validate again"
        )
    rows_in = counts["rows_in"] = delivered - counts["rows_excluded"]
    measures.pop("rows_settled")
    measures["rows_in"] = rows_in
    measures["rejected_share"] = counts["rows_rejected"] / rows_in if rows_in else None
    measures["age_days"] = float((run.as_of - counts["newest"]).days) if counts.get("newest") else None
    measures.update(_by_date(settled, table))
    measures["rows_per_date_against_earlier"] = _against_earlier(run, table, measures["rows_per_date"])
    _LOG.info("silver/%s: %s", table.name, {name: value for name, value in measures.items() if value})
    return Profile(
        measures,
        counts["changed_from"],
        {name: counts[f"change_{name}"] for name in ("insert", "update", "remove")},
        counts["displaced"] > 0,
        counts["rejected_again"] > 0,
        counts["released"] > 0,
    )


def _counts(settled: DataFrame, table: Table, rules: list[Rule]) -> dict[str, Any]:
    new, again = F.col("origin") == "new", F.col("origin") == "quarantine"
    outcome, change = F.col("outcome"), F.col("change")
    casts = [f"not_castable:{column.name}" for column in table.columns if column.name not in DERIVED]
    rejecting = list(dict.fromkeys(["malformed_record", *casts, *[rule.name for rule in rules if rule.severity == "reject"]]))
    warning = [rule.name for rule in rules if rule.severity == "warn"]
    measured = {f"rows_{name}": new & (outcome == name) for name in ("valid", "repeated", "rejected", "excluded")}
    measured |= {"rows_settled": new}
    measured |= {f"reason:{name}": new & (outcome == "rejected") & F.array_contains("reasons", name) for name in rejecting}
    measured |= {f"warn:{name}": new & (outcome == "valid") & F.array_contains("warnings", name) for name in warning}
    measured |= {f"change_{name}": change == name for name in ("insert", "update", "remove")}
    measured |= {
        "displaced": (F.col("origin") == "silver") & (outcome == "rejected"),
        "rejected_again": again & (outcome == "rejected") & (F.col("reasons") != F.col("earlier_reasons")),
        "released": again & (outcome != "rejected"),
    }
    columns = [F.count_if(condition).alias(name) for name, condition in measured.items()]
    # A silver row that only takes another payload hash says the same as before.
    says_other = change.isin("insert", "remove", "replaced") | ((change == "update") & (F.col("origin") != "silver"))
    columns.append(F.min(F.when(says_other, F.col("visible_date"))).alias("changed_from"))
    if table.name in _DATES:
        columns.append(F.max(F.when(_kept(), F.col(_DATES[table.name]))).alias("newest"))
    row = settled.agg(*columns).first()
    assert row is not None  # an aggregate without grouping always has one row
    return row.asDict()


def _kept() -> Column:
    return (F.col("origin") == "new") & F.col("outcome").isin("valid", "repeated")


def _by_date(settled: DataFrame, table: Table) -> dict[str, float | None]:
    """rows_per_date: rows on the date of the average row, so that a few late rows of other dates do not count for much.

    session_completeness (daily bars): bars there over sessions between each item's first and last bar of the batch.
    """
    if table.name not in _DATES:
        return {"rows_per_date": None}
    kept = settled.where(_kept())
    by_date = kept.groupBy(_DATES[table.name]).agg(F.count("*").alias("n"))
    measured = by_date.agg((F.sum(F.col("n") * F.col("n")) / F.sum("n")).alias("rows_per_date"))
    if table.name == "bars":
        number = F.col("session_number")
        by_item = (
            kept.where(F.col("bar_size") == "1d")
            .groupBy("item_id")
            .agg(F.countDistinct(number).alias("there"), (F.max(number) - F.min(number) + 1).alias("due"))
        )
        measured = measured.crossJoin(by_item.agg((F.sum("there") / F.sum("due")).alias("session_completeness")))
    row = measured.first()
    return row.asDict() if row is not None else {}


def _against_earlier(run: Run, table: Table, rows_per_date: float | None) -> float | None:
    """rows_per_date over its mean in earlier runs; null for the first."""
    if rows_per_date is None or not run.lake.exists(PROFILES):
        return None
    earlier = run.lake.read(PROFILES).where(
        (F.col("table_name") == table.name) & (F.col("measure") == "rows_per_date") & (F.col("run_id") != run.run_id)
    )
    row = earlier.agg(F.avg("value").alias("mean")).first()
    return rows_per_date / row["mean"] if row is not None and row["mean"] else None


def write_profile(run: Run, table: Table, measures: Mapping[str, float | None]) -> None:
    """Append the measures to `ops/profiles`."""
    rows = [
        (run.run_id, table.name, name, None if value is None else float(value), run.as_of, run.started_at)
        for name, value in sorted(measures.items())
    ]
    run.lake.append(local_frame(run.spark, rows, PROFILES.schema), PROFILES)
