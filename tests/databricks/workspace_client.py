"""A bare HTTP client for the tests of the workspace."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit


class Client:
    """Calls over one connection; gives the status and the answer (bytes when it is no JSON)."""

    def __init__(self, url: str, token: str = "x") -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=10)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def send(self, method: str, path: str, query: str | None = None, body: bytes | None = None) -> tuple[int, Any]:
        self._connection.request(method, f"{path}?{query}" if query else path, body, self._headers)
        response = self._connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if response.headers["Content-Type"] == "application/json" else content

    def get(self, path: str, /, **query: object) -> tuple[int, Any]:
        return self.send("GET", path, urlencode(query))

    def post(self, path: str, /, **body: object) -> tuple[int, Any]:
        return self.send("POST", path, None, json.dumps(body).encode())
