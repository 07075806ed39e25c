"""Process faults: hung, out of descriptors, forking, unreaped, dying again and again."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from tests.faults import kernel
from tests.faults.scenario import Injected, Truth, compiler, process, root, scenario
from tests.faults.stage import NotBitingError, Stage


def _served(stage: Stage, program: list[str], clients: int = 3) -> subprocess.Popen[bytes]:
    """A server with clients; the last argument of its command line is filled in: the port comes second."""
    port = stage.free_port()
    server = stage.spawn(program[0], *[part.replace("PORT", str(port)) for part in program[1:]])
    time.sleep(0.5)
    stage.spawn(*stage.script("ask.py", "gateway.py"), "127.0.0.1", str(port), str(clients), "0.05", "3")
    return server


@scenario("proc.hung/stopped")
def hung_stopped(stage: Stage) -> Injected:
    """A web server with clients is stopped by a signal."""
    server = _served(stage, [*stage.script("web.py", "orders.py"), "PORT", "2000"])
    time.sleep(1.0)
    os.kill(server.pid, signal.SIGSTOP)
    stage.wait_until(lambda: kernel.stat(server.pid)[0] == "T", "the server is stopped")
    return Injected((process("proc.hung", server.pid),), lambda: kernel.stat(server.pid)[0] == "T")


def _deadlocked(stage: Stage, pid: int, waiting: int) -> Injected:
    def stuck() -> bool:
        before = kernel.cpu_s(pid)
        time.sleep(0.8)
        return kernel.futex_waiters(pid) >= waiting and kernel.cpu_s(pid) == before

    stage.wait_until(stuck, "threads wait for each other's locks without progress", 25)
    return Injected((process("proc.hung", pid),), stuck)


@scenario("proc.hung/mutexes", needs=(root, compiler))
def hung_mutexes(stage: Stage) -> Injected:
    """The two workers of a C server hold one mutex each and wait for the other's."""
    server = _served(stage, [str(stage.compiled("pair.c", "ledger")), "PORT", "40"])
    return _deadlocked(stage, server.pid, 3)


@scenario("proc.hung/python", needs=(root,))
def hung_python(stage: Stage) -> Injected:
    """The threads of a Python server hold two locks in opposite order."""
    server = _served(stage, [*stage.script("web.py", "billing.py"), "PORT", "2000", "crossed-after", "60"], clients=5)
    return _deadlocked(stage, server.pid, 4)


@scenario("proc.fd_exhaustion/leak")
def fd_exhaustion_leak(stage: Stage) -> Injected:
    """A program forgets to close files, is at its limit of 128, and goes on trying."""
    program = stage.spawn(*stage.script("handles.py", "watcher.py"), "0.01", open_files=128)
    stage.wait_until(lambda: kernel.open_files(program.pid) >= 128, "all descriptors are taken")
    return Injected((process("proc.fd_exhaustion", program.pid),), lambda: kernel.open_files(program.pid) >= 128)


@scenario("proc.fd_exhaustion/server")
def fd_exhaustion_server(stage: Stage) -> Injected:
    """A web server leaks a file each request until it cannot accept; its clients wait."""
    port = stage.free_port()
    server = stage.spawn(*stage.script("web.py", "uploads.py"), str(port), "500", "leak", open_files=256)
    time.sleep(0.5)
    stage.spawn(*stage.script("ask.py", "gateway.py"), "127.0.0.1", str(port), "3", "0.005", "3")
    stage.wait_until(lambda: kernel.open_files(server.pid) >= 255, "all descriptors are taken")
    return Injected((process("proc.fd_exhaustion", server.pid),), lambda: kernel.open_files(server.pid) >= 255)


def _storm(stage: Stage, program: subprocess.Popen[bytes], at_least: float) -> Injected:
    def forking() -> bool:
        return program.poll() is None and kernel.rate(kernel.forks) > at_least

    stage.wait_until(forking, f"{at_least:g} new tasks a second")
    return Injected((process("proc.fork_storm", program.pid, symptoms=("cpu.saturation",)),), forking)


@scenario("proc.fork_storm/fork", needs=(compiler,))
def fork_storm_fork(stage: Stage) -> Injected:
    """A C program forks children that end at once, thousands a second."""
    return _storm(stage, stage.spawn(stage.compiled("brood.c", "dispatch"), "reap", "0"), 1000)


@scenario("proc.fork_storm/spawn")
def fork_storm_spawn(stage: Stage) -> Injected:
    """A Python scheduler starts /bin/true from four threads as fast as it can."""
    return _storm(stage, stage.spawn(*stage.script("launch.py", "scheduler.py"), "4", "/bin/true"), 300)


def _unreaped(stage: Stage, program: subprocess.Popen[bytes], count: int) -> Injected:
    stage.wait_until(lambda: kernel.zombies(program.pid) >= count, f"{count} zombies")
    return Injected((process("proc.zombies", program.pid),), lambda: kernel.zombies(program.pid) >= count)


@scenario("proc.zombies/c", needs=(compiler,))
def zombies_c(stage: Stage) -> Injected:
    """A C parent has three hundred dead children it never waited for."""
    return _unreaped(stage, stage.spawn(stage.compiled("brood.c", "spooler"), "keep", "300"), 300)


@scenario("proc.zombies/growing")
def zombies_growing(stage: Stage) -> Injected:
    """A Python program starts ten jobs a second and never asks how they ended."""
    return _unreaped(stage, stage.spawn(*stage.script("jobs.py", "cron.py"), "900", "0.1"), 20)


def _dying(stage: Stage, keeper: subprocess.Popen[bytes], name: str) -> Injected:
    seen: set[int] = set()

    def restarted() -> bool:
        try:
            seen.update(kernel.children(keeper.pid))
        except OSError as error:
            raise NotBitingError("the supervisor is gone") from error
        return len(seen) >= 3

    def pids() -> frozenset[int]:
        return frozenset({keeper.pid, *kernel.children(keeper.pid)})

    stage.wait_until(restarted, "three incarnations")
    return Injected((Truth("proc.crash_loop", "process", frozenset({name}), pids),), lambda: keeper.poll() is None)


@scenario("proc.crash_loop/signal", needs=(compiler,))
def crash_loop_signal(stage: Stage) -> Injected:
    """A program dies of a segmentation fault after 300 ms and is started again."""
    program = stage.compiled("crash.c", "thumbnailer")
    keeper = stage.spawn(*stage.script("restart.py", "keeper.py"), "0.3", str(program), "segv", "300")
    return _dying(stage, keeper, "thumbnailer")


@scenario("proc.crash_loop/exit", needs=(compiler,))
def crash_loop_exit(stage: Stage) -> Injected:
    """A shell loop starts a program that gives up with status 1 after a second."""
    program = stage.compiled("crash.c", "feeder")
    keeper = stage.spawn("/bin/sh", "-c", f"while :; do {program} exit 900; sleep 0.2; done")
    return _dying(stage, keeper, "feeder")
