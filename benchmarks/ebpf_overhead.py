"""What tracing costs the traced: runs scheduler- and I/O-heavy loads with and without the eBPF collector.

    python benchmarks/ebpf_overhead.py [--repeats N] [--load NAME ...]

Runs with and without alternate, because a machine's speed drifts; the slow-down is the median of the pairs'
ratios. The collector reads its maps every second meanwhile, as `diagnose watch` does. Needs root, BCC, perf, fio.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from collectors.base import Roots
from collectors.ebpf.collector import EbpfCollector
from wardround.models.series import Catalogue


def perf_pipe() -> float:
    """Two processes on one CPU hand a token to and fro: 400,000 switches a second. Returns µs an exchange."""
    text = _output("taskset", "-c", "0", "perf", "bench", "sched", "pipe", "-l", "600000")
    return _number(r"([\d.]+) usecs/op", text)


def perf_messaging() -> float:
    """400 tasks send each other messages over sockets. Returns seconds."""
    return _number(r"Total time: ([\d.]+)", _output("perf", "bench", "sched", "messaging", "-g", "10", "-l", "1500"))


def fio_random() -> float:
    """4 KiB random reads and writes past the page cache, four deep. Returns µs a request."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp", prefix="ebpf-overhead-") as file:
        text = _output(
            "fio", "--name=x", f"--filename={file.name}", "--size=64m", "--rw=randrw", "--bs=4k", "--direct=1",
            "--ioengine=libaio", "--iodepth=4", "--runtime=4", "--time_based", "--output-format=terse",
        )  # fmt: skip
    fields = text.splitlines()[-1].split(";")
    return 1e6 / (float(fields[7]) + float(fields[48]))


LOADS: dict[str, Callable[[], float]] = {"pipe": perf_pipe, "messaging": perf_messaging, "fio": fio_random}
UNITS = {"pipe": "µs/op", "messaging": "s", "fio": "µs/request"}


@contextmanager
def tracing(cache: Path, shares: list[str]) -> Iterator[None]:
    """Trace as `diagnose watch` does: everything attached, read once a second."""
    collector = EbpfCollector(Catalogue(), Roots(), cache)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--load", choices=LOADS, nargs="*", default=list(LOADS))
    options = parser.parse_args()
    print(f"{'load':<10} {'without':>22} {'with':>22} {'slow-down':>10}   traced share at the end")
    with tempfile.TemporaryDirectory() as cache:
        for name in options.load:
            pairs, shares = [], list[str]()
            for _ in range(options.repeats):
                without = LOADS[name]()
                with tracing(Path(cache), shares):
                    pairs.append((without, LOADS[name]()))
            _report(name, pairs, shares)
    return 0


def _report(name: str, pairs: list[tuple[float, float]], shares: list[str]) -> None:
    columns = []
    for values in zip(*pairs, strict=True):
        spread = (max(values) - min(values)) / 2
        columns.append(f"{statistics.median(values):.3f} ± {spread:.3f} {UNITS[name]}")
    slower = statistics.median(b / a for a, b in pairs) - 1
    print(f"{name:<10} {columns[0]:>22} {columns[1]:>22} {slower:>9.1%}   {', '.join(shares)}", flush=True)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"unexpected output: {text[:200]}")
    return float(found[1])


if __name__ == "__main__":
    sys.exit(main())
