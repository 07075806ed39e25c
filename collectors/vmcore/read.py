"""Reads a crash dump, or the log of a crash, into a `Vmcore`.

A dump is opened in a worker process (`worker`): what it has told stands even if a damaged dump kills it, and a fresh
worker goes on without the section that did. A text file is read as a kernel log.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from collectors.vmcore.formats import HEAD, is_dump
from collectors.vmcore.unpack import Unpacked, unpacked
from wardround.errors import UserError, WardroundError
from wardround.models.diagnosis import Skipped
from wardround.models.vmcore import DumpHeader, Vmcore

if TYPE_CHECKING:
    from collectors.vmcore.questions import Question

Progress = Callable[[str], None]
WALL_SECONDS = 180.0
QUIET_SECONDS = 60.0  # without a word from a reader: no section may take as long
MOST_WORKERS = 4
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
            return _logged(path)
        with unpacked(path, progress) as file:
            vmcore = _read(
                path, file, lambda: _Reading(path, file, progress, _beside(vmlinux, modules), started).run(seconds)
            )
    except OSError as error:
        raise UserError(f"{path} cannot be read", error.strerror or str(error), "name a crash dump") from error
    if not file.cut:
        return vmcore
    return replace(vmcore, skipped=(*vmcore.skipped, Skipped("vmcore.packed", file.cut)))


def _read(path: Path, file: Unpacked, dump: Callable[[], Vmcore]) -> Vmcore:
    """Read a file by its first bytes: by `dump`, or as a log."""
    with file.path.open("rb") as opened:
        head = opened.read(HEAD)
    if is_dump(head) or not head:
        return dump()
    if b"\0" in head and not _is_text(head):
        raise UserError(
            f"{path} is no crash dump", "neither ELF nor kdump by its first bytes, nor text",
            "name a vmcore, or a kernel log as text",
        )  # fmt: skip
    vmcore = _logged(file.path)
    return replace(vmcore, header=replace(vmcore.header, path=str(path)))


def _logged(path: Path) -> Vmcore:
    from collectors.vmcore.fromlog import read_log  # what reads logs costs 40 ms, and a dump needs it in the worker

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
        self, path: Path, file: Unpacked, progress: Progress, options: Sequence[str], started: Callable[[int], None]
    ) -> None:
        self._path, self._file, self._progress, self._options, self._started = path, file, progress, options, started
        self._header: DumpHeader | None = None
        self._parts: dict[str, Any] = {}
        self._ran: list[str] = []
        self._skipped: dict[str, str] = {}
        self._doing = ""
        self._ended = self._late = self._quiet = False
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
        if vmcore.log and not vmcore.tasks:
            from collectors.vmcore.fromlog import completed

            vmcore = completed(vmcore)
            self._skipped = _without_consequences(self._skipped)
        return replace(
            vmcore,
            ran=tuple(f"vmcore.{name}" for name in self._ran),
            skipped=tuple(Skipped(f"vmcore.{name}", reason) for name, reason in self._skipped.items()),
            seconds=self._seconds,
        )

    def _work(self, seconds: float) -> str:
        """Run one worker to its end and return how it ended."""
        before = json.dumps({"skip": [*self._ran, *self._skipped], "fields": self._parts}).encode()
        command = [sys.executable, "-m", "collectors.vmcore.worker", str(self._file.path), *self._options]
        self._doing = ""
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=_held(self._file),
        ) as process:
            self._started(process.pid)
            try:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(before)
                for line in self._lines(process, time.monotonic() + seconds):
                    self._take(line)
            finally:
                process.kill()
        if self._late:
            return "ran out of time"
        if self._quiet:
            return f"said nothing for {QUIET_SECONDS:g} s"
        return f"was ended by signal {-process.returncode}" if process.returncode < 0 else "failed"

    def _lines(self, process: subprocess.Popen[bytes], deadline: float) -> Iterator[bytes]:
        """Yield whole lines until the reader ends. What it does in C heeds no deadline of its own: here is one."""
        assert process.stdout is not None
        pipe, held = process.stdout.fileno(), b""
        self._late = self._quiet = False
        while True:
            left = deadline - time.monotonic()
            if not select.select([pipe], [], [], max(0.0, min(left, QUIET_SECONDS)))[0]:
                self._late = left <= QUIET_SECONDS
                self._quiet = not self._late
                return
            chunk = os.read(pipe, 1 << 20)
            if not chunk:
                return
            first, *others = chunk.split(b"\n")
            held += first
            if others:
                yield held
                yield from others[:-1]
                held = others[-1]

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
            self._header = TypeAdapter(DumpHeader).validate_python({**message["header"], "path": str(self._path)})
        elif "refused" in message:
            raise _refused(message["refused"], self._path, self._file)
        elif "end" in message:
            self._ended = True
            self._seconds += message["end"]


def _without_consequences(skipped: dict[str, str]) -> dict[str, str]:
    """Where memory cannot be understood at all: the reason, not each section's that follows from it."""
    if "types" not in skipped:
        return skipped
    causes = {name: why for name, why in skipped.items() if name == "types" or "could not find" not in why}
    causes["types"] += "; so all but the log was left out"
    return causes


def _held(file: Unpacked) -> tuple[int, ...]:
    """What a child must inherit to open the file."""
    return () if file.descriptor is None else (file.descriptor,)


def _refused(told: dict[str, str], path: Path, file: Unpacked) -> UserError:
    return UserError(**{key: text.replace(str(file.path), str(path)) for key, text in told.items()})


def _parsed(header: DumpHeader, parts: dict[str, Any]) -> Vmcore:
    """Build the types out of JSON; a part that does not fit is a bug of ours and shows as such."""
    vmcore = TypeAdapter(Vmcore).validate_python({"header": header, **parts})
    return replace(vmcore, header=replace(vmcore.header, path=header.path))


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
    told: dict[str, int] | None = None
    try:
        with unpacked(path, progress) as file:
            told = _slim(path, file, descriptor, out.suffix == ".xz", progress)
    except OSError as error:
        raise UserError(f"{path} cannot be read", error.strerror or str(error), "name a crash dump") from error
    finally:
        os.close(descriptor)
        if told is None:
            out.unlink(missing_ok=True)
    if told is None:
        raise WardroundError(f"{path} could not be slimmed", "the reader ended early")
    return told["size"], told["pages"], told["secrets"]


def _slim(path: Path, file: Unpacked, descriptor: int, pack: bool, progress: Progress) -> dict[str, int] | None:
    command = [sys.executable, "-m", "collectors.vmcore.slim", str(file.path), f"--out={descriptor}"]
    told: dict[str, int] | None = None
    with subprocess.Popen(
        [*command, *(["--pack"] if pack else [])],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        pass_fds=(descriptor, *_held(file)),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if "refused" in message:
                raise _refused(message["refused"], path, file)
            if "begin" in message:
                progress(message["begin"])
            told = message.get("end")
    return told


def ask(path: Path, question: Question, seconds: float = 60.0) -> str:
    """Return the answer to a follow-up question about a dump.

    :raises UserError: the dump cannot be read, or does not hold what was asked for
    """
    try:
        with unpacked(path) as file:
            done = subprocess.run(
                [sys.executable, "-m", "collectors.vmcore.questions", str(file.path)],
                input=question.model_dump_json().encode(),
                capture_output=True, timeout=seconds, check=False, pass_fds=_held(file),
            )  # fmt: skip
        message = json.loads(done.stdout)
    except OSError as error:
        raise UserError(f"{path} cannot be read", error.strerror or str(error), "name a crash dump") from error
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise WardroundError(f"{path} could not be asked", f"the reader ended without an answer ({error})") from None
    if "refused" in message:
        raise _refused(message["refused"], path, file)
    return str(message["answer"])
