"""Starts the loader, receives maps and programs from it, and holds them: closing them removes everything.

The loader is a process of its own under an interpreter that has BCC (the distribution installs `bcc` for the
system's Python only); its compiler's memory leaves with it. See `loader` for the protocol.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collectors.ebpf.bpf import attach_event, attach_raw
from wardround.errors import CapabilityMissing

_LOADER = Path(__file__).with_name("loader.py")
_MESSAGE_BYTES, _DESCRIPTORS = 1 << 18, 250
_NOT_LOADED = "the eBPF programs were not loaded"
INTERPRETERS = ("/usr/bin/python3", "/usr/local/bin/python3", "/usr/libexec/platform-python")


@dataclass
class Program:
    """A loaded program and where it belongs; attached while `link` is a descriptor."""

    kind: str
    tracepoint: str
    number: int | None
    fd: int
    link: int | None = None

    def attach(self) -> None:
        """:raises OSError: the tracepoint is unknown or tracing is not permitted"""
        if self.link is None:
            self.link = (
                attach_raw(self.fd, self.tracepoint)
                if self.kind == "raw" or self.number is None
                else attach_event(self.fd, self.number)
            )

    def detach(self) -> None:
        if self.link is not None:
            os.close(self.link)
            self.link = None


@dataclass
class Loaded:
    """What the loader handed over. `skipped` names what this kernel does not offer and why; `close` ends tracing."""

    maps: dict[str, int]
    programs: dict[str, Program]
    skipped: dict[str, str]
    headers: str
    enums: Mapping[str, Mapping[int, str]]
    seconds: float
    cpu_seconds: float
    loader_pid: int
    open: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Detach and unload; the kernel takes about 50 ms for each classic tracepoint, half when asked side by side."""
        with ThreadPoolExecutor(max_workers=len(self.programs) or 1) as pool:
            list(pool.map(Program.detach, self.programs.values()))
        while self.open:
            with contextlib.suppress(OSError):
                os.close(self.open.pop())


def interpreter_with_bcc(candidates: tuple[str, ...] = INTERPRETERS) -> str | None:
    """Return an interpreter whose packages include BCC; found by its folder, for importing it costs 0.4 s."""
    for candidate in dict.fromkeys((*candidates, shutil.which("python3") or "", sys.executable)):
        if candidate and os.access(candidate, os.X_OK) and _has_bcc(candidate):
            return candidate
    return None


def _has_bcc(interpreter: str) -> bool:
    check = "import importlib.util, sys; sys.exit(importlib.util.find_spec('bcc.libbcc') is None)"
    try:
        command = [interpreter, "-I", "-c", check]
        return subprocess.run(command, capture_output=True, timeout=20, start_new_session=True).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def load(
    cache: Path | None,
    interpreter: str | None = None,
    started: Callable[[subprocess.Popen[bytes]], None] | None = None,
    timeout: float = 60.0,
) -> Loaded:
    """Run the loader to its end and return what it made. `started` is told the process, so that it can be ended.

    Borrowed headers are laid out in `cache` and kept there; without one, for this once.

    :raises CapabilityMissing: with the reason: no BCC, no headers, refused by the kernel, or out of time
    """
    interpreter = interpreter or interpreter_with_bcc()
    if interpreter is None:
        raise CapabilityMissing("BCC is not installed", "no Python here can import bcc", "install python3-bpfcc")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(timeout)
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE_BYTES)
        process = subprocess.Popen(
            [interpreter, "-I", str(_LOADER), str(theirs.fileno()), str(cache or "")],
            pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at a terminal ends the window early, not the loader
        )  # fmt: skip
        theirs.close()
        if started is not None:
            started(process)
        try:
            message, descriptors, _, _ = socket.recv_fds(ours, _MESSAGE_BYTES, _DESCRIPTORS)
        except TimeoutError as error:
            process.kill()
            raise CapabilityMissing(_NOT_LOADED, f"compiling took over {timeout:g} s") from error
        finally:
            process.wait()
    return _unpack(message, descriptors, process.pid)


def _unpack(message: bytes, descriptors: list[int], pid: int) -> Loaded:
    try:
        answer: dict[str, Any] = json.loads(message) if message else {"error": "the loader ended without an answer"}
        if "error" in answer:
            raise CapabilityMissing(_NOT_LOADED, answer["error"])
        names, programs = answer["maps"], answer["programs"]
        if len(descriptors) != len(names) + len(programs):
            raise CapabilityMissing(_NOT_LOADED, "descriptors got lost on the way")
    except (ValueError, KeyError) as error:
        raise CapabilityMissing(_NOT_LOADED, f"unreadable answer of the loader: {error}") from error
    return Loaded(
        maps=dict(zip(names, descriptors, strict=False)),
        programs={
            p["tracepoint"]: Program(p["kind"], p["tracepoint"], p["id"], fd)
            for p, fd in zip(programs, descriptors[len(names) :], strict=True)
        },
        skipped=dict(answer["skipped"]),
        headers=answer["headers"],
        enums={name: {int(value): text for value, text in enum.items()} for name, enum in answer["enums"].items()},
        seconds=answer["seconds"],
        cpu_seconds=answer["cpu_seconds"],
        loader_pid=pid,
        open=descriptors,
    )
