"""`maskmill serve`: the reports of a folder of runs, in the browser, for this machine only."""

import functools
import html
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import say

HOST, PORT = "127.0.0.1", 8765
SHOWN = frozenset({".html", ".png", ".json", ".css"})  # what a report links to; images of the data stay on the disk


def serve(
    runs_dir: Annotated[str, typer.Argument(metavar="RUNS_DIR", help="folder of run folders")] = "runs",
    port: Annotated[int, typer.Option(help="0 = any that is free", min=0, max=65535)] = PORT,
) -> None:
    """Serve the reports of all runs in a folder on 127.0.0.1; links in Prefect's pages lead there. Ctrl-C ends it."""
    server = open_server(runs_dir, port)
    say(f"reports of {escape(str(runs_dir))}: [bold]http://{HOST}:{server.server_address[1]}[/]  (Ctrl-C ends it)")
    with server:
        server.serve_forever()


def open_server(runs_dir: str, port: int = PORT) -> ThreadingHTTPServer:
    """A server for the reports below `runs_dir`.

    Raises:
        FileNotFoundError: no such folder.
    """
    root = Path(runs_dir).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"{runs_dir}: expected a folder of runs, found none")
    return ThreadingHTTPServer((HOST, port), functools.partial(_Reports, directory=str(root)))


class _Reports(SimpleHTTPRequestHandler):
    """Reports and their figures; no listing but the one of reports, nothing outside the folder."""

    def do_GET(self) -> None:
        if self.path.split("?")[0] == "/":
            self._index()
        elif self._offered():
            super().do_GET()
        else:
            self.send_error(404, "no report there")

    do_HEAD = do_GET  # noqa: N815 - the names that the library calls

    def _offered(self) -> bool:
        target = Path(self.translate_path(self.path)).resolve()
        inside = target.is_relative_to(Path(self.directory))
        hidden = any(part.startswith(".") for part in target.relative_to(self.directory).parts) if inside else True
        return inside and not hidden and target.is_file() and target.suffix in SHOWN and "report" in target.parts

    def _index(self) -> None:
        root = Path(self.directory)
        found = sorted(path.relative_to(root).as_posix() for path in root.glob("**/report/index.html"))
        names = {html.escape(path): html.escape(path.removesuffix("/report/index.html")) for path in found}
        rows = "".join(f'<li><a href="/{path}">{name}</a></li>' for path, name in names.items()) or "none yet"
        head = "<!doctype html><meta charset=utf-8><title>maskmill runs</title>"
        page = f"{head}<h1>Runs</h1><ul>{rows}</ul>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a page is no event."""
