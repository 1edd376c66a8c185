"""A proxy before an S3 server that loses answers, refuses requests, and remembers what passed."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Fault = Callable[[str, str], bool]


@dataclass
class S3Proxy:
    """`lose`: forward, then close without an answer. `refuse`: do not forward, answer this status. Each as often as it is said."""

    url: str = ""
    passed: list[tuple[str, str]] = field(default_factory=list)
    faults: list[tuple[str, str, int, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lose(self, method: str, suffix: str, times: int) -> None:
        self.faults += [(method, suffix, 0, times)]

    def refuse(self, method: str, suffix: str, status: int, times: int) -> None:
        self.faults += [(method, suffix, status, times)]

    def fault(self, method: str, path: str) -> int | None:
        """What to do with a request: None nothing, 0 lose its answer, else the status to refuse it with."""
        with self.lock:
            self.passed.append((method, path))
            for place, (verb, suffix, status, left) in enumerate(self.faults):
                if verb == method and path.endswith(suffix) and left:
                    self.faults[place] = (verb, suffix, status, left - 1)
                    return status
        return None

    def count(self, method: str, suffix: str = "") -> int:
        return sum(verb == method and path.endswith(suffix) for verb, path in self.passed)


@contextmanager
def s3_proxy(endpoint: str) -> Iterator[S3Proxy]:
    proxy, target = S3Proxy(), urlsplit(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status = proxy.fault(self.command, unquote(urlsplit(self.path).path))
            if status:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            upstream = http.client.HTTPConnection(str(target.hostname), target.port)
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            if status == 0:  # it has landed, and nobody is told
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            if not any(name.lower() == "content-length" for name, _ in answer.getheaders()):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
