"""Damaged, foreign and hostile crash dumps, made out of a whole one: what the figure and the tests of robustness read.

A case is told by a name and written to a file when it is wanted. Cuts leave the first part of a file; flips turn single
bits; formats are files that are no dump of a kernel; foreign ones are of another machine; loops bend a list of the
kernel in the dump's memory so that it never ends. Which bits are turned is the same every time.
"""

from __future__ import annotations

import gzip
import os
import random
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drgn import Program
from drgn.helpers.linux.mm import follow_phys

from collectors.vmcore.btf import Btf
from collectors.vmcore.layout import layout
from collectors.vmcore.open import open_dump
from collectors.vmcore.walk import nodes
from collectors.vmcore.words import words

_PT_LOAD = 1
HEADERS = 8192  # bytes at a file's start that say what the rest is


@dataclass(frozen=True)
class Case:
    """One damaged file: `kind` is cut, flip, format, foreign or loop."""

    kind: str
    name: str
    write: Callable[[Path], None]


def copy(base: Path, to: Path, size: int | None = None) -> None:
    """Copy a file's first `size` bytes, where the file system can without moving them."""
    left = base.stat().st_size if size is None else size
    with base.open("rb") as source, to.open("wb") as target:
        while left > 0 and (done := os.copy_file_range(source.fileno(), target.fileno(), left)):
            left -= done


def patch(path: Path, changes: dict[int, bytes]) -> None:
    with path.open("r+b") as file:
        for at, content in changes.items():
            file.seek(at)
            file.write(content)


# --- cut and flipped ---


def cuts(base: Path, count: int = 20) -> Iterator[Case]:
    """The file cut at `count` points, evenly spread."""
    size = base.stat().st_size
    for number in range(1, count + 1):
        at = size * number // (count + 1)
        yield Case("cut", f"{base.name} cut at {number}/{count + 1}", lambda to, at=at: copy(base, to, at))  # type: ignore[misc]


def flips(base: Path, count: int = 200, seed: int = 1) -> Iterator[Case]:
    """One bit turned in each: a fifth of them in the headers, the others anywhere."""
    chosen, size = random.Random(seed), base.stat().st_size
    for number in range(count):
        at = chosen.randrange(min(HEADERS, size) if number % 5 == 0 else size)
        yield Case("flip", f"{base.name} bit of byte {at} turned", _flip(base, {at: 1 << chosen.randrange(8)}))


def storms(base: Path, count: int = 10, places: int = 200, seed: int = 2) -> Iterator[Case]:
    """Bits turned at 200 places at once."""
    chosen, size = random.Random(seed), base.stat().st_size
    for number in range(count):
        turned = {chosen.randrange(size): 1 << chosen.randrange(8) for _ in range(places)}
        yield Case("flip", f"{base.name} {places} bits turned ({number})", _flip(base, turned))


def _flip(base: Path, turned: dict[int, int]) -> Callable[[Path], None]:
    def write(to: Path) -> None:
        copy(base, to)
        with base.open("rb") as file:
            changes = {}
            for at, bit in turned.items():
                file.seek(at)
                changes[at] = bytes([file.read(1)[0] ^ bit])
        patch(to, changes)

    return write


# --- no dump at all, or of another machine ---


def formats(base: Path) -> Iterator[Case]:
    """Files that are no dump, or whose first bytes only say so."""
    head = base.read_bytes()[:HEADERS]
    noise = random.Random(3).randbytes(200_000)
    contents = {
        "0 bytes": b"",
        "one byte": b"\x7f",
        "ELF magic alone": b"\x7fELF",
        "random bytes": noise,
        "zeros": bytes(100_000),
        "gzip of noise": gzip.compress(noise),
        "gzip cut": gzip.compress(noise)[:5000],
        "xz magic and noise": b"\xfd7zXZ\0" + noise,
        "zstd magic and noise": b"\x28\xb5\x2f\xfd" + noise,
        "an archive": b"PK\x03\x04" + noise,
        "text that is no log": b"Dear operator,\nthe dump was too large for this mail.\n" * 50,
        "a core of 32 bit": head[:4] + b"\x01" + head[5:],
        "a core of the other byte order": head[:5] + b"\x02" + head[6:],
        "headers alone": head,
        "a core with 65535 headers": head[:56] + struct.pack("<H", 65535) + head[58:],
        "a core whose table lies behind its end": head[:32] + struct.pack("<Q", 1 << 62) + head[40:],
        "a core without headers": head[:56] + b"\0\0" + head[58:] + noise,
        "kdump magic and zeros": b"KDUMP   " + struct.pack("<I", 6) + bytes(50_000),
        "kdump magic and noise": b"KDUMP   " + noise,
        "diskdump magic and noise": b"DISKDUMP" + noise,
        "flattened magic and zeros": b"makedumpfile" + bytes(50_000),
        "flattened magic and noise": b"makedumpfile" + noise,
    }
    for name, content in contents.items():
        yield Case("format", name, _content(content))
    yield Case("format", "a program", lambda to: copy(Path(sys.executable).resolve(), to))
    for kind in ("user program's core", "module"):
        number = 4 if kind.startswith("user") else 1
        note = struct.pack("<III", 5, 336, 1) + b"CORE\0\0\0\0" + bytes(336)
        note += struct.pack("<III", 5, 136, 3) + b"CORE\0\0\0\0" + bytes(136)
        elf = _core(62, note, b"\x90" * 4096, kind=number)
        yield Case("format", f"a {kind}", _content(elf))


def _content(content: bytes) -> Callable[[Path], None]:
    def write(to: Path) -> None:
        to.write_bytes(content)

    return write


def _core(machine: int, notes: bytes, memory: bytes, kind: int = 4) -> bytes:
    """A small ELF core: one segment of notes and one of memory."""
    data = 4096
    head = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    )
    head += struct.pack("<IIQQQQQQ", 4, 0, 176, 0, 0, len(notes), len(notes), 0)
    head += struct.pack("<IIQQQQQQ", _PT_LOAD, 7, data, 0xFFFF800008000000, 0x40080000, len(memory), len(memory), 0)
    return (head + notes).ljust(data, b"\0") + memory


def foreign(base: Path) -> Iterator[Case]:
    """The dump with another machine's number, and the core of a small arm64 kernel's memory."""
    for machine in (3, 8, 21, 22, 40, 43, 183, 243, 258, 0, 0xFFFF):

        def write(to: Path, machine: int = machine) -> None:
            copy(base, to)
            patch(to, {18: struct.pack("<H", machine)})

        yield Case("foreign", f"{base.name} of machine {machine}", write)
    text = (
        b"OSRELEASE=6.1.0-56-cloud-arm64\nBUILD-ID=7d1c4a0c7f2c6de36b1b3dd5fe4e2f8c8b9a1f20\nPAGESIZE=4096\n"
        b"SYMBOL(init_uts_ns)=ffff800009b2c3d8\nSYMBOL(swapper_pg_dir)=ffff80000932f000\nSYMBOL(_stext)=ffff800008010000\n"
        b"NUMBER(VA_BITS)=48\nNUMBER(TCR_EL1_T1SZ)=0x10\nNUMBER(kimage_voffset)=0xffff7fffc8000000\n"
        b"NUMBER(PHYS_OFFSET)=0x40000000\nKERNELOFFSET=0\n"
    )
    note = struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text.ljust(-(-len(text) // 4) * 4, b"\0")
    elf = _core(183, note, random.Random(4).randbytes(1 << 20))
    yield Case("foreign", "an arm64 core", _content(elf))


def foreign_kdump(base: Path) -> Iterator[Case]:
    """The name of the machine in a kdump header: the fifth of six fields of 65 bytes behind magic and version."""
    for name in (b"aarch64", b"s390x", b"mips", b"\xff" * 64):

        def write(to: Path, name: bytes = name) -> None:
            copy(base, to)
            patch(to, {12 + 4 * 65: name.ljust(65, b"\0")})

        yield Case("foreign", f"{base.name} of {name[:10]!r}", write)


# --- lists without an end ---


class Bender:
    """Finds pointers of a dump's kernel and where in the file they lie. Only ELF dumps. `whole` is the dump that `base`
    is a small copy of: the kernel's own page tables, which the analysis does not read, are only there."""

    def __init__(self, base: Path, whole: Path) -> None:
        self.base = base
        self.prog: Program = open_dump(whole).prog
        self._segments = _segments(base)

    def place(self, address: int) -> int:
        """Return the offset in the file of a kernel address."""
        physical = int(follow_phys(self.prog["init_mm"].address_of_(), address))
        for offset, start, size in self._segments:
            if start <= physical < start + size:
                return offset + physical - start
        raise LookupError(f"{address:#x} is not in the file")

    def write(self, changes: dict[int, int]) -> Callable[[Path], None]:
        """What writes a copy in which these addresses hold these words."""
        placed = {self.place(address): struct.pack("<Q", value & (1 << 64) - 1) for address, value in changes.items()}

        def made(to: Path) -> None:
            copy(self.base, to)
            patch(to, placed)

        return made

    def list(self, head: int, most: int = 50) -> list[int]:
        return list(nodes(self.prog, head, most))

    def circles(self, what: str, head: int) -> Iterator[Case]:
        """A list's entry that is its own next; an entry whose next is one before it; its links back bent alike."""
        found = self.list(head)
        if not found:
            return
        middle = found[len(found) // 2]
        bent = {
            "an entry is its own next": {middle: middle},
            "the head is its own next": {head: head},
            "an entry leads into user space": {middle: 0x41414141},
        }
        if len(found) > 2:
            bent["the last leads to the second"] = {found[-1]: found[1]}
            bent["a circle without the head, both ways"] = {middle: found[0], found[0] + 8: middle}
        for how, changes in bent.items():
            with suppress(LookupError):  # the copy lacks it: the analysis does not read it
                yield Case("loop", f"{what}: {how}", self.write(changes))


def _segments(path: Path) -> list[tuple[int, int, int]]:
    with path.open("rb") as file:
        head = file.read(64)
        (at,), (size, count) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<HH", head, 54)
        file.seek(at)
        table = file.read(size * count)
    rows = [struct.unpack_from("<IIQQQQ", table, index * size) for index in range(count)]
    return [(offset, physical, length) for kind, _, offset, _, physical, length in rows if kind == _PT_LOAD]


def loops(base: Path, whole: Path, locks: list[tuple[str, int]]) -> Iterator[Case]:
    """The kernel's lists bent: of tasks, threads, modules, caches, slabs, waiters (`locks`: kind and address), work."""
    bender = Bender(base, whole)
    prog, memory = bender.prog, words(bender.prog)
    task, signal = layout(prog, "struct task_struct"), layout(prog, "struct signal_struct")
    init = prog.symbol("init_task").address
    yield from bender.circles("tasks", init + task.at("tasks"))
    group = memory.u64(init + task.at("signal")) + signal.at("thread_head")
    yield from bender.circles("threads", group)
    yield from bender.circles("modules", prog.symbol("modules").address)
    yield from bender.circles("caches", prog.symbol("slab_caches").address)
    yield from bender.circles("workqueues", prog.symbol("workqueues").address)
    heads = {"mutex": ("struct mutex", "wait_list"), "rwsem": ("struct rw_semaphore", "wait_list"),
             "semaphore": ("struct semaphore", "wait_list")}  # fmt: skip
    for kind, address in locks:
        if kind in heads:
            name, member = heads[kind]
            yield from bender.circles(f"waiters of a {kind}", address + layout(prog, name).at(member))
    yield from _slabs(bender)
    yield from _types(bender)


def _slabs(bender: Bender) -> Iterator[Case]:
    """The list of partly used slabs of the first caches that have one."""
    prog, memory = bender.prog, words(bender.prog)
    cache, node = layout(prog, "struct kmem_cache"), layout(prog, "struct kmem_cache_node")
    bent = 0
    for link in bender.list(prog.symbol("slab_caches").address, 200):
        head = memory.u64(link - cache.at("list") + cache.at("node")) + node.at("partial")
        if bent < 2 and bender.list(head):
            bent += 1
            yield from bender.circles(f"partial slabs of the cache at {link:#x}", head)


def _types(bender: Bender) -> Iterator[Case]:
    """Types that are their own: a typedef and a qualifier in BTF, patched by their place in the blob."""
    prog = bender.prog
    start = prog.symbol("__start_BTF").address
    blob = prog.read(start, 24)
    header, type_at = struct.unpack_from("<I", blob, 4)[0], struct.unpack_from("<I", blob, 8)[0]
    wanted = {8: "typedef", 10: "const", 2: "pointer", 3: "array"}
    stop = prog.symbol("__stop_BTF").address
    btf = Btf.parse(prog.read(start, stop - start))
    for type_id in range(1, 4000):
        record = btf.record(type_id)
        kind = wanted.pop(record.kind, None)
        if kind is None:
            continue
        at = start + header + type_at + record.at * 4 + (12 if record.kind == 3 else 8)
        old = prog.read(at & ~7, 8)
        new = bytearray(old)
        new[at & 7 : (at & 7) + 4] = struct.pack("<I", type_id)
        yield Case("loop", f"types: a {kind} is its own", bender.write({at & ~7: struct.unpack("<Q", new)[0]}))
