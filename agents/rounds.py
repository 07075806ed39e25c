"""The rounds that have begun and not ended: one recording each in the state folder, `rounds/<run id>.wardround`.

This folder is the truth about what is unfinished. The process that works on a round holds a lock on its recording,
so that what is left without a lock belongs to a process that died.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collectors import recording
from wardround.errors import StateError
from wardround.models.observation import Observation

FOLDER = "rounds"
SUFFIX = ".wardround"
_RUN = re.compile(r"run_[0-7][0-9A-HJKMNP-TV-Z]{25}")


def run_id_of(path: Path) -> str:
    """Return the run id that a recording in `rounds/` is named by."""
    return path.name.removesuffix(SUFFIX)


def unfinished(state_dir: Path) -> tuple[Path, ...]:
    """Return the recordings of rounds whose process died, the oldest first."""
    try:
        names = sorted(os.listdir(state_dir / FOLDER))
    except OSError:
        return ()
    paths = [state_dir / FOLDER / name for name in names if _RUN.fullmatch(name.removesuffix(SUFFIX))]
    return tuple(path for path in paths if path.name.endswith(SUFFIX) and not _locked(path))


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


@contextmanager
def claimed(run_id: str, observation: Observation, state_dir: Path) -> Iterator[None]:
    """Keep the observation on disk for as long as the round takes; it goes when the round has ended in order.

    :raises StateError: the state folder cannot be written, or another process works on this round
    """
    path = state_dir / FOLDER / f"{run_id}{SUFFIX}"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
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
        path.unlink(missing_ok=True)
    finally:
        os.close(number)
