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
import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from collectors.vmcore import pieces, walk
from collectors.vmcore.open import DAMAGE, Beside, Dump, let_go, open_dump
from collectors.vmcore.sections import SECTIONS, Section
from wardround.deadline import at_most
from wardround.errors import UserError, one_line
from wardround.models.vmcore import DumpHeader, Vmcore

MEMORY_BYTES = 2 << 30  # of address space; a dump of 128 MiB takes 0.2 GiB
CPU_SECONDS = 120
OPEN_SECONDS = 40.0
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES = 1, 38


class OutOfTimeError(Exception):
    """A section has used up its time."""


def limit(writes: int = 0) -> int:
    """Give up what reading a file does not need; no file may grow beyond `writes` bytes.

    Return a file in memory for `open_dump`, the only one that can be filled, by mapping it.
    """
    core = pieces.reserve()
    os.environ["DRGN_DISABLE_PLUGINS"] = "*"  # foreign code beside hostile data, and 40 ms
    libc = ctypes.CDLL(None)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    gc.disable()  # this process is short; looking for garbage would take a twentieth of its time
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (writes, writes))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    return core


def tell(**message: Any) -> None:
    print(json.dumps(message, default=_plain), flush=True)


def _plain(item: Any) -> Any:
    """A frozen dataclass as the mapping of its fields."""
    if is_dataclass(item):
        return {name: getattr(item, name) for name in item.__dataclass_fields__}
    if isinstance(item, Mapping):
        return dict(item)
    raise TypeError(f"{type(item).__name__} is not told")


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
    """Run the sections one after the other and yield a message for each begin and end, and for what they lacked."""
    told: set[str] = set()
    yield from _lost(dump, told)
    for section in sections:
        yield {"begin": section.name}
        began = time.process_time()
        try:
            with at_most(section.seconds, OutOfTimeError):
                fields = dict(section.read(dump, known))
        except OutOfTimeError:
            yield {"skipped": section.name, "reason": f"it took over {section.seconds:g} s"}
            continue
        except (MemoryError, RecursionError) as error:
            yield {"skipped": section.name, "reason": f"it needed too much memory ({type(error).__name__})"}
            continue
        except DAMAGE as error:
            yield {"skipped": section.name, "reason": one_line(error)}
            continue
        except Exception as error:  # noqa: BLE001 - task boundary, and drgn's bare Exception: the other sections go on
            yield {"skipped": section.name, "reason": f"{type(error).__name__}: {one_line(error)}"}
            continue
        known = replace(known, **fields)
        let_go(dump.path, dump.format)
        yield from _lost(dump, told)
        yield {
            "part": section.name,
            "fields": fields,
            "seconds": round(time.process_time() - began, 4),
        }


def _lost(dump: Dump, told: set[str]) -> Iterator[dict[str, Any]]:
    """What is not to be had of a dump, each once."""
    for name, reason in (*dump.lost.items(), *walk.broken(dump.prog).items()):
        if name not in told:
            told.add(name)
            yield {"skipped": name, "reason": reason}


def _refused(path: Path, why: str) -> dict[str, str]:
    return {"what": f"{path} cannot be read as a crash dump", "why": why, "do": "see whether it was copied whole"}


def _known(told: DumpHeader, fields: dict[str, Any]) -> Vmcore:
    """What a worker before this one has read; rare, so what parses it is loaded for that alone."""
    if not fields:
        return Vmcore(told)
    from pydantic import TypeAdapter

    return TypeAdapter(Vmcore).validate_python({"header": told, **fields})


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--vmlinux", type=Path)
    parser.add_argument("--modules", type=Path)
    options = parser.parse_args()
    before = json.load(sys.stdin)
    core = limit()
    try:
        with at_most(OPEN_SECONDS, OutOfTimeError):
            dump = open_dump(options.file, beside=Beside(options.vmlinux, options.modules), core=core)
    except UserError as error:
        tell(refused={"what": error.what, "why": error.why, "do": error.do})
        return 0
    except OutOfTimeError:
        tell(refused=_refused(options.file, f"opening it took over {OPEN_SECONDS:g} s"))
        return 0
    except Exception as error:  # noqa: BLE001 - task boundary, and drgn's bare Exception: told, never a traceback
        tell(refused=_refused(options.file, f"{type(error).__name__}: {one_line(error)}"))
        return 0
    told = header(dump)
    tell(header=told)
    wanted = tuple(section for section in SECTIONS if section.name not in before["skip"])
    known = _known(told, before["fields"])
    for message in read(dump, known, wanted):
        tell(**message)
    tell(end=round(time.process_time(), 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
