"""README.md says what the code says; the wheel holds every package and all settings."""

from __future__ import annotations

import tomllib

import pytest
import yaml
from setuptools import find_packages

from propensity_spark.cli import STAGES
from propensity_spark.config import CONF_DIR, load_settings
from propensity_spark.errors import PropensityError
from propensity_spark.features.registry import FEATURES
from scripts import readme

ROOT = CONF_DIR.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", readme.PAGES)
def test_the_generated_tables_are_up_to_date(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert readme.render(page, text) == text, "run `make docs`"


def test_every_kind_of_error_says_what_to_do() -> None:
    kinds = PropensityError.__subclasses__()
    assert len(kinds) > 20
    assert [kind.__name__ for kind in kinds if not kind.then or not kind.__doc__] == []


def test_every_stage_and_feature_has_its_row() -> None:
    assert [row.split("**")[1] for row in readme.stages().splitlines()[2:]] == list(STAGES)
    assert len(readme.features().splitlines()) == len(FEATURES) + 2


def test_a_missing_marker_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected the markers"):
        readme.render("README.md", "# nothing")


def test_the_data_set_in_the_readme_is_valid(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = README.split("```yaml\n")[1].split("```")[0]
    conf = tmp_path_factory.mktemp("conf")
    (conf / "datasets").mkdir()
    (conf / "base.yml").write_text((CONF_DIR / "base.yml").read_text())
    (conf / "datasets" / "shop.yml").write_text(text)
    assert load_settings(CONF_DIR / "local.yml", "shop", data="/data", conf_dir=conf).grain == "user"


def test_every_package_is_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted([*find_packages(str(ROOT), include=["propensity_spark*"]), "propensity_spark.conf"])


def test_hooks_and_ci_call_targets_that_exist() -> None:
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ": " in line and line[0].isalpha()}
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    called = {hook["entry"].split()[-1] for hook in hooks}
    called |= {line.split()[1] for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")}
    assert called <= targets
    assert {"lint", "types", "test"} <= called
