"""What becomes of damaged dumps: `diagnose vmcore` over files cut, with turned bits, of no format, foreign, with loops.

    python -m benchmarks.vmcore_damage [--only KIND,...] [--seconds N] [--out FILE]

Base is a small copy (`diagnose vmcore slim`) of a dump that the tests build, where nearly every byte is read; cuts are
of whole dumps in each format too. Counted are tracebacks (an error that says wardround itself failed is one), hangs,
answers that hide the damage (status `ok`), and those that name another fault than the whole dump with a probability of
one half or more although nothing was told as missing. With `--out` each outcome is a line of JSON; a run goes on after
what the file holds, and `--seconds` ends it early.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.vmcore import damage

HANG_SECONDS = 120.0
DIAGNOSE = [sys.executable, "-m", "cli.main", "vmcore"]


@dataclass(frozen=True)
class Outcome:
    """One damaged file judged. `faults` are the first hypothesis and its probability; `partial` how many sections ran."""

    kind: str
    name: str
    code: int
    seconds: float
    status: str
    traceback: str = ""
    hang: bool = False
    fault: str = ""
    probability: float = 0.0
    ran: int = 0
    skipped: tuple[str, ...] = ()
    said: str = ""

    @property
    def hides(self) -> bool:
        """A file that was damaged is called healthy, or nothing at all is said."""
        return self.status not in ("problem", "degraded", "error")


def judge(case: damage.Case, path: Path, limit: float = HANG_SECONDS) -> Outcome:
    """Write the case's file, run the command over it, and judge what it printed."""
    case.write(path)
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*DIAGNOSE, str(path), "-o", "json", "-q"], capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome(case.kind, case.name, -1, limit, "none", hang=True)
    finally:
        path.unlink(missing_ok=True)
    seconds = round(time.monotonic() - began, 2)
    trouble = "Traceback" in done.stderr or "in a way it should not have" in done.stderr or done.returncode < 0
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return Outcome(case.kind, case.name, done.returncode, seconds, "none", done.stderr[-2000:] or "no output")
    traceback = done.stderr[-2000:] if trouble else ""
    if told["status"] == "error":
        said = f"{told['error']['what']}: {told['error']['why']}"
        return Outcome(case.kind, case.name, done.returncode, seconds, "error", traceback, said=said)
    first = told["hypotheses"][0] if told["hypotheses"] else {"fault": "", "probability": 0.0}
    coverage = told["coverage"]
    return Outcome(
        case.kind, case.name, done.returncode, seconds, told["status"], traceback, False, first["fault"],
        first["probability"], len(coverage["ran"]), tuple(f"{s['name']}: {s['reason']}"[:200] for s in _skipped(coverage)),
        told["summary"][:200],
    )  # fmt: skip


def _skipped(coverage: dict[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = coverage["skipped"]
    return found


def cases(folder: Path, manifest: list[dict[str, Any]]) -> Iterator[damage.Case]:
    """All cases of the figure. Small copies are made in `folder`."""
    whole = {entry["format"]: Path(entry["path"]) for entry in reversed(manifest) if entry["scenario"] == "nullptr"}
    locked = next(Path(e["path"]) for e in manifest if e["scenario"] == "abba" and e["format"] == "elf")
    small, waiting = folder / "nullptr.slim", folder / "abba.slim"
    for source, copy in ((whole["elf"], small), (locked, waiting)):
        if not copy.exists():
            subprocess.run([*DIAGNOSE, "slim", str(source), str(copy), "-q"], check=True, capture_output=True)
    for path in (*whole.values(), small):
        yield from damage.cuts(path)
    yield from damage.flips(small)
    yield from damage.storms(small)
    for format_ in ("kdump", "flattened"):
        if format_ in whole:
            yield from damage.flips(whole[format_], 20)
            yield from damage.storms(whole[format_], 2)
    yield from damage.formats(small)
    yield from damage.foreign(small)
    if "kdump" in whole:
        yield from damage.foreign_kdump(whole["kdump"])
    yield from damage.loops(waiting, locked, locks_of(waiting))


def locks_of(path: Path) -> list[tuple[str, int]]:
    """Kind and address of the locks that tasks of a dump wait for."""
    from collectors.vmcore.read import read_crash

    return [(lock.kind, lock.address) for lock in read_crash(path).locks]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wardround-tests/vmcores"
    parser.add_argument("--dumps", type=Path, default=cache)
    parser.add_argument("--folder", type=Path, help="where small copies are kept; a temporary folder by default")
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    found: list[Outcome] = []
    if options.out is not None and options.out.exists():
        for line in options.out.read_text().splitlines():
            known = json.loads(line)
            found.append(Outcome(**{**known, "skipped": tuple(known["skipped"])}))
    known = {outcome.name for outcome in found}
    manifest = json.loads((options.dumps / "manifest.json").read_text())
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for case in cases(folder, manifest):
            if case.name in known or (only and case.kind not in only):
                continue
            if time.monotonic() > end:
                print("there is more to do: run it again")
                break
            outcome = judge(case, Path(temporary) / "damaged")
            found.append(outcome)
            if options.out is not None:
                with options.out.open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
    report(found)
    return 0


def report(found: list[Outcome]) -> None:
    print(
        f"{'kind':<9} {'files':>5} {'tracebacks':>10} {'hangs':>5} {'hidden':>6} {'error':>5} {'partial':>7} {'whole':>5} {'longest s':>9}"
    )
    for kind in dict.fromkeys(outcome.kind for outcome in found):
        of = [outcome for outcome in found if outcome.kind == kind]
        whole = sum(outcome.ran > 0 and not outcome.skipped for outcome in of)
        partial = sum(outcome.ran > 0 and bool(outcome.skipped) for outcome in of)
        print(
            f"{kind:<9} {len(of):>5} {sum(bool(o.traceback) for o in of):>10} {sum(o.hang for o in of):>5} "
            f"{sum(o.hides for o in of):>6} {sum(o.status == 'error' for o in of):>5} {partial:>7} {whole:>5} "
            f"{max(o.seconds for o in of):>9.1f}"
        )
    for outcome in found:
        if outcome.traceback or outcome.hang or outcome.hides:
            print(f"- {outcome.name}: {outcome.status} {outcome.said}\n  {outcome.traceback[-600:]}")
    print("faults named first:", dict(Counter(outcome.fault or outcome.status for outcome in found).most_common()))


if __name__ == "__main__":
    sys.exit(main())
