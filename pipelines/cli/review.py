"""`maskmill review`: the report of a run with keep, reject and relabel in it, in the browser, for this machine only."""

import functools
import getpass
import json
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.markup import escape

from maskmill.pipelines.cli.console import say
from maskmill.pipelines.core.settings import explain_errors
from maskmill.pipelines.core.verdicts import news
from maskmill.pipelines.run.config import load_run_config
from maskmill.pipelines.run.review import Asked, Desk, ReviewError, check_place

HOST = "127.0.0.1"
MOST = 64 * 1024  # bytes of a request that is read
QUIET_S = 30  # a browser that says nothing for so long is gone
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def review(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="run folder, decided")],
    who: Annotated[str | None, typer.Option(help="name that verdicts carry; default: the user's")] = None,
    port: Annotated[int, typer.Option(help="0 = any that is free", min=0, max=65535)] = 0,
) -> None:
    """Serve the report of a run on 127.0.0.1 with keep (k), reject (r), relabel (l) and notes (n), undo (u). Each
    verdict is on the disk before the page says so; the next `maskmill run` honours them. Ctrl-C ends it.
    """
    run_dir = run_dir.rstrip("/")
    check_place(run_dir)
    config = load_run_config(f"{run_dir}/config.json", {"run_dir": run_dir})
    desk = Desk(config, (who or getpass.getuser()).strip())
    server, url = open_desk(desk, port)
    say(f"review of {escape(run_dir)} by {escape(desk.who)}: [bold]{url}[/]  (Ctrl-C ends it)")
    say("the address is for this start alone: who has it may judge")
    try:
        with server:
            server.serve_forever()
    finally:
        say(f"{news(run_dir)} new verdicts; `maskmill run {escape(run_dir)}/config.json` selects anew by them")


def open_desk(desk: Desk, port: int = 0) -> tuple[ThreadingHTTPServer, str]:
    """A server for one desk, and its address, which holds a token that is new with each start."""
    token = secrets.token_urlsafe(24)
    server = ThreadingHTTPServer((HOST, port), functools.partial(_Requests, desk, token))
    server.daemon_threads = True
    return server, f"http://{HOST}:{server.server_address[1]}/{token}/"


class _Requests(BaseHTTPRequestHandler):
    """The page, pictures and verdicts, under the token; nothing else. Pages of other sites can neither read nor write:
    they do not know the token, a name of theirs that leads here is no host of ours, and what they send says where it
    comes from.
    """

    timeout = QUIET_S
    server_version = "maskmill"
    sys_version = ""

    def __init__(self, desk: Desk, token: str, *args: Any) -> None:
        self._desk = desk
        self._token = token
        super().__init__(*args)

    def do_GET(self) -> None:
        place = self._place()
        if place == "":
            self._send(200, self._desk.page(), "text/html; charset=utf-8")
        elif place == "verdicts":
            self._tell(200, self._desk.verdicts())
        elif place is not None and place.startswith("picture/"):
            picture = self._desk.picture(place.removeprefix("picture/"))
            self._tell(200 if picture else 404, picture or {"error": "no such sample"})
        elif place is not None:
            self._tell(404, {"error": "nothing there"})

    def do_POST(self) -> None:
        place = self._place()
        if place is None:
            return
        origin, kind = self.headers.get("Origin"), self.headers.get("Content-Type", "")
        if place != "verdicts" or origin not in (None, *(f"http://{host}" for host in self._hosts())):
            self._tell(403, {"error": "verdicts are taken from this server's own page only"})
        elif kind.partition(";")[0].strip() != "application/json":
            self._tell(415, {"error": "expected JSON"})
        else:
            self._judge()

    def _judge(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MOST:
            self._tell(413, {"error": f"expected at most {MOST} bytes"})
            return
        try:
            asked = Asked.model_validate_json(self.rfile.read(int(length)))
            self._tell(200, self._desk.judge(asked))
        except ValidationError as error:
            self._tell(400, {"error": explain_errors(error)})
        except ReviewError as error:
            self._tell(400, {"error": str(error)})
        except OSError as error:
            self._tell(507, {"error": f"it could not be stored: {error}"})

    def _hosts(self) -> tuple[str, str]:
        port = self.connection.getsockname()[1]
        return f"{HOST}:{port}", f"localhost:{port}"

    def _place(self) -> str | None:
        """What is asked for below the token; None where that was answered already: it is none of our business."""
        if self.headers.get("Host") not in self._hosts():
            self._tell(421, {"error": f"expected host {self._hosts()[0]}"})
            return None
        token, _, place = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            words = "this address is not (or no longer) that of a review; `maskmill review RUN` prints the present one"
            self._tell(404, {"error": words})
            return None
        return place

    def _tell(self, status: int, data: Any) -> None:
        self._send(status, json.dumps(data, ensure_ascii=False).encode(), "application/json; charset=utf-8")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        from maskmill.pipelines.report.page import DESK, page_script

        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        headers |= {"Content-Security-Policy": POLICY.format(page_script(DESK)[1])}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a page is no event."""
