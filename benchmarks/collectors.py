"""Prints what each collector costs: CPU per tick and per series, and the sum as a share of one core.

    python -m benchmarks.collectors [SECONDS] [NAME ...]

Collectors run as the daemon runs them, at one-second ticks, in this process; the first ticks are left out. A
collector's CPU is the reading thread's own (user and system), so what the kernel does for a read is inside. The
machinery line is the process's CPU time beyond that: threads of collectors, merging, this program.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from collectors.sampler import Sampler
from wardround.models.series import Catalogue, Frame, Window

METRIC = "wardround.collector.time"
WARM_UP = 4  # ticks: until slow starters (eBPF) have joined and every series is numbered


def main(arguments: list[str]) -> int:
    seconds = int(arguments[0]) if arguments else 30
    sampler = Sampler(Catalogue(), only=arguments[1:] or None)
    sampler.start()
    for _ in range(WARM_UP):
        sampler.tick(everything=True)
        time.sleep(1.0)
    frames: list[Frame] = []
    began, wall = time.process_time(), time.monotonic()
    while len(frames) < seconds:
        time.sleep(max(0.0, wall + len(frames) + 1 - time.monotonic()))
        frames.append(sampler.tick().frame)
    spent = time.process_time() - began
    coverage = sampler.coverage()
    sampler.stop()
    print_table(Window.of(sampler.catalogue, frames), spent)
    for skipped in coverage.skipped:
        print(f"not measured: {skipped.name}: {skipped.reason}")
    return 0


def print_table(window: Window, spent: float) -> None:
    """Print a line a collector; `spent` is the CPU time in seconds of the whole process over the window."""
    ticks = len(window.times)
    print(f"{'collector':32} {'µs a tick':>10} {'µs a read':>10} {'longest':>10}")
    total = 0.0
    for column in window.columns(METRIC):
        costs = window.values[:, column]
        costs = costs[~np.isnan(costs)] * 1e6
        total += costs.sum()
        name = window.series[column].label("collector")
        print(f"{name:32} {costs.sum() / ticks:10.0f} {costs.mean():10.0f} {costs.max():10.0f}")
    series = int((~np.isnan(window.values)).any(axis=0).sum())
    print(f"{'machinery':32} {(spent * 1e6 - total) / ticks:10.0f}")
    cost = spent * 1e6 / ticks
    print(f"{ticks} ticks, {series} series: {cost:.0f} µs a tick, {cost / series:.2f} µs a series and tick,")
    print(f"{spent / ticks:.2%} of one core")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
