"""Which mount and network namespaces live on this host, and doing something inside another network namespace.

Source: the links /proc/PID/ns/{mnt,net} and the names in /run/netns. Needs root to see other users' processes and
CAP_SYS_ADMIN to enter a namespace; without them there is only our own. A process that is its namespace's only one
and ends between two looks is not seen. Measured cost of a look: 3 µs a process; `Paced` keeps it under 0.3 % of a core.

Entering happens in one thread that does nothing else, so no other code ever runs in a foreign namespace, and no
handle on a namespace outlives the visit: a held one would keep a deleted namespace and its interfaces alive.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from time import thread_time
from typing import Generic, Literal, TypeVar

from collectors.base import Roots

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
MOST = 64  # namespaces visited a tick; a host with more shows those of the lowest pids
BIND = Path("/run/netns")  # where `ip netns` binds the names
VISIT_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace: `inode` is its identity, `path` a file that leads to it, `pid` a process in it (None if none).

    `home` marks the host's own: that of process 1 where it may be seen, else ours.
    """

    inode: int
    path: str
    pid: int | None
    home: bool

    @property
    def label(self) -> str:
        """The label value of series: empty for the host's own."""
        return "" if self.home else str(self.inode)


def host_namespace(kind: Literal["net", "mnt"], roots: Roots) -> Namespace | None:
    for who in ("1", "self"):
        path = f"{roots.proc}/{who}/ns/{kind}"
        try:
            return Namespace(os.stat(path).st_ino, path, None if who == "self" else 1, True)
        except OSError:
            continue
    return None


def namespaces(kind: Literal["net", "mnt"], roots: Roots) -> list[Namespace]:
    """Return the distinct namespaces of living processes and, for ``net``, the named ones; the host's own first."""
    host = host_namespace(kind, roots)
    found = {host.inode: host} if host else {}
    for pid in sorted(int(name) for name in _names(roots.proc) if name.isdigit()):
        path = f"{roots.proc}/{pid}/ns/{kind}"
        try:
            inode = int(os.readlink(path).partition("[")[2].rstrip("]"))
        except (OSError, ValueError):
            continue
        if inode not in found and len(found) < MOST:
            found[inode] = Namespace(inode, path, pid, False)
    live = kind == "net" and roots.proc == "/proc"  # names mean nothing beside a recorded tree
    for name in _names(BIND) if live else ():
        named = BIND / name
        try:
            status = named.stat()
        except OSError:
            continue
        # a name whose namespace is gone is an ordinary empty file
        if _is_namespace(named, status) and status.st_ino not in found and len(found) < MOST:
            found[status.st_ino] = Namespace(status.st_ino, str(named), None, False)
    return list(found.values())


def _is_namespace(path: Path, status: os.stat_result) -> bool:
    try:
        return status.st_dev == os.stat("/proc/self/ns/net").st_dev and path.is_file()
    except OSError:
        return False


def _names(folder: str | Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


class Paced(Generic[T]):
    """A costly look that is repeated only so often that it stays a small share of a core.

    Not before `least` seconds after the last one, nor before `factor` times what it took.
    """

    def __init__(self, look: Callable[[], T], least: float = 5.0, factor: float = 300.0) -> None:
        self._look, self._least, self._factor = look, least, factor
        self._next = float("-inf")
        self._value: T | None = None

    def __call__(self, clock: float) -> T:
        """Return the newest result; `clock` is the tick's monotonic time."""
        if self._value is None or clock >= self._next:
            began = thread_time()
            self._value = self._look()
            self._next = clock + max(self._least, self._factor * (thread_time() - began))
        return self._value

    def expire(self) -> None:
        """Look again next time, whatever it costs."""
        self._next = float("-inf")


class _Visit(Generic[T]):
    """Work for the visiting thread: the namespaces, the deed, and what it brought."""

    def __init__(self, spaces: list[Namespace], deed: Callable[[Namespace], T]) -> None:
        self.spaces, self.deed = spaces, deed
        self.done = threading.Event()
        self.results: dict[int, T] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            own = os.fstat(home).st_ino
            for space in self.spaces:
                if space.inode == own:
                    self.results[space.inode] = self.deed(space)
                elif _enter(space.path):
                    try:
                        self.results[space.inode] = self.deed(space)
                    finally:
                        _setns(home)
        finally:
            os.close(home)


class Visitor:
    """Runs deeds inside network namespaces, in a thread of its own."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[_Visit[object] | None] | None = None

    def visit(self, spaces: Iterable[Namespace], deed: Callable[[Namespace], T]) -> dict[int, T]:
        """Return ``{inode: result}``; a namespace that is gone or may not be entered is left out.

        Where all is within the caller's own namespace no thread is needed. Raises what `deed` raised.
        """
        wanted = list(spaces)
        if len(wanted) == 1 and wanted[0].inode == _own():
            return {wanted[0].inode: deed(wanted[0])}
        visit = _Visit(wanted, deed)
        if self._inbox is None:
            self._inbox = SimpleQueue()
            threading.Thread(target=_serve, args=(self._inbox,), name="wardround-netns", daemon=True).start()
        self._inbox.put(visit)  # type: ignore[arg-type]  # the thread hands results back untouched
        if not visit.done.wait(VISIT_PATIENCE):
            self.close()  # it is stuck; the next visit gets another thread
            return dict(visit.results)
        if visit.error is not None:
            raise visit.error
        return visit.results

    def close(self) -> None:
        if self._inbox is not None:
            self._inbox.put(None)
            self._inbox = None


def _serve(inbox: SimpleQueue[_Visit[object] | None]) -> None:
    while (visit := inbox.get()) is not None:
        try:
            visit.run()
        except BaseException as error:  # noqa: BLE001 - task boundary: raised again in the caller's thread
            visit.error = error
        finally:
            visit.done.set()


def _own() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def _enter(path: str) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        _setns(handle)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _setns(handle: int) -> None:
    if _libc().setns(handle, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
