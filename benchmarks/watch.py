"""What `diagnose watch` costs at rest, side by side with node exporter and Netdata.

    python -m benchmarks.watch [--seconds 60] [--alone] [--json]

All three run at the same time on this host. CPU is what the process tree used (user and system time from /proc, reaped
children included), as a share of one core and per series and second; memory is the sum of the tree's smaps_rollup,
median and highest. Our segment writer runs every 20 s here instead of every five minutes, so that it is seen, and its
CPU is told apart and scaled to five minutes. Our series are those seen in the last ten seconds. Our ring is far from
full after so short a time: what it may still grow by is added before memory is judged. It cannot see what eBPF
programs cost the programs they trace, nor what an idle host would cost: run it on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.neighbours import CannotCompareError, dimensions, fetch, get, netdata, node_exporter, samples
from collectors.ring import MOST_BYTES

ROOT = Path(__file__).resolve().parent.parent
SETTLE = 20.0  # collectors start, eBPF programs are compiled, Netdata finds its charts
SEGMENT_HERE, SEGMENT_DEFAULT = 20.0, 300.0
TICK = os.sysconf("SC_CLK_TCK")
TARGET_CPU, TARGET_ANONYMOUS, TARGET_RESIDENT = 2.0, 110.0, 220.0


@dataclass
class Measured:
    """One program over the run: `cpu` and `children` s over `seconds`; memory samples in MiB."""

    name: str
    pid: int
    series: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    children: float = 0.0
    anonymous: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)

    @property
    def percent(self) -> float:
        return 100 * self.cpu / self.seconds

    @property
    def per_series(self) -> float:
        """µs of CPU per series and one-second tick."""
        return 1e6 * self.cpu / self.seconds / self.series if self.series else float("nan")


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found, queue = [], [pid]
    while queue:
        one = queue.pop()
        found.append(one)
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                queue += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def cpu_times(pid: int) -> tuple[float, float]:
    """Return seconds of CPU used by the living of the tree, and by those they reaped."""
    own = reaped = 0.0
    for one in tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        own += (int(fields[11]) + int(fields[12])) / TICK
        reaped += (int(fields[13]) + int(fields[14])) / TICK
    return own, reaped


def memory(pid: int) -> tuple[float, float]:
    """Return anonymous and resident MiB of the tree; pages shared between its processes count for each."""
    anonymous = resident = 0.0
    for one in tree(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
        anonymous += int(found.get("Anonymous", 0)) / 1024
        resident += int(found.get("Rss", 0)) / 1024
    return anonymous, resident


def measure(programs: list[Measured], seconds: float) -> None:
    """Watch all programs at once for `seconds`."""
    began = time.monotonic()
    before = {program.name: cpu_times(program.pid) for program in programs}
    while (left := began + seconds - time.monotonic()) > 0:
        for program in programs:
            anonymous, resident = memory(program.pid)
            program.anonymous.append(anonymous)
            program.resident.append(resident)
        time.sleep(min(2.0, left))
    for program in programs:
        own, reaped = cpu_times(program.pid)
        program.seconds = time.monotonic() - began
        program.cpu = own - before[program.name][0]
        program.children = reaped - before[program.name][1]


def every_second(action: Callable[[], object], stop: threading.Event) -> None:
    while not stop.wait(1.0):
        action()


def run(seconds: float, alone: bool) -> list[Measured]:
    """Start the three, let them settle, measure, stop them.

    :raises CannotCompareError: a neighbour cannot be had here (``--alone`` leaves them out)
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wardround-bench-")))
        programs: list[Measured] = []
        stop = threading.Event()
        if not alone:
            unpacked = fetch(folder)
            pid, scrape = stack.enter_context(node_exporter(unpacked))
            programs.append(Measured("node exporter, scraped each second", pid))
            threading.Thread(target=every_second, args=(lambda: get(scrape), stop), daemon=True).start()
            pid, base = stack.enter_context(netdata(unpacked))
            programs.append(Measured("netdata, defaults", pid))
        stack.callback(stop.set)
        ours = _start_ours(folder, stack)
        watch = Measured("diagnose watch, all collectors", ours.pid)
        programs.insert(0, watch)
        print(f"settling for {SETTLE:g} s, measuring for {seconds:g} s", file=sys.stderr)
        time.sleep(SETTLE)
        measure(programs, seconds)
        if not alone:
            programs[1].series = samples(get(scrape))
            programs[2].series = dimensions(base)
        ours.terminate()
        said, complaint = ours.communicate(timeout=30)
        found = re.search(r"(\d+) series", said)
        if found is None:
            raise SystemExit(f"diagnose watch told no series: {said} {complaint}")
        print(f"diagnose watch: {said.strip()}", file=sys.stderr)
        watch.series = int(found[1])
        watch.cpu += watch.children * SEGMENT_HERE / SEGMENT_DEFAULT
        return programs


def _start_ours(folder: Path, stack: ExitStack) -> subprocess.Popen[str]:
    settings = {"WARDROUND_STATE_DIR": str(folder / "state"), "WARDROUND_HISTORY__SEGMENT": f"{SEGMENT_HERE:g}"}
    ours = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "watch"],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stack.callback(ours.kill)
    return ours


def show(programs: list[Measured]) -> None:
    print(f"{'':36}{'series':>8}{'CPU %':>8}{'µs/series':>11}{'anonymous MiB':>15}{'resident MiB':>14}")
    for program in programs:
        middle = statistics.median(program.anonymous), statistics.median(program.resident)
        print(
            f"{program.name:36}{program.series:>8}{program.percent:>8.2f}{program.per_series:>11.1f}"
            f"{middle[0]:>15.1f}{middle[1]:>14.1f}"
            f"   (highest {max(program.anonymous):.0f}, {max(program.resident):.0f})"
        )
    ours = programs[0]
    print(f"our segment writer: {ours.children:.2f} s of CPU in {ours.seconds:.0f} s, scaled to every five minutes")
    ring = MOST_BYTES / 1024**2
    print(f"our ring: may still grow to {ring:.0f} MiB, which is added to both figures of memory below")
    reached = {
        f"at most {TARGET_CPU:g} % of one core": ours.percent <= TARGET_CPU,
        f"at most {TARGET_ANONYMOUS:g} MiB anonymous": statistics.median(ours.anonymous) + ring <= TARGET_ANONYMOUS,
        f"at most {TARGET_RESIDENT:g} MiB resident": statistics.median(ours.resident) + ring <= TARGET_RESIDENT,
        "at least 600 series": ours.series >= 600,
    }
    if len(programs) > 1:
        reached["less CPU per series than node exporter"] = ours.per_series < programs[1].per_series
    for target, met in reached.items():
        print(f"{'reached' if met else 'MISSED'}: {target}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--alone", action="store_true", help="only our daemon, nothing downloaded")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        programs = run(arguments.seconds, arguments.alone)
    except CannotCompareError as error:
        print(f"no comparison: {error}; `--alone` measures our daemon only", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps([asdict(program) for program in programs]))
    else:
        show(programs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
