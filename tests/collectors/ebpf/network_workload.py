"""Runs in a network namespace of its own and prints that namespace's counters; see test_programs.py."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

PORT = 7919


def counters() -> dict[str, int]:
    found: dict[str, int] = {}
    for name in ("snmp", "netstat"):
        lines = Path(f"/proc/net/{name}").read_text().splitlines()
        for keys, values in zip(lines[::2], lines[1::2], strict=True):
            protocol = keys.split(":")[0]
            prefix = "" if protocol in ("Tcp", "TcpExt") else protocol
            names = (prefix + key for key in keys.split()[1:])
            found.update(zip(names, map(int, values.split()[1:]), strict=True))
    return found


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def connect(address: str, port: int) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
        client.connect((address, port))
    return client


def retransmit() -> None:
    """A veth end whose other end drops all: the neighbour is known, nobody answers."""
    ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
    ip("addr", "add", "198.51.100.1/24", "dev", "v0")
    ip("link", "set", "v0", "up")
    ip("link", "set", "v1", "up")
    ip("neigh", "add", "198.51.100.7", "lladdr", "02:00:00:00:00:07", "dev", "v0")
    clients = [connect("198.51.100.7", PORT) for _ in range(3)]
    time.sleep(2.5)
    for client in clients:
        client.close()


def reset() -> None:
    for _ in range(7):
        with contextlib.suppress(ConnectionRefusedError), socket.socket() as client:
            client.connect(("127.0.0.3", PORT))


def flood() -> None:
    """23 datagrams to a socket that does not read and has room for fewer."""
    with socket.socket(type=socket.SOCK_DGRAM) as reader, socket.socket(type=socket.SOCK_DGRAM) as sender:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.bind(("127.0.0.1", PORT))
        for _ in range(23):
            sender.sendto(bytes(512), ("127.0.0.1", PORT))


if __name__ == "__main__":
    ip("link", "set", "lo", "up")
    before = counters()
    {"retransmit": retransmit, "reset": reset, "flood": flood}[sys.argv[1]]()
    after = counters()
    wanted = ("RetransSegs", "OutRsts", "UdpRcvbufErrors")
    print(json.dumps({name: after[name] - before[name] for name in wanted}))
