"""What every part of the workspace shares: a request, its fields, and the failure that becomes an error answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


class Failure(Exception):
    """An error answer: HTTP status, `error_code`, `message`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def absent(what: str) -> Failure:
    return Failure(404, "RESOURCE_DOES_NOT_EXIST", f"{what} does not exist")


def taken(what: str) -> Failure:
    return Failure(409, "RESOURCE_ALREADY_EXISTS", f"{what} already exists")


def invalid(message: str) -> Failure:
    return Failure(400, "INVALID_PARAMETER_VALUE", message)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    body: bytes
    authorised: bool = True

    def json(self) -> dict[str, Any]:
        """The body, which has to be a JSON object."""
        try:
            body = json.loads(self.body)
        except ValueError as error:
            raise Failure(400, "MALFORMED_REQUEST", f"the body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise Failure(400, "MALFORMED_REQUEST", f"the body has to be a JSON object, not {type(body).__name__}")
        return body

    def required(self, name: str, kind: type = str) -> Any:
        """A field of the body that has to be there and of this type."""
        return field_of(self.json(), name, kind)

    def number(self, name: str) -> int:
        """A whole number in the query."""
        text = self.query.get(name, "")
        if not text.isdecimal():
            raise invalid(f"{name}={text!r}: expected a whole number in the query")
        return int(text)


def field_of(body: dict[str, Any], name: str, kind: type = str) -> Any:
    value = body.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool) or value == "":
        raise invalid(f"{name}: expected a {kind.__name__}, found {value!r}")
    return value
