"""One watch daemon a state folder: who holds its lock, and who is told so.

The lock is the kernel's (`flock`) and ends with the process, however it ends; the file's text names the holder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wardround.errors import StateError, UserError
from wardround.settings import SYSTEM_STATE

NAME = "watch.lock"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the folder's lock inside the block.

    :raises UserError: another process holds it
    :raises StateError: the folder cannot be written
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StateError(f"{folder} cannot be written", error.strerror or str(error)) from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise UserError(
                f"`diagnose watch` already runs here as process {who}",
                f"it holds {folder / NAME}",
                "stop it first, or give this one another state_dir",
            ) from None
        with suppress(OSError):  # a full disk: the lock holds all the same, only its holder's name is missing
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)


def holder(folder: Path) -> int | None:
    """Return the pid of the daemon that watches into this folder, None where none runs."""
    try:
        file = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(file, 32, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else None
    except OSError:
        return None
    finally:
        os.close(file)
    return None


def daemons(state_dir: Path) -> tuple[int, ...]:
    """Return the pids of the watch daemons of this host that we know of: our own, and the system's."""
    found = (holder(folder) for folder in {state_dir, SYSTEM_STATE})
    return tuple(pid for pid in found if pid is not None)
