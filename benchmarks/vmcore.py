"""What crash dumps are explained as, and what that costs: `diagnose vmcore` over every dump that the tests build.

    python -m benchmarks.vmcore [--only NAME,...] [--dumps FOLDER] [--crash VMLINUX]

For each dump: the fault and the culprit function or task found first, CPU seconds of the command with all its
processes, and the memory they take together at the most (each process' share of what they have in common, MiB). Dumps
come from `tests/vmcore/make_vmcores.sh` with the facts that their faulty module was written to show. With `--crash` the
`crash` program runs the equivalent commands over the dumps of that vmlinux's kernel beside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compiled import compile_packages

LIMIT_SECONDS = 600.0
# What the command tells, asked of `crash` in its own words.
CRASH_COMMANDS = "sys\nlog\nbt\nbt -a\nps\nforeach UN bt\nforeach bt\nkmem -i\nkmem -s\nmod\nfiles\nrunq\nquit\n"


@dataclass(frozen=True)
class Cost:
    """CPU seconds and the memory of all processes together at the most, MiB; both 0 where it did not end in time."""

    cpu: float
    memory: float


def run(command: list[str], text: str = "") -> tuple[str, Cost]:
    """Run a command to its end and return what it printed and what it cost."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out:
        given.write(text.encode())
        given.seek(0)
        process = subprocess.Popen(command, stdin=given, stdout=out, stderr=subprocess.DEVNULL)
        memory, end = 0.0, time.monotonic() + LIMIT_SECONDS
        while True:
            pid, _, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            memory = max(memory, sum(_share(each) for each in _family(process.pid)))
            if time.monotonic() > end:
                process.kill()
            time.sleep(0.02)
        process.returncode = 0  # it has been waited for
        out.seek(0)
        return out.read().decode("utf-8", "replace"), Cost(used.ru_utime + used.ru_stime, memory)


def _family(pid: int) -> list[int]:
    """A process and its children, and theirs."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [pid, *(each for child in text.split() for each in _family(int(child)))]


def _share(pid: int) -> float:
    """The proportional set size of a process, MiB; 0 where it just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def right(document: dict[str, Any], expected: dict[str, Any]) -> tuple[bool, bool]:
    """(fault right, culprit right) of the first hypothesis; a culprit is a function or one of the tasks, the host
    where the crash was asked for."""
    if not document.get("hypotheses"):
        return False, False
    first = document["hypotheses"][0]
    names = {expected.get("function"), *expected.get("functions", ()), *expected.get("tasks", ())}
    culprit = first["culprit"]["name"].split(" ")[0]
    asked_for = first["fault"] == "kernel.panic_requested" and first["culprit"]["kind"] == "host"
    return first["fault"] == expected["fault"], culprit in names or asked_for


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wardround-tests/vmcores"
    parser.add_argument("--dumps", type=Path, default=cache)
    parser.add_argument("--only", default="")
    parser.add_argument("--crash", metavar="VMLINUX", help="also run `crash` with this vmlinux")
    options = parser.parse_args()
    compile_packages()
    only = set(filter(None, options.only.split(",")))
    manifest = json.loads((options.dumps / "manifest.json").read_text())
    dumps = [entry for entry in manifest if entry["format"] != "kexec-dmesg"]
    chosen = [entry for entry in dumps if not only or entry["scenario"] in only]
    print(f"{'dump':<46} {'fault':<7} {'culprit':<8} {'cpu s':>6} {'MiB':>5}  first hypothesis")
    faults = culprits = 0
    costs: dict[int, list[Cost]] = {}
    beside: list[tuple[Cost, Cost]] = []
    for entry in chosen:
        out, cost = run([sys.executable, "-m", "cli.main", "vmcore", entry["path"], "-o", "json", "-q"])
        costs.setdefault(entry["memory_mib"], []).append(cost)
        document = json.loads(out) if out.startswith("{") else {}
        fault, culprit = right(document, entry["expected"])
        faults, culprits = faults + fault, culprits + (fault and culprit)
        name = f"{entry['scenario']} {entry['kernel'][:14]} {entry['format']} {entry['memory_mib']} MiB"
        print(
            f"{name:<46} {_mark(fault):<7} {_mark(culprit):<8} {cost.cpu:6.2f} {cost.memory:5.0f}  {_first(document)}",
            flush=True,
        )
        if options.crash and entry["format"] == "elf" and entry["kernel"] in Path(options.crash).name:
            _, other = run(["crash", "-s", options.crash, entry["path"]], CRASH_COMMANDS)
            beside.append((cost, other))
            print(f"{'  crash beside it':<46} {'':<7} {'':<8} {other.cpu:6.2f} {other.memory:5.0f}", flush=True)
    print(f"fault right {faults}/{len(chosen)}, fault and culprit right {culprits}/{len(chosen)}")
    for memory, of in sorted(costs.items()):
        seconds, sizes = _spread([cost.cpu for cost in of], 2), _spread([cost.memory for cost in of], 0)
        print(f"{memory} MiB ({len(of)} dumps): {seconds} s CPU, {sizes} MiB of memory")
    if beside:
        times, room = (median(o.cpu / c.cpu for c, o in beside), median(o.memory / c.memory for c, o in beside))
        print(f"beside crash ({len(beside)}): {times:.1f} times less CPU, {room:.1f} times less memory (median)")
    return 0


def _spread(values: list[float], digits: int) -> str:
    return f"median {median(values):.{digits}f}, most {max(values):.{digits}f}"


def _mark(good: bool) -> str:
    return "right" if good else "WRONG"


def _first(document: dict[str, Any]) -> str:
    if not document.get("hypotheses"):
        return str(document.get("summary") or document.get("error", {}).get("what", "no answer"))[:80]
    first = document["hypotheses"][0]
    return f"{first['fault']} {first['culprit']['name']} p={first['probability']}"


if __name__ == "__main__":
    sys.exit(main())
