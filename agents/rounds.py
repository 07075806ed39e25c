"""The rounds that have begun and not ended: one recording each in the state folder, `rounds/<run id>.wardround`.

This folder is the truth about what is unfinished. The process that works on a round holds a lock on its recording,
so that what is left without a lock belongs to a process that died. A round that ended its process three times, or is
a week old, is dropped rather than tried for ever; `rounds/<run id>.tried` holds one byte a try.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from collectors import recording
from wardround.errors import StateError
from wardround.models.observation import Observation

log = structlog.get_logger(__name__)

FOLDER = "rounds"
SUFFIX = ".wardround"
TRIED = ".tried"
MOST_TRIES = 3
KEPT = 7 * 86400.0  # s
_RUN = re.compile(r"run_[0-7][0-9A-HJKMNP-TV-Z]{25}")


def run_id_of(path: Path) -> str:
    """Return the run id that a recording in `rounds/` is named by."""
    return path.name.removesuffix(SUFFIX)


def unfinished(state_dir: Path) -> tuple[Path, ...]:
    """Return the recordings of rounds whose process died, the oldest first; hopeless ones are dropped on the way."""
    try:
        names = sorted(os.listdir(state_dir / FOLDER))
    except OSError:
        return ()
    paths = [state_dir / FOLDER / name for name in names if _RUN.fullmatch(name.removesuffix(SUFFIX))]
    left = [path for path in paths if path.name.endswith(SUFFIX) and not _locked(path)]
    for path in left:
        if _hopeless(path):
            log.warning("round_dropped", run_id=run_id_of(path))
            _forget(path)
    return tuple(path for path in left if path.exists())


def _hopeless(path: Path) -> bool:
    try:
        tries = path.with_suffix(TRIED).stat().st_size
    except OSError:
        tries = 0
    try:
        return tries >= MOST_TRIES or time.time() - path.stat().st_mtime > KEPT
    except OSError:
        return False  # gone meanwhile


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(TRIED).unlink(missing_ok=True)


def _locked(path: Path) -> bool:
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return True  # gone, or not ours to read: not ours to resume
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(number)
    return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


@contextmanager
def claimed(run_id: str, observation: Observation, state_dir: Path) -> Iterator[None]:
    """Keep the observation on disk for as long as the round takes; it goes when the round has ended in order.

    :raises StateError: the state folder cannot be written, or another process works on this round
    """
    path = state_dir / FOLDER / f"{run_id}{SUFFIX}"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            with open(path.with_suffix(TRIED), "ab", opener=_private) as tries:
                tries.write(b".")
        else:
            recording.save(observation, path)
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(f"the state folder {state_dir} cannot be written", str(error)) from None
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateError(f"another process works on {run_id}") from None
        yield
        _forget(path)
    finally:
        os.close(number)
