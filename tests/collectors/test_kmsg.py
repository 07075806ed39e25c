"""The kernel log against real records of /dev/kmsg."""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import closing

import pytest

from collectors.base import Roots
from collectors.kmsg import KmsgCollector, parse
from wardround.models.series import Catalogue

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@root
@pytest.mark.root
def test_a_line_written_to_the_kernel_log_comes_back_dated_and_marked_as_a_users():
    """All since boot first, then only what is new."""
    collector = KmsgCollector(Catalogue(), Roots())
    assert collector.probe().available
    collector.start()
    try:
        boot = collector.read(time.time(), time.monotonic()).logs
        assert any(record.unit == "kernel" for record in boot)
        mark = secrets.token_hex(8)
        new = []
        for _ in range(20):  # the kernel limits how fast programs may log and drops what is above
            with open("/dev/kmsg", "wb", buffering=0) as out:
                out.write(f"<4>{mark} \x1b[31mred\x1b[0m \u202egnp.exe\n".encode())
            new += [record for record in collector.read(time.time(), time.monotonic()).logs if mark in record.text]
            if new:
                break
            time.sleep(0.3)
        assert not [r for r in collector.read(time.time(), time.monotonic()).logs if mark in r.text]
    finally:
        collector.stop()
    record = new[0]
    assert record.text == f"{mark} red gnp.exe"
    assert record.severity == "warning"
    assert record.unit == "user"
    assert record.time == pytest.approx(time.time(), abs=5)


def test_parts_of_a_record():
    """Priority, time, escapes and the lines behind it, as the kernel documents them."""
    data = b"3,42,5000000,-;I/O error\\x0a, dev sda \\xc3\\xa9\n SUBSYSTEM=block\n DEVICE=b8:0\n"
    parsed = parse(data, 1000.0)
    assert parsed is not None
    sequence, continues, record = parsed
    assert (sequence, continues) == (42, False)
    assert record.time == 1005.0
    assert record.severity == "err"
    assert record.unit == "kernel"
    assert record.text == "I/O error , dev sda é"


@pytest.mark.parametrize("data", [b"", b"x", b"1,2;x", b"a,b,c;x", b"6,1,2"])
def test_what_is_no_record_is_skipped(data):
    """Anything else is left out."""
    assert parse(data, 0.0) is None


def test_continued_fragments_are_joined_and_a_gap_is_told():
    """An old kernel writes one line in pieces; numbers that are missing were overwritten."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # one record a read, like the kernel
    ours.setblocking(False)
    collector = KmsgCollector(Catalogue(), Roots())
    collector._handle = ours.detach()
    with closing(theirs):
        for record in (b"6,1,1,c;one ", b"6,2,2,+;line", b"not a record", b"6,9,3,-;after"):
            theirs.send(record)
        logs = collector.read(0.0, 0.0).logs
        collector.stop()
    assert [r.text for r in logs] == [
        "oneline",
        "6 kernel messages were overwritten before they could be read",
        "after",
    ]


def test_without_permission_it_says_what_to_do(tmp_path):
    """No kernel log in a container: a reason and what would enable it."""
    capability = KmsgCollector(Catalogue(), Roots(dev=str(tmp_path))).probe()
    assert not capability.available
    assert capability.enable
