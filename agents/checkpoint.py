"""Where a round's state is kept between steps: SQLite in the state folder, memory where that cannot be written.

A checkpoint is a cache. What makes a round unfinished is its recording in `rounds/` (`agents.rounds`); without a usable
checkpoint it starts over from there. Only plain values are read back, so a tampered file cannot name a class to build.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import structlog
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from ulid import ULID

log = structlog.get_logger(__name__)

FILE = "checkpoints.sqlite"
KEPT = 7 * 86400.0  # s


def serializer() -> JsonPlusSerializer:
    """Return the strict serialiser: no pickles, no types beyond the library's own safe ones."""
    return JsonPlusSerializer(pickle_fallback=False, allowed_json_modules=None, allowed_msgpack_modules=None)


def in_memory() -> InMemorySaver:
    return InMemorySaver(serde=serializer())


@contextmanager
def durable(state_dir: Path) -> Iterator[BaseCheckpointSaver[Any]]:
    """Open the checkpoints of `state_dir`, readable by their owner only; rounds older than a week are dropped.

    :raises sqlite3.Error: the file cannot be opened or written (a damaged one is replaced once: it is a cache)
    :raises OSError: the folder cannot be made or written
    """
    path = state_dir / FILE
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        connection = _open(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        log.warning("checkpoints_replaced", path=str(path), why=str(error))
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        connection = _open(path)
    with closing(connection):
        saver = SqliteSaver(connection, serde=serializer())
        saver.setup()
        _prune(connection)
        yield saver


def _open(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    path.chmod(0o600)
    connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        # Losing the last steps in a power cut costs a repeated step; syncing each one would cost every round.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _prune(connection: sqlite3.Connection) -> None:
    """Drop rounds begun more than a week ago; a round's id begins with its time."""
    oldest = f"run_{ULID.from_timestamp(time.time() - KEPT)}"
    with connection:
        connection.execute("DELETE FROM checkpoints WHERE thread_id < ?", (oldest,))
        connection.execute("DELETE FROM writes WHERE thread_id < ?", (oldest,))
