"""The doctor on this host and on altered ones: what holds, what would improve it, and its exit code."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cli import checks
from cli.main import main
from tests.cli.test_main import place, run  # noqa: F401 - the fixture
from wardround.settings import Settings
from wardround.store.session import FILE


def test_this_host_is_checked_and_each_shortcoming_says_what_would_improve_it(place):  # noqa: F811
    done = run(place, "doctor", "-o", "json")
    body = json.loads(done.stdout)
    names = {check["name"] for check in body["checks"]}
    assert (done.returncode, body["schema"], body["able"]) == (0, "wardround.doctor/v1", True)
    assert names >= {"kernel", "privileges", "pressure (PSI)", "control groups", "kernel headers", "store", "model"}
    assert {"collectors.host", "collectors.psi", "collectors.process"} <= names
    for check in body["checks"]:
        assert check["state"] in ("ok", "limited", "missing")
        assert check["detail"]


def test_the_table_names_every_check_and_ends_with_a_verdict(place):  # noqa: F811
    done = run(place, "doctor", "--no-color")
    assert "A diagnosis can run here" in done.stdout
    assert "kernel headers" in done.stdout
    assert "\x1b" not in done.stdout


def test_an_import_name_that_is_not_ours_makes_the_doctor_fail(place, monkeypatch, capsys):  # noqa: F811
    find = importlib.util.find_spec

    def foreign(name: str, package: str | None = None):
        return find("json") if name == "agents" else find(name, package)

    monkeypatch.setattr(checks.importlib.util, "find_spec", foreign)
    assert main(["doctor", "-o", "json"]) == 1
    body = json.loads(capsys.readouterr().out)
    (check,) = [each for each in body["checks"] if each["name"] == "import names"]
    assert check["state"] == "missing"
    assert "agents" in check["detail"]


def test_every_own_import_name_is_this_trees_file():
    root = Path(checks.__file__).resolve().parents[1]
    for name in checks.OWN_NAMES:
        spec = importlib.util.find_spec(name)
        assert Path(spec.origin).is_relative_to(root), name


def test_a_state_folder_that_cannot_be_made_and_a_corrupt_store_are_said(tmp_path):
    (tmp_path / "file").write_text("")
    assert checks.state_folder(Settings(state_dir=tmp_path / "file" / "x")).state == "missing"
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    check = checks.store(Settings(state_dir=tmp_path))
    assert (check.state, "database" in check.detail) == ("missing", True)


def test_single_capabilities_are_named(tmp_path, monkeypatch):
    (tmp_path / "status").write_text("Name:\tx\nCapEff:\t0000000000080000\n")
    monkeypatch.setattr(checks.os, "geteuid", lambda: 1000)
    check = checks.privileges(tmp_path / "status")
    assert (check.state, check.detail) == ("limited", "user 1000, capabilities: SYS_PTRACE")
    assert checks.privileges(tmp_path / "none").detail.endswith("none")


class Models(BaseHTTPRequestHandler):
    """An endpoint that lists one model."""

    def do_GET(self):
        body = json.dumps({"data": [{"id": "small"}]}).encode()
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Stay quiet."""


@pytest.fixture
def endpoint():
    server = HTTPServer(("127.0.0.1", 0), Models)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "path", "state"), [("small", "/v1", "ok"), ("big", "/v1", "limited"), ("small", "", "missing")]
)
def test_the_model_endpoint_is_asked_only_on_request(endpoint, name, path, state):
    settings = Settings(model={"base_url": endpoint + path, "model": name})
    assert checks.model(settings, True).state == state
    assert "not asked" in checks.model(settings, False).detail


def test_a_model_endpoint_that_is_gone_is_said():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(model={"base_url": f"http://127.0.0.1:{port}/v1", "model": "m"})
    assert checks.model(settings, True).state == "missing"
    assert checks.model(Settings(), True).state == "limited"


def test_config_show_tells_values_and_where_they_come_from_and_masks_secrets(place):  # noqa: F811
    (place / "wardround.toml").write_text('window = 12\n[model]\napi_key = "abc-secret"\n')
    done = run(place, "config", "show", "--origin", env=None)
    assert "window" in done.stdout
    assert "12.0  (./wardround.toml)" in done.stdout
    assert "abc-secret" not in done.stdout + done.stderr
    body = json.loads(run(place, "config", "show", "-o", "json").stdout)
    assert body["window"] == {"value": "12.0", "origin": "./wardround.toml"}


@pytest.mark.parametrize(
    ("loaded", "backend", "state", "told"),
    [
        ("1", "(null)", "ok", "crash kernel"),
        ("0", "efi_pstore", "limited", "efi_pstore"),
        ("0", "(null)", "limited", "leave nothing"),
    ],
)
def test_whether_a_crash_would_leave_something_is_told(tmp_path, loaded, backend, state, told):
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/kexec_crash_loaded").write_text(f"{loaded}\n")
    (tmp_path / "module/pstore/parameters").mkdir(parents=True)
    (tmp_path / "module/pstore/parameters/backend").write_text(f"{backend}\n")
    check = checks.crash_dumps(tmp_path)
    assert check.state == state
    assert told in check.detail
    assert bool(check.improve) == (state != "ok")
