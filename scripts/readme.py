"""Write the generated tables: in README.md the stages from the line and the features from the registry, in docs/runbook.md the errors,
in docs/performance.md the stored figures, in docs/scaling.md what is derived from them.

`python -m scripts.readme` (make docs) rewrites what stands between the markers; a unit test holds both pages against it.
"""

from pathlib import Path

from benchmarks import scaling
from benchmarks.stored import targets
from propensity_spark.config import CONF_DIR, load_settings
from propensity_spark.errors import PropensityError
from propensity_spark.features.registry import FEATURES
from propensity_spark.line import STAGES
from propensity_spark.schemas import Table

ROOT = Path(__file__).resolve().parent.parent


def stages() -> str:
    """One row a stage, with the tables it reads and writes for the default data set."""
    settings = load_settings(CONF_DIR / "local.yml", "stocks")
    lines = ["| stage | promise | reads | writes |", "| --- | --- | --- | --- |"]
    for stage in STAGES:
        lines.append(f"| **{stage.name}** | {stage.promise} | {_names(stage.reads(settings))} | {_names(stage.writes(settings))} |")
    return "\n".join(lines)


def features() -> str:
    """One row a feature, in registry order."""
    lines = ["| feature | formula | unit | null when | stored in `gold/…_features` |", "| --- | --- | --- | --- | --- |"]
    for feature in FEATURES:
        name = f"`{feature.name}`" + ("" if feature.in_model else " (for people, not for the model)")
        stored = ", ".join("user_item, with `features.crowd`" if group == "crowd" else group for group in feature.groups)
        cells = (name, feature.formula, feature.unit, feature.null_when, stored)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def errors() -> str:
    """One row a kind of error: what it says about the data, and what to do."""
    lines = ["| error | what happened | exit code | then |", "| --- | --- | --- | --- |"]
    for kind in PropensityError.__subclasses__():
        lines.append(f"| `{kind.__name__}` | {kind.__doc__} | {kind.exit_code} | {kind.then} |")
    return "\n".join(lines)


PAGES = {
    "README.md": {"stages": stages, "features": features},
    "docs/runbook.md": {"errors": errors},
    "docs/performance.md": {"targets": targets},
    "docs/scaling.md": {"stages": scaling.stages, "clusters": scaling.clusters},
}


def _names(tables: tuple[Table, ...]) -> str:
    return ", ".join(f"`{table.full_name}`" for table in tables) or "–"


def render(page: str, text: str) -> str:
    """The page's text with every generated part written anew. Raises ValueError when a marker is missing."""
    for name, make in PAGES[page].items():
        begin, end = f"<!-- {name}: made by `make docs` -->", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{page}: expected the markers {begin} and {end}")
        before, rest = text.split(begin, 1)
        text = f"{before}{begin}\n{make()}\n{end}{rest.split(end, 1)[1]}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(render(page, path.read_text(encoding="utf-8")), encoding="utf-8")
