"""Alert rules, each with the fault it is for; and every channel with a real server at the other end."""

from __future__ import annotations

import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from propensity_spark.config import CONF_DIR, AlertRule, Settings, load_settings
from propensity_spark.errors import AlertNotDelivered, ConfigurationError
from propensity_spark.monitor.alerts import Seen, holding
from propensity_spark.monitor.deliver import deliver
from propensity_spark.run import Run
from propensity_spark.schemas import ALERTS
from propensity_spark.stages import alerting
from propensity_spark.tables import Lake

DAY = date(2024, 3, 15)
MESSAGE = {"alert_id": "ab12", "dataset": "stocks", "as_of_date": "2024-03-15", "rule": "r", "severity": "critical", "text": "x psi 0.4"}
DEFAULTS = {rule.name: rule for rule in load_settings(CONF_DIR / "local.yml", "retail", data="/nowhere").monitor.alerts}


def _seen(
    ago: int, value: float | None, subject: str = "x", measure: str = "psi", *, breached: bool = False, known: int | None = None
) -> Seen:
    """`ago` days before DAY, known as many days before it as `known` says (default: at once)."""
    return Seen(DAY - timedelta(days=ago), DAY - timedelta(days=ago if known is None else known), subject, measure, value, breached)


def _names(rules: list[AlertRule], history: list[Seen], alerted: dict[str, date] | None = None) -> list[str]:
    return [alert.rule.name for alert in holding(rules, history, DAY, alerted or {}) if not alert.cooling]


FAULTS = {
    "score_drift": [_seen(ago, 0.4, "purchase_probability", breached=True) for ago in (0, 1)],
    "features_drifted": [_seen(ago, 9.0, "model", "drifted_features", breached=True) for ago in (0, 2)],
    "feature_gone": [_seen(0, 0.9, "item_views_7d", "null_increase")],
    "unseen_category": [_seen(0, 0.2, "rfm_segment", "unseen_share", breached=True)],
    "stale_table": [_seen(0, None, "silver/bars", "age_days", breached=True)],
    "volume_fell": [_seen(0, -0.8, "gold/scores", "rows_change")],
    "auc_fell": [_seen(ago, 0.6, "performance", "roc_auc", breached=True, known=ago - 10) for ago in (10, 11)],
    "calibration_off": [_seen(ago, 3.0, "performance", "observed_over_expected", breached=True, known=ago - 10) for ago in (10, 12)],
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_default_rule_finds_its_fault_and_no_other_does(name: str) -> None:
    assert _names(list(DEFAULTS.values()), FAULTS[name]) == [name]
    assert _names([DEFAULTS[name]], [_seen(0, 0.0, s.subject, s.measure, known=0) for s in FAULTS[name]]) == []


RULE = AlertRule(name="r", measure="psi", above=0.3, days=2, of=3, cooldown_days=5)


@pytest.mark.parametrize(
    ("values", "holds"),
    [
        ([0.4, 0.4, 0.4], True),
        ([0.4, 0.1, 0.4], True),
        ([0.4, 0.4, 0.1], False),  # off before, not today: no news
        ([0.1, 0.1, 0.4], False),
        ([0.4, 0.1, 0.1, 0.4], False),  # the other one is the fourth last
        ([0.4], False),
        ([0.3, 0.3, 0.3], False),  # the limit itself is allowed
        ([0.4, None, 0.4], True),
        ([0.4, None, None], False),
    ],
)
def test_n_of_the_last_m_days_and_the_last_of_them(values: list[float | None], holds: bool) -> None:
    history = [_seen(ago, value) for ago, value in enumerate(reversed(values))]
    assert bool(_names([RULE], history)) is holds


def test_subjects_do_not_add_up_and_the_future_does_not_count() -> None:
    assert _names([RULE], [_seen(0, 0.4, "a"), _seen(1, 0.4, "b")]) == []
    assert _names([RULE], [_seen(0, 0.4), _seen(-1, 0.4)]) == []
    assert _names([RULE], [_seen(0, 0.4), _seen(5, 0.4, known=-3)]) == [], "a day that was judged later was not known then"


def test_below_and_a_pattern_of_subjects_worst_first() -> None:
    rule = AlertRule(name="low", subject="item_*", measure="rows_change", below=-0.2)
    seen = [_seen(0, value, subject, "rows_change") for subject, value in (("item_a", -0.3), ("item_b", -0.9), ("user_a", -0.9))]
    (alert,) = holding([rule], seen, DAY, {})
    assert alert.text == "item_b rows_change -0.9; item_a rows_change -0.3"
    assert _names([AlertRule(name="many", measure="psi", above=0.0)], [_seen(0, 1.0, f"s{n}") for n in range(7)]) == ["many"]


@pytest.mark.parametrize(("ago", "cooling"), [(1, True), (5, True), (6, False)])
def test_cooldown(ago: int, cooling: bool) -> None:
    (alert,) = holding([RULE], [_seen(0, 0.4), _seen(1, 0.4)], DAY, {"r": DAY - timedelta(days=ago)})
    assert alert.cooling is cooling


def _settings(tmp_path: Path, *overrides: str) -> Settings:
    return load_settings(CONF_DIR / "local.yml", "stocks", [f"lake.root={tmp_path / 'lake'}", *overrides])


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("[{name: a, measure: psi, days: 3, of: 2}]", r"alert rule a: days \(3\) of the last `of` \(2\)"),
        ("[{name: a, measure: psi}, {name: a, measure: rows}]", r"names of their own; found more than one of \['a'\]"),
        ("[{name: a, measure: psi, channels: [webhook]}]", "alert rule a goes to webhook: expected monitor.channels.webhook, found none"),
        ("[{name: a, measure: psi, chanels: [log]}]", "Did you mean 'channels'"),
    ],
)
def test_rules_that_cannot_work_are_refused(tmp_path: Path, rules: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        _settings(tmp_path, f"monitor.alerts={rules}")


# --- channels ----------------------------------------------------------------------------------------------------


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[index]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Hook(HTTPServer):
    """Answers each POST with the next status of `answers` (0: not at all until the caller has gone), the last one for ever."""

    def __init__(self, *answers: int) -> None:
        self.answers, self.bodies = list(answers), list[dict[str, str]]()
        self.gone = threading.Event()
        super().__init__(("127.0.0.1", 0), _Post)


class _Post(BaseHTTPRequestHandler):
    server: _Hook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        if status == 0:
            self.server.gone.wait(30)
            return
        self.server.bodies.append(body)
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


class _Mailbox(socketserver.StreamRequestHandler):
    """Enough of RFC 5321 to take a letter; `refuse` is answered to its content where it is set."""

    letters: list[str]
    refuse = ""

    def handle(self) -> None:
        self._say("220 mail.test")
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            if verb == "DATA":
                self._say("354 go on")
                letter = b"".join(iter(self.rfile.readline, b".\r\n")).decode()
                self._say(type(self).refuse or "250 taken")
                if not type(self).refuse:
                    type(self).letters.append(letter)
            elif verb == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 mail.test")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


WEBHOOK = "monitor.channels.webhook={url: {variable: TEST_HOOK_URL}, timeout_seconds: 0.3}"


def test_webhook_takes_json_and_its_address_stays_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(tmp_path, WEBHOOK)
    with pytest.raises(AlertNotDelivered, match="environment variable TEST_HOOK_URL is not set"):
        deliver(MESSAGE, "webhook", settings, None)
    hook = _Hook(204, 500, 302, 0)
    with _served(hook) as port:
        monkeypatch.setenv("TEST_HOOK_URL", f"http://127.0.0.1:{port}/hooks/s3cr3t-path")
        deliver(MESSAGE, "webhook", settings, None)
        assert hook.bodies == [MESSAGE]
        for words in ("answered 500, expected 2xx", "answered 302, expected 2xx", "ReadTimeout"):
            with pytest.raises(AlertNotDelivered, match=words) as caught:
                deliver(MESSAGE, "webhook", settings, None)
            assert "s3cr3t" not in str(caught.value)
        hook.gone.set()
    with pytest.raises(AlertNotDelivered, match="ConnectionError") as caught:
        deliver(MESSAGE, "webhook", settings, None)
    assert "s3cr3t" not in str(caught.value)


def test_email_reaches_a_mailbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters: list[str] = []
    monkeypatch.setattr(_Mailbox, "letters", letters, raising=False)
    with _served(socketserver.TCPServer(("127.0.0.1", 0), _Mailbox)) as port:
        where = f"{{host: 127.0.0.1, port: {port}, starttls: false, sender: line@example.org, recipients: [a@example.org, b@example.org]}}"
        settings = _settings(tmp_path, f"monitor.channels.email={where}")
        deliver(MESSAGE, "email", settings, None)
        (letter,) = letters
        for line in ("Subject: [critical] stocks: r as of 2024-03-15", "To: a@example.org, b@example.org", "ab12@", "text: x psi 0.4"):
            assert line in letter
        monkeypatch.setattr(_Mailbox, "refuse", "552 too much")
        with pytest.raises(AlertNotDelivered, match="the mail server answered 552"):
            deliver(MESSAGE, "email", settings, None)
        safe = where.replace("starttls: false", "starttls: true")
        with pytest.raises(AlertNotDelivered, match="SMTPNotSupportedError"):
            deliver(MESSAGE, "email", _settings(tmp_path, f"monitor.channels.email={safe}"), None)
    assert len(letters) == 1, "never in clear where the server offers no TLS"
    with pytest.raises(AlertNotDelivered, match="ConnectionRefusedError"):
        deliver(MESSAGE, "email", settings, None)


def test_log_and_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = _settings(tmp_path)
    deliver(MESSAGE, "log", settings, None)
    assert (caplog.records[-1].levelno, caplog.records[-1].getMessage()) == (logging.CRITICAL, "alert r: x psi 0.4")
    deliver(MESSAGE, "file", settings, None)
    deliver(MESSAGE, "file", settings, None)
    lines = (tmp_path / "lake" / "logs" / "alerts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [MESSAGE, MESSAGE]
    with pytest.raises(AlertNotDelivered, match="file: IsADirectoryError"):
        deliver(MESSAGE, "file", _settings(tmp_path, f"monitor.channels.file={tmp_path}"), None)


# --- what is remembered --------------------------------------------------------------------------------------------

ONE_RULE = "monitor.alerts=[{name: r, measure: psi, above: 0.3, cooldown_days: 2, channels: [file, webhook]}]"


def test_states_of_alerts_through_failure_re_run_retry_and_cooldown(
    spark: SparkSession, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tmp_path, ONE_RULE, WEBHOOK)

    def told(ago: int, value: float) -> dict[tuple[int, str], str]:
        run = Run(spark, settings, lake, DAY - timedelta(days=ago), f"monitor-{ago}", datetime(2024, 3, 16, tzinfo=UTC))
        seen = Seen(run.as_of, run.as_of, "x", "psi", value, breached=False)
        alerting.tell(run, [seen])
        assert alerting.undelivered(run) == sum(state["status"] == "failed" for state in alerting.recorded(run))
        return {((DAY - row["as_of_date"]).days, row["channel"]): row["status"] for row in lake.read(ALERTS).collect()}

    lines = lambda: len((tmp_path / "lake" / "logs" / "alerts.jsonl").read_text().splitlines())  # noqa: E731
    hook = _Hook(503, 200)
    with _served(hook) as port:
        monkeypatch.setenv("TEST_HOOK_URL", f"http://127.0.0.1:{port}/")
        assert told(4, 0.1) == {} if lake.exists(ALERTS) else True
        assert told(3, 0.4) == {(3, "file"): "delivered", (3, "webhook"): "failed"}
        assert (lines(), len(hook.bodies)) == (1, 1), "the webhook was tried and refused"
        state = told(2, 0.4)  # the webhook is tried again; the new day is within the cooldown
        assert state == {(3, "file"): "delivered", (3, "webhook"): "delivered", (2, "file"): "cooling", (2, "webhook"): "cooling"}
        assert told(3, 0.4) == state
        assert (lines(), [body["as_of_date"] for body in hook.bodies]) == (1, ["2024-03-12"] * 2), "a day run again alerts nobody twice"
        assert told(0, 0.4)[0, "webhook"] == "delivered"
        refused, again, other = (body["alert_id"] for body in hook.bodies)
        assert (lines(), refused == again, again == other) == (2, True, False)
