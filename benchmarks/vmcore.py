"""What crash dumps are explained as, and what that costs: `diagnose vmcore` over every dump that the tests build.

    python -m benchmarks.vmcore [--only NAME,...] [--dumps FOLDER] [--crash VMLINUX]

For each dump: the fault and the culprit function or task found first, CPU seconds and the largest resident memory of
the command with all its processes. Dumps come from `tests/vmcore/make_vmcores.sh` with the facts that their faulty
module was written to show. With `--crash` the `crash` program runs the equivalent commands over the same dumps beside.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What the command tells, asked of `crash` in its own words.
CRASH_COMMANDS = "sys\nlog\nbt\nbt -a\nps\nforeach UN bt\nforeach bt\nkmem -i\nkmem -s\nmod\nfiles\nrunq\nquit\n"


@dataclass(frozen=True)
class Cost:
    """CPU seconds and the resident memory of the largest process, MiB."""

    cpu: float
    memory: float


def run(command: list[str], text: str = "") -> tuple[str, Cost]:
    """Run a command to its end in a child that waits for nothing else, so that its cost is its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=600, check=False)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        with os.fdopen(writer, "w") as pipe:
            json.dump({"out": done.stdout, "cpu": used.ru_utime + used.ru_stime, "rss": used.ru_maxrss / 1024}, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = json.load(pipe)
    os.waitpid(pid, 0)
    return told["out"], Cost(told["cpu"], told["rss"])


def right(document: dict[str, Any], expected: dict[str, Any]) -> tuple[bool, bool]:
    """(fault right, culprit right) of the first hypothesis; a culprit is a function or one of the tasks."""
    if not document.get("hypotheses"):
        return False, False
    first = document["hypotheses"][0]
    names = {expected.get("function"), *expected.get("functions", ()), *expected.get("tasks", ())}
    culprit = first["culprit"]["name"].split(" ")[0]
    return first["fault"] == expected["fault"], culprit in names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wardround-tests/vmcores"
    parser.add_argument("--dumps", type=Path, default=cache)
    parser.add_argument("--only", default="")
    parser.add_argument("--crash", metavar="VMLINUX", help="also run `crash` with this vmlinux")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    manifest = json.loads((options.dumps / "manifest.json").read_text())
    chosen = [entry for entry in manifest if not only or entry["scenario"] in only]
    print(f"{'dump':<46} {'fault':<7} {'culprit':<8} {'cpu s':>6} {'MiB':>5}  first hypothesis")
    faults = culprits = 0
    for entry in chosen:
        out, cost = run([sys.executable, "-m", "cli.main", "vmcore", entry["path"], "-o", "json", "-q"])
        document = json.loads(out) if out.startswith("{") else {}
        fault, culprit = right(document, entry["expected"])
        faults, culprits = faults + fault, culprits + (fault and culprit)
        name = f"{entry['scenario']} {entry['kernel'][:14]} {entry['format']} {entry['memory_mib']} MiB"
        print(
            f"{name:<46} {_mark(fault):<7} {_mark(culprit):<8} {cost.cpu:6.2f} {cost.memory:5.0f}  {_first(document)}"
        )
        if options.crash and entry["format"] == "elf":
            _, beside = run(["crash", "-s", options.crash, entry["path"]], CRASH_COMMANDS)
            print(f"{'  crash beside it':<46} {'':<7} {'':<8} {beside.cpu:6.2f} {beside.memory:5.0f}", flush=True)
    print(f"fault right {faults}/{len(chosen)}, fault and culprit right {culprits}/{len(chosen)}")
    return 0


def _mark(good: bool) -> str:
    return "right" if good else "WRONG"


def _first(document: dict[str, Any]) -> str:
    if not document.get("hypotheses"):
        return str(document.get("summary") or document.get("error", {}).get("what", "no answer"))[:80]
    first = document["hypotheses"][0]
    return f"{first['fault']} {first['culprit']['name']} p={first['probability']}"


if __name__ == "__main__":
    sys.exit(main())
