"""Write the table of variables in docs/databricks.md anew: `python -m scripts.bundle.docs` (make docs)."""

from __future__ import annotations

from pathlib import Path

from scripts.bundle.resolve import declared_variables

BEGIN, END = "<!-- variables: made by `make docs` -->", "<!-- /variables -->"


def table(root: Path) -> str:
    """One row a variable, in the order of the files."""
    lines = ["| variable | what it means | default |", "| --- | --- | --- |"]
    for name, body in declared_variables(root).items():
        default = body.get("default", "none: must be set")
        shown = "see `resources/`" if isinstance(default, dict | list) else "empty" if default == "" else f"`{default}`"
        lines.append(f"| `{name}` | {body['description']} | {shown} |")
    return "\n".join(lines)


def render(text: str, root: Path) -> str:
    """The page's text with the table written anew. Raises ValueError when a marker is missing."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"docs/databricks.md: expected the markers {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table(root)}\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    page = Path("docs/databricks.md")
    page.write_text(render(page.read_text(encoding="utf-8"), Path.cwd()), encoding="utf-8")
