"""Compiles and loads the eBPF programs, hands them over, exits: the compiler's 150 MiB stay with this process.

Run as ``<python with bcc> -I loader.py FD CACHE`` by `collectors.ebpf.handover`, with FD one end of a UNIX
SOCK_SEQPACKET pair and CACHE a folder or empty. It sends one message: a JSON object, with the descriptors of maps and
programs beside it (SCM_RIGHTS), in the order of its `maps` and `programs`. Nothing is attached here: who holds the
programs decides when.

A tracepoint that this kernel lacks, or a program its verifier refuses, is left out alone and named in `skipped`.
Standard library and bcc only, valid for Python 3.10: it runs under the system's interpreter.
Cost: 1.5 to 3 s of CPU once, nothing afterwards.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent.parent))  # -I leaves our own packages out; appended, so they shadow nothing

from collectors.ebpf.btf import Btf  # noqa: E402 - after the path
from collectors.ebpf.headers import Headers, find_headers  # noqa: E402 - after the path

MAP_DECLARATION = re.compile(r'^BPF_(?!TABLE)[A-Z_]+\((\w+)|^BPF_TABLE\("\w+",[^,]*,[^,]*, (\w+)', re.MULTILINE)
SUBJECTS = ("sched", "syscalls", "interrupts", "block", "memory", "network", "lifecycle")
TRACEFS = Path("/sys/kernel/tracing")
# name in the programs -> structure and member; a member that this kernel lacks stays undefined
OFFSETS = {
    "TASK_TGID": ("task_struct", "tgid"),
    "TASK_COMM": ("task_struct", "comm"),
    "TASK_STATE": ("task_struct", "state"),
    "TASK_IOWAIT": ("task_struct", "in_iowait"),
    "TASK_LAST_QUEUED": ("task_struct", "sched_info.last_queued"),
    "TASK_CFS_RQ": ("task_struct", "se.cfs_rq"),
    "TASK_EXIT_CODE": ("task_struct", "exit_code"),
    "TASK_REAL_PARENT": ("task_struct", "real_parent"),
    "TASK_START_TIME": ("task_struct", "start_time"),
    "CFS_RQ_RQ": ("cfs_rq", "rq"),
    "RQ_CLOCK": ("rq", "clock"),
    "REQUEST_QUEUE": ("request", "q"),
    "REQUEST_FLAGS": ("request", "cmd_flags"),
    "QUEUE_DISK": ("request_queue", "disk"),
    "DISK_MAJOR": ("gendisk", "major"),
    "DISK_MINOR": ("gendisk", "first_minor"),
    "SOCK_PORT": ("sock", "__sk_common.skc_num"),
}
# where a task's saved registers hold the number of its system call, and the numbers of futex, futex_waitv, futex_wait
SYSCALL_REGISTER = {"x86_64": "orig_ax", "aarch64": "syscallno", "riscv64": "a7", "s390x": "int_code"}
FUTEX_CALLS = {"x86_64": (202, 449, 455), "s390x": (238, 449, 455)}
FUTEX_NAMES = ("NR_FUTEX", "NR_FUTEX_WAITV", "NR_FUTEX_WAIT")


def mount_tracefs() -> bool:
    """See that tracefs can be read, where needed by mounting it in a mount namespace of this process's own."""
    if (TRACEFS / "events").is_dir():
        return True
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, private, recursive = 0x20000, 1 << 18, 1 << 14
    return bool(
        libc.unshare(new_mounts) == 0
        and libc.mount(b"none", b"/", None, ctypes.c_ulong(private | recursive), None) == 0
        and libc.mount(b"tracefs", str(TRACEFS).encode(), b"tracefs", ctypes.c_ulong(0), None) == 0
    )


def event_format(category: str, event: str) -> tuple[int, dict[str, str]] | None:
    """Return a tracepoint's id and its fields as name to type; None where this kernel has no such tracepoint."""
    folder = TRACEFS / "events" / category / event
    try:
        text = (folder / "format").read_text()
        number = int((folder / "id").read_text())
    except (OSError, ValueError):
        return None
    declared = re.findall(r"^\s*field:(.*?)\b(\w+)(?:\[[^\]]*\])?;", text, re.MULTILINE)
    return number, {name: kind.strip() for kind, name in declared}


def facts_of_events(text: str) -> tuple[list[str], dict[str, int], str]:
    """Return compiler flags for the tracepoints and fields that `text` asks about, the tracepoints' ids, and stubs
    for enumerations in their formats, which borrowed headers may not know."""
    flags: list[str] = []
    ids: dict[str, int] = {}
    enums: set[str] = set()
    for category, event in sorted(set(re.findall(r"\b(?:TP_|tp__)([a-z]+)__([a-z_]+)", text))):
        found = event_format(category, event)
        if found is None:
            continue
        ids[event], fields = found
        flags.append(f"-DTP_{category}__{event}")
        asked = set(re.findall(rf"\bFIELD_{event}__([a-z_]+)", text))
        flags += [f"-DFIELD_{event}__{field}" for field in sorted(asked & fields.keys())]
        enums |= {kind for kind in fields.values() if re.fullmatch(r"enum \w+", kind)}
    return flags, ids, "\n".join(f"{kind} {{ {kind.split()[1].upper()}_ANY = -1 }};" for kind in sorted(enums))


def facts_of_types(btf: Btf) -> list[str]:
    """Return compiler flags with the offsets the programs read at."""
    flags = []
    for name, (structure, path) in OFFSETS.items():
        member = btf.member(structure, path)
        if member is not None:
            flags.append(f"-DOFF_{name}={member.byte}")
            if member.bits:
                flags.append(f"-DMASK_{name}={member.mask}")
    arguments = btf.arguments("sched_switch")
    flags.append(f"-DARGS_sched_switch={arguments or 3}")
    machine = os.uname().machine
    register = btf.member("pt_regs", SYSCALL_REGISTER.get(machine, ""))
    if register is not None and btf.arguments("sched_switch") is not None:
        flags.append(f"-DOFF_REGS_SYSCALL={register.byte}")
        numbers = FUTEX_CALLS.get(machine, (98, 449, 455))
        flags += [f"-D{name}={number}" for name, number in zip(FUTEX_NAMES, numbers, strict=True)]
    return flags


class Loading:
    """What has been loaded so far: descriptors stay open as long as the BPF objects in `modules` live."""

    def __init__(self, flags: list[str], ids: dict[str, int], prelude: str) -> None:
        self._flags, self._ids, self._prelude = flags, ids, prelude
        self.modules: list[Any] = []
        self.maps: dict[str, int] = {}
        self.programs: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}

    def compile(self, subjects: tuple[str, ...]) -> None:
        """Compile subjects as one module; where that fails, each alone, so that one cannot take the others along."""
        from bcc import BPF

        text = program_text("common", *subjects)
        try:
            module = BPF(text=f"{self._prelude}\n{text}", cflags=[*self._flags, "-w"])
        except Exception as error:  # noqa: BLE001 - bcc raises bare Exception for whatever clang or the kernel refuses
            if len(subjects) == 1:
                self.skipped[subjects[0]] = one_line(error)
                return
            for subject in subjects:
                self.compile((subject,))
            return
        self.modules.append(module)
        for plain, typed in MAP_DECLARATION.findall(text):
            self.maps[plain or typed] = module[plain or typed].map_fd
        for kind, event in dict.fromkeys(re.findall(r"^int (raw|tp)__([a-z_]+)\(", text, re.MULTILINE)):
            self._load(module, kind, event)

    def _load(self, module: Any, kind: str, event: str) -> None:
        from bcc import BPF

        tracepoint = event.split("__")[-1]
        try:
            function = module.load_func(f"{kind}__{event}", BPF.RAW_TRACEPOINT if kind == "raw" else BPF.TRACEPOINT)
        except Exception as error:  # noqa: BLE001 - bcc's bare Exception: left out by #if, or refused
            reason = one_line(error)
            if "Unknown program" not in reason:
                self.skipped[tracepoint] = reason
            elif kind == "tp" and tracepoint not in self._ids:
                self.skipped[tracepoint] = "this kernel has no such tracepoint"
            return
        self.programs.append(
            {"kind": kind, "tracepoint": tracepoint, "id": self._ids.get(tracepoint), "fd": function.fd}
        )


def program_text(*names: str) -> str:
    return "\n".join((HERE / "programs" / f"{name}.c").read_text() for name in names)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def header_source(headers: Headers, cache: Path | None) -> Iterator[str | None]:
    """Give the folder to compile against: kept in `cache`, or without one that can be written, for this once."""
    try:
        kept = headers.source(cache) if cache is not None else None
    except OSError:
        cache = None
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="wardround-headers-") as folder:
            yield headers.source(Path(folder))
    else:
        yield kept


def compile_all() -> tuple[Loading, Btf]:
    btf = Btf.of_kernel()
    flags, ids, prelude = facts_of_events(program_text(*SUBJECTS))
    loading = Loading([*flags, *facts_of_types(btf)], ids, prelude)
    loading.compile(SUBJECTS)
    return loading, btf


def load(cache: Path | None) -> tuple[dict[str, Any], list[int], Loading]:
    """Do the whole work; the third value keeps the descriptors open."""
    began = time.monotonic()
    if not mount_tracefs():
        raise OSError("tracefs can neither be read nor mounted")
    headers = find_headers()
    with header_source(headers, cache) as source:
        if source is not None:
            os.environ["BCC_KERNEL_SOURCE"] = source
        loading, btf = compile_all()
    answer = {
        "maps": list(loading.maps),
        "programs": [{key: program[key] for key in ("kind", "tracepoint", "id")} for program in loading.programs],
        "skipped": loading.skipped,
        "headers": headers.kind,
        "enums": {name: btf.enum(name) for name in ("skb_drop_reason", "migrate_reason")},
        "seconds": round(time.monotonic() - began, 3),
        "cpu_seconds": round(time.process_time(), 3),
    }
    return answer, [*loading.maps.values(), *(program["fd"] for program in loading.programs)], loading


def main(arguments: list[str]) -> int:
    with socket.socket(fileno=int(arguments[0])) as channel:
        try:
            answer, descriptors, loading = load(Path(arguments[1]) if arguments[1] else None)
        except Exception as error:  # noqa: BLE001 - the process's boundary: the parent tells it as the reason
            channel.send(json.dumps({"error": one_line(error)}).encode())
            return 1
        socket.send_fds(channel, [json.dumps(answer).encode()], descriptors)
        del loading
    return 0


if __name__ == "__main__":
    sys.stdout.flush()
    status = main(sys.argv[1:])
    os._exit(status)  # skips the compiler's own clean-up, which takes longer than the exit
