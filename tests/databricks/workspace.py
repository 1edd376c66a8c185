"""A Databricks workspace for tests: real state in memory behind the REST calls that deploying, running and destroying a bundle makes.

`with serve(Workspace()) as url` gives the address for DATABRICKS_HOST; any token is taken. What was deployed is read from the object:
`workspace.jobs.by_name()`, `workspace.files.contents`, `workspace.catalog.objects`. A call that this workspace does not know is answered
with 404 ENDPOINT_NOT_FOUND and kept in `workspace.unknown`, so that a test can insist on there being none.

Runs succeed at once and run nothing. Where the recorded calls show a more lenient answer than a real workspace gives (deleting a path
that is not there, permissions of a job that is not there), the recorded answer is given.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from workspace_answers import Failure, Request
from workspace_catalog import Catalog
from workspace_experiments import Experiments
from workspace_files import Files
from workspace_jobs import Jobs
from workspace_permissions import Permissions, Secrets

FIRST_ID = 501
Answer = dict[str, Any] | bytes
Handler = Callable[..., Answer]


@dataclass(frozen=True)
class Call:
    """One call that was answered: what a test asserts on."""

    method: str
    path: str
    status: int


@dataclass
class Workspace:
    """Everything this workspace holds. `catalogs`: the Unity Catalog catalogs that exist; None: any."""

    user: str = "tester@example.com"
    catalogs: frozenset[str] | None = None
    calls: list[Call] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        ids = count(FIRST_ID)
        self.lock = threading.Lock()
        self.files = Files(ids)
        self.jobs = Jobs(ids, self.user)
        self.experiments = Experiments(ids)
        self.catalog = Catalog(self.user, self.catalogs)
        self.permissions = Permissions({"jobs": self.jobs.exists, "experiments": self.experiments.exists})
        self.secrets = Secrets()
        parts = (self.files, self.jobs, self.experiments, self.catalog, self.permissions, self.secrets)
        self.routes: list[tuple[str, re.Pattern[str], Handler]] = [
            ("GET", re.compile(r"/\.well-known/databricks-config"), lambda _: {"workspace_id": "1"}),
            ("GET", re.compile(r"/api/2\.0/preview/scim/v2/Me"), lambda _: {"id": "1", "userName": self.user}),
            *((method, re.compile(pattern), handler) for part in parts for method, pattern, handler in part.routes()),
        ]

    def answer(self, request: Request) -> tuple[int, Answer]:
        """Status and answer of one call; one call at a time, as far as state goes."""
        with self.lock:
            try:
                status, answer = 200, self._handle(request)
            except Failure as failure:
                status, answer = failure.status, {"error_code": failure.code, "message": failure.message}
            self.calls.append(Call(request.method, request.path, status))
            return status, answer

    def _handle(self, request: Request) -> Answer:
        if not request.authorised and not request.path.startswith("/.well-known/"):
            raise Failure(401, "UNAUTHENTICATED", "no token in the header Authorization")
        for method, pattern, handler in self.routes:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                return handler(request, *match.groups())
        self.unknown.append(f"{request.method} {request.path}")
        raise Failure(404, "ENDPOINT_NOT_FOUND", f"no API found for {request.method} {request.path}")


@contextmanager
def serve(workspace: Workspace, port: int = 0) -> Iterator[str]:
    """Answer for `workspace` on loopback until the block ends; gives the URL."""

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and answer leave together, else each call waits 40 ms for an acknowledgement

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            status, answer = workspace.answer(
                Request(
                    method=self.command,
                    path=unquote(parts.path),
                    query=dict(parse_qsl(parts.query, keep_blank_values=True)),
                    body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
                    authorised=self.headers.get("Authorization", "").startswith("Bearer "),
                )
            )
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream" if isinstance(answer, bytes) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            """Nothing: `Workspace.calls` keeps them."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
