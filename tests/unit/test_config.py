"""Settings: what is merged over what, and what an error says."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from propensity_spark.config import CONF_DIR, Settings, load_settings
from propensity_spark.errors import ConfigurationError

LOCAL = CONF_DIR / "local.yml"


def load(*overrides: str, dataset: str = "stocks", data: str | None = None) -> Settings:
    return load_settings(LOCAL, dataset, overrides, data)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A small conf/ of its own: base, one environment, one data set."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "base.yml").write_text("lake: {root: lake}\npublish: {uri: out}\nlabel: {horizon_days: 7}\nsources: {}\n")
    (tmp_path / "here.yml").write_text("label: {horizon_days: 8}\nspark: {driver_memory: 1g}\n")
    (tmp_path / "datasets" / "shop.yml").write_text("label: {horizon_days: 9, event_types: [subscribe]}\n")
    return tmp_path


@pytest.mark.parametrize("dataset", sorted(path.stem for path in (CONF_DIR / "datasets").glob("*.yml")))
@pytest.mark.parametrize("environment", ["local", "cluster"])
def test_every_data_set_is_valid_in_every_environment(dataset: str, environment: str) -> None:
    settings = load_settings(CONF_DIR / f"{environment}.yml", dataset, data="somewhere")
    assert settings.dataset == dataset
    assert settings.lake.root == f"lake/{dataset}"
    assert "{" not in settings.publish.uri


def test_base_lies_under_environment_under_data_set_under_set(conf: Path) -> None:
    base_and_environment = load_settings(conf / "here.yml", "shop", conf_dir=conf)
    assert (base_and_environment.label.horizon_days, base_and_environment.spark.driver_memory) == (9, "1g")
    assert base_and_environment.label.event_types == ("subscribe",)
    assert load_settings(conf / "here.yml", "shop", ["label.horizon_days=10"], conf_dir=conf).label.horizon_days == 10


def test_the_last_of_two_overrides_wins_and_sections_keep_what_is_not_named() -> None:
    settings = load("score.high=0.6", "score.high=0.7")
    assert (settings.score.high, settings.score.low) == (0.7, 0.1)


def test_overrides_are_yaml_values() -> None:
    settings = load("label.event_types=[buy, subscribe]", "as_of=2024-06-30", "calendar=null", "mlflow.tracking_uri=http://127.0.0.1:5000")
    assert settings.label.event_types == ("buy", "subscribe")
    assert settings.as_of == date(2024, 6, 30)
    assert settings.calendar is None
    assert settings.mlflow.tracking_uri == "http://127.0.0.1:5000"


def test_words_in_braces_are_filled_in() -> None:
    settings = load("lake.root=/tmp/x/{dataset}", dataset="sp500", data="/data")
    assert settings.lake.root == "/tmp/x/sp500"
    paths = [source.path for sources in settings.sources.values() for source in sources if source.kind == "files"]
    assert any(path.startswith("/data/") for path in paths)
    assert any(path.startswith("/tmp/x/sp500/") for path in paths)
    assert not any("{" in path for path in paths)


def test_without_data_the_word_stays_so_that_it_can_be_asked_for() -> None:
    assert load(dataset="retail").sources["activity"][0].path == "{data}/online_retail/by_day"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "label.horizon_day=7",
            ["--set label.horizon_day=7", "unknown key 'label.horizon_day'", "'horizon_days'", "event_types, horizon_days"],
        ),
        ("labels.horizon_days=7", ["unknown key 'labels'", "Did you mean 'label'?"]),
        ("label.horizon_days=soon", ["--set label.horizon_days=soon: label.horizon_days", "found 'soon'"]),
        ("label.horizon_days=0", ["label.horizon_days", "greater than 0", "found 0"]),
        ("score.low=0.9", ["score", "score.low (0.9) must be below score.high (0.5)"]),
        ("time_zone=Mars/Olympus", ["time_zone", "IANA time zone", "found 'Mars/Olympus'"]),
        ("currency=euro", ["currency", "found 'euro'"]),
        ("grain=order", ["grain", "'user_item' or 'user'"]),
        ("publish.uri=s3a://bucket/../other", ["publish.uri", "'..'"]),
        ("""lake.root="a'b" """, ["lake.root", "quotes"]),
        ("mlflow=nothing", ["mlflow", "found 'nothing'"]),
        ("spark.conf.x=[1]", ["spark.conf.x"]),
        ("lake=here", ["--set lake=here: lake:"]),
        ("lake.root=5", ["lake.root", "found 5"]),
        ("lake.catalog=a/b", ["lake.catalog", "letters, digits"]),
    ],
)
def test_a_wrong_setting_is_one_error_that_names_where_what_and_what_is_allowed(override: str, expected: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(override)
    assert caught.value.exit_code == 2
    for part in expected:
        assert part in str(caught.value)


def test_a_wrong_key_in_a_file_names_the_file(conf: Path) -> None:
    (conf / "here.yml").write_text("label: {horizon: 8}\n")
    with pytest.raises(ConfigurationError, match=r"here\.yml: unknown key 'label\.horizon'\. Did you mean 'horizon_days'\?"):
        load_settings(conf / "here.yml", "shop", conf_dir=conf)


def test_a_wrong_key_in_a_source_lists_what_that_kind_of_source_knows(conf: Path) -> None:
    source = "{kind: files, name: drop, path: in, columns: {}, sheet: 1}"
    (conf / "datasets" / "shop.yml").write_text(f"sources: {{activity: [{source}]}}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(conf / "here.yml", "shop", conf_dir=conf)
    assert "shop.yml: unknown key 'sources.activity.0.files.sheet'" in str(caught.value)
    assert "delimiter, encoding, file_date" in str(caught.value)


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load("label.horizon_days=0", "monitor.psi_limit=-1", "nonsense=1")
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_setting_is_named(conf: Path) -> None:
    (conf / "base.yml").write_text("lake: {root: lake}\n")
    with pytest.raises(ConfigurationError, match=r"publish: Field required"):
        load_settings(conf / "here.yml", "shop", conf_dir=conf)


def test_a_value_whose_name_speaks_of_a_secret_is_not_shown(conf: Path) -> None:
    assert "canary" not in str(load("spark.conf={spark.x.password: canary}").shown())
    (conf / "here.yml").write_text("spark: {conf: {spark.x.password: [canary]}}\n")
    with pytest.raises(ConfigurationError, match=r"spark\.x\.password: .* \(found a value that is not shown\)") as caught:
        load_settings(conf / "here.yml", "shop", conf_dir=conf)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("text", ["spark.conf={x.password: [canary]}", "publish.secret=canary", "spark.api_key: canary", "x.token={canary"])
def test_an_override_that_speaks_of_a_secret_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--set") as caught:
        load(text)
    assert "canary" not in str(caught.value).replace("unknown key 'publish.secret'", "")


@pytest.mark.parametrize("text", ["label.horizon_days", "=7", "a b=1", "label..x=1", "../x=1"])
def test_an_override_that_is_not_key_and_value(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected key=value"):
        load(text)


def test_an_override_whose_value_is_not_yaml() -> None:
    with pytest.raises(ConfigurationError, match="not valid YAML"):
        load("label.event_types=[buy")


@pytest.mark.parametrize("name", ["none", "../local", "stocks.yml", "a'b", ""])
def test_an_unknown_data_set_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigurationError, match="'retail', 'sp500', 'stocks'"):
        load(dataset=name)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("a: [", "not valid YAML"), ("- 1\n", "expected a mapping of settings, found list"), ("", None)],
)
def test_an_environment_file_that_cannot_be_used(tmp_path: Path, content: str | None, message: str | None) -> None:
    path = tmp_path / "here.yml"
    if content is not None:
        path.write_text(content)
    if message is None:
        assert load_settings(path, "stocks").dataset == "stocks"
    else:
        with pytest.raises(ConfigurationError, match=message) as caught:
            load_settings(path, "stocks")
        assert str(path) in str(caught.value)


def test_an_environment_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "here.yml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not valid YAML"):
        load_settings(path, "stocks")


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(Exception, match="frozen"):
        load().dataset = "other"  # type: ignore[misc]


def test_the_hash_covers_what_can_change_a_result_and_nothing_else() -> None:
    before = load().config_hash()
    assert len(before) == 16
    assert (
        load("lake.root=/elsewhere", "spark.driver_memory=1g", "as_of=2024-01-01", "publish.files=9", "mlflow.experiment=x").config_hash()
        == before
    )
    assert load("label.horizon_days=8").config_hash() != before
    elsewhere = [load(dataset="sp500", data=data).config_hash() for data in ("/here", "/there")]
    assert elsewhere[0] == elsewhere[1]


def test_market_features_need_bars_and_the_pair_grain() -> None:
    assert load().has_market
    assert not load("grain=user").has_market
    assert not load(dataset="retail", data="x").has_market
