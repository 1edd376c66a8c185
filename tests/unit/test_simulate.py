"""The simulated market, its investors, the world on disk and the truth."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from propensity_spark.calendars import sessions
from propensity_spark.config import CONF_DIR, Settings, load_settings
from propensity_spark.errors import ConfigurationError, SourceMissing
from propensity_spark.simulate.events import BUY, CANCEL, EVENT_TYPES, SELL, VIEW, Deliveries, batch_events, live, midnights
from propensity_spark.simulate.generator import simulate_market
from propensity_spark.simulate.market import Market, market_from_bars
from propensity_spark.simulate.masters import user_name, user_rows
from propensity_spark.simulate.perception import futures, history, past_of
from propensity_spark.simulate.truth import purchase_truth, write_truth
from propensity_spark.simulate.world import activity, build_world, load_market, world_hash, world_root

ZONE = "America/New_York"
SMALL = [
    "simulate.items=20",
    "simulate.users=60",
    "simulate.users_per_batch=20",
    "simulate.start=2023-01-03",
    "simulate.end=2023-09-29",
    "simulate.events_per_user=120",
    "simulate.truth_users=40",
    "simulate.truth_futures=60",
    "simulate.late_share=0.05",
    "simulate.corrected_share=0.1",
    "simulate.deleted_share=0.02",
    "simulate.repeated_share=0.02",
]


def settings_for(root: Path, *more: str) -> Settings:
    return load_settings(CONF_DIR / "local.yml", "stocks", [f"lake.root={root / 'lake'}", *SMALL, *more])


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_for(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def market(settings: Settings) -> Market:
    assert settings.simulate is not None
    return simulate_market(settings.simulate, "XNYS")


@pytest.fixture(scope="module")
def rows(settings: Settings, market: Market) -> pd.DataFrame:
    """Every delivered row of the small world, with the local date of the event and of its becoming known."""
    assert settings.simulate is not None
    past = past_of(market)
    frame = pd.concat([batch_events(settings.simulate, market, past, ZONE, b).assign(batch=b) for b in range(3)], ignore_index=True)
    return frame.assign(day=local_dates(frame["ts"]), known_day=local_dates(frame["known"]))


def local_dates(microseconds: pd.Series[Any]) -> pd.Series[Any]:
    return pd.to_datetime(microseconds, unit="us", utc=True).dt.tz_convert(ZONE).dt.date


def test_market_covers_the_exchange_sessions_and_the_seed_decides(settings: Settings, market: Market) -> None:
    assert settings.simulate is not None
    assert market.dates.tolist() == sessions("XNYS", settings.simulate.start, settings.simulate.end)
    again = simulate_market(settings.simulate, "XNYS")
    other = simulate_market(settings.simulate.model_copy(update={"seed": 1}), "XNYS")
    np.testing.assert_array_equal(market.close, again.close)
    assert not np.array_equal(market.close, other.close, equal_nan=True)
    assert len(set(market.item_ids.tolist())) == 20


def test_bars_are_consistent_and_missing_together(market: Market) -> None:
    traded = market.traded
    low, high = market.low[traded], market.high[traded]
    assert (low <= np.minimum(market.open, market.close)[traded]).all()
    assert (high >= np.maximum(market.open, market.close)[traded]).all()
    assert (low > 0).all()
    assert (low <= market.vwap[traded] + 1e-9).all()
    assert (market.vwap[traded] <= high + 1e-9).all()
    assert (market.volume[traded] >= 1).all()
    for name in ("open", "high", "low", "volume", "vwap", "trade_count"):
        np.testing.assert_array_equal(np.isnan(getattr(market, name)), ~traded)


def test_a_bigger_market_has_splits_halts_and_late_listings_and_adjusted_prices_do_not_jump(settings: Settings) -> None:
    assert settings.simulate is not None
    big = simulate_market(settings.simulate.model_copy(update={"items": 120, "end": date(2024, 12, 31)}), "XNYS")
    assert len(big.split_ratio) >= 5
    assert (big.listed > 0).any()
    halted = ~big.traded & (np.arange(len(big.dates))[:, None] >= big.listed)
    assert 0 < halted.mean() < 0.01
    for session, item, ratio in zip(big.split_session, big.split_item, big.split_ratio, strict=True):
        before = max(s for s in range(session) if big.traded[s, item])
        reported = big.close[session, item] / big.close[before, item]
        assert reported * ratio == pytest.approx(1.0, abs=0.3)
        assert big.adjusted_close[session, item] / big.adjusted_close[before, item] == pytest.approx(reported * ratio)
    assert (big.split_factor[-1] == 1).all()


def test_sectors_move_together_and_volatility_and_volume_cluster(settings: Settings) -> None:
    assert settings.simulate is not None
    long = settings.simulate.model_copy(update={"items": 50, "start": date(2018, 1, 2)})
    returns = past_of(simulate_market(long, "XNYS")).log_return[1:]
    sector = np.array(simulate_market(long, "XNYS").sector_index)
    correlation = np.corrcoef(returns.T)
    same = (sector[:, None] == sector) & ~np.eye(50, dtype=bool)
    assert correlation[same].mean() > correlation[sector[:, None] != sector].mean() + 0.05
    size = np.abs(returns)
    lagged = [np.corrcoef(size[1:, i], size[:-1, i])[0, 1] for i in range(50)]
    assert np.mean(lagged) > 0.05
    volume = np.diff(np.log(simulate_market(long, "XNYS").volume), axis=0)
    reaction = [np.corrcoef(np.nan_to_num(volume[:, i]), size[:, i])[0, 1] for i in range(50)]
    assert np.mean(reaction) > 0.1


def test_events_lie_inside_their_local_day_and_trades_in_sessions_where_the_item_traded(rows: pd.DataFrame, market: Market) -> None:
    hours = pd.to_datetime(rows["ts"], unit="us", utc=True).dt.tz_convert(ZONE).dt.hour
    assert hours.between(7, 22).all()
    trades = rows[rows["type"].isin([BUY, SELL])]
    session = np.searchsorted(market.dates, trades["day"].to_numpy().astype("datetime64[D]"))
    assert (market.dates[session] == trades["day"].to_numpy().astype("datetime64[D]")).all()
    assert market.traded[session, trades["item"]].all()
    np.testing.assert_array_equal(trades["price"], np.rint(market.close[session, trades["item"]] * 10_000))
    assert (pd.to_datetime(rows["day"]).dt.dayofweek >= 5).any()
    views = rows[rows["type"] == VIEW]
    at = np.searchsorted(market.dates, views["day"].to_numpy().astype("datetime64[D]"), side="right") - 1
    assert (market.listed[views["item"]] <= at).all()


def test_kinds_of_events_and_their_columns(rows: pd.DataFrame) -> None:
    share = rows["type"].value_counts(normalize=True)
    assert set(share.index) == set(range(len(EVENT_TYPES)))
    assert 0.08 < share[BUY] < 0.2
    trades = rows["type"].isin([BUY, SELL, CANCEL])
    assert rows.loc[~trades, "quantity"].isna().all()
    assert (rows.loc[~trades, "amount"] == 0).all()
    assert (rows.loc[~trades, "order"] == -1).all()
    np.testing.assert_array_equal(rows.loc[trades, "amount"], rows.loc[trades, "quantity"] * rows.loc[trades, "price"])
    first = rows.drop_duplicates(["batch", "event"])
    fills = first[first["type"] == BUY].groupby(["batch", "order"]).size()
    assert set(fills.unique()) == {1, 2}
    assert first[["user", "session", "batch"]].drop_duplicates().groupby(["batch", "session"]).size().max() == 1


def test_a_cancel_follows_its_order_and_never_exceeds_it(rows: pd.DataFrame) -> None:
    first = rows.drop_duplicates(["batch", "event"])
    bought = (
        first[first["type"] == BUY]
        .groupby(["batch", "order"])
        .agg(shares=("quantity", "sum"), ordered=("day", "first"), of=("item", "first"))
    )
    cancels = first[first["type"] == CANCEL].join(bought, on=["batch", "order"])
    assert len(cancels) > 3
    assert (cancels["quantity"] < 0).all()
    assert (-cancels["quantity"] <= cancels["shares"]).all()
    assert (cancels["item"] == cancels["of"]).all()
    delay = pd.to_datetime(cancels["day"]) - pd.to_datetime(cancels["ordered"])
    assert delay.dt.days.isin([1, 2]).all()


def test_a_sell_never_exceeds_what_was_bought_before(rows: pd.DataFrame, market: Market) -> None:
    first = rows.drop_duplicates(["batch", "event"]).sort_values("ts")
    at = np.searchsorted(market.dates, first["day"].to_numpy().astype("datetime64[D]"), side="right") - 1
    first = first.assign(shares=first["quantity"] / market.split_factor[at, np.maximum(first["item"], 0)])
    signed = first[first["type"].isin([BUY, SELL])].copy()
    signed["shares"] *= np.where(signed["type"] == SELL, -1, 1)
    held = signed.groupby(["user", "item"])["shares"].cumsum()
    assert (held > -2).all()


def test_versions_are_late_corrected_deleted_and_repeated_as_set(rows: pd.DataFrame) -> None:
    key = ["batch", "event"]
    days_late = (pd.to_datetime(rows["known_day"]) - pd.to_datetime(rows["day"])).dt.days
    original = rows.sort_values("known").drop_duplicates(key)
    first_late = days_late[original.index]
    assert set(first_late.unique()) == {0, 1, 2, 3}
    assert 0.03 < (first_late > 0).mean() < 0.07
    assert (rows["known"] > rows["ts"]).all()
    versions = rows.drop_duplicates([*key, "known"])
    later = versions[versions.duplicated(key, keep=False)].sort_values([*key, "known"])
    steps = later.groupby(key).agg(n=("known", "size"), deleted=("deleted", "last"), dates=("day", "nunique"))
    quantities = later[~later["deleted"] & later["quantity"].notna()].groupby(key)["quantity"].agg(["size", "nunique"])
    assert (steps["n"] == 2).all()
    assert (steps["dates"] == 1).all()
    assert steps["deleted"].any()
    assert (quantities.loc[quantities["size"] == 2, "nunique"] == 2).all()
    same = rows.duplicated([*key, "known"], keep=False)
    copies = rows[same].groupby([*key, "known"])
    assert len(copies) > 10
    assert (copies[["quantity", "amount", "deleted"]].nunique() <= 1).all().all()
    assert copies["delivery"].nunique().max() == 2


def test_deliveries_hold_what_became_known_since_the_file_before(rows: pd.DataFrame, settings: Settings) -> None:
    assert settings.simulate is not None
    deliveries = Deliveries.of(settings.simulate)
    assert deliveries.daily_from == date(2023, 6, 1)
    known = np.array(["2022-12-20", "2023-01-03", "2023-05-31", "2023-06-01", "2023-09-30"], dtype="datetime64[D]")
    expected = ["2023-01-31", "2023-01-31", "2023-05-31", "2023-06-01", "2023-09-30"]
    assert deliveries.dates(known).astype(str).tolist() == expected
    delivered = np.datetime64("1970-01-01") + rows["delivery"].to_numpy()
    assert (delivered >= rows["known_day"].to_numpy().astype("datetime64[D]")).all()
    first = rows.sort_values("delivery").drop_duplicates(["batch", "event", "known"])
    due = deliveries.dates(first["known_day"].to_numpy().astype("datetime64[D]"))
    np.testing.assert_array_equal(np.datetime64("1970-01-01") + first["delivery"].to_numpy(), due)


def test_midnights_follow_daylight_saving() -> None:
    found = pd.to_datetime(midnights(date(2023, 3, 11), 2, ZONE), unit="us").astype(str).tolist()
    assert found == ["2023-03-11 05:00:00", "2023-03-12 04:00:00", "2023-03-13 04:00:00"]


def test_users_buy_more_of_what_they_viewed_and_follow_their_risk_tolerance(settings: Settings) -> None:
    """Effects that features can see are there: recent views, sector affinity, risk tolerance against volatility."""
    assert settings.simulate is not None
    simulation = settings.simulate.model_copy(update={"users": 200, "users_per_batch": 200, "items": 40})
    market = simulate_market(simulation, "XNYS")
    past = past_of(market)
    events = batch_events(simulation, market, past, ZONE, 0).drop_duplicates("event")
    views = set(zip(*(events.loc[events["type"] == VIEW, name] for name in ("user", "item")), strict=True))
    buys = events[events["type"] == BUY]
    viewed = np.mean([pair in views for pair in zip(buys["user"], buys["item"], strict=True)])
    assert viewed > 1.5 * len(views) / (200 * 40)
    users = user_rows(simulation, market, 0).drop_duplicates("user_id").set_index("user_id")["risk_tolerance"]
    risk = np.mean([seen[2][0] for seen in past.seen], axis=0)
    taken = pd.Series(risk[buys["item"]]).groupby(users[buys["user"].map(user_name)].to_numpy()).mean()
    assert taken["low"] < taken["medium"] < taken["high"]
    sector = market.sector_index[buys["item"]]
    together = pd.crosstab(buys["user"], sector)
    same = (together * (together - 1)).to_numpy().sum() / (together.sum(axis=1) * (together.sum(axis=1) - 1)).sum()
    overall = np.square(np.bincount(sector) / len(sector)).sum()
    assert same > overall + 0.03


def test_living_up_to_a_date_again_gives_the_same_events(settings: Settings, market: Market, rows: pd.DataFrame) -> None:
    assert settings.simulate is not None
    last = date(2023, 5, 12)
    seen = []
    for number, _, crowd, _, visits in live(settings.simulate, market, past_of(market), 1, last):
        day = settings.simulate.start + timedelta(days=number)
        visit, place = np.nonzero(visits.viewed >= 0)
        seen += [(crowd.first_user + visits.who.user[v], visits.viewed[v, p], VIEW, day) for v, p in zip(visit, place, strict=True)]
        visit, slot = np.nonzero(visits.orders.item >= 0)
        seen += [(crowd.first_user + visits.who.user[v], visits.orders.item[v, s], BUY, day) for v, s in zip(visit, slot, strict=True)]
    first = rows[(rows["batch"] == 1) & (rows["day"] <= last)].drop_duplicates("event")
    views = first[first["type"] == VIEW]
    orders = first[first["type"] == BUY].drop_duplicates("order")
    expected = [tuple(row) for part in (views, orders) for row in part[["user", "item", "type", "day"]].itertuples(index=False)]
    assert sorted(seen) == sorted(expected)


def test_futures_continue_the_state_and_differ(settings: Settings, market: Market) -> None:
    past, as_of = past_of(market), date(2023, 6, 30)
    days = list(futures(market, past, as_of, 7, count=50, rng=np.random.default_rng(1)))
    assert [day.weekday for day in days] == [6, 7, 1, 2, 3, 4, 5]
    assert [bool(day.tradable.any()) for day in days] == [False, False, True, False, True, True, True]  # 4 July is none
    today = list(history(market, past, as_of))[-1]
    np.testing.assert_array_equal(days[0].momentum[7], today.momentum[0])
    assert days[-1].momentum.std(axis=0).min() > 0
    assert np.abs(days[0].buzz - today.buzz).mean() < 0.5 * np.abs(days[-1].buzz - today.buzz).mean() + 0.3


def realised(rows: pd.DataFrame, market: Market, as_of: date, horizon_days: int) -> set[tuple[str, str]]:
    """Pairs with an order in (D, D + H] that is not deleted and not wholly cancelled within it."""
    gone = rows[rows["deleted"]][["batch", "event"]].apply(tuple, axis=1)
    first = rows.drop_duplicates(["batch", "event"])
    first = first[~first[["batch", "event"]].apply(tuple, axis=1).isin(set(gone))]
    window = first[(first["day"] > as_of) & (first["day"] <= as_of + timedelta(days=horizon_days)) & first["type"].isin([BUY, CANCEL])]
    left = window.groupby(["user", "item", "batch", "order"])["quantity"].sum()
    kept = left[left > 0].reset_index()
    return {(user_name(u), str(market.item_ids[i])) for u, i in zip(kept["user"], kept["item"], strict=True)}


@pytest.mark.parametrize("horizon_days", [7, 30])
def test_truth_is_calibrated(settings: Settings, market: Market, rows: pd.DataFrame, horizon_days: int) -> None:
    expected = variance = found = 0.0
    high = low = 0
    for as_of in (date(2023, 3, 17), date(2023, 5, 5), date(2023, 6, 23), date(2023, 8, 11)):
        truth = purchase_truth(settings, market, as_of, horizon_days)
        assert truth["probability"].between(0, 1).all()
        assert truth["user_id"].max() <= user_name(39)
        bought = realised(rows, market, as_of, horizon_days)
        label = np.array([pair in bought for pair in zip(truth["user_id"], truth["item_id"], strict=True)])
        expected += truth["probability"].sum()
        found += label.sum()
        variance += (truth["probability"] * (1 - truth["probability"])).sum() + np.square(truth["standard_error"]).sum()
        likely = truth["probability"] > truth["probability"].median()
        high, low = high + int(label[likely].sum()), low + int(label[~likely].sum())
    # Purchases of one user hang together, which widens the sum's spread beyond that of independent pairs.
    assert abs(found - expected) < 4 * 1.5 * np.sqrt(variance)
    assert high > 4 * low


def test_truth_is_repeatable_and_its_error_shrinks_with_more_futures(settings: Settings, market: Market) -> None:
    assert settings.simulate is not None
    one = purchase_truth(settings, market, date(2023, 6, 30), 7)
    pd.testing.assert_frame_equal(one, purchase_truth(settings, market, date(2023, 6, 30), 7))
    simulation = settings.simulate.model_copy(update={"truth_futures": 540})
    many = purchase_truth(settings.model_copy(update={"simulate": simulation}), market, date(2023, 6, 30), 7)
    assert many["standard_error"].mean() == pytest.approx(one["standard_error"].mean() / 3, rel=0.25)
    apart = (one["probability"] - many["probability"]) / np.hypot(one["standard_error"], many["standard_error"]).clip(1e-4)
    assert np.abs(apart.mean()) < 0.5
    by_user = purchase_truth(settings.model_copy(update={"grain": "user"}), market, date(2023, 6, 30), 7)
    assert by_user["user_id"].is_unique
    most = one.groupby("user_id")["probability"].max()
    assert (by_user.set_index("user_id")["probability"] >= most - 0.1).all()


def test_truth_refuses_what_it_does_not_know(settings: Settings, market: Market) -> None:
    with pytest.raises(ConfigurationError, match=r"label\.event_types"):
        purchase_truth(settings, market, date(2023, 6, 30), 7, ("view",))
    with pytest.raises(ConfigurationError, match="the simulation covers"):
        purchase_truth(settings, market, date(2030, 6, 30), 7)


def test_world_is_built_once_and_does_not_depend_on_the_parallelism(spark: SparkSession, settings: Settings, market: Market) -> None:
    root = world_root(settings)
    root.mkdir(parents=True)
    (root / "left_by_a_killed_build").touch()
    world = build_world(spark, settings)
    assert not (root / "left_by_a_killed_build").exists()
    files = sorted(path.name for path in (world.landing / "activity").iterdir() if path.suffix == ".parquet")
    assert files[:6] == [f"activity_2023-{month}" + ".parquet" for month in ("01-31", "02-28", "03-31", "04-30", "05-31", "06-01")]
    assert "activity_2023-09-29.parquet" in files
    frame = pd.concat([pd.read_parquet(world.landing / "activity" / name).assign(file=name) for name in files], ignore_index=True)
    assert len(frame) == world.events
    assert list(frame.columns[:-1]) == [
        *("event_id", "user_id", "item_id", "event_type", "event_ts", "order_id", "quantity", "price", "amount", "session_id"),
        *("known_at", "is_deleted"),
    ]
    known = frame["known_at"].dt.tz_localize("UTC") if frame["known_at"].dt.tz is None else frame["known_at"]
    assert (known.dt.tz_convert(ZONE).dt.strftime("%Y-%m-%d") <= frame["file"].str[9:19]).all()
    buys = frame[frame["event_type"] == "buy"]
    assert all(row.amount == row.price * int(row.quantity) for row in buys.head(200).itertuples())
    again = activity(spark, settings, market, world.market).coalesce(1).drop("delivery").toPandas()
    order = ["event_id", "known_at", "is_deleted"]
    left, right = (f[again.columns].sort_values(order, ignore_index=True) for f in (frame, again))
    pd.testing.assert_frame_equal(
        left.drop(columns=["event_ts", "known_at"]), right.drop(columns=["event_ts", "known_at"]), check_dtype=False
    )
    marker = (root / "_WORLD.json").stat().st_mtime_ns
    assert build_world(spark, settings) == world
    assert (root / "_WORLD.json").stat().st_mtime_ns == marker
    np.testing.assert_array_equal(load_market(settings).close, market.close)
    check_masters(world.landing, market)


def check_masters(landing: Path, market: Market) -> None:
    users = pd.concat([pd.read_parquet(path).assign(file=path.name[6:16]) for path in sorted((landing / "users").glob("*.parquet"))])
    assert users["user_id"].nunique() == 60
    assert set(users["risk_tolerance"]) == {"low", "medium", "high"}
    assert (users["valid_from"].astype(str) <= users["file"]).all()
    assert (users["signup_date"] <= users["valid_from"]).all()
    items = [
        (path.name[6:16], json.loads(line))
        for path in sorted((landing / "items").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert {row["item_id"] for _, row in items} == set(market.item_ids.tolist())
    assert len(items) == len(market.item_ids) + 2
    assert all(row["known_at"][:10] == delivered for delivered, row in items)
    assert all(row["valid_from"] <= row["known_at"][:10] for _, row in items)


def test_truth_is_written_once_per_date(spark: SparkSession, settings: Settings) -> None:
    build_world(spark, settings)
    dates = [date(2023, 6, 30), date(2023, 7, 7)]
    write_truth(spark, settings, settings.lake.root, dates[:1])
    folder = world_root(settings) / "truth"
    (first,) = (folder / "as_of_date=2023-06-30").glob("*.parquet")
    write_truth(spark, settings, settings.lake.root, dates)
    assert list((folder / "as_of_date=2023-06-30").glob("*.parquet")) == [first]
    stored = spark.read.parquet(str(folder)).where("as_of_date = DATE'2023-07-07'").toPandas()
    expected = purchase_truth(settings, load_market(settings), dates[1], settings.label.horizon_days)
    order = ["user_id", "item_id"]
    left = stored[[*order, "probability", "standard_error"]].sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(left, expected[left.columns].sort_values(order, ignore_index=True))
    assert sorted(path.name for path in folder.iterdir()) == ["as_of_date=2023-06-30", "as_of_date=2023-07-07"]


def bars_folder(root: Path) -> Path:
    """Two listed shares, one without a sector, a gap, and a bar without volume."""
    folder = root / "sp500_daily"
    folder.mkdir(parents=True)
    lines = ["date,open,high,low,close,volume,Name"]
    rng = np.random.default_rng(5)
    prices = {"AAA": 50.0, "BBB": 20.0, "CCC": 10.0, "NOSECTOR": 5.0}
    for number, day in enumerate(sessions("XNYS", date(2022, 10, 3), date(2023, 9, 29))):
        for name, price in list(prices.items()):
            prices[name] = price * float(np.exp(rng.normal(0, 0.01)))
            if name == "BBB" and number == 100:
                continue
            volume = 0 if name == "CCC" and number == 120 else 1000 + number
            lines.append(f"{day},{prices[name]:.2f},{prices[name]:.2f},{prices[name]:.2f},{prices[name]:.2f},{volume},{name}")
    (folder / "bars_2023.csv").write_text("\n".join(lines) + "\n")
    (folder / "constituents.csv").write_text("Symbol,Name,Sector\nAAA,A,Tech\nBBB,B,Tech\nCCC,C,Energy\nABSENT,X,Energy\n")
    return root


def test_real_bars_carry_simulated_investors_and_their_truth(spark: SparkSession, tmp_path: Path) -> None:
    overrides = [f"lake.root={tmp_path / 'lake'}", "simulate.users=30", "simulate.users_per_batch=15", "simulate.truth_users=15"]
    overrides += ["simulate.start=2023-01-03", "simulate.end=2023-09-29", "simulate.truth_futures=20", "simulate.events_per_user=80"]
    given = load_settings(CONF_DIR / "local.yml", "sp500", overrides, str(bars_folder(tmp_path / "data")))
    source = given.sources["bars"][0].model_copy(update={"pattern": "bars_*.csv"})
    given = given.model_copy(update={"sources": {**given.sources, "bars": (source,)}})
    world = build_world(spark, given)
    market = load_market(given)
    assert market.item_ids.tolist() == ["AAA", "BBB", "CCC"]
    assert not market.is_simulated
    assert (~market.traded).sum(axis=0).tolist() == [0, 1, 1]
    events = spark.read.parquet(str(world.landing / "activity")).toPandas()
    assert set(events["item_id"].dropna()) <= {"AAA", "BBB", "CCC"}
    assert events["event_ts"].min() >= pd.Timestamp("2023-01-03", tz=events["event_ts"].dt.tz)
    assert not (world.landing / "items").exists()
    truth = purchase_truth(given, market, date(2023, 6, 30), 7)
    assert len(truth) % 3 == 0
    assert truth["probability"].max() > 0


def test_settings_decide_the_world(settings: Settings, tmp_path: Path) -> None:
    assert settings.simulate is not None
    reseeded = settings.model_copy(update={"simulate": settings.simulate.model_copy(update={"seed": 2})})
    more_futures = settings.model_copy(update={"simulate": settings.simulate.model_copy(update={"truth_futures": 2})})
    assert world_hash(reseeded) != world_hash(settings)
    assert world_hash(more_futures) == world_hash(settings)
    with pytest.raises(SourceMissing, match="has not been built"):
        load_market(settings_for(tmp_path))
    bucket = settings.model_copy(update={"lake": settings.lake.model_copy(update={"root": "s3a://bucket/lake"})})
    with pytest.raises(ConfigurationError, match="needs a folder"):
        world_root(bucket)
    with pytest.raises(ConfigurationError, match="no simulated investors"):
        world_hash(settings.model_copy(update={"simulate": None}))
    with pytest.raises(ConfigurationError, match="needs an exchange calendar"):
        world_hash(settings.model_copy(update={"calendar": None}))


def test_a_world_of_real_bars_needs_their_files(spark: SparkSession, tmp_path: Path) -> None:
    given = load_settings(CONF_DIR / "local.yml", "sp500", [f"lake.root={tmp_path / 'lake'}"], str(tmp_path / "nowhere"))
    with pytest.raises(SourceMissing, match="expected the CSV files of bars"):
        build_world(spark, given)
    feed = load_settings(CONF_DIR / "local.yml", "stocks", [f"lake.root={tmp_path / 'lake'}", "simulate.market=false"])
    with pytest.raises(ConfigurationError, match="needs bars and items from CSV files"):
        build_world(spark, feed)


def test_a_batch_in_which_nothing_happens(settings: Settings) -> None:
    assert settings.simulate is not None
    quiet = settings.simulate.model_copy(
        update={"users": 1, "users_per_batch": 1, "events_per_user": 1, "end": date(2023, 1, 4), "seed": 3}
    )
    market = simulate_market(quiet, "XNYS")
    events = batch_events(quiet, market, past_of(market), ZONE, 0)
    assert len(events) == 0
    assert list(events.columns)[:3] == ["user", "item", "type"]


def test_market_from_bars_ignores_repeated_and_impossible_bars(settings: Settings) -> None:
    assert settings.simulate is not None
    frame = pd.DataFrame(
        [
            ("A", date(2023, 1, 3), 9.0, 1.0),
            ("A", date(2023, 1, 3), 8.0, 1.0),
            ("A", date(2023, 1, 4), -1.0, 1.0),
            ("B", date(2023, 1, 4), 7.0, 2.0),
        ],
        columns=["item_id", "session_date", "close", "volume"],
    ).assign(open=1.0, high=1.0, low=1.0)
    market = market_from_bars(frame, {"A": "x", "B": "y"}, settings.simulate, "XNYS")
    np.testing.assert_array_equal(market.close, [[9.0, np.nan], [np.nan, 7.0]])
    assert market.listed.tolist() == [0, 1]
