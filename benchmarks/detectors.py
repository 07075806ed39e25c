"""What detection costs, and what it finds on public host data without labels choosing anything.

    python -m benchmarks.detectors [--skip-data]

Cost is CPU time of one thread on synthetic series of a busy host (one in five series moves) and on mutated log lines.
Finding is measured on ASD and SMD (``WARDROUND_DATA``, default ``../shared/data`` beside the project): each host's
train half is streamed first, then its test half; the budget of alarms per day is the only setting. A random score
goes through the same pipeline beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.detection_scoring import SETS, DataSet, EventScore, HostTrace, alarms, data_folder, hosts
from detectors.base import Detector
from detectors.extreme import ExtremeTail
from detectors.host import HostScore
from detectors.online import Online
from detectors.registry import factories
from detectors.scan import scan
from detectors.templates import TemplateMiner
from wardround.models.diagnosis import Coverage
from wardround.models.observation import Observation
from wardround.models.records import LogRecord
from wardround.models.series import Baseline, Catalogue, FloatArray, Frame, Series, Window
from wardround.models.topology import Host, TopologySnapshot

BUDGETS = (0.1, 1.0)
CONSOLE = Console()


def cpu_ms(work: Callable[[], object], repeat: int = 5) -> float:
    """Return the least CPU milliseconds of several runs (the others were disturbed)."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        work()
        best = min(best, 1000 * (time.process_time() - start))
    return best


def busy_series(size: int) -> list[Series]:
    """Return series of a host with many processes: 15 a process, some cgroups and network counters."""
    out: list[Series] = []
    pid = 100
    while len(out) < size:
        pid += 1
        out += [Series.of("process.cpu.time", pid=pid, state=s) for s in ("user", "system")]
        out += [Series.of("process.disk.io", pid=pid, direction=d) for d in ("read", "write")]
        out += [
            Series.of(name, pid=pid)
            for name in ("process.memory.usage", "linux.process.memory.anon", "process.open_file_descriptor.count")
        ]
        out += [Series.of("linux.process.fd.limit", pid=pid), Series.of("process.thread.count", pid=pid)]
        out += [Series.of("linux.process.run_delay", pid=pid)]
        out += [Series.of("linux.cgroup.psi", cgroup=f"/c{pid}", resource=r, kind="full") for r in ("memory", "io")]
        out += [Series.of("linux.snmp", key=k, netns=str(pid)) for k in ("Tcp.RetransSegs", "Tcp.OutSegs")]
        out += [Series.of("linux.cgroup.memory.anon", cgroup=f"/c{pid}")]
    return out[:size]


def busy_values(series: list[Series], ticks: int, seed: int = 1) -> FloatArray:
    rng = np.random.default_rng(seed)
    size = len(series)
    moving = rng.random(size) < 0.2
    scale = np.array([1e7 if one.metric.unit == "By" else 0.05 for one in series])
    steps = np.abs(rng.standard_t(3, (ticks, size))) * scale * moving
    counter = np.array([one.metric.kind == "counter" for one in series])
    limit = np.array([100.0 if one.name.endswith(("limit", "periods")) else 1.0 for one in series])
    level: FloatArray = np.where(counter, np.cumsum(steps, axis=0), steps + 10 * scale) * limit
    return level


WORDS = (
    "accepted", "closed", "connection", "session", "timeout", "retry", "worker", "request", "disk", "sync", "flush",
    "commit", "lease", "renewed",
)  # fmt: skip


def log_lines(count: int, shapes: int = 300, seed: int = 1) -> list[str]:
    """Return lines of `shapes` statements with mutated numbers, addresses and paths."""
    rng = np.random.default_rng(seed)
    statements = [" ".join(rng.choice(WORDS, rng.integers(4, 9))) for _ in range(shapes)]
    kinds = rng.integers(0, shapes, count)
    numbers = rng.integers(0, 100_000, (count, 3))
    return [
        f"{statements[k]} id={a} from 10.0.{b % 256}.{c % 256}:{a % 65536} in /var/lib/app/{b % 50}/data in {c % 900}ms"
        for k, (a, b, c) in zip(kinds.tolist(), numbers.tolist(), strict=True)
    ]


def observation(ticks: int, size: int, lines: int) -> Observation:
    series = busy_series(size)
    times = 1.7e9 + np.arange(float(ticks))
    window = Window(times, np.arange(float(ticks)), busy_values(series, ticks), tuple(series))
    at = times[-1] - np.sort(np.random.default_rng(2).random(lines) * 3600)[::-1]
    logs = tuple(LogRecord(float(t), "journal", text) for t, text in zip(at, log_lines(lines), strict=True))
    host = Host("bench", "6", "b", 1.6e9, 8, 2**34, 4096, 100)
    before, after = TopologySnapshot(float(times[0])), TopologySnapshot(float(times[-1]))
    return Observation(host, window, Baseline.unknown(size), before, after, logs, (), Coverage())


def costs() -> None:
    table = Table("what", "CPU", title="Cost, one thread")
    seen = observation(30, 3000, 5000)
    scan(seen)  # imports
    quiet = observation(30, 3000, 0)
    table.add_row("scan, 30 ticks x 3,000 series, 5,000 log lines", f"{cpu_ms(lambda: scan(seen)):.0f} ms")
    table.add_row("scan, the same without logs", f"{cpu_ms(lambda: scan(quiet)):.0f} ms")
    long = observation(900, 3000, 0)
    table.add_row("scan, 900 ticks x 3,000 series", f"{cpu_ms(lambda: scan(long), 2):.0f} ms")
    for size in (700, 1000, 3000):
        table.add_row(f"online, a tick of {size:,} series", f"{online_ms(size):.2f} ms")
    lines = log_lines(100_000)
    mining = cpu_ms(lambda: _mine(lines), 2)
    table.add_row("log templates", f"{len(lines) / mining:.0f} k lines/s")
    values = np.random.default_rng(1).normal(10, 1, (60, 1000))
    for name, factory in factories():
        table.add_row(f"{name}, a tick of 1,000 series", f"{tick_ms(factory(), values):.2f} ms")
    CONSOLE.print(table)


def _mine(lines: list[str]) -> None:
    miner = TemplateMiner()
    for line in lines:
        miner.add(line)


def tick_ms(detector: Detector, values: FloatArray) -> float:
    detector.fit(values)
    return cpu_ms(lambda: [detector.update(row) for row in values], 3) / len(values)


def online_ms(size: int, ticks: int = 400) -> float:
    series = busy_series(size)
    catalogue = Catalogue()
    ids = np.array([catalogue.add(one) for one in series])
    values = busy_values(series, ticks)
    online = Online(catalogue)
    frames = [Frame(1.7e9 + t, float(t), ids, values[t]) for t in range(ticks)]
    for frame in frames[:200]:
        online.update(frame)
    start = time.process_time()
    for frame in frames[200:]:
        online.update(frame)
    return 1000 * (time.process_time() - start) / (ticks - 200)


def host_surprise(trace: HostTrace, detector: Detector | None) -> FloatArray:
    """Return the host's surprise for every tick of train, then test; a random score where there is no detector."""
    rows = np.concatenate([trace.train, trace.test])
    if detector is None:
        tail, rng = ExtremeTail(), np.random.default_rng(0)
        return np.array([float(tail.update(rng.random(1))[0]) for _ in rows])
    score = HostScore(detector)
    return np.array([score.update(row)[1] for row in rows])


def finding(data: DataSet, fast_only: bool) -> None:
    traces = list(hosts(data))
    if not traces:
        CONSOLE.print(f"{data.name}: skipped, no data under {data_folder()} (set WARDROUND_DATA)")
        return
    table = Table("score", "budget/day", "precision", "recall", "F1", "false/day", "delay")
    table.title = f"{data.name.upper()}: {len(traces)} hosts, no label chose a threshold; delay in ticks"
    known: list[tuple[str, Callable[[], Detector | None]]] = [("random", lambda: None)]
    known += [(name, factory) for name, factory in factories() if name != "extreme"]
    for name, factory in known:
        if fast_only and name not in ("random", "robust"):
            continue
        surprises = [host_surprise(trace, factory()) for trace in traces]
        for per_day in BUDGETS:
            score = EventScore()
            for trace, surprise in zip(traces, surprises, strict=True):
                score.add(trace, alarms(surprise, len(trace.train), data, per_day), data)
            table.add_row(name, f"{per_day:g}", *score.row())
    CONSOLE.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--skip-data", action="store_true", help="only the cost")
    parser.add_argument("--skip-cost", action="store_true", help="only what is found")
    parser.add_argument("--all", action="store_true", help="also the detectors that the watch daemon does not run")
    options = parser.parse_args()
    if not options.skip_cost:
        costs()
    if not options.skip_data:
        for data in SETS:
            finding(data, not options.all)


if __name__ == "__main__":
    main()
