"""TCP retransmits and resets by peer, packet drops by reason, full accept queues by port (``programs/network.c``).

Drops whose reason is part of a healthy network (an unspecified reason, packets for others, a closing socket's queue)
are left out; the others are counted under the kernel's own name, lower case.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

import numpy as np

from collectors.ebpf.subjects.reader import Moment, open_map
from collectors.tally import Sink, Tally
from wardround.models.records import KernelEvent
from wardround.models.series import Catalogue

_RETRANSMIT = 0
_DIRECTIONS = {1: "transmit", 2: "receive"}
_PREFIX = "SKB_DROP_REASON_"
_OVERFLOW = "tcp_listen_overflow"
# fmt: off
_BENIGN = frozenset({
    "ipv6_ndisc_ns_otherhost", "ipv6disabled", "not_specified", "otherhost", "queue_purge", "socket_close",
    "socket_filter", "tap_filter", "tc_egress", "tc_ingress", "tcp_close", "tcp_ofomerge", "tcp_old_ack",
    "tcp_old_data", "tcp_reset", "tcp_rfc7323_tw_paws", "unhandled_proto", "unicast_in_l2_multicast",
    "unix_disconnect", "unix_skip_oob", "xdp",
})
# fmt: on


class NetworkReader:
    def __init__(self, maps: Mapping[str, int], catalogue: Catalogue, reasons: Mapping[int, str]) -> None:
        self._peers = open_map(maps, "tcp_peers", [("kind", "u4"), ("family", "u4"), ("address", "u1", 16)], "u8")
        self._packets = open_map(maps, "packet_drops", [("reason", "u4"), ("port", "u4")], "u8")
        self._retransmits = Tally("linux.tcp.retransmits", lambda peer: {"peer": peer, "netns": ""})
        self._resets = Tally("linux.tcp.resets", lambda key: {"peer": key[0], "direction": _DIRECTIONS[key[1]]})
        self._drops = Tally("linux.packet_drops", lambda reason: {"reason": reason})
        self._overflows = Tally("linux.tcp.listen.overflows", lambda port: {"port": port})
        self._reasons = {number: name.removeprefix(_PREFIX).lower() for number, name in reasons.items()}
        self._catalogue = catalogue

    def read(self, sink: Sink, moment: Moment) -> list[KernelEvent]:
        self._collect_peers()
        if moment.scale is not None:
            self._collect_drops(moment.scale)
        for tally in (self._retransmits, self._resets, self._drops, self._overflows):
            tally.emit(sink)
        return []

    def _collect_peers(self) -> None:
        keys, counts = self._peers.drain()
        for key, count in zip(keys, counts, strict=True):
            peer = _address(int(key["family"]), key["address"].tobytes())
            kind, amount = int(key["kind"]), np.array([float(count)])
            if kind == _RETRANSMIT:
                self._retransmits.add([peer], amount, self._catalogue)
            else:
                self._resets.add([(peer, kind)], amount, self._catalogue)

    def _collect_drops(self, scale: float) -> None:
        keys, counts = self._packets.drain()
        for (number, port), count in zip(keys.tolist(), counts.tolist(), strict=True):
            reason = self._reasons.get(number, f"reason_{number}")
            if reason in _BENIGN:
                continue
            amount = np.array([count * scale])
            self._drops.add([reason], amount, self._catalogue)
            if reason == _OVERFLOW and port:
                self._overflows.add([port], amount, self._catalogue)


def _address(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    address = socket.inet_ntop(socket.AF_INET6, raw)
    return address.removeprefix("::ffff:") if "." in address else address
