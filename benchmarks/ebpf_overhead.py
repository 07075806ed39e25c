"""What tracing costs the traced: scheduler- and I/O-heavy loads run on while the eBPF collector comes and goes.

    python -m benchmarks.ebpf_overhead [--pairs N] [--slice SECONDS] [--load NAME ...]

A load runs without end and its work is counted: tokens handed over, messages sent, bytes moved. Slices with and
without tracing alternate, for a shared machine's speed drifts by tens of per cent within seconds; each traced slice
is held against the mean of the two untraced ones around it. Printed are the median slow-down over all pairs with its
95 % bootstrap interval, by the clock and by CPU time for the same work. The collector loads, settles, and reads its
maps every second as `diagnose watch` does. Needs root, BCC, perf, fio.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from collectors.base import Roots
from collectors.ebpf.collector import EbpfCollector
from wardround.models.series import Catalogue

SETTLE = 1.5  # seconds after attaching in which the gates learn how busy the host is
FOREVER = str(10**9)
WORDS = {"voluntary_ctxt_switches": "status", "syscw": "io", "read_bytes": "io", "write_bytes": "io"}


@dataclass(frozen=True)
class Load:
    """A command that works until it is ended, and the counters of its processes that say how much it did."""

    command: tuple[str, ...]
    work: tuple[str, ...]


def loads(scratch: str) -> dict[str, Load]:
    return {
        # Two processes on one CPU hand a token to and fro: the most switches and calls a CPU can do.
        "pipe": Load(
            ("taskset", "-c", "0", "perf", "bench", "sched", "pipe", "-l", FOREVER), ("voluntary_ctxt_switches",)
        ),
        # 400 threads send each other messages over sockets.
        "messaging": Load(("perf", "bench", "sched", "messaging", "-t", "-g", "10", "-l", FOREVER), ("syscw",)),
        # 4 KiB random reads and writes past the page cache, four deep.
        "fio": Load(
            (
                "fio", "--name=x", f"--filename={scratch}", "--size=64m", "--rw=randrw", "--bs=4k", "--direct=1",
                "--ioengine=libaio", "--iodepth=4", "--time_based", "--runtime=1d", "--thread",
            ),
            ("read_bytes", "write_bytes"),
        ),
    }  # fmt: skip


@contextmanager
def running(load: Load) -> Iterator[list[Path]]:
    """Run a load; gives the `/proc` folders of its processes."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(load.command, stdout=quiet, stderr=quiet, start_new_session=True) as process:
        time.sleep(2.0)
        try:
            yield _family(process.pid)
            if process.poll() is not None:
                raise SystemExit(f"{load.command[0]} ended early: {process.returncode}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _family(pid: int) -> list[Path]:
    process = Path("/proc") / str(pid)
    children = [child for file in process.glob("task/*/children") for child in file.read_text().split()]
    return [process, *(one for child in children for one in _family(int(child)))]


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and CPU seconds of the load's threads, for one unit of work."""

    wall: float
    cpu: float


def measure(load: Load, family: list[Path], seconds: float) -> Spent:
    def now() -> tuple[float, float, float]:
        return (
            time.perf_counter(),
            _cpu_seconds(family),
            sum(_counter(one, name) for one in family for name in load.work),
        )

    wall, cpu, work = now()
    time.sleep(seconds)
    wall_end, cpu_end, work_end = now()
    done = work_end - work
    if done <= 0:
        raise SystemExit("the load did nothing in a slice: it cannot be measured")
    return Spent((wall_end - wall) / done, (cpu_end - cpu) / done)


def _cpu_seconds(family: list[Path]) -> float:
    return sum(int(file.read_text().split()[0]) for one in family for file in one.glob("task/*/schedstat")) / 1e9


def _counter(process: Path, name: str) -> float:
    """One counter, of all threads; `/proc/PID/status` counts the first thread alone, `io` all of them."""
    files = process.glob("task/*/status") if WORDS[name] == "status" else [process / "io"]
    lines = (line.split(":") for file in files for line in file.read_text().splitlines())
    return sum(float(value) for key, value in lines if key == name)


@contextmanager
def tracing(cache: Path, shares: list[str]) -> Iterator[None]:
    """Trace as `diagnose watch` does: everything attached, read once a second."""
    collector = EbpfCollector(Catalogue(), Roots(cache_dir=cache))
    collector.start()
    if not collector.wait(60):
        raise SystemExit(f"cannot trace here: {collector.reason}")
    done = threading.Event()

    def tick() -> None:
        while not done.wait(1.0):
            collector.read(time.time(), time.monotonic())

    reader = threading.Thread(target=tick)
    reader.start()
    time.sleep(SETTLE)
    try:
        yield
    finally:
        shares[:] = [f"{gate.subject} {gate.share:.1%}" for gate in collector.gates]
        done.set()
        reader.join()
        collector.stop()
        collector.wait(30)


def compare(load: Load, pairs: int, seconds: float, cache: Path, shares: list[str]) -> tuple[list[Spent], list[Spent]]:
    """Alternate slices: ``pairs`` traced ones, and one more without, around and between them."""
    without, traced = [], []
    with running(load) as family:
        without.append(measure(load, family, seconds))
        for _ in range(pairs):
            with tracing(cache, shares):
                traced.append(measure(load, family, seconds))
            without.append(measure(load, family, seconds))
    return without, traced


def slow_down(without: Sequence[float], traced: Sequence[float]) -> tuple[float, float, float]:
    """(median, low, high) relative slow-down; the bounds of a 95 % bootstrap interval of the median.

    ``without`` has one value more than ``traced``: those before and after each.
    """
    around = np.log(np.asarray(without))
    ratios = np.exp(np.log(np.asarray(traced)) - (around[:-1] + around[1:]) / 2) - 1
    drawn = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--slice", type=float, default=5.0, dest="seconds")
    parser.add_argument("--load", choices=list(loads("")), nargs="*", default=list(loads("")))
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print("load       measure  units/s without      with   slow-down [95 % interval]   traced share at the end")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        for name, load in loads(f"{scratch}/file").items():
            if name in options.load:
                shares: list[str] = []
                without, traced = compare(load, options.pairs, options.seconds, Path(scratch), shares)
                _report(name, "wall", [s.wall for s in without], [s.wall for s in traced], shares)
                _report(name, "cpu", [s.cpu for s in without], [s.cpu for s in traced], shares)
    return 0


def _report(name: str, kind: str, without: list[float], traced: list[float], shares: list[str]) -> None:
    middle, low, high = slow_down(without, traced)
    speeds = f"{1 / float(np.median(without)):15,.0f} {1 / float(np.median(traced)):9,.0f}"
    print(f"{name:<10} {kind:<6} {speeds}   {middle:+6.1%} [{low:+.1%}, {high:+.1%}]   {', '.join(shares)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
