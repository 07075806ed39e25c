"""What makes a process a well-behaved service: readiness and watchdog to systemd, an orderly stop, little memory.

The notification protocol is one datagram of ``KEY=value`` lines to ``$NOTIFY_SOCKET`` (sd_notify(3)); without the
variable all of it does nothing.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import socket
import time
from contextlib import suppress
from types import FrameType

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KIB = 1024


class Notifier:
    """Tells systemd how the service is. `watchdog` is the number of seconds between signs of life, None if unasked."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        interval = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(interval) / 2e6 if interval.isdigit() and ours else None
        self._alive = float("-inf")

    def send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
                out.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return  # a manager that does not listen is no reason to stop watching

    def alive(self) -> None:
        """Feed the watchdog when it is due."""
        now = time.monotonic()
        if self.watchdog is not None and now - self._alive >= self.watchdog:
            self._alive = now
            self.send("WATCHDOG=1")


class StopSignal:
    """SIGTERM and SIGINT as something to sleep on: a handler that only writes to a pipe cannot deadlock."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._out, self._in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        os.write(self._in, b"x")

    def sleep(self, seconds: float) -> bool:
        """Sleep at most `seconds`; return whether to stop."""
        if self.received is None and seconds > 0:
            select.select([self._out], [], [], seconds)
        return self.received is not None

    def close(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._out)
        os.close(self._in)


def one_arena() -> None:
    """Keep glibc to one heap that is given back early; call before any thread starts. Elsewhere: nothing."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 * _KIB)
        libc.mallopt(_M_MMAP_THRESHOLD, 256 * _KIB)


def allow_files() -> None:
    """Let this process have as many files open as it may: collectors keep those they read each tick."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a hard limit above the kernel's own (fs.nr_open) cannot be reached
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def give_back() -> None:
    """Return freed heap to the kernel."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
