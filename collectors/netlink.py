"""Netlink as far as the collectors need it: one dump request, its messages, their attributes (RFC 3549, netlink(7)).

Messages of one length can be had as one array: ten thousand sockets then cost array operations, not as many objects.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

ROUTE = 0
SOCK_DIAG = 4
GENERIC = 16
REQUEST, DUMP = 1, 0x300
ERROR, DONE = 2, 3
HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_CHUNK = 1 << 18
_DONE_SIZE = HEADER.size + 4
SEQUENCE = 0x57A2D0C7  # of every request: tells an end of dump from payload that looks like one
_TYPE_MASK = 0x3FFF  # without the nested and byte-order flags


def ask(family: int, kind: int, body: bytes, *, dump: bool = True, patience: float = 2.0) -> list[bytes]:
    """Send one request in the calling thread's network namespace; return the datagrams that came.

    Raises OSError with the kernel's errno where it refuses.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family) as link:
        link.settimeout(patience)
        return converse(link, kind, body, dump=dump)


def converse(link: socket.socket, kind: int, body: bytes, *, dump: bool = False) -> list[bytes]:
    """Send one request on an open socket and return the datagrams of its answer."""
    flags = REQUEST | (DUMP if dump else 0)
    link.send(HEADER.pack(HEADER.size + len(body), kind, flags, SEQUENCE, 0) + body)
    parts: list[bytes] = []
    while True:
        part = link.recv(_CHUNK)
        if not part:
            return parts
        parts.append(part)
        if _last(part) == DONE or not dump:
            return parts


def _last(part: bytes) -> int:
    """Return DONE where the datagram ends a dump, else 0; raises what the kernel refused with.

    The end of a dump stands alone or behind the last messages, so only both ends of a datagram are looked at.
    """
    for position in (0, len(part) - _DONE_SIZE):
        if position < 0 or len(part) < position + HEADER.size:
            continue
        length, kind, _, sequence, _ = HEADER.unpack_from(part, position)
        if sequence != SEQUENCE:
            continue
        if kind == ERROR and position == 0:
            (number,) = struct.unpack_from("=i", part, HEADER.size)
            if number:
                raise OSError(-number, os.strerror(-number))
            return DONE
        if kind == DONE and length >= HEADER.size:
            return DONE
    return 0


def messages(parts: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield ``(type, body)`` of each message."""
    for part in parts:
        position = 0
        while position + HEADER.size <= len(part):
            length, kind, _, _, _ = HEADER.unpack_from(part, position)
            if length < HEADER.size:
                break
            if kind not in (ERROR, DONE):
                yield kind, part[position + HEADER.size : position + length]
            position += (length + 3) & ~3


def by_length(parts: list[bytes]) -> Iterator[Bytes]:
    """Yield the bodies of all messages of one length as an array ``[n, length]``, one array for each length.

    Messages of one kind and length almost always carry the same attributes at the same places.
    """
    joined = b"".join(parts)
    words = memoryview(joined[: len(joined) & ~3]).cast("I")
    starts = []
    position, end = 0, len(words)
    while position + 4 <= end:
        length = words[position]
        if length < HEADER.size or position * 4 + length > len(joined):
            break
        starts.append(position)
        position += (length + 3) >> 2
    at = np.array(starts, np.int64) * 4
    data = np.frombuffer(joined, np.uint8)
    lengths = np.frombuffer(words, np.uint32)[at // 4]
    kinds = np.frombuffer(words, np.uint16)[at // 2 + 2]
    at, lengths = at[(kinds != ERROR) & (kinds != DONE)], lengths[(kinds != ERROR) & (kinds != DONE)]
    for length in np.unique(lengths):
        yield data[at[lengths == length][:, None] + np.arange(HEADER.size, length)]


def attributes(body: bytes, start: int) -> dict[int, bytes]:
    """Return the attributes behind a fixed part of `start` bytes; of repeated ones the last."""
    return {kind: body[at : at + size] for kind, at, size in attribute_places(body, start)}


def attribute_places(body: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield ``(type, offset, length)`` of each attribute's payload."""
    position = start
    while position + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, position)
        if length < _ATTRIBUTE.size or position + length > len(body):
            return
        yield kind & _TYPE_MASK, position + _ATTRIBUTE.size, length - _ATTRIBUTE.size
        position += (length + 3) & ~3


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)
