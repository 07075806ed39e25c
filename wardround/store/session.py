"""Opens the store: one SQLite file in the state folder, in WAL mode, so that the daemon and a command share it.

Each failure of the file (no permission, full disk, corrupt, of a newer version) is a `StateError`: the caller says
so and goes on without the store. It cannot repair a corrupt file; it names it, so that a person can move it away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from wardround.errors import StateError
from wardround.store.tables import VERSION, Base

FILE = "wardround.db"
BUSY_MS = 5000
_DO = "free space, correct the permissions or move the file away; `diagnose doctor` checks it"


@contextmanager
def open_store(state_dir: Path) -> Iterator[Session]:
    """Yield a session on the store of `state_dir`, committed at the end, rolled back on an error.

    :raises StateError: the store cannot be opened, read or written
    """
    path = state_dir / FILE
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StateError(f"the state folder {state_dir} cannot be made", str(error), _DO) from None
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_MS / 1000})
    event.listen(engine, "connect", _set_up_connection)
    try:
        _create(engine, path)
        with Session(engine) as session, session.begin():
            yield session
    except DatabaseError as error:
        raise StateError(f"the store {path} cannot be used", str(error.orig), _DO) from None
    except PermissionError as error:
        raise StateError(f"the store {path} is not ours", str(error), _DO) from None
    finally:
        engine.dispose()


def _set_up_connection(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _create(engine: Engine, path: Path) -> None:
    """Create the tables once; refuse a file that a later version made."""
    with engine.begin() as connection:
        found = connection.execute(text("PRAGMA user_version")).scalar_one()
        if found > VERSION:
            raise StateError(f"the store {path} is of version {found}", f"this program knows version {VERSION}", _DO)
        if found < VERSION:
            Base.metadata.create_all(connection)
            connection.execute(text(f"PRAGMA user_version={VERSION}"))
            path.chmod(0o600)
