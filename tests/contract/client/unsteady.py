"""A way to the platform on which single tries get lost or are refused, as they are behind a busy proxy."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

RETRY_AFTER = 1
_PATIENCE_SECONDS = 1.0
"""Long enough for a try to be at work at the platform, shorter than a chat takes on two busy cores."""
_REFUSALS = {
    429: {"message": "Too much at once.", "type": "rate_limit_error", "param": None, "code": "queue_full"},
    503: {"message": "Away for a moment.", "type": "server_error", "param": None, "code": "unavailable"},
}
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Unsteady(ThreadingHTTPServer):
    """Takes a fault of its list for every try; when none is left, tries go through.

    "429" and "503" are refused with Retry-After, and the platform hears nothing of them, nor of "lost request"; of
    "lost answer" the answer does not arrive; "given up" hangs up on the client and lets the platform work.
    """

    daemon_threads = True

    def __init__(self, platform: str) -> None:
        super().__init__(("127.0.0.1", 0), _Try)
        self.platform = urlsplit(platform)
        self.base_url = f"http://127.0.0.1:{self.server_port}{self.platform.path}"
        self.faults: list[str] = []
        self.tries: list[str | None] = []
        """What each try said of its number."""


class _Try(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Unsteady

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.tries.append(self.headers.get("x-stainless-retry-count"))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault.isdecimal():
            self._answer(
                int(fault), {"retry-after": str(RETRY_AFTER)}, json.dumps({"error": _REFUSALS[int(fault)]}).encode()
            )
        elif fault == "lost request":
            self.close_connection = True
        elif fault == "given up":
            self.close_connection = True
            threading.Thread(target=self._asked, args=(body,), daemon=True).start()
            time.sleep(_PATIENCE_SECONDS)
        elif fault == "lost answer":
            self._asked(body)
            self.close_connection = True
        else:
            self._answer(*self._asked(body))

    def _asked(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """What the platform answers, to its end."""
        asked = http.client.HTTPConnection(self.server.platform.netloc, timeout=120)
        try:
            sent = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            asked.request(self.command, self.path, body, sent)
            answer = asked.getresponse()
            told = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            return answer.status, told, answer.read()
        finally:
            asked.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (
            {"content-type": "application/json"} | headers | {"content-length": str(len(body))}
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def unsteady_way(platform: str) -> Iterator[Unsteady]:
    """Open while the block runs."""
    with Unsteady(platform) as way:
        thread = threading.Thread(target=way.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield way
        finally:
            way.shutdown()
            thread.join()
