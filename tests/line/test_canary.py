"""A person and two secrets that everything is searched for: logs, reports, models, notes, errors and Delta's logs hold none of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from shop import AS_OF, SHORT_LIVED, write_orders

from propensity_spark.erase.search import search
from propensity_spark.features.registry import gold_tables
from propensity_spark.schemas import ACTIVITY, BRONZE, QUARANTINE

pytestmark = pytest.mark.faults

WHO, API_KEY, PRIVACY_KEY = "canary-user-4711", "canary-api-key-0815", "canary-privacy-key-2342"
CANARIES = (WHO, API_KEY, PRIVACY_KEY)
PERSONAL = (BRONZE["activity"], QUARANTINE, ACTIVITY, *(table for table in gold_tables("user", has_market=False) if table.is_personal))
PROGRAM = """
import sys
from pathlib import Path
import shop
from propensity_spark import cli
place, arguments = Path(sys.argv[1]), sys.argv[2:]
overrides = [arguments[n + 1] for n, word in enumerate(arguments) if word == "--set"]
cli.load_settings = lambda *ignored: shop.settings(place, place / "data", *overrides)
sys.exit(cli.main(arguments))
"""


class Echo(BaseHTTPRequestHandler):
    """A feed that refuses everybody and repeats the key it was given."""

    def do_GET(self) -> None:
        body = f"forbidden: {self.headers.get('Authorization')}".encode()
        self.send_response(403)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def feed() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def propensity(place: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and everything that the command says, in a process and a JVM of its own."""
    environment = {**os.environ, **SHORT_LIVED, "MASSIVE_API_KEY": API_KEY, "PROPENSITY_PRIVACY_KEY": PRIVACY_KEY}
    command = [sys.executable, "-c", PROGRAM, str(place), *arguments, "--as-of", str(AS_OF)]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def shop_with_a_canary(place: Path) -> Path:
    orders = place / "data" / "orders"
    write_orders(orders)
    for path in orders.glob("*.csv"):
        path.write_text(path.read_text().replace("c007,", f"{WHO},"))
    with (orders / "orders_2023-03.csv").open("a") as file:
        file.write(f"{WHO},s1\n{WHO},s1,never,o-z,5.00\n")
    return orders


def test_logs_reports_models_and_errors_hold_no_id_and_no_secret(tmp_path: Path, feed: str) -> None:
    orders = shop_with_a_canary(tmp_path)
    said = []
    bad = {"a_quote.csv": f'customer,sku,ordered_at,order_no,total\n{WHO},"s1,x', "headless.csv": f"{WHO},s1,2023-01-01 10:00:00,o1,5.00\n"}
    for name, text in bad.items():
        (orders / name).write_text(text)
    code, text = propensity(tmp_path, "run", "--stages", "ingest")
    assert (code, "1 of 15 files refused" in text) == (1, True), text
    said.append(text)
    for name in bad:
        (orders / name).unlink()
    code, text = propensity(tmp_path, "run", "--set", "spark.conf={spark.canary.password: canary-api-key-0815}")
    assert code == 0, text
    said.append(text)
    bars = f"sources.bars=[{{kind: massive, name: feed, base_url: '{feed}', endpoint: custom_bars, start: 2023-01-02, tickers: [A]}}]"
    code, text = propensity(tmp_path, "run", "--stages", "ingest", "--set", bars)
    assert (code, "HTTP 403" in text) == (1, True), text
    said.append(text)
    blocked = tmp_path / "blocked.csv"
    blocked.write_text(f"{WHO}\nsomebody\n")
    code, text = propensity(tmp_path, "run", "--stages", "score", "--set", f"score.blocked_users={blocked}")
    assert (code, "has no column user_id" in text) == (2, True), text
    said.append(text)
    code, text = propensity(tmp_path, "settings", "--set", "spark.conf={spark.canary.password: canary-api-key-0815}")
    assert (code, "spark.canary.password" in text) == (0, True), text
    said.append(text)

    lake = tmp_path / "lake"
    data = [folder for folder in (lake / table.full_name for table in PERSONAL) if folder.exists()]
    assert WHO in str(pq.read_table(lake / "silver" / "activity")["user_id"].unique())  # it was there to be found
    assert search(lake, CANARIES, data).holding == ()
    assert [found.holding for folder in data for found in [search(folder / "_delta_log", CANARIES, ())]] == [()] * len(data)
    assert [canary for canary in CANARIES for text in said if canary in text] == []

    code, text = propensity(tmp_path, "forget", "--user", WHO, "--user", "c008")
    assert (code, "remaining: 0" in text) == (0, True), text
    assert WHO not in text
    assert search(lake, CANARIES, data).holding == ()


def test_in_hashed_mode_the_id_is_in_bronze_and_quarantine_alone(tmp_path: Path) -> None:
    shop_with_a_canary(tmp_path)
    code, text = propensity(tmp_path, "run", "--set", "privacy={user_id: hmac}")
    assert code == 0, text
    assert not any(canary in text for canary in CANARIES)
    lake = tmp_path / "lake"
    raw = [lake / "bronze" / "activity", lake / "silver" / "quarantine"]
    assert search(lake, CANARIES, raw).holding == ()
    assert search(tmp_path / "published", CANARIES, ()).holding == ()
    assert search(raw[0], CANARIES, ()).holding == ()  # as a value; it is in payloads
    code, text = propensity(tmp_path, "forget", "--user", WHO, "--set", "privacy={user_id: hmac}")
    assert (code, "remaining: 0" in text, "gold/scores: 1 found" in text) == (0, True, True), text
