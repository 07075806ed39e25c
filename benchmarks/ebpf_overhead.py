"""What tracing costs the traced: runs scheduler- and I/O-heavy loads with and without the eBPF collector.

    python benchmarks/ebpf_overhead.py [--repeats N] [--load NAME ...]

Runs with and without alternate, because a machine's speed drifts; the slow-down is the median of the pairs'
ratios, by the clock and by CPU time (steadier where others share the machine). The collector reads its maps
every second meanwhile, as `diagnose watch` does. Needs root, BCC, perf, fio.
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from collectors.base import Roots
from collectors.ebpf.collector import EbpfCollector
from wardround.models.series import Catalogue


def perf_pipe() -> None:
    """Two processes on one CPU hand a token to and fro: 400,000 switches and 800,000 calls a second."""
    _run("taskset", "-c", "0", "perf", "bench", "sched", "pipe", "-l", "500000")


def perf_messaging() -> None:
    """400 tasks send each other messages over sockets."""
    _run("perf", "bench", "sched", "messaging", "-g", "10", "-l", "300")


def fio_random() -> None:
    """4 KiB random reads and writes past the page cache, four deep, a fixed number of them."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp", prefix="ebpf-overhead-") as file:
        _run(
            "fio", "--name=x", f"--filename={file.name}", "--size=64m", "--rw=randrw", "--bs=4k", "--direct=1",
            "--ioengine=libaio", "--iodepth=4", "--io_size=320m", "--thread",
        )  # fmt: skip


LOADS: dict[str, Callable[[], None]] = {"pipe": perf_pipe, "messaging": perf_messaging, "fio": fio_random}


@dataclass(frozen=True)
class Spent:
    """What a fixed piece of work took: seconds by the clock, and CPU seconds of its processes."""

    wall: float
    cpu: float


def measure(load: Callable[[], None]) -> Spent:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    load()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


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
    time.sleep(0.3)
    try:
        yield
    finally:
        shares[:] = [f"{gate.subject} {gate.share:.0%}" for gate in collector.gates]
        done.set()
        reader.join()
        collector.stop()
        collector.wait(30)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--load", choices=LOADS, nargs="*", default=list(LOADS))
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print("load       measure      without           with     slow-down   traced share at the end")
    with tempfile.TemporaryDirectory() as cache:
        for name in options.load:
            pairs, shares = [], list[str]()
            for _ in range(options.repeats):
                without = measure(LOADS[name])
                with tracing(Path(cache), shares):
                    pairs.append((without, measure(LOADS[name])))
            _report(name, pairs, shares)
    return 0


def _report(name: str, pairs: list[tuple[Spent, Spent]], shares: list[str]) -> None:
    for kind in ("wall", "cpu"):
        numbers = [(getattr(a, kind), getattr(b, kind)) for a, b in pairs]
        columns = [
            f"{statistics.median(column):6.3f} ± {_spread(column):.3f} s" for column in zip(*numbers, strict=True)
        ]
        ratios = [b / a - 1 for a, b in numbers]
        slower = f"{statistics.median(ratios):+6.1%} ± {_spread(ratios):.1%}"
        print(f"{name:<10} {kind:<5} {columns[0]} {columns[1]} {slower}   {', '.join(shares)}", flush=True)


def _spread(values: Sequence[float]) -> float:
    """Half the distance between the quartiles."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return (high - low) / 2


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True, timeout=120)


if __name__ == "__main__":
    sys.exit(main())
