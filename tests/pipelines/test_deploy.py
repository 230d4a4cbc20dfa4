"""Schedules, reports in the browser and pushes, as far as they need no server of Prefect's."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from maskmill.pipelines.cli.crashed import AFTER_S, LEAST_S, automation
from maskmill.pipelines.cli.deploy import entry, export_entry, write_entries
from maskmill.pipelines.cli.faults import words_for
from maskmill.pipelines.cli.serve import open_server
from maskmill.pipelines.cli.server import BUSY, Server
from maskmill.pipelines.core.beat import ALIVE, EVERY_S
from maskmill.pipelines.export.push import RECORD, push_export


def test_an_entry_is_written_once_and_renewed_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "prefect.yaml"
    write_entries(path, [entry("demo", "demo", {}, "0 2 * * *", "Etc/UTC")])
    write_entries(path, [entry("folder", "folder", {"select.rho": 0.5}, "0 3 * * *", "Etc/UTC")])
    write_entries(path, [entry("demo", "demo", {}, "0 5 * * *", "Etc/UTC")])
    found = yaml.safe_load(path.read_text())["deployments"]
    assert [(one["name"], one["schedules"][0]["cron"]) for one in found] == [
        ("demo", "0 5 * * *"),
        ("folder", "0 3 * * *"),
    ]
    assert found[1]["parameters"]["parameters"] == {"config": "folder", "overrides": {"select.rho": 0.5}}
    before = path.stat().st_mtime_ns
    write_entries(path, [entry("demo", "demo", {}, "0 5 * * *", "Etc/UTC")])
    assert path.stat().st_mtime_ns == before


def test_only_the_folder_of_the_config_is_offered(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("extends: demo\n")
    made = entry("mine", str(config), {}, "0 2 * * *", "Etc/UTC")
    assert made["work_pool"]["job_variables"]["env"]["MASKMILL_CONFIGS"] == str(tmp_path)


def test_entries_of_one_name_are_told_apart_by_their_flow(tmp_path: Path) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text("deployments:\n- {name: mine, entrypoint: 'flows.py:curate_synthetic'}\n- {name: theirs}\n")
    both = [entry("mine", "demo", {}, "0 2 * * *", "Etc/UTC"), export_entry("mine", "demo", "runs/demo")]
    write_entries(path, both)
    assert yaml.safe_load(path.read_text())["deployments"] == [both[0], {"name": "theirs"}, both[1]]
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing yet\n")
    write_entries(empty, both)
    assert yaml.safe_load(empty.read_text())["deployments"] == both


def test_only_runs_that_say_that_they_live_can_be_called_dead() -> None:
    trigger = automation()["trigger"]
    assert trigger["after"] == [ALIVE], "heartbeats of other people's flows start no clock"
    assert ALIVE in trigger["expect"]
    assert 3 * EVERY_S <= LEAST_S <= trigger["within"] == AFTER_S
    assert AFTER_S + 65 <= 120, "with Prefect's own minute of patience that is two at most"


def test_without_a_server_the_way_to_one_is_told() -> None:
    with pytest.raises(ValueError, match="prefect server start"):
        Server("http://127.0.0.1:9/api").wait(seconds=0)
    told: list[str] = []
    with pytest.raises(ValueError, match="prefect server start") as refused:
        Server("http://127.0.0.1:9/api").wait(seconds=0.1, tell=told.append)
    assert len(told) == 1
    assert "no model" not in words_for(refused.value)[0]
    with pytest.raises(ValueError, match="PREFECT_API_URL"):
        Server("no-url").wait()


class Busy(BaseHTTPRequestHandler):
    """Refuses as long as `left` says, as a server does whose database is locked; then answers what was asked."""

    left = 0
    code = 503

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        busy = type(self).left > 0
        type(self).left -= 1
        self.send_response(self.code if busy else 200)
        self.end_headers()
        self.wfile.write(b"Service Unavailable" if busy else body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def busy() -> Iterator[Server]:
    server = HTTPServer(("127.0.0.1", 0), Busy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Server(f"http://127.0.0.1:{server.server_port}/api")
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_busy_server_is_asked_again(busy: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in BUSY:
        monkeypatch.setattr(Busy, "left", 2)
        monkeypatch.setattr(Busy, "code", code)
        assert busy.ask("POST", "deployments", data={"name": "mine"}) == {"name": "mine"}
        assert Busy.left == -1, "two refusals and an answer"


def test_a_server_that_stays_busy_or_refuses_says_what_it_said(busy: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskmill.pipelines.cli.server.BUSY_S", 0)
    for code in (503, 500, 422):
        monkeypatch.setattr(Busy, "left", 5)
        monkeypatch.setattr(Busy, "code", code)
        with pytest.raises(ValueError, match=rf"POST .*/api/deployments: .* answers {code}: Service Unavailable"):
            busy.ask("POST", "deployments", data={})
        assert Busy.left == 4, "once"
    monkeypatch.setattr("maskmill.pipelines.cli.server.BUSY_S", 60)
    monkeypatch.setattr(Busy, "left", 5)
    with pytest.raises(ValueError, match="422"):
        busy.ask("POST", "deployments", data={})
    assert Busy.left == 4, "what is refused for good is not asked again"


def test_reports_are_served_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "pets"
    (run / "report").mkdir(parents=True)
    (run / "report" / "index.html").write_text("the report")
    (run / "config.json").write_text("{}")
    (tmp_path / "secret.html").write_text("no")
    server = open_server(str(tmp_path / "runs"), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"

        def get(path: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                return str(answer.read().decode())

        assert "/pets/report/index.html" in get("/")
        assert get("/pets/report/index.html") == "the report"
        for path in ("/pets/config.json", "/pets/", "/../secret.html", "/%2e%2e/secret.html"):
            with pytest.raises(urllib.error.HTTPError):
                get(path)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(FileNotFoundError):
        open_server(str(tmp_path / "nowhere"), 0)


def export_in(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / ".maskmill").mkdir(exist_ok=True)
    (folder / ".maskmill" / "index.json").write_text("ours")
    return str(folder)


@pytest.mark.parametrize("remote", [False, True], ids=["folder", "s3"])
def test_only_what_changed_is_pushed(tmp_path: Path, remote: bool, request: pytest.FixtureRequest) -> None:
    import fsspec

    target = f"s3://{request.getfixturevalue('s3_bucket')}/sets/pets" if remote else str(tmp_path / "out")
    export = export_in(tmp_path / "export", a="1", data__b="2")
    assert push_export(export, target).written == 2
    fs, root = fsspec.core.url_to_fs(target)
    fs.pipe_file(f"{root}/theirs.txt", b"stays")
    again = push_export(export, target)
    assert (again.written, again.there) == (0, 2)
    (tmp_path / "export" / "a").unlink()
    export_in(tmp_path / "export", data__b="3")
    last = push_export(export, target)
    assert (last.written, last.removed) == (1, 1)
    names = sorted(path.rpartition(root.rstrip("/") + "/")[2] for path in fs.find(root))
    assert names == [RECORD, "data/b", "theirs.txt"]
    assert fs.cat_file(f"{root}/data/b") == b"3"
    assert list(json.loads(fs.cat_file(f"{root}/{RECORD}"))) == ["data/b", "check"]


def test_the_hub_is_asked_and_its_refusal_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[str] = []

    def refuse(self: object, name: str, **_: object) -> None:
        asked.append(name)
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(ConnectionError, match=r"hf://datasets/me/pets: offline"):
        push_export(export_in(tmp_path / "export", a="1"), "hf://datasets/me/pets")
    assert asked == ["me/pets"]
    with pytest.raises(FileNotFoundError, match="maskmill export"):
        push_export(str(tmp_path / "nothing"), str(tmp_path / "out"))
