"""Interfaces and protocol counters against real namespaces, cables and packets."""

from __future__ import annotations

import os
import threading
import time

import pytest

from collectors.base import Roots
from collectors.namespaces import Visitor, namespaces
from collectors.network import NetworkCollector, snapshot_interfaces
from tests.collectors.netlab import FAR, ended, lab, run, told
from wardround.models.series import Catalogue

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.root]

SEND = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("up", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        s.sendto(b"x" * 1000, (sys.argv[1], 9))
    print("sent", flush=True)
"""


@pytest.fixture(scope="module")
def net():
    with lab() as made:
        yield made


class Reader:
    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.collector = NetworkCollector(self.catalogue, Roots())
        self.clock = time.monotonic()

    def __call__(self) -> dict[tuple[str, ...], float]:
        self.clock += 100
        return told(self.catalogue, self.collector.read(time.time(), self.clock).frame)


def test_packets_in_a_foreign_namespace_are_counted_exactly(net):
    """2,300 datagrams over the cable show at both of its ends, though no process of ours is there."""
    reader = Reader()
    sender = net.python(net.near, SEND, FAR)
    with ended(sender):
        sender.stdin.write("1\n")  # resolves the neighbour
        sender.stdin.flush()
        sender.stdout.readline()
        time.sleep(0.2)
        before = reader()
        sender.stdin.write("2300\n")
        sender.stdin.flush()
        sender.stdout.readline()
        time.sleep(0.2)
        after = reader()
    near, far = str(net.inode(net.near)), str(net.inode(net.far))
    sent = ("system.network.io", "transmit", net.cable, near)
    received = ("system.network.io", "receive", net.cable + "p", far)
    for end in (sent, received):
        assert after[end] - before[end] == pytest.approx(2300 * 1042, rel=0.01)
    assert after["linux.network.up", net.cable, near] == 1


def test_protocol_counters_are_those_of_the_namespace(net):
    """A refused connection counts as AttemptFails there and nowhere else."""
    reader = Reader()
    before = reader()
    code = "import socket\ns = socket.socket()\ns.connect_ex(('127.0.0.1', 1))\nprint('up', flush=True)\ninput()"
    with ended(net.python(net.far, code)):
        after = reader()
    far, near = str(net.inode(net.far)), str(net.inode(net.near))
    assert after["linux.snmp", "Tcp.AttemptFails", far] - before["linux.snmp", "Tcp.AttemptFails", far] == 1
    assert after["linux.snmp", "Tcp.AttemptFails", near] == before["linux.snmp", "Tcp.AttemptFails", near]
    assert ("linux.snmp", "TcpExt.ListenOverflows", "") in after


def test_a_cable_that_lost_its_other_end_is_down(net):
    """The far end is shut: the near end is up by wish but has no carrier."""
    run("ip", "-n", net.far, "link", "set", net.cable + "p", "down")
    try:
        seen = Reader()()
        assert seen["linux.network.up", net.cable, str(net.inode(net.near))] == 0
        assert next(i for i in snapshot_interfaces() if i.name == net.cable).up
    finally:
        run("ip", "-n", net.far, "link", "set", net.cable + "p", "up")


def test_a_snapshot_knows_both_ends_of_a_cable(net):
    """Kind, address, queueing discipline, and the namespace and index of the other end."""
    found = {interface.name: interface for interface in snapshot_interfaces()}
    near, far = found[net.cable], found[net.cable + "p"]
    assert near.kind == "veth"
    assert near.peer_netns == net.inode(net.far)
    assert near.peer_index == far.index
    assert f"{FAR}/24" in far.addresses
    assert found["lo"].kind == "loopback"


def test_no_handle_keeps_a_deleted_namespace_alive(net):
    """After reads, removing a namespace takes its cable with it at once."""
    with lab() as other:
        reader = Reader()
        reader()
        run("ip", "netns", "del", other.near)
        deadline = time.monotonic() + 5
        while other.cable + "p" in run("ip", "-n", other.far, "-br", "link") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert other.cable + "p" not in run("ip", "-n", other.far, "-br", "link")
        assert ("linux.network.up", net.cable, str(net.inode(net.near))) in reader()


def test_visiting_leaves_the_caller_where_it_was(net):
    """Deeds run elsewhere in a thread of their own; an error in one is the caller's to see, and nothing sticks."""
    own = os.stat("/proc/thread-self/ns/net").st_ino
    visitor = Visitor()
    spaces = namespaces("net", Roots())
    try:
        seen = visitor.visit(spaces, lambda _: (os.stat("/proc/thread-self/ns/net").st_ino, threading.get_ident()))
        assert {inode: where for inode, (where, _) in seen.items()} == {inode: inode for inode in seen}
        assert net.inode(net.near) in seen
        assert threading.get_ident() not in {thread for _, thread in seen.values()}
        with pytest.raises(ZeroDivisionError):
            visitor.visit(spaces, lambda _: 1 // 0)
        assert visitor.visit(spaces, lambda _: 1).keys() == seen.keys()
    finally:
        visitor.close()
    assert os.stat("/proc/thread-self/ns/net").st_ino == own


def test_recorded_or_missing_files_give_what_they_have(tmp_path):
    """No namespaces under an empty root: nothing, and no error."""
    collector = NetworkCollector(Catalogue(), Roots(str(tmp_path), str(tmp_path), str(tmp_path)))
    assert len(collector.read(1.0, 1.0).frame.ids) == 0
