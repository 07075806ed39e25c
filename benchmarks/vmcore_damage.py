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
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from traceback import format_exc
from typing import Any

from agents import crash  # noqa: F401 - loaded before the command is run many times
from cli.main import main as command
from tests.vmcore import damage
from tests.vmcore.conftest import SERIES

HANG_SECONDS = 120.0
DIAGNOSE = [sys.executable, "-m", "cli.main", "vmcore"]


@dataclass(frozen=True)
class Outcome:
    """One damaged file judged: `fault` and `probability` of the first hypothesis, how many sections `ran`."""

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
        code, out, err = _run([str(path), "-o", "json", "-q"], limit)
    finally:
        path.unlink(missing_ok=True)
    seconds = round(time.monotonic() - began, 2)
    if code is None:
        return Outcome(case.kind, case.name, -1, seconds, "none", hang=True)
    try:
        told: dict[str, Any] = json.loads(out)
    except ValueError:
        return Outcome(case.kind, case.name, code, seconds, "none", err[-2000:] or "no output")
    trouble = "Traceback" in err or "in a way it should not have" in err or code < 0
    traceback = err[-2000:] if trouble else ""
    if told["status"] == "error":
        said = f"{told['error']['what']}: {told['error']['why']}"
        return Outcome(case.kind, case.name, code, seconds, "error", traceback, said=said)
    first: dict[str, Any] = told["hypotheses"][0] if told["hypotheses"] else {"fault": "", "probability": 0.0}
    return Outcome(
        kind=case.kind, name=case.name, code=code, seconds=seconds, status=told["status"], traceback=traceback,
        fault=first["fault"], probability=first["probability"], ran=len(told["coverage"]["ran"]),
        skipped=tuple(f"{s['name']}: {s['reason']}"[:200] for s in told["coverage"]["skipped"]),
        said=told["summary"][:200],
    )  # fmt: skip


def _run(arguments: list[str], limit: float) -> tuple[int | None, str, str]:
    """Return (exit code, output, errors) of the command; no code where it did not end in time.

    It runs in a fork of this process, in which what it imports is loaded already: half of its cost, none of its work.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code = 70
            try:
                code = command(["vmcore", *arguments])
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:  # noqa: BLE001 - the child's end, whatever it is: a traceback is what is looked for
                os.write(2, format_exc().encode())
            os._exit(code)
        end = time.monotonic() + limit
        ended: int | None = None
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ended = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.02)
        else:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        return ended, texts[0], texts[1]


def cases(folder: Path, manifest: list[dict[str, Any]]) -> Iterator[damage.Case]:
    """All cases of the figure. Small copies are made in `folder`."""
    manifest = [entry for entry in manifest if entry["series"] in SERIES]  # of others memory may tell less than the log
    whole = {entry["format"]: Path(entry["path"]) for entry in reversed(manifest) if entry["scenario"] == "nullptr"}
    locked = next(Path(e["path"]) for e in manifest if e["scenario"] == "abba" and e["format"] == "elf")
    small, waiting = folder / "nullptr.slim", folder / "abba.slim"
    for source, copy in ((whole["elf"], small), (locked, waiting)):
        if not copy.exists():
            subprocess.run([*DIAGNOSE, "slim", str(source), str(copy), "-q"], check=True, capture_output=True)
    for path in whole.values():
        yield from damage.cuts(path)
    yield from damage.flips(small)
    yield from damage.storms(small)
    for format_ in ("kdump", "flattened"):
        if format_ in whole:
            yield from damage.flips(whole[format_], 100)
            yield from damage.storms(whole[format_], 5)
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
    print("kind      files tracebacks hangs hidden error partial whole longest s")
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
