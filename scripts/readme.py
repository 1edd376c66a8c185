"""Write the generated tables of README.md: the stages from the line, the features from the registry.

`python scripts/readme.py` (make docs) rewrites what stands between the markers; a unit test holds README.md against it.
"""

from pathlib import Path

from propensity_spark.config import CONF_DIR, load_settings
from propensity_spark.features.registry import FEATURES
from propensity_spark.line import STAGES
from propensity_spark.schemas import Table

README = Path(__file__).resolve().parent.parent / "README.md"


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
        cells = (name, feature.formula, feature.unit, feature.null_when, ", ".join(feature.groups))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def _names(tables: tuple[Table, ...]) -> str:
    return ", ".join(f"`{table.full_name}`" for table in tables) or "–"


def render(text: str) -> str:
    """README's text with every generated part written anew. Raises ValueError when a marker is missing."""
    for name, make in (("stages", stages), ("features", features)):
        begin, end = f"<!-- {name}: made by `make docs` -->", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"README.md: expected the markers {begin} and {end}")
        before, rest = text.split(begin, 1)
        text = f"{before}{begin}\n{make()}\n{end}{rest.split(end, 1)[1]}"
    return text


if __name__ == "__main__":
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")
