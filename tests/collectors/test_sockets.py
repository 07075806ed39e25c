"""Sockets against real listeners, connections and ports, in namespaces of their own."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack, closing

import numpy as np
import pytest

from collectors import inetdiag
from collectors.base import Roots
from collectors.inetdiag import CONNECTED, LISTENING, endpoint_text
from collectors.sockets import SocketsCollector, snapshot_sockets
from tests.collectors.netlab import FAR, NEAR, ended, lab, run, told
from wardround.models.series import Catalogue

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

LAZY = """
import socket, sys
s = socket.socket(); s.bind((sys.argv[1], 7000)); s.listen(3)
print("up", flush=True); sys.stdin.read()
"""
CLIENT = """
import socket, sys
held = []
for _ in range(int(sys.argv[3])):
    s = socket.socket(); s.setblocking(False); s.connect_ex((sys.argv[1], int(sys.argv[2]))); held.append(s)
import time; time.sleep(0.5)
print("up", flush=True); sys.stdin.read()
"""
SERVER = """
import socket, sys, threading
s = socket.socket(); s.bind((sys.argv[1], 7001)); s.listen(256)
held = []
def serve():
    while True: held.append(s.accept())
threading.Thread(target=serve, daemon=True).start()
print("up", flush=True); sys.stdin.read()
"""


@pytest.fixture(scope="module")
def net():
    with lab() as made:
        yield made


def look() -> dict[tuple[str, ...], float]:
    catalogue = Catalogue()
    return told(catalogue, SocketsCollector(catalogue, Roots()).read(time.time(), time.monotonic()).frame)


@root
@pytest.mark.root
def test_a_full_accept_queue_is_seen_and_its_owner_named(net):
    """A server that never accepts: its queue passes its backlog of 3, in a namespace that is not ours."""
    far = str(net.inode(net.far))
    server = net.python(net.far, LAZY, FAR)
    with ended(server):
        client = net.python(net.near, CLIENT, FAR, "7000", "9")
        with ended(client):
            seen = look()
            [listener] = [s for s in snapshot_sockets() if s.state == "listen" and s.netns == net.inode(net.far)]
    assert seen["linux.tcp.listen.backlog", f"{FAR}:7000", far] == 3
    assert seen["linux.tcp.listen.queue", f"{FAR}:7000", far] == 4  # the kernel takes one more than the limit
    assert listener.pid == server.pid
    assert (listener.queue, listener.backlog) == (4, 3)


@root
@pytest.mark.root
def test_ports_towards_a_destination_are_counted_and_who_holds_them_named(net):
    """Of a range of 50 ports a client holds 37 towards one destination."""
    near = str(net.inode(net.near))
    run("ip", "netns", "exec", net.near, "sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40049")
    server = net.python(net.far, SERVER, FAR)
    with ended(server):
        client = net.python(net.near, CLIENT, FAR, "7001", "37")
        with ended(client):
            seen = look()
            groups = snapshot_sockets()
    assert seen["linux.tcp.ports.range", near] == 50
    assert seen["linux.tcp.ports.used", f"{FAR}:7001", near] == 37
    assert seen["linux.tcp.sockets", near, "established"] == 37
    [held] = [s for s in groups if s.remote == f"{FAR}:7001" and s.state == "established"]
    assert (held.pid, held.count) == (client.pid, 37)
    [served] = [s for s in groups if s.local == f"{FAR}:7001" and s.state == "established"]
    assert (served.pid, served.remote) == (server.pid, f"{NEAR}:*")


@root
@pytest.mark.root
def test_ports_in_time_wait_count_too(net):
    """Connections that the client closed keep their ports, and have no owner."""
    run("ip", "netns", "exec", net.near, "sysctl", "-qw", "net.ipv4.ip_local_port_range=41000 41049")
    # the side that closes first keeps the port
    code = CLIENT.replace("s.setblocking(False); s.connect_ex", "s.connect").replace("held.append(s)", "s.close()")
    answer = "c = s.accept()[0]; c.recv(1); c.close()"
    server = net.python(net.far, SERVER.replace("held.append(s.accept())", answer), FAR)
    with ended(server, net.python(net.near, code, FAR, "7001", "20")):
        seen = look()
    near = str(net.inode(net.near))
    assert seen["linux.tcp.ports.used", f"{FAR}:7001", near] >= 20


@root
@pytest.mark.root
def test_round_trip_times_are_those_of_the_kernel():
    """A loopback connection that carried data: below a millisecond, known for both ends, no retransmits."""
    with ExitStack() as stack:
        server = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
        client = stack.enter_context(closing(socket.create_connection(server.getsockname())))
        accepted = stack.enter_context(closing(server.accept()[0]))
        for _ in range(3):
            client.sendall(b"ping")
            accepted.recv(4)
            accepted.sendall(b"pong")
            client.recv(4)
        seen = look()
        table = inetdiag.dump(CONNECTED, info=True)
        one = table.where(table.inode == os.fstat(client.fileno()).st_ino)
    assert len(one) == 1
    assert 0 < one.min_rtt[0] <= one.rtt[0] < 0.1
    assert one.retransmits[0] == 0
    assert 0 < seen["linux.tcp.peer.min_rtt", "", "127.0.0.1"] <= seen["linux.tcp.peer.rtt", "", "127.0.0.1"] < 0.1


def test_many_sockets_are_read_alike_by_netlink_and_from_proc():
    """Seven hundred connections of both families, in both sources: the same states, addresses, ports and inodes."""
    with ExitStack() as stack:
        expected = set()
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            server = stack.enter_context(closing(socket.create_server((host, 0), family=family, backlog=400)))
            for _ in range(175):
                client = stack.enter_context(closing(socket.create_connection(server.getsockname()[:2])))
                stack.enter_context(closing(server.accept()[0]))
                expected.add((client.getsockname()[1], server.getsockname()[1], os.fstat(client.fileno()).st_ino))
        tables = (inetdiag.dump(CONNECTED, info=True), inetdiag.from_proc("/proc/self/net", CONNECTED))
    for table in tables:
        rows = zip(table.local_port.tolist(), table.remote_port.tolist(), table.inode.tolist(), strict=True)
        assert expected <= set(rows)
        ours = np.isin(table.inode, [inode for _, _, inode in expected])
        assert {endpoint_text(row.tobytes(), 1) for row in table.remote[ours]} == {"127.0.0.1:1", "[::1]:1"}
        assert (table.state[ours] == inetdiag.ESTABLISHED).all()


def test_a_listener_is_found_in_both_sources():
    """Queue from both, backlog from netlink only."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=5)) as server:
        port = server.getsockname()[1]
        with closing(socket.create_connection(server.getsockname())):
            for table in (inetdiag.dump(LISTENING), inetdiag.from_proc("/proc/self/net", LISTENING)):
                mine = table.where(table.local_port == port)
                assert mine.queue.tolist() == [1]
                assert mine.backlog.tolist() in ([5], [-1])


def test_hostile_lines_of_proc_are_skipped(tmp_path):
    """Cut lines, wrong numbers and unknown states cost only themselves."""
    good = "0: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000 0 0 4242 1"
    bad = (
        "1: 0100007F 0:0\n2: ZZ:1 00000000:0000 0A 0:0 0 0 0 0 1\n3: 0100007F:1F90 00000000:0000 FF 0:0 0 0 0 0 1\n\0\n"
    )
    (tmp_path / "tcp").write_text(f"header\n{bad}{good}\n")
    table = inetdiag.from_proc(str(tmp_path), LISTENING)
    assert table.inode.tolist() == [4242]
    assert table.queue.tolist() == [2]
    assert endpoint_text(table.local[0].tobytes(), int(table.local_port[0])) == "127.0.0.1:8080"
