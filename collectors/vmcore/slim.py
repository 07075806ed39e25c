"""Makes a small copy of a dump that holds the pages the analysis reads, so that a crash can be shared.

    python -m collectors.vmcore.slim FILE --out DESCRIPTOR [--pack]

The analysis runs once over the dump while every physical page it touches is noted; those pages, what else a later
version may look at (`keep`) and the dump's notes become an ELF core, whose analysis is the same. What is not touched,
user programs' memory above all, is not in it. Of what is in it the kernel log is searched for secrets, and those are
overwritten with x; task names, module names and whatever lies on the same 4 KiB pages as kernel structures stay as
they were.
Cost: three times that of the analysis, for every read passes through here.
"""

from __future__ import annotations

import argparse
import lzma
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import IO

from drgn import FaultError, Program

from collectors.vmcore import elf, kdump, worker
from collectors.vmcore.formats import NUMBERS, identify
from collectors.vmcore.keep import keep
from collectors.vmcore.open import Dump, load, open_dump
from wardround import __version__
from wardround.errors import UserError
from wardround.models.vmcore import Vmcore
from wardround.redaction import MASK, redact

PAGE = 4096
MADE_BY = elf.note(elf.SMALL_COPY, 0, __version__.encode())
_PHYSICAL_SPACE = 1 << 46
_MOST_BYTES = 1 << 30
_LONG, _CONTEXT = 8, 12  # characters: what is shorter is looked for with so much before it


class Pages:
    """Hands physical memory on to drgn and notes which pages were read."""

    def __init__(self, raw: Program) -> None:
        self._raw = raw
        self.touched: set[int] = set()

    def watch(self, prog: Program) -> None:
        prog.add_memory_segment(0, _PHYSICAL_SPACE, self._read, physical=True)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        data: bytes = self._raw.read(address, count, physical=True)
        self.touched.update(range(address // PAGE, (address + count - 1) // PAGE + 1))
        return data

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield (first page, number of pages) of each unbroken run."""
        for _, run in groupby(enumerate(sorted(self.touched)), key=lambda place: place[1] - place[0]):
            pages = [page for _, page in run]
            yield pages[0], len(pages)

    def content(self, page: int) -> bytes:
        """A page that the dump holds in part only is filled up with zeros."""
        try:
            return bytes(self._raw.read(page * PAGE, PAGE, physical=True))
        except FaultError:
            return bytes(PAGE)


def secrets_in(lines: Iterable[str]) -> dict[bytes, bytes]:
    """Return the pieces of a kernel log that redaction would take out, as they lie in memory, and what replaces each.

    A short one is looked for with what stands before it: alone it would be found all over memory.
    """
    found: dict[bytes, bytes] = {}
    for line in lines:
        told = redact(line)
        if told == line:
            continue
        match = re.fullmatch("(.+?)".join(re.escape(part) for part in told.split(MASK)), line, re.DOTALL)
        spans = [match.span(number + 1) for number in range(match.re.groups)] if match else [(0, len(line))]
        for start, end in spans:
            before = line[max(0, start - _CONTEXT) : start] if end - start < _LONG else ""
            hidden = before.encode() + b"x" * len(line[start:end].encode())
            found[(before + line[start:end]).encode()] = hidden
    return found


def masked(content: bytes, secrets: dict[bytes, bytes]) -> bytes:
    for secret, hidden in secrets.items():
        content = content.replace(secret, hidden)
    return content


def notes_of(dump: Dump) -> bytes:
    """The dump's own ELF notes (registers of each CPU, VMCOREINFO); where there are none VMCOREINFO alone."""
    if found := elf.notes(dump.path) if dump.format == "elf" else kdump.notes(dump.path):
        return found
    return elf.note(b"VMCOREINFO", 0, "".join(f"{key}={value}\n" for key, value in dump.info.items()).encode())


def write(out: IO[bytes], notes: bytes, pages: Pages, secrets: dict[bytes, bytes], machine: int) -> int:
    """Write the ELF core and return its size."""
    runs = list(pages.runs())
    head, size = elf.core(notes, runs, machine)
    out.write(head)
    for first, count in runs:
        run = b"".join(pages.content(page) for page in range(first, first + count))
        out.write(masked(run, secrets))
    return size


def watched(path: Path, pages: Pages, core: int) -> Dump:
    """Open a dump so that every read of memory passes through `pages`.

    libkdumpfile finds its pages by itself: so its dumps are read by way of an empty core with their notes, and drgn
    follows the page tables.
    """
    if identify(path)[0] == "elf":
        return open_dump(path, pages.watch)
    inner = open_dump(path, core=core)
    descriptor = os.memfd_create("core")
    head, size = elf.core(notes_of(inner), [(0, 1)], NUMBERS.get(inner.architecture, 62))
    os.write(descriptor, head)
    os.ftruncate(descriptor, size)
    return open_dump(Path(f"/proc/self/fd/{descriptor}"), pages.watch)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=int, required=True)
    parser.add_argument("--pack", action="store_true")
    options = parser.parse_args()
    core = worker.limit(writes=_MOST_BYTES)
    try:
        pages = Pages(load(options.file, core))
        dump = watched(options.file, pages, core)
    except UserError as error:
        worker.tell(refused={"what": error.what, "why": error.why, "do": error.do})
        return 0
    log: list[str] = []
    for message in worker.read(dump, Vmcore(worker.header(dump))):
        if message.get("part") == "log":
            log = [line.text for line in message["fields"]["log"]]
        if "begin" in message:
            worker.tell(**message)
    keep(dump)
    secrets = secrets_in(log)
    with ExitStack() as files:
        out: IO[bytes] = files.enter_context(os.fdopen(options.out, "wb"))
        if options.pack:
            out = files.enter_context(lzma.open(out, "wb", preset=6))
        try:
            size = write(out, notes_of(dump) + MADE_BY, pages, secrets, NUMBERS.get(dump.architecture, 62))
        except OSError as error:
            worker.tell(refused={"what": "the copy cannot be written", "why": str(error), "do": ""})
            return 0
    worker.tell(end={"size": size, "pages": len(pages.touched), "secrets": len(secrets)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
