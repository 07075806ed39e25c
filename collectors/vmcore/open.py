"""Opens a crash dump: which format, which kernel, and what can be used to understand it.

The dump alone is enough: symbols (kallsyms), types (BTF) and unwind tables (ORC) lie in the kernel's own memory.
Needs in the dump: VMCOREINFO, kallsyms in it (kernel 6.0), CONFIG_DEBUG_INFO_BTF. What is missing is told in
`Dump.lost`; a section that needs it then says so and the others go on.
Formats: ELF, kdump-compressed (makedumpfile, QEMU), flattened kdump; the reading itself is drgn's and libkdumpfile's.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from drgn import (
    Architecture,
    BadDataError,
    FaultError,
    MissingDebugInfoError,
    Object,
    Platform,
    Program,
    Symbol,
    SymbolIndex,
)
from drgn.helpers.linux.kallsyms import module_kallsyms

from collectors.vmcore import debuginfo, elf, kallsyms, kdump, linear, pieces
from collectors.vmcore.btf import Btf, BtfError, BtfFinder
from collectors.vmcore.formats import NUMBERS, identify
from collectors.vmcore.kdump import CutError
from collectors.vmcore.layout import layout
from collectors.vmcore.symbols import VARIABLES
from collectors.vmcore.walk import nodes
from wardround import __version__
from wardround.errors import UserError, one_line
from wardround.models.vmcore import DumpFormat, Tier

_ARCHITECTURES = {
    "x86_64": Architecture.X86_64,
    "aarch64": Architecture.AARCH64,
    "i386": Architecture.I386,
    "riscv64": Architecture.RISCV64,
    "ppc64": Architecture.PPC64,
    "s390x": Architecture.S390X,
    "arm": Architecture.ARM,
}
MOST_MODULES = 4096
_DONT_NEED = 4
# Reading damaged memory may fail in each of these ways; a section that meets one reports it and the others go on.
DAMAGE = (
    BadDataError, FaultError, MissingDebugInfoError, LookupError, ValueError, OverflowError, TypeError, AttributeError,
    BtfError,
)  # fmt: skip


@dataclass
class Dump:
    """An opened dump. `lost` says what is not to be had and why, by what needs it."""

    path: Path
    format: DumpFormat
    size: int
    prog: Program
    architecture: str
    info: dict[str, str]
    tier: Tier = "dump"
    lost: dict[str, str] = field(default_factory=dict)
    btf: Btf | None = None
    finder: BtfFinder | None = None

    @property
    def release(self) -> str:
        return self.info.get("OSRELEASE", "")

    @property
    def build_id(self) -> str:
        return self.info.get("BUILD-ID", "")

    @property
    def kaslr(self) -> int | None:
        value = self.info.get("KERNELOFFSET")
        return int(value, 16) if value and re.fullmatch(r"[0-9a-fA-F]+", value) else None


@dataclass(frozen=True, slots=True)
class Beside:
    """What the user has beside the dump: a vmlinux with debug information, a folder of module files."""

    vmlinux: Path | None = None
    modules: Path | None = None


def open_dump(
    path: Path,
    prepare: Callable[[Program], None] = lambda _: None,
    beside: Beside = Beside(),
    core: int | None = None,
) -> Dump:
    """Open a dump with what it carries itself, and what is `beside` it.

    `prepare` is handed the program before anything is read from memory; `core` is a file reserved by `pieces`, for
    processes that may write none.

    :raises UserError: it cannot be read, is no dump, or its header is damaged
    """
    format_, architecture = identify(path)
    prog = load(path, core)
    _hide_user_half(prog)
    prepare(prog)
    info = _vmcoreinfo(prog)
    dump = Dump(path, format_, path.stat().st_size, prog, architecture or "x86_64", info)
    if cut := _cut(dump):
        dump.lost["file"] = cut
    if chosen := _chosen_by(path):
        dump.lost["small copy"] = (
            f"a small copy, whose pages version {chosen} chose: what {__version__} looks at beyond may be left out"
        )
    if not info:
        dump.lost["symbols"] = "the dump has no VMCOREINFO: nothing in it can be found by name"
        return dump
    by_place = bool(cut) and dump.architecture == "x86_64"
    if by_place:
        linear.image(prog, info)
    _add_symbols(dump)
    if by_place:
        linear.memory(prog)
    _add_types(dump)
    _add_modules(dump)
    if beside.vmlinux is not None or beside.modules is not None:
        debuginfo.add(dump, beside.vmlinux, beside.modules)
    return dump


def load(path: Path, core: int | None = None) -> Program:
    """Return drgn's program over a dump, without symbols or types.

    QEMU's kdump files do not tell libkdumpfile their architecture: where drgn finds none it is given. What it refuses
    altogether is read page by page, as far as it goes.

    :raises UserError: it cannot be read or is no dump
    """
    format_, architecture = identify(path)
    known = _ARCHITECTURES.get(architecture or "x86_64")
    tries = [Program()] if format_ == "elf" or known is None else [Program(), Program(Platform(known))]
    why = ""
    for prog in tries:
        try:
            prog.set_core_dump(str(path))
        except Exception as error:  # noqa: BLE001 - what drgn raises where libkdumpfile fails
            why = one_line(error)
        else:
            let_go(path, format_)
            return prog
    if format_ != "elf":
        machine = NUMBERS.get(architecture or "x86_64", 0)
        with suppress(CutError):
            return pieces.load(path, machine, pieces.reserve() if core is None else core)
    raise UserError(f"{path} cannot be read as a crash dump", why, "see whether it was copied whole")


def let_go(path: Path, format_: DumpFormat) -> None:
    """Give back the memory of what was looked at in a file that libkdumpfile maps: to find the records of a flattened
    one that was all of it."""
    if format_ == "elf":
        return
    try:
        status = path.stat()
    except OSError:
        return  # moved meanwhile; it is open, so the reading goes on
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, _, of, inode, *_ = line.split()
        if (of, int(inode)) == (device, status.st_ino):
            start, _, stop = addresses.partition("-")
            at, end = int(start, 16), int(stop, 16)
            libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(end - at), _DONT_NEED)  # comes back when it is read


def _chosen_by(path: Path) -> str:
    """The version that made a small copy; empty where this one did, or it is a whole dump."""
    made = (content for name, _, content in elf.each_note(elf.notes(path)) if name == elf.SMALL_COPY)
    version = next(made, b"").decode("ascii", "replace")
    return version if version != __version__ else ""


def _cut(dump: Dump) -> str:
    """How much of the file is missing, empty where nothing is."""
    if dump.format == "elf":
        behind, whole = elf.missing(dump.path)
        return f"the file is cut: {behind >> 20} of {whole >> 20} MiB are missing at its end" if behind else ""
    pages, all_pages = kdump.missing(dump.path)
    return f"the file is cut: {pages:,} of its {all_pages:,} pages of memory are missing" if pages else ""


def _hide_user_half(prog: Program) -> None:
    """Make addresses of user space unreadable: none is the kernel's.

    QEMU writes physical memory with the virtual address 0, so that a null pointer would be readable, and an unwinder
    that follows one goes on through a thousand frames of zeros.
    """
    if prog.platform is not None and prog.platform.arch in (Architecture.X86_64, Architecture.AARCH64):
        prog.add_memory_segment(0, 1 << 63, _unreadable)


def _unreadable(address: int, count: int, offset: int, physical: bool) -> bytes:
    raise FaultError("not an address of the kernel", address)


def _vmcoreinfo(prog: Program) -> dict[str, str]:
    try:
        text = prog["VMCOREINFO"].string_().decode("ascii", "replace")
    except (KeyError, *DAMAGE):
        return {}
    return dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)


def _add_symbols(dump: Dump) -> None:
    try:
        table = kallsyms.load(dump.prog, dump.info)
    except DAMAGE as error:
        dump.lost["symbols"] = f"no symbol table could be read from the dump ({error})"
        return
    if table.note:
        dump.lost["some symbols"] = table.note
    dump.prog.register_symbol_finder("kallsyms", table.find, enable_index=0)


def _add_types(dump: Dump) -> None:
    prog = dump.prog
    try:
        start, stop = prog.symbol("__start_BTF").address, prog.symbol("__stop_BTF").address
    except LookupError:
        dump.lost.setdefault("types", "the kernel was built without BTF, or its symbols are missing")
        return
    try:
        btf = Btf.parse(prog.read(start, stop - start))
    except DAMAGE as error:
        dump.lost["types"] = f"the kernel's BTF cannot be read ({error})"
        return
    dump.btf, dump.finder = btf, BtfFinder(prog, btf, VARIABLES)
    prog.register_type_finder("btf", dump.finder.find_type, enable_index=0)
    prog.register_object_finder("btf", dump.finder.find_object, enable_index=0)


def _add_modules(dump: Dump) -> None:
    """Let drgn unwind through the kernel and its modules: it looks for unwind tables by a module's address range.

    drgn would find the modules itself, but follow a list that runs in circles for ever.
    """
    prog = dump.prog
    try:
        kernel = prog.main_module("kernel", create=True)
        kernel.build_id = bytes.fromhex(dump.build_id) or None
        kernel.address_range = (prog.symbol("_stext").address, prog.symbol("_end").address)
    except DAMAGE as error:
        dump.lost["unwinding"] = f"stacks are unwound by frame pointers only ({error})"
    symbols: list[Symbol] = []
    try:
        head, type_ = prog.symbol("modules").address, prog.type("struct module")
        pointer, offset = prog.pointer_type(type_), type_.member("list").offset
    except DAMAGE as error:
        dump.lost["module symbols"] = f"functions of modules have no names ({error})"
        return
    for node in nodes(prog, head, MOST_MODULES):
        module = Object(prog, pointer, value=node - offset)
        try:
            _hide_missing_notes(prog, module)
            prog.linux_kernel_loadable_module(module, create=True)
            symbols += module_kallsyms(module)
        except DAMAGE as error:
            dump.lost["symbols of a module"] = f"those of the module at {node - offset:#x} cannot be read ({error})"
    prog.register_symbol_finder("module_kallsyms", SymbolIndex(symbols), enable_index=1)


def _hide_missing_notes(prog: Program, module: Object) -> None:
    """Let a module's notes read as none where the dump lacks them: drgn gives a module up for want of a build ID.

    A makedumpfile that is older than the kernel takes pages of small objects for free ones.
    """
    try:
        notes = module.notes_attrs
        shape = layout(prog, notes.type_.type.type_name())
        if notes:
            prog.read(notes.value_(), shape.size)
    except FaultError:
        address, empty = notes.value_(), bytearray(shape.size)
        if shape.has("grp.bin_attrs"):  # since 6.14: a list that ends with a null, as the first word here is
            struct.pack_into("<Q", empty, shape.at("grp.bin_attrs"), address)

        def read(_: int, count: int, offset: int, __: bool) -> bytes:
            return bytes(empty[offset : offset + count])

        prog.add_memory_segment(address, shape.size, read)
    except (LookupError, AttributeError, TypeError):
        return  # a kernel whose modules keep none
