"""The start of the command: ``python -m benchmarks.start``.

Prints the CPU time of `diagnose --help` (user and system, median and spread of several runs) and which heavy
libraries it loaded; the time of an empty Python stands beside it, since that is the floor.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.compiled import compile_packages

HEAVY = ("langgraph", "langchain_core", "chromadb", "numpy", "pyarrow", "openai", "sqlalchemy", "pydantic")


def cpu_seconds(command: Sequence[str]) -> float:
    """Run a command to its end; return the CPU seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def loaded() -> list[str]:
    """Return the heavy libraries that `diagnose --help` imports."""
    code = (
        "import sys; sys.argv=['diagnose','--help']\n"
        "from cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return [name for name in HEAVY if f"'{name}'" in done.stderr.splitlines()[-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of `diagnose --help`")
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    compile_packages()
    subprocess.run([sys.executable, "-m", "cli.main", "--help"], check=True, stdout=subprocess.DEVNULL)  # warm cache
    helps = [cpu_seconds([sys.executable, "-m", "cli.main", "--help"]) for _ in range(runs)]
    empty = [cpu_seconds([sys.executable, "-c", ""]) for _ in range(runs)]
    for name, times in (("diagnose --help", helps), ("an empty Python", empty)):
        print(f"{name}: {statistics.median(times):.3f} s CPU ({min(times):.3f} to {max(times):.3f}, {runs} runs)")
    print(f"heavy libraries loaded: {', '.join(loaded()) or 'none'}")


if __name__ == "__main__":
    main()
