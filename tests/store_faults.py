"""A store that stumbles: a proxy in front of an S3 server that answers 500 or 503, late, in part, or not at all."""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("error", "busy", "late", "reset", "lost", "part")
ALWAYS = range(10**9)
BODY = "<Error><Code>{}</Code><Message>{}</Message></Error>"
WORDS = {"error": (500, "InternalError", "We had a stumble."), "busy": (503, "SlowDown", "Reduce your request rate.")}


class Proxy(ThreadingHTTPServer):
    """Passes requests on to `target`. Of those whose number is in `span` a share, by the seed, meets one of `faults`:
    `reset` breaks the connection before the request is done, `lost` after it, `part` in the middle of the answer.
    """

    daemon_threads = True

    def __init__(self, target: str, share: float, faults: tuple[str, ...] = FAULTS, span: range = ALWAYS) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.share, self.faults, self.span = share, faults, span
        self.met: Counter[str] = Counter()
        self._rng, self._turn = random.Random(0), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self) -> str:
        """The fault that the next request meets; "" for none."""
        with self._turn:
            due = self.met.total() in self.span and self._rng.random() < self.share
            fault = self._rng.choice(self.faults) if due else ""
            self.met[fault] += 1
        return fault

    def handle_error(self, *args: Any) -> None:
        """Broken connections are what this is about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass(self) -> None:
        fault = self.server.draw()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault in WORDS:
            status, code, words = WORDS[fault]
            return self._answer(status, [("Content-Type", "application/xml")], BODY.format(code, words).encode())
        if fault == "reset":
            return self._break()
        if fault == "late":
            time.sleep(0.05)
        inner = http.client.HTTPConnection(self.server.target)
        inner.request(self.command, self.path, body, dict(self.headers))
        found = inner.getresponse()
        data = found.read()
        inner.close()
        if fault == "lost":
            return self._break()
        headers = [(k, v) for k, v in found.getheaders() if k.lower() not in ("connection", "transfer-encoding")]
        return self._answer(found.status, headers, data, len(data) // 2 if fault == "part" else None)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815 - the names that the library calls

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, only: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:only])
        if only is not None and data and self.command != "HEAD":
            self._break()

    def _break(self) -> None:
        """End the connection as a machine that went away does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: faults are counted."""


@contextmanager
def stumbling(target: str, share: float, faults: tuple[str, ...] = FAULTS, span: range = ALWAYS) -> Iterator[Proxy]:
    """A proxy in a thread."""
    with Proxy(target, share, faults, span) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        yield proxy
        proxy.shutdown()
