"""The data gate: Great Expectations over the profile of a batch, one suite per table, with Data Docs a person can open."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from propensity_spark.config import GateSettings
from propensity_spark.errors import GateFailed
from propensity_spark.run import Run
from propensity_spark.schemas import Table
from propensity_spark.validate.profile import rejected_by

_SITE = "data_docs"


def limits(table: Table, settings: GateSettings) -> dict[str, tuple[float | None, float | None]]:
    """Measure → (smallest, greatest) value allowed. A measure that is null for a batch is not judged."""
    found: dict[str, tuple[float | None, float | None]] = {
        "rejected_share": (None, settings.max_rejected_share),
        "rows_kept": (1, None),
        "rows_per_date_against_earlier": (settings.min_rows_against_earlier, None),
    }
    if table.name == "bars":
        found["session_completeness"] = (settings.min_session_completeness, None)
    if settings.max_age_days is not None and table.name in ("bars", "activity"):
        found["age_days"] = (None, settings.max_age_days)
    if table.name == "activity":
        found["rows_in"] = (1, None)
    return found


class Gate:
    """The gate of one run. Its Data Docs lie in `<lake.root>/ops/data_docs`, or, where the lake's root is not a folder, in a
    temporary one."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._context: Any = None

    @cached_property
    def _docs(self) -> Path:
        return _folder(self._run.lake.root)

    def check(self, table: Table, measures: Mapping[str, float | None]) -> GateFailed | None:
        """Judge a batch by its profile; the error to raise when it fails.

        The error names table, measures, what was found and expected, and where the docs are. A batch of activity without
        any event fails; of another table it has nothing to judge.
        """
        settings = self._run.settings.validation
        expected = limits(table, settings.gate_by_table.get(table.name, settings.gate))
        rows_in = measures.get("rows_in") or 0
        kept = (measures.get("rows_valid") or 0) + (measures.get("rows_repeated") or 0) + (measures.get("rows_erased") or 0)
        observed = {**measures, "rows_kept": kept if rows_in else None}
        failed = self._failed(table, {name: observed.get(name) for name in expected}, expected)
        if not failed:
            return None
        listed = "; ".join(f"{name} is {_shown(observed.get(name))}, expected {_range(*expected[name])}" for name in failed)
        reasons = ", ".join(f"{name} {count:,}" for name, count in list(rejected_by(measures).items())[:5])
        return GateFailed(
            f"silver/{table.name}: {listed}{f' (rejected: {reasons})' if reasons else ''}. Nothing of the batch was written to silver; "
            f"see {self._docs / _SITE / 'index.html'} and the rows in silver/quarantine. "
            f"Mend the source or the rule, or change validation.gate_by_table.{table.name} in conf/, and run validate again"
        )

    def build_docs(self) -> None:
        """Write the pages of everything that was checked; nothing when nothing was."""
        if self._context is not None:
            self._context.build_data_docs()

    def _failed(
        self, table: Table, row: Mapping[str, float | None], expected: Mapping[str, tuple[float | None, float | None]]
    ) -> list[str]:
        """Names of the failed measures, in order."""
        import pandas as pd

        gx = library()
        context = self._context = self._context or _context(self._docs)
        suite = gx.ExpectationSuite(name=table.name)
        for name, (low, high) in expected.items():
            suite.add_expectation(gx.expectations.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high))
        suite = context.suites.add_or_update(suite)
        asset = context.data_sources.add_or_update_pandas("profiles").add_dataframe_asset(table.name)
        data = asset.add_batch_definition_whole_dataframe("batch")
        definition = context.validation_definitions.add_or_update(gx.ValidationDefinition(name=table.name, data=data, suite=suite))
        result = definition.run(
            batch_parameters={"dataframe": pd.DataFrame([row]).astype("float64")},
            run_id=gx.RunIdentifier(run_name=self._run.run_id, run_time=self._run.started_at),
        )
        failed = {outcome.expectation_config.kwargs["column"] for outcome in result.results if not outcome.success}
        return [name for name in expected if name in failed]


def library() -> Any:
    """Great Expectations, whose import takes seconds."""
    import great_expectations

    return great_expectations


def _context(folder: Path) -> Any:
    context = library().get_context(mode="file", project_root_dir=str(folder / "great_expectations"))
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    context.variables.data_docs_sites = {_SITE: _site(folder / _SITE)}
    context.variables.save()
    return context


def _folder(root: str) -> Path:
    if "://" in root and not root.startswith("file://"):
        return Path(tempfile.mkdtemp(prefix="propensity-gate-"))
    return Path(root.removeprefix("file://")).absolute() / "ops"


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
    }


def _shown(value: float | None) -> str:
    return "missing" if value is None else f"{value:g}"


def _range(low: float | None, high: float | None) -> str:
    return f"at least {low:g}" if high is None else f"at most {high:g}"
