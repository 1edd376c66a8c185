"""The edge of monitor that tells people: rules of the day, what was told before, and the attempts to deliver."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pyspark.sql import functions as F

from propensity_spark.errors import AlertNotDelivered
from propensity_spark.monitor.alerts import Alert, Seen, holding
from propensity_spark.monitor.deliver import deliver
from propensity_spark.run import Run
from propensity_spark.schemas import ALERTS
from propensity_spark.tables import local_frame

log = logging.getLogger(__name__)

REMEMBERED_DAYS = 90
RETRIED_DAYS = 7
_OPEN = ("pending", "failed")
_SAME = "t.as_of_date = s.as_of_date AND t.rule = s.rule AND t.channel = s.channel"
State = dict[str, Any]


def tell(run: Run, history: Sequence[Seen]) -> list[State]:
    """Record the rules that hold as of D, then deliver what is open; returns the rows of ops/alerts of D, delivered or not.

    What was delivered for D before is not sent again. What could not be delivered in the last `RETRIED_DAYS` days is tried
    once more. A state is written before its attempt and after it, so a run killed between sends the alert a second time,
    under the same `alert_id`, rather than never. A failure to deliver is logged and recorded, and the line goes on.
    """
    before = recorded(run)
    alerted = {state["rule"]: state["as_of_date"] for state in before if state["as_of_date"] < run.as_of and state["status"] != "cooling"}
    known = {(state["as_of_date"], state["rule"], state["channel"]): state for state in before}
    alerts = holding(run.settings.monitor.alerts, history, run.as_of, alerted)
    planned = [_state(run, alert, channel) for alert in alerts for channel in alert.rule.channels]
    fresh = [new for new in planned if not _told(known.get((run.as_of, new["rule"], new["channel"])))]
    _record(run, fresh)
    since = run.as_of - timedelta(days=RETRIED_DAYS)
    renewed = {(state["as_of_date"], state["rule"], state["channel"]) for state in fresh}
    old = [state for at, state in known.items() if at not in renewed and state["status"] in _OPEN and state["as_of_date"] > since]
    attempted = [_attempt(run, state) for state in [*old, *fresh] if state["status"] in _OPEN]
    _record(run, attempted)
    return [state for state in recorded(run) if state["as_of_date"] == run.as_of] if before or fresh else []


def recorded(run: Run) -> list[State]:
    """The states of the last `REMEMBERED_DAYS` days up to D, by date."""
    day = F.col("as_of_date")
    near = (day <= F.lit(run.as_of)) & (day > F.lit(run.as_of - timedelta(days=REMEMBERED_DAYS)))
    return [row.asDict() for row in run.lake.read_or_empty(ALERTS).where(near).orderBy("as_of_date", "rule", "channel").collect()]


def undelivered(run: Run) -> int:
    """How many alerts still wait to be delivered, which is a reason to run again."""
    since = run.as_of - timedelta(days=RETRIED_DAYS)
    return sum(state["status"] in _OPEN and state["as_of_date"] > since for state in recorded(run))


def sentence(told: Sequence[State]) -> str:
    """What the day's alerts add to the stage's note; empty without any."""
    rules = list(dict.fromkeys(state["rule"] for state in told if state["status"] != "cooling"))
    failed = sum(state["status"] == "failed" for state in told)
    return (f"; alerts: {', '.join(rules)}" if rules else "") + (f" ({failed} messages NOT delivered)" if failed else "")


def _told(state: State | None) -> bool:
    return state is not None and state["status"] == "delivered"


def _state(run: Run, alert: Alert, channel: str) -> State:
    status = "cooling" if alert.cooling else "pending"
    named = (run.as_of, alert.rule.name, channel, alert.rule.severity, status, alert.identity(run.settings.dataset), alert.text)
    return dict(zip(ALERTS.column_names, (*named, None, run.run_id, run.started_at), strict=True))


def _attempt(run: Run, state: State) -> State:
    message = {"dataset": run.settings.dataset, "as_of_date": str(state["as_of_date"])}
    message |= {name: state[name] for name in ("alert_id", "rule", "severity", "text")}
    error = None
    try:
        deliver(message, state["channel"], run.settings, run.spark)
    except AlertNotDelivered as failure:
        error = str(failure)
        log.error("alert %s as of %s was not delivered: %s", state["rule"], state["as_of_date"], error)
    return state | {"status": "failed" if error else "delivered", "error": error, "run_id": run.run_id, "recorded_at": run.started_at}


def _record(run: Run, states: Sequence[State]) -> None:
    if states:
        rows = [tuple(state[name] for name in ALERTS.column_names) for state in states]
        run.lake.merge(local_frame(run.spark, rows, ALERTS.schema), ALERTS, _SAME, update_when="true")
