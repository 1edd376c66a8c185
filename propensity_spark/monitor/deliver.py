"""Telling somebody: an alert to the log, a file of JSON lines, a webhook or a mailbox."""

from __future__ import annotations

import json
import logging
import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from pathlib import Path

import requests
from pyspark.sql import SparkSession

from propensity_spark.config import ChannelSettings, CredentialSettings, EmailSettings, Settings, WebhookSettings
from propensity_spark.errors import AlertNotDelivered, EnvironmentMissing
from propensity_spark.logs import log_folder
from propensity_spark.platform import credential

log = logging.getLogger(__name__)

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}
Message = Mapping[str, str]


def deliver(message: Message, channel: str, settings: Settings, spark: SparkSession | None) -> None:
    """Send one alert (`alert_id`, `dataset`, `as_of_date`, `rule`, `severity`, `text`) to one channel, once, within its timeout.

    Raises AlertNotDelivered, whose words hold neither address nor password.
    """
    channels = settings.monitor.channels
    try:
        if channel == "log":
            log.log(_LEVELS[message["severity"]], "alert %s: %s", message["rule"], message["text"], extra={"alert": dict(message)})
        elif channel == "file":
            _append(message, _file(channels, settings))
        elif channel == "webhook" and channels.webhook is not None:
            _post(message, channels.webhook, _secret(channels.webhook.url, settings, spark))
        elif channel == "email" and channels.email is not None:
            password = _secret(channels.email.password, settings, spark) if channels.email.user else ""
            _mail(message, channels.email, password)
        else:
            raise AlertNotDelivered(f"{channel}: not configured any more (monitor.channels.{channel})")
    except EnvironmentMissing as error:
        raise AlertNotDelivered(f"{channel}: {error}") from error
    except smtplib.SMTPResponseException as error:
        raise AlertNotDelivered(f"{channel}: the mail server answered {error.smtp_code}") from None
    except (OSError, requests.RequestException, ValueError) as error:  # what they say may hold the address, and so the secret
        raise AlertNotDelivered(f"{channel}: {type(error).__name__}") from None


def _file(channels: ChannelSettings, settings: Settings) -> Path:
    return Path(channels.file) if channels.file else log_folder(settings) / "alerts.jsonl"


def _append(message: Message, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(message), ensure_ascii=False) + "\n")


def _post(message: Message, webhook: WebhookSettings, url: str) -> None:
    """A redirect counts as a failure: it could lead anywhere."""
    answer = requests.post(url, json=dict(message), timeout=webhook.timeout_seconds, allow_redirects=False)
    if not 200 <= answer.status_code < 300:
        raise AlertNotDelivered(f"webhook: answered {answer.status_code}, expected 2xx")


def _mail(message: Message, email: EmailSettings, password: str) -> None:
    letter = EmailMessage()
    letter["Subject"] = f"[{message['severity']}] {message['dataset']}: {message['rule']} as of {message['as_of_date']}"
    letter["From"], letter["To"] = email.sender, ", ".join(email.recipients)
    letter["Message-ID"] = f"<{message['alert_id']}@propensity-spark>"
    letter.set_content("\n".join(f"{name}: {value}" for name, value in message.items()))
    with smtplib.SMTP(email.host, email.port, timeout=email.timeout_seconds) as server:
        if email.starttls:
            server.starttls(context=ssl.create_default_context())
        if email.user:
            server.login(email.user, password)
        server.send_message(letter)


def _secret(where: CredentialSettings, settings: Settings, spark: SparkSession | None) -> str:
    return credential(spark, where.secret_scope or settings.secret_scope, where.secret_key, where.variable)
