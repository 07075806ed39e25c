"""Carries packets between two TUN interfaces in two network namespaces, after a while with a delay each way.

usage: relay.py NETNS_A TUN_A NETNS_B TUN_B DELAY_MS AFTER_S
"""

import collections
import ctypes
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000


def attach(netns: str, name: str) -> int:
    space = os.open(f"/run/netns/{netns}", os.O_RDONLY)
    if ctypes.CDLL(None).setns(space, CLONE_NEWNET):
        raise OSError("setns")
    os.close(space)
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return tun


def main() -> None:
    left, right = attach(sys.argv[1], sys.argv[2]), attach(sys.argv[3], sys.argv[4])
    other = {left: right, right: left}
    begins = time.monotonic() + float(sys.argv[6])
    delay = float(sys.argv[5]) / 1000
    waiting: collections.deque[tuple[float, int, bytes]] = collections.deque()
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for tun in select.select([left, right], [], [], timeout)[0]:
            packet = os.read(tun, 65536)
            now = time.monotonic()
            waiting.append((now + (delay if now > begins else 0.0), other[tun], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, tun, packet = waiting.popleft()
            os.write(tun, packet)


main()
