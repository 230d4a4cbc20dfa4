"""What the command line says to a Prefect server: its REST API, as far as `maskmill deploy` needs it."""

import base64
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

STARTS_S = 90  # a server takes that long on a busy machine
ANSWERS_S = 60
BUSY = (429, 502, 503)  # what Prefect's own client asks again
BUSY_S = 60


@dataclass(frozen=True)
class Server:
    """A server by the URL of its API, e.g. http://127.0.0.1:4200/api."""

    api: str

    def wait(self, seconds: float = STARTS_S, tell: Callable[[str], None] = lambda words: None) -> None:
        """Until the server answers; tells once that it does not yet.

        Raises:
            ValueError: it does not; says how to start one.
        """
        ends, told = time.monotonic() + seconds, False
        while True:
            try:
                with urllib.request.urlopen(f"{self.api}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError, ValueError) as error:
                if time.monotonic() > ends or isinstance(error, ValueError):
                    words = f"no Prefect server at {self.api}; start one (prefect server start), or set PREFECT_API_URL"
                    raise ValueError(words) from None
                if not told:
                    tell(f"waiting for the Prefect server at {self.api}: {seconds:.0f} s at most")
                told = True
                time.sleep(0.5)

    def ask(self, method: str, *path: str, data: Any = None) -> Any:
        """The answer to one request; None where there is nothing of that name.

        A server that is busy (its database is locked for a moment) is asked again, for `BUSY_S` seconds.

        Raises:
            ValueError: the server refuses, or stays busy; says what it said.
        """
        url = "/".join([self.api, *(urllib.parse.quote(part, safe="") for part in path)])
        body = None if data is None else json.dumps(data).encode()
        wanted = urllib.request.Request(
            url, body, {"Content-Type": "application/json", **_credentials()}, method=method
        )
        ends, pause = time.monotonic() + BUSY_S, 0.25
        while True:
            try:
                with urllib.request.urlopen(wanted, timeout=ANSWERS_S) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code == 404 and method == "GET":
                    return None
                if error.code not in BUSY or time.monotonic() + pause > ends:
                    said = error.read().decode(errors="replace")[:500]
                    words = f"{method} {url}: the Prefect server answers {error.code}: {said}"
                    raise ValueError(words) from error
            time.sleep(pause)
            pause = min(2 * pause, 5)


def _credentials() -> dict[str, str]:
    """The header by which Prefect's own client shows who it is."""
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if pair := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}
