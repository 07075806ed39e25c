"""Netlink messages: cut, foreign and hostile ones, and the kernel's own refusals."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import netlink
from collectors.namespaces import Paced


def message(kind: int, body: bytes) -> bytes:
    whole = netlink.HEADER.pack(netlink.HEADER.size + len(body), kind, 2, netlink.SEQUENCE, 0) + body
    return whole + b"\0" * (-len(whole) % 4)


def test_messages_of_one_length_come_as_one_array_whatever_their_order():
    """Two lengths interleaved over two datagrams; the end of the dump is none of them."""
    parts = [
        message(20, b"abcd") + message(20, b"abcdefgh") + message(20, b"ABCD"),
        message(20, b"ABCDEFGH") + message(netlink.DONE, b"\0" * 4),
    ]
    arrays = {array.shape[1]: [row.tobytes() for row in array] for array in netlink.by_length(parts)}
    assert arrays == {4: [b"abcd", b"ABCD"], 8: [b"abcdefgh", b"ABCDEFGH"]}
    assert [body for _, body in netlink.messages(parts)] == [b"abcd", b"abcdefgh", b"ABCD", b"ABCDEFGH"]


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes_are_read_without_an_error(parts):
    """Wrong lengths end the reading, nothing more."""
    list(netlink.by_length(parts))
    list(netlink.messages(parts))
    for part in parts:
        netlink.attributes(part, 0)


def test_attributes_are_found_and_flags_in_their_type_ignored():
    """Padding between them; the nested flag is no part of the type."""
    body = netlink.attribute(3, b"lo\0") + netlink.attribute(18 | 0x8000, b"xy")
    assert netlink.attributes(b"head" + body, 4) == {3: b"lo\0", 18: b"xy"}


def test_a_refusal_of_the_kernel_is_its_error():
    """A request of an unknown type is answered with EOPNOTSUPP or EINVAL, not with silence."""
    with pytest.raises(OSError, match=r".") as caught:
        netlink.ask(netlink.SOCK_DIAG, 99, struct.pack("=I", 0))
    assert caught.value.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT)


def test_a_costly_look_is_repeated_only_when_due():
    """Not before its time, at once when told that it is stale."""
    looks: list[int] = []
    paced = Paced(lambda: looks.append(1) or len(looks), least=10.0, factor=0.0)
    assert [paced(0.0), paced(9.0), paced(10.0), paced(11.0)] == [1, 1, 2, 2]
    paced.expire()
    assert paced(11.5) == 3
