"""The process in which a dump is opened: drgn parses hostile files in C, so it runs apart, limited and expendable.

    python -m collectors.vmcore.worker FILE [--vmlinux FILE] [--modules FOLDER]

It cannot write files, gains no rights, and ends with its parent. Standard input holds what a worker before it read:
``{"skip": [sections], "fields": {…}}``. Standard output is a line of JSON a message: ``{"begin": section}``,
``{"part": section, "fields": {…}}``, ``{"skipped": section, "reason": …}``, ``{"header": {…}}``,
``{"refused": {what, why, do}}``, ``{"end": cpu seconds}``. What was sent stands, whatever happens after.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from collectors.vmcore.open import DAMAGE, Beside, Dump, open_dump
from collectors.vmcore.sections import SECTIONS, Section
from wardround.errors import UserError
from wardround.models.vmcore import DumpHeader, Vmcore

MEMORY_BYTES = 2 << 30  # of address space; a dump of 128 MiB takes 0.2 GiB
CPU_SECONDS = 120
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES = 1, 38


class OutOfTimeError(Exception):
    """A section has used up its time."""


def limit(writes: int = 0) -> None:
    """Give up what reading a file does not need; no file may grow beyond `writes` bytes."""
    libc = ctypes.CDLL(None)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (writes, writes))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def out_of_time(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError

    previous = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def header(dump: Dump) -> DumpHeader:
    """What can be said of the file without looking at the kernel's data."""
    crashed = dump.info.get("CRASHTIME", "")
    return DumpHeader(
        path=str(dump.path),
        format=dump.format,
        size=dump.size,
        tier=dump.tier,
        architecture=dump.architecture,
        release=dump.release,
        build_id=dump.build_id,
        kaslr=dump.kaslr,
        time=float(crashed) if crashed.isdigit() else None,
    )


def read(dump: Dump, known: Vmcore, sections: tuple[Section, ...] = SECTIONS) -> Iterator[dict[str, Any]]:
    """Run the sections one after the other and yield a message for each begin and end."""
    for section in sections:
        yield {"begin": section.name}
        began = time.process_time()
        try:
            with at_most(section.seconds):
                fields = dict(section.read(dump, known))
        except OutOfTimeError:
            yield {"skipped": section.name, "reason": f"it took over {section.seconds:g} s"}
            continue
        except (MemoryError, RecursionError) as error:
            yield {"skipped": section.name, "reason": f"it needed too much memory ({type(error).__name__})"}
            continue
        except DAMAGE as error:
            yield {"skipped": section.name, "reason": _sentence(error)}
            continue
        except Exception as error:  # noqa: BLE001 - task boundary, and drgn's bare Exception: the other sections go on
            yield {"skipped": section.name, "reason": f"{type(error).__name__}: {_sentence(error)}"}
            continue
        known = replace(known, **fields)
        yield {
            "part": section.name,
            "fields": to_jsonable_python(fields),
            "seconds": round(time.process_time() - began, 4),
        }


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--vmlinux", type=Path)
    parser.add_argument("--modules", type=Path)
    options = parser.parse_args()
    before = json.load(sys.stdin)
    limit()
    try:
        dump = open_dump(options.file, beside=Beside(options.vmlinux, options.modules))
    except UserError as error:
        tell(refused={"what": error.what, "why": error.why, "do": error.do})
        return 0
    told = header(dump)
    tell(header=to_jsonable_python(told))
    for name, reason in dump.lost.items():
        tell(skipped=name, reason=reason)
    wanted = tuple(section for section in SECTIONS if section.name not in before["skip"])
    known = TypeAdapter(Vmcore).validate_python({"header": told, **before["fields"]})
    for message in read(dump, known, wanted):
        tell(**message)
    tell(end=round(time.process_time(), 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
