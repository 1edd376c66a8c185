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
from propensity_spark.validate.batch import Batch
from propensity_spark.validate.mapping import DERIVED
from propensity_spark.validate.nearby import DATES
from propensity_spark.validate.rules import Rule, rules_for
from propensity_spark.validate.settle import ERASED

_OUTCOMES = ("valid", "repeated", "rejected", "excluded", ERASED)
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

    @property
    def is_news(self) -> bool:
        """False for a batch that delivered nothing and changes nothing, such as quarantined rows that stay where they are."""
        return self.rows("in") > 0 or any(self.changes.values())

    def described(self, table: Table) -> str:
        """One line for people: the table, its counts and why rows were rejected."""
        reasons = ", ".join(f"{name} {count:,}" for name, count in rejected_by(self.measures).items())
        counts = ", ".join(f"{self.rows(name):,} {name}" for name in ("valid", "repeated", "rejected"))
        counts += f", {self.rows(ERASED):,} of erased persons dropped" if self.rows(ERASED) else ""
        return f"{table.name} {counts}" + (f" ({reasons})" if reasons else "")


def rejected_by(measures: Mapping[str, float | None]) -> dict[str, int]:
    """Rejected rows by rule, most frequent first."""
    found = {name.removeprefix("reason:"): int(count) for name, count in measures.items() if name.startswith("reason:") and count}
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))


def profile(run: Run, settled: DataFrame, batch: Batch, earlier: float | None) -> Profile:
    """Measure new rows: one job for counts, one for dates and sessions. `earlier`: rows per date of earlier runs.

    Raises RowsUnaccounted when rows were lost or doubled.
    """
    table, delivered = batch.table, batch.rows
    rules = rules_for(table, run.settings.validation.rules)
    counts = _counts(settled, table, rules)
    measures: dict[str, float | None] = {name: value for name, value in counts.items() if name.startswith(("rows_", "reason:", "warn:"))}
    found = sum(counts[f"rows_{outcome}"] for outcome in _OUTCOMES)
    if not delivered == found == counts["rows_settled"]:
        parts = ", ".join(f"{name} {counts[f'rows_{name}']}" for name in _OUTCOMES)
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
    measures["rows_per_date_against_earlier"] = _ratio(measures["rows_per_date"], earlier)
    _LOG.info("silver/%s: %s", table.name, {name: value for name, value in measures.items() if value})
    return Profile(
        measures,
        counts["changed_from"],
        {name: counts[f"change_{name}"] for name in ("insert", "update", "remove")},
        counts["displaced"] > 0,
        counts["rejected_again"] > 0,
        counts["released"] > 0,
    )


def of_no_rows() -> Profile:
    """The profile of a batch without any row: every count is 0, and what is measured on rows is null."""
    counts: dict[str, float | None] = {f"rows_{name}": 0 for name in (*_OUTCOMES, "in")}
    unmeasured = dict.fromkeys(("rejected_share", "age_days", "rows_per_date", "rows_per_date_against_earlier"))
    return Profile({**counts, **unmeasured}, None, {"insert": 0, "update": 0, "remove": 0}, False, False, False)


def _counts(settled: DataFrame, table: Table, rules: list[Rule]) -> dict[str, Any]:
    new, again = F.col("origin") == "new", F.col("origin") == "quarantine"
    outcome, change = F.col("outcome"), F.col("change")
    casts = [f"not_castable:{column.name}" for column in table.columns if column.name not in DERIVED]
    rejecting = list(dict.fromkeys(["malformed_record", *casts, *[rule.name for rule in rules if rule.severity == "reject"]]))
    warning = [rule.name for rule in rules if rule.severity == "warn"]
    measured = {f"rows_{name}": new & (outcome == name) for name in _OUTCOMES}
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
    if table.name in DATES:
        columns.append(F.max(F.when(_kept(), F.col(DATES[table.name]))).alias("newest"))
    row = settled.agg(*columns).first()
    assert row is not None  # an aggregate without grouping always has one row
    return row.asDict()


def _kept() -> Column:
    return (F.col("origin") == "new") & F.col("outcome").isin("valid", "repeated")


def _by_date(settled: DataFrame, table: Table) -> dict[str, float | None]:
    """rows_per_date: rows on the date of the average row, so that a few late rows of other dates do not count for much.

    session_completeness (daily bars): bars there over sessions between each item's first and last bar of the batch.
    """
    if table.name not in DATES:
        return {"rows_per_date": None}
    kept = settled.where(_kept())
    by_date = kept.groupBy(DATES[table.name]).agg(F.count("*").alias("n"))
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


def _ratio(value: float | None, earlier: float | None) -> float | None:
    return None if value is None or not earlier else value / earlier


def earlier_rows_per_date(run: Run) -> dict[str, float]:
    """Table → the mean of `rows_per_date` over earlier runs, of those that have any."""
    measured = (F.col("measure") == "rows_per_date") & (F.col("run_id") != run.run_id)
    means = run.lake.read_or_empty(PROFILES).where(measured).groupBy("table_name").agg(F.avg("value"))
    return {name: mean for name, mean in means.collect() if mean is not None}


def write_profiles(run: Run, measures_by_table: Mapping[str, Mapping[str, float | None]]) -> None:
    """Append the measures of every table to `ops/profiles`, in one commit."""
    rows = [
        (run.run_id, table, name, None if value is None else float(value), run.as_of, run.started_at)
        for table, measures in measures_by_table.items()
        for name, value in sorted(measures.items())
    ]
    if rows:
        run.lake.append(local_frame(run.spark, rows, PROFILES.schema), PROFILES)
