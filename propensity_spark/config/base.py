"""What every group of settings is made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
SECRET = re.compile("secret|password|token|key|credential", re.IGNORECASE)
"""Settings (and Spark options) of such a name are never shown: somebody may have put the secret itself there."""


def _safe_name(value: str) -> str:
    if not SAFE_NAME.fullmatch(value):
        raise ValueError("expected letters, digits, '_' or '-' only (no path, no quotes)")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("expected an IANA time zone such as America/New_York") from error
    return value


def _location(value: str) -> str:
    if any(mark in value for mark in "'\"`\n"):
        raise ValueError("a location may not hold quotes or line breaks")
    if ".." in Path(value.split("://", 1)[-1]).parts and "://" in value:
        raise ValueError("a URI may not hold '..'")
    return value


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


Name = Annotated[str, AfterValidator(_safe_name)]
Zone = Annotated[str, AfterValidator(_zone)]
Location = Annotated[str, AfterValidator(_location)]
Regex = Annotated[str, AfterValidator(_regex)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Grain = Literal["user_item", "user"]


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
