"""Inference engines: a real one where its files are present, else a server that has a model mapped; and impostors."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from collectors.base import Roots
from collectors.engine_http import check, kind_of, parse_metrics
from collectors.engines import EnginesCollector, configured, snapshot_engines
from tests.collectors.netlab import told
from tests.faults.engine import files, installed
from wardround.models.series import Catalogue
from wardround.models.topology import Engine

SERVER = """
import http.server, mmap, sys
ballast = bytearray(40 << 20)
file = open(sys.argv[1], "rb") if sys.argv[1] else None
model = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file else None
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"llamacpp:requests_processing 2\\n" if self.path == "/metrics" else b"{}"
        self.send_response(int(sys.argv[2])); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def serving(model: Path | None, *arguments: str, status: int = 200, name: str | None = None):
    """A program that serves HTTP with a file mapped: ``(process, port)``."""
    argv = [name or sys.executable, "-c", SERVER, str(model or ""), str(status), *arguments]
    child = subprocess.Popen(argv, executable=sys.executable, stdout=subprocess.PIPE, text=True)
    try:
        yield child, int(child.stdout.readline())
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" * 1024)
    return path


def engine_of(pid: int) -> Engine | None:
    return next((e for e in snapshot_engines() if e.pid == pid), None)


def test_a_server_with_a_model_mapped_is_an_engine_whatever_its_name(model):
    """Its kind, model file, threads and address are told, and that it answers."""
    with serving(model, "--threads", "6") as (child, port):
        engine = engine_of(child.pid)
    assert engine == Engine("llama.cpp", child.pid, f"127.0.0.1:{port}", "tiny.gguf", 6, True)


def test_a_stopped_engine_listens_but_does_not_answer(model):
    """SIGSTOP: the kernel still accepts, nobody answers."""
    with serving(model) as (child, _):
        child.send_signal(signal.SIGSTOP)
        engine = engine_of(child.pid)
    assert engine is not None
    assert engine.healthy is False
    assert "does not answer" in engine.detail


def test_an_engine_that_loads_its_model_is_not_healthy_yet(model):
    """llama.cpp says 503 while it loads."""
    with serving(model, status=503) as (child, _):
        engine = engine_of(child.pid)
    assert engine is not None
    assert (engine.healthy, engine.detail) == (False, "HTTP status 503")


def test_a_name_proves_nothing():
    """A program called llama-server without a model that does not listen is no engine."""
    argv = ["llama-server", "-c", "import time; time.sleep(60)", "-m", "x.gguf"]
    child = subprocess.Popen(argv, executable=sys.executable)
    try:
        time.sleep(0.3)
        assert engine_of(child.pid) is None
    finally:
        child.kill()
        child.wait()


def test_a_name_with_an_answer_is_an_engine():
    """Called like one, and answers like one."""
    with serving(None, name="/opt/llama-server") as (child, _):
        engine = engine_of(child.pid)
    assert engine is not None
    assert engine.kind == "llama.cpp"


def test_an_engine_that_was_seen_and_is_gone_is_down(model):
    """Up with its metrics while it lives, not up after it was killed; forgotten after an hour."""
    catalogue = Catalogue()
    collector = EnginesCollector(catalogue, Roots())

    def look(clock: float) -> dict[tuple[str, ...], float]:
        told(catalogue, collector.read(clock, clock).frame)
        for one in collector._watched.values():
            one.thread.join(5)
        return told(catalogue, collector.read(clock + 1, clock + 1).frame)

    with serving(model) as (_, port):
        address = f"127.0.0.1:{port}"
        alive = look(100.0)
    assert alive["wardround.engine.up", address] == 1
    assert alive["gen_ai.server.requests.running", address] == 2
    assert 0 < alive["wardround.engine.health_time", address] < 5
    assert look(200.0)["wardround.engine.up", address] == 0
    assert ("wardround.engine.up", address) not in look(9000.0)


def test_a_configured_engine_that_is_not_there_is_down():
    """Nobody listens at the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    [engine] = [e for e in snapshot_engines(Roots(engines=(f"http://127.0.0.1:{port}",))) if e.configured]
    assert (engine.address, engine.healthy, engine.pid) == (f"127.0.0.1:{port}", False, None)


def test_addresses_that_are_none_are_left_out():
    """Typing errors in the setting cost only themselves."""
    given = ("http://127.0.0.1:8080", "", "localhost:11434", "http://[::1]:9/x", "http://[bad", "http://h:notaport")
    assert configured(given) == [("127.0.0.1", 8080), ("127.0.0.1", 11434), ("::1", 9)]


def test_a_port_that_does_not_speak_http_lives():
    """It says something else: alive, and said so."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = os.fork()
        if not child:
            link, _ = server.accept()
            link.sendall(b"\x15\x03\x01 not http\r\n")
            link.close()
            os._exit(0)
        health = check("127.0.0.1", server.getsockname()[1], "llama.cpp")
        os.waitpid(child, 0)
    assert health.answers
    assert health.detail == "does not speak plain HTTP"


def test_an_ipv6_address_is_asked_as_one():
    """Nobody there: refused, not a wrong address family."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
    assert "refused" in check("::1", port, "").detail


def test_metrics_of_the_engines_come_under_common_names():
    """vLLM's labels, an unknown name, a NaN; two models of one engine add up."""
    text = (
        "# HELP vllm:num_requests_running x\n"
        'vllm:num_requests_running{engine="0",model_name="a}b"} 3.0\n'
        'vllm:num_requests_running{engine="1"} 4.0\nvllm:num_requests_waiting NaN\n'
        'vllm:generation_tokens_total{m="x"} 1.5e+03\nother 9\n'
    )
    assert parse_metrics(text)["gen_ai.server.requests.running", ""] == 7
    assert parse_metrics(text)["gen_ai.server.tokens", "output"] == 1500
    assert ("gen_ai.server.requests.waiting", "") not in parse_metrics(text)
    assert kind_of(text) == "vllm"


@pytest.mark.engine
@pytest.mark.skipif(installed() is not None, reason=installed() or "")
def test_a_real_engine_is_found_with_its_threads_and_metrics():
    """llama.cpp with a small model."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    script = Path(__file__).parents[1] / "faults/workloads/llama_server.py"
    gguf = next(iter(files().glob("*.gguf")))
    argv = [sys.executable, str(script), "-m", str(gguf), "--port", str(port), "-t", "1"]
    child = subprocess.Popen(
        argv,
        env=dict(os.environ) | {"ENGINE_SITE": str(files() / "site")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not check("127.0.0.1", port, "").healthy and time.monotonic() < deadline:
            time.sleep(0.2)
        engine = engine_of(child.pid)
        health = check("127.0.0.1", port, "", metrics=True)
    finally:
        child.kill()
        child.wait()
    assert engine == Engine("llama.cpp", child.pid, f"127.0.0.1:{port}", gguf.name, 1, True)
    assert ("gen_ai.server.tokens", "output") in health.metrics
    assert health.kind == "llama.cpp"
