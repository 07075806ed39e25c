"""Reads a crash dump, or the log of a crash, into a `Vmcore`.

A dump is opened in a worker process (`worker`): what it has told stands even if a damaged dump kills it, and a fresh
worker goes on without the section that did. A text file is read as a kernel log.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from collectors.vmcore.fromlog import read_log
from wardround.errors import UserError, WardroundError
from wardround.models.diagnosis import Skipped
from wardround.models.vmcore import DumpHeader, Vmcore

if TYPE_CHECKING:
    from collectors.vmcore.questions import Question

Progress = Callable[[str], None]
WALL_SECONDS = 180.0
MOST_WORKERS = 4
_MAGIC = (b"\x7fELF", b"KDUMP   ", b"DISKDUMP", b"makedumpfile")
_FIELDS = {field.name for field in fields(Vmcore)}


def read_crash(
    path: Path,
    progress: Progress = lambda _: None,
    seconds: float = WALL_SECONDS,
    vmlinux: Path | None = None,
    modules: Path | None = None,
    started: Callable[[int], None] = lambda _: None,
) -> Vmcore:
    """Read whatever `path` is: a dump, a kernel log as text, a folder of pstore files.

    Debug information is used where the user has some, and refused where it belongs to another kernel. A dump's reading
    ends after `seconds`; `started` gets the process id of each reader.

    :raises UserError: there is no such file, it cannot be read, or it is neither
    """
    try:
        if path.is_dir():
            return read_log(path)
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise UserError(f"{path} cannot be read", error.strerror or str(error), "name a crash dump") from error
    if head.startswith(_MAGIC) or not head:
        return _Reading(path, progress, _beside(vmlinux, modules), started).run(seconds)
    if b"\0" in head and not _is_text(head):
        raise UserError(
            f"{path} is no crash dump", "neither ELF nor kdump by its first bytes, nor text",
            "name a vmcore, or a kernel log as text",
        )  # fmt: skip
    return read_log(path)


def _is_text(head: bytes) -> bool:
    """Serial logs may hold a few NULs; a binary file is full of what no console prints."""
    odd = sum(byte < 9 or 13 < byte < 27 for byte in head)
    return odd < len(head) / 50


def _beside(vmlinux: Path | None, modules: Path | None) -> list[str]:
    named = (("vmlinux", vmlinux), ("modules", modules))
    return [f"--{name}={path}" for name, path in named if path is not None]


class _Reading:
    """One dump being read: collects the workers' messages."""

    def __init__(
        self, path: Path, progress: Progress, options: Sequence[str], started: Callable[[int], None]
    ) -> None:
        self._path, self._progress, self._options, self._started = path, progress, options, started
        self._header: DumpHeader | None = None
        self._parts: dict[str, Any] = {}
        self._ran: list[str] = []
        self._skipped: dict[str, str] = {}
        self._doing = ""
        self._ended = self._late = False
        self._seconds = 0.0

    def run(self, seconds: float) -> Vmcore:
        end = time.monotonic() + seconds
        for _ in range(MOST_WORKERS):
            failure = self._work(max(end - time.monotonic(), 0.1))
            if self._ended or not self._doing:
                break
            self._skipped[self._doing] = f"the reader {failure} in this section"
            if self._late:
                self._skipped["rest"] = "no time was left for the sections after it"
                break
        if self._header is None:
            raise WardroundError(f"{self._path} could not be read", f"the reader {failure} while opening it")
        vmcore = _parsed(self._header, self._parts)
        return replace(
            vmcore,
            ran=tuple(f"vmcore.{name}" for name in self._ran),
            skipped=tuple(Skipped(f"vmcore.{name}", reason) for name, reason in self._skipped.items()),
            seconds=self._seconds,
        )

    def _work(self, seconds: float) -> str:
        """Run one worker to its end and return how it ended."""
        before = json.dumps({"skip": [*self._ran, *self._skipped], "fields": self._parts}).encode()
        command = [sys.executable, "-m", "collectors.vmcore.worker", str(self._path), *self._options]
        self._doing = ""
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            self._started(process.pid)
            late = threading.Timer(seconds, self._end, (process,))
            late.start()
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(before)
                for line in process.stdout:
                    self._take(line)
            finally:
                late.cancel()
                process.kill()
        if self._late:
            return "ran out of time"
        return f"was ended by signal {-process.returncode}" if process.returncode < 0 else "failed"

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._late = True
        process.kill()

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            return  # a line cut by the worker's end
        if "begin" in message:
            self._doing = message["begin"]
            self._progress(self._doing)
        elif "part" in message:
            self._parts.update({k: v for k, v in message["fields"].items() if k in _FIELDS})
            self._ran.append(message["part"])
        elif "skipped" in message:
            self._skipped.setdefault(message["skipped"], message["reason"])
        elif "header" in message:
            self._header = TypeAdapter(DumpHeader).validate_python(message["header"])
        elif "refused" in message:
            raise UserError(**message["refused"])
        elif "end" in message:
            self._ended = True
            self._seconds += message["end"]


def _parsed(header: DumpHeader, parts: dict[str, Any]) -> Vmcore:
    """Build the types out of JSON; a part that does not fit is a bug of ours and shows as such."""
    return TypeAdapter(Vmcore).validate_python({"header": header, **parts})


def slim(path: Path, out: Path, progress: Progress = lambda _: None) -> tuple[int, int, int]:
    """Write a small copy of a dump and return (bytes, pages, secrets overwritten); packed where `out` ends in .xz.

    :raises UserError: the dump cannot be read or the copy not written
    """
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UserError(
            f"the copy {out} cannot be written", error.strerror or str(error), "choose another place"
        ) from error
    command = [sys.executable, "-m", "collectors.vmcore.slim", str(path), f"--out={descriptor}"]
    command += ["--pack"] if out.suffix == ".xz" else []
    told: dict[str, int] | None = None
    try:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(descriptor,)
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                message = json.loads(line)
                if "refused" in message:
                    raise UserError(**message["refused"])
                if "begin" in message:
                    progress(message["begin"])
                told = message.get("end")
    finally:
        os.close(descriptor)
        if told is None:
            out.unlink(missing_ok=True)
    if told is None:
        raise WardroundError(f"{path} could not be slimmed", "the reader ended early")
    return told["size"], told["pages"], told["secrets"]


def ask(path: Path, question: Question, seconds: float = 60.0) -> str:
    """Return the answer to a follow-up question about a dump.

    :raises UserError: the dump cannot be read, or does not hold what was asked for
    """
    command = [sys.executable, "-m", "collectors.vmcore.questions", str(path)]
    try:
        done = subprocess.run(
            command, input=question.model_dump_json().encode(), capture_output=True, timeout=seconds, check=False
        )
        message = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise WardroundError(f"{path} could not be asked", f"the reader ended without an answer ({error})") from None
    if "refused" in message:
        raise UserError(**message["refused"])
    return str(message["answer"])
