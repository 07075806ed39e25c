"""Runs calls into collectors one after the other, and goes on with the next when one does not come back in time.

A read of procfs may sleep for as long as a filesystem is dead or the host is thrashing, and loading a traced
program takes seconds; neither may hold up the tick. A call that outlasts its patience keeps its thread and reports
when it comes back; a fresh thread takes the rest. Python cannot end a thread: one that never comes back stays,
as a daemon thread, and costs nothing but its stack.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from time import monotonic

Call = Callable[[], None]


class _Batch:
    """Calls for one thread at a time. `lock` guards who may take the next one."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.pending = deque(calls)
        self.lock = threading.Lock()
        self.done = threading.Event()
        self.began = 0.0
        self.owner: object = None

    def take(self, owner: object) -> Call | None:
        """Return the next call for `owner`, None where nothing is left or another thread took over."""
        with self.lock:
            if self.owner is not owner:
                return None
            if not self.pending:
                self.done.set()
                return None
            self.began = monotonic()
            return self.pending.popleft()

    def assign(self, owner: object) -> None:
        with self.lock:
            self.owner = owner
            self.began = monotonic()


class Lanes:
    """One worker thread, and another for each call that is stuck."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[_Batch | None] | None = None

    def run(self, calls: Iterable[Call], patience: float) -> None:
        """Run the calls in order and return when each has returned or has used up `patience` seconds.

        A call must not raise: what it brings and what went wrong it stores itself.
        """
        batch = _Batch(calls)
        inbox = self._hand_over(batch)
        while not batch.done.wait(max(0.01, batch.began + patience - monotonic())):
            if monotonic() - batch.began >= patience:
                inbox.put(None)  # the stuck thread ends once it comes back
                self._inbox = None
                inbox = self._hand_over(batch)

    def _hand_over(self, batch: _Batch) -> SimpleQueue[_Batch | None]:
        if self._inbox is None:
            self._inbox = SimpleQueue()
            threading.Thread(target=_work, args=(self._inbox,), name="wardround-collect", daemon=True).start()
        batch.assign(self._inbox)
        self._inbox.put(batch)
        return self._inbox

    def close(self) -> None:
        """Let the idle worker end."""
        if self._inbox is not None:
            self._inbox.put(None)
            self._inbox = None


def _work(inbox: SimpleQueue[_Batch | None]) -> None:
    while (batch := inbox.get()) is not None:
        while (call := batch.take(inbox)) is not None:
            call()
