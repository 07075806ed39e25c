"""TCP sockets of one network namespace as arrays, from netlink inet_diag (sock_diag(7)) or else /proc/net/tcp.

Source: SOCK_DIAG_BY_FAMILY for IPv4 and IPv6, in the calling thread's namespace. Needs nothing; cookies and marks are
for root and not used. Measured cost:
1.5 ms for a nearly empty table of 262,144 buckets, then 1 to 4 µs a socket, most of it in the
kernel. The fallback has no round-trip times and no backlog.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from collectors import netlink
from wardround.models.series import FloatArray, IntArray

BY_FAMILY = 20
AF_INET, AF_INET6, TCP = 2, 10, 6
STATES = (
    "", "established", "syn_sent", "syn_recv", "fin_wait1", "fin_wait2", "time_wait", "close", "close_wait",
    "last_ack", "listen", "closing",
)  # fmt: skip
ESTABLISHED, TIME_WAIT, LISTEN = 1, 6, 10
LISTENING = 1 << LISTEN
CONNECTED = 0xFFF & ~LISTENING
_REQUEST = struct.Struct("=BBBxI48x")  # family, protocol, extensions, states, an empty socket identity
_FIXED = 72  # struct inet_diag_msg
_INFO = 2  # INET_DIAG_INFO
_RTT, _MIN_RTT, _TOTAL_RETRANS, _UNACKED = 68, 148, 100, 24  # offsets within struct tcp_info
_MAPPED = np.array([0] * 10 + [255, 255], np.uint8)
MICRO = 1e-6


@dataclass(frozen=True, slots=True)
class Table:
    """N sockets. Addresses are ``[N, 16]`` bytes, IPv4 mapped into IPv6; round-trip times in s, NaN where unknown.

    `queue` is what waits to be read or, for a listener, to be accepted; `backlog` what waits to be sent or, for a
    listener, the accept queue's limit (-1 where unknown).
    """

    state: IntArray
    local: NDArray[np.uint8]
    remote: NDArray[np.uint8]
    local_port: IntArray
    remote_port: IntArray
    queue: IntArray
    backlog: IntArray
    inode: IntArray
    rtt: FloatArray
    min_rtt: FloatArray
    retransmits: FloatArray
    unacked: FloatArray

    def __len__(self) -> int:
        return len(self.state)

    def where(self, chosen: NDArray[np.bool_] | IntArray) -> Table:
        return Table(*(getattr(self, field.name)[chosen] for field in fields(self)))


def join(tables: list[Table]) -> Table:
    if len(tables) == 1:
        return tables[0]
    if not tables:
        return _table(np.empty((0, _FIXED), np.uint8), None)
    return Table(*(np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(Table)))


def dump(states: int, *, info: bool = False) -> Table:
    """Return the sockets in any of `states` (a bit mask), with `info` also their measurements.

    Raises OSError where netlink or inet_diag is refused.
    """
    tables = []
    for family in (AF_INET, AF_INET6):
        body = _REQUEST.pack(family, TCP, 1 << (_INFO - 1) if info else 0, states)
        answer = netlink.by_length(netlink.ask(netlink.SOCK_DIAG, BY_FAMILY, body))
        tables += [_table(run, _place_of_info(run) if info else None) for run in answer if run.shape[1] >= _FIXED]
    return join(tables)


def _place_of_info(run: NDArray[np.uint8]) -> int | None:
    """Where struct tcp_info begins in messages of one length; None where they carry none.

    Messages of one length and family carry the same attributes; a message that does not is caught by its header.
    """
    for kind, at, size in netlink.attribute_places(run[0].tobytes(), _FIXED):
        if kind == _INFO and size >= _MIN_RTT + 4:
            header = run[:, at - 4 : at]
            return at if bool((header == header[0]).all()) else None
    return None


def _table(run: NDArray[np.uint8], info: int | None) -> Table:
    count = len(run)

    def u32(at: int) -> IntArray:
        return np.ascontiguousarray(run[:, at : at + 4]).view(np.uint32).ravel().astype(np.int64)

    def port(at: int) -> IntArray:
        return run[:, at].astype(np.int64) * 256 + run[:, at + 1]

    def address(at: int) -> NDArray[np.uint8]:
        plain = run[:, at : at + 16].copy()
        v4 = run[:, 0] == AF_INET
        if v4.any():
            plain[v4, 12:] = plain[v4, :4]
            plain[v4, :12] = _MAPPED
        return plain

    def measured(at: int, unit: float = 1.0) -> FloatArray:
        return u32(info + at).astype(np.float64) * unit if info is not None else np.full(count, np.nan)

    low = measured(_MIN_RTT, MICRO)
    low = np.where(low < 4294.0, low, np.nan)  # all ones: not measured yet
    rtt = measured(_RTT, MICRO)
    return Table(
        state=run[:, 1].astype(np.int64),
        local=address(8),
        remote=address(24),
        local_port=port(4),
        remote_port=port(6),
        queue=u32(56),
        backlog=u32(60),
        inode=u32(68),
        rtt=np.where(rtt > 0, rtt, np.nan),
        min_rtt=low,
        retransmits=measured(_TOTAL_RETRANS),
        unacked=measured(_UNACKED),
    )


def from_proc(folder: str, states: int) -> Table:
    """Return the sockets listed in `folder`/tcp and /tcp6 (``/proc/PID/net``); nothing where they cannot be read."""
    rows = []
    for name in ("tcp", "tcp6"):
        try:
            with open(f"{folder}/{name}", "rb") as file:
                lines = file.readlines()[1:]
        except OSError:
            continue
        rows += [row for line in lines if (row := _proc_row(line)) is not None and states >> row[1] & 1]
    run = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, _FIXED)
    table = _table(run, None)
    table.backlog[table.state == LISTEN] = -1
    return table


def _proc_row(line: bytes) -> bytes | None:
    """Turn one line of /proc/net/tcp into a struct inet_diag_msg."""
    parts = line.split()
    try:
        (local, lport), (remote, rport) = parts[1].split(b":"), parts[2].split(b":")
        sent, received = parts[4].split(b":")
        family = AF_INET if len(local) == 8 else AF_INET6
        return (
            bytes([family, int(parts[3], 16), 0, 0])
            + struct.pack(">HH", int(lport, 16), int(rport, 16))
            + _words(local)
            + _words(remote)
            + bytes(12)
            + struct.pack("=IIIII", 0, int(received, 16), int(sent, 16), int(parts[7]), int(parts[9]))
        )
    except (IndexError, ValueError, struct.error):
        return None


def _words(text: bytes) -> bytes:
    """The file prints each 32-bit word of an address as a number of this machine."""
    words = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    return words.ljust(16, b"\0")


@lru_cache(4096)
def address_text(packed: bytes) -> str:
    """Return an address as people write it: ``10.0.0.1``, ``fe80::1``."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


def endpoint_text(packed: bytes, port: int | str) -> str:
    """Return ``ip:port``, IPv6 in brackets."""
    text = address_text(packed)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
