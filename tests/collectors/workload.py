"""Small real programs for the collectors' tests: each says ``ready`` and then waits to be ended."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from collectors.base import Collector
from wardround.models.series import Catalogue, Frame, Series

MUTEXES = """
import ctypes, threading, time
libc = ctypes.CDLL(None)
first, second = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
"""
ABBA = (
    MUTEXES
    + """
both = threading.Barrier(3)
def take(one, other):
    libc.pthread_mutex_lock(one)
    both.wait()
    libc.pthread_mutex_lock(other)
for pair in ((first, second), (second, first)):
    threading.Thread(target=take, args=pair, daemon=True).start()
both.wait()
time.sleep(0.2)
"""
)
CONDITION = (
    MUTEXES
    + """
def wait():
    libc.pthread_mutex_lock(first)
    libc.pthread_cond_wait(second, first)
threading.Thread(target=wait, daemon=True).start()
time.sleep(0.2)
"""
)
PYTHON_DEADLOCK = """
import threading, time
first, second, both = threading.Lock(), threading.Lock(), threading.Barrier(3)
def take(one, other):
    with one:
        both.wait()
        with other: pass
for pair in ((first, second), (second, first)):
    threading.Thread(target=take, args=pair, daemon=True).start()
both.wait()
time.sleep(0.2)
"""


@contextmanager
def program(code: str, *, prepare: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run Python code in a child that then says ``ready`` and waits; `prepare` runs after a line is sent to it."""
    script = f"import sys\n{code}\nprint('ready', flush=True)\n"
    if prepare:
        script += f"sys.stdin.readline()\n{prepare}\nprint('done', flush=True)\n"
    script += "sys.stdin.readline()\nimport os\nos._exit(0)\n"
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def proceed(child: subprocess.Popen[str]) -> None:
    """Let the child run its `prepare` part and wait until it is done."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("go\n")
    assert child.stdout.readline() == "done\n"


def read(collector: Collector) -> Frame:
    return collector.read(time.time(), time.monotonic()).frame


def value(frame: Frame, catalogue: Catalogue, name: str, **labels: object) -> float:
    """Return the value of exactly this series, NaN where the frame does not hold it."""
    wanted = Series.of(name, **labels)
    found = [v for number, v in zip(frame.ids, frame.values, strict=True) if catalogue[int(number)] == wanted]
    return float(found[0]) if found else float("nan")
