"""Network interfaces and protocol counters of the host's and every other network namespace.

Source: netlink RTM_GETLINK (statistics, carrier, state), /proc/net/{snmp,netstat} of each namespace, nf_conntrack's
counts. Needs CAP_SYS_ADMIN to look into other namespaces; without it there is our own. Measured cost: 0.2 ms a tick
for one namespace with four interfaces; two more in use bring it to 1 ms.

Interfaces that are down and never carried a packet are left out. It cannot know whose packets were lost (see the
sockets and eBPF collectors); counters of a namespace begin with it.
"""

from __future__ import annotations

import ipaddress
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from collectors import netlink
from collectors.base import Capability, Reading, Roots
from collectors.namespaces import Namespace, Paced, Visitor, namespaces
from wardround.models.series import Catalogue, Frame
from wardround.models.topology import Interface

GET_LINK, GET_ADDRESS, GET_NSID = 18, 22, 90
_LINK = struct.Struct("=BxHiII")  # family, device type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # family, prefix, flags, scope, index
_STATS = struct.Struct("=16Q")
IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_QDISC, IFLA_MASTER = 3, 4, 5, 6, 10
IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_STATS64, IFLA_EXT_MASK = 16, 18, 23, 29
IFLA_CARRIER, IFLA_CARRIER_CHANGES, IFLA_LINK_NETNSID = 33, 35, 37
IFA_ADDRESS, IFA_LOCAL = 1, 2
NETNSA_NSID, NETNSA_FD = 1, 3
IFF_UP, IFF_LOOPBACK = 1, 8
OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")

PROTOCOLS: dict[str, tuple[str, ...]] = {
    "Ip": ("InDiscards", "OutDiscards", "OutNoRoutes", "ReasmFails"),
    "Tcp": (
        "ActiveOpens", "PassiveOpens", "AttemptFails", "EstabResets", "InSegs", "OutSegs", "RetransSegs", "InErrs",
        "OutRsts",
    ),
    "Udp": ("InErrors", "RcvbufErrors", "SndbufErrors"),
    "TcpExt": (
        "ListenOverflows", "ListenDrops", "TCPTimeouts", "TCPLostRetransmit", "TCPFastRetrans", "TCPSlowStartRetrans",
        "TCPSynRetrans", "TCPSpuriousRTOs", "TCPDSACKRecv", "TCPReqQFullDrop", "TCPReqQFullDoCookies",
        "TCPBacklogDrop", "TCPRcvQDrop", "TCPAbortOnMemory", "TCPAbortOnTimeout", "TCPMemoryPressures", "PruneCalled",
        "TWRecycled", "TCPTimeWaitOverflow",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Link:
    """One interface as the kernel tells it. `counters`: packets, bytes, errors, dropped, each received and sent."""

    name: str
    index: int
    up: bool
    operstate: str
    carrier: bool
    carrier_changes: int
    counters: tuple[int, ...]
    attributes: dict[int, bytes]

    @property
    def works(self) -> bool:
        # the carrier is current, the operational state follows within a second
        return self.up and self.carrier and self.operstate in ("up", "unknown")

    @property
    def used(self) -> bool:
        return self.up or any(self.counters)


def links() -> Iterator[Link]:
    """Yield the interfaces of the calling thread's namespace. Raises OSError where netlink is not permitted."""
    for _, body in netlink.messages(netlink.ask(netlink.ROUTE, GET_LINK, _LINK.pack(0, 0, 0, 0, 0))):
        if len(body) < _LINK.size:
            continue
        _, _, index, flags, _ = _LINK.unpack_from(body)
        found = netlink.attributes(body, _LINK.size)
        stats = found.get(IFLA_STATS64, b"")
        if len(stats) < _STATS.size:
            continue
        packets_in, packets_out, in_, out, bad_in, bad_out, lost_in, lost_out, *rest = _STATS.unpack_from(stats)
        state = found.get(IFLA_OPERSTATE, b"\0")[0]
        yield Link(
            name=found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace"),
            index=index,
            up=bool(flags & IFF_UP),
            operstate=OPERSTATES[state] if state < len(OPERSTATES) else "unknown",
            carrier=found.get(IFLA_CARRIER, b"\1")[0] == 1,
            carrier_changes=_number(found.get(IFLA_CARRIER_CHANGES, b"")),
            # missed packets are drops too, for want of a receive buffer
            counters=(packets_in, packets_out, in_, out, bad_in, bad_out, lost_in + rest[7], lost_out),
            attributes=found,
        )


def _number(payload: bytes) -> int:
    return int.from_bytes(payload[:4], sys.byteorder, signed=True)


SERIES = (
    ("system.network.packets", "receive"),
    ("system.network.packets", "transmit"),
    ("system.network.io", "receive"),
    ("system.network.io", "transmit"),
    ("system.network.errors", "receive"),
    ("system.network.errors", "transmit"),
    ("system.network.dropped", "receive"),
    ("system.network.dropped", "transmit"),
)


class NetworkCollector:
    """Collector of interface and protocol counters."""

    name = "collectors.network"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._roots = roots
        self._spaces = Paced(lambda: namespaces("net", roots))
        self._visitor = Visitor()
        self._interfaces: dict[tuple[str, str], list[int]] = {}
        self._protocols: dict[tuple[str, bytes], tuple[list[int], list[int]]] = {}
        self._conntrack = Path(roots.proc, "sys/net/netfilter")

    def probe(self) -> Capability:
        try:
            next(links(), None)
        except OSError as error:
            return Capability(False, f"netlink is refused: {error.strerror}", "a sandbox that permits AF_NETLINK")
        if os.geteuid() != 0:
            return Capability(True, "only our own network namespace without root", "run as root")
        return Capability(True)

    def start(self) -> None:
        return

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []

        def look(space: Namespace) -> None:
            self._read_links(space.label, ids, values)
            self._read_protocols(space.label, ids, values)

        spaces = self._spaces(clock)
        if len(self._visitor.visit(spaces, look)) < len(spaces) and os.geteuid() == 0:
            self._spaces.expire()  # one is gone, or its process is
        for file, metric in (("nf_conntrack_count", "count"), ("nf_conntrack_max", "limit")):
            try:
                values.append(float((self._conntrack / file).read_bytes()))
                ids.append(self._catalogue.id(f"linux.conntrack.{metric}"))
            except (OSError, ValueError):
                break
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        self._visitor.close()

    def _read_links(self, netns: str, ids: list[int], values: list[float]) -> None:
        try:
            found = list(links())
        except OSError:
            return
        for link in found:
            if not link.used:
                continue
            known = self._interfaces.get((netns, link.name))
            if known is None:
                known = self._interfaces[netns, link.name] = self._number(netns, link.name)
            ids += known
            values += link.counters
            values += (link.works, link.carrier_changes)

    def _number(self, netns: str, interface: str) -> list[int]:
        labels = {"interface": interface, "netns": netns}
        return [
            *(self._catalogue.id(metric, direction=direction, **labels) for metric, direction in SERIES),
            self._catalogue.id("linux.network.up", **labels),
            self._catalogue.id("linux.network.carrier_changes", **labels),
        ]

    def _read_protocols(self, netns: str, ids: list[int], values: list[float]) -> None:
        for file in ("snmp", "netstat"):
            try:
                with open(f"{self._roots.proc}/thread-self/net/{file}", "rb") as source:
                    lines = source.read().splitlines()
            except OSError:
                continue
            for header, line in zip(lines[::2], lines[1::2], strict=False):
                plan = self._protocols.get((netns, header))
                if plan is None:
                    plan = self._protocols[netns, header] = self._plan(netns, header)
                if plan[0]:
                    fields = line.split()
                    if len(fields) > plan[0][-1]:
                        ids += plan[1]
                        values += [float(fields[at]) for at in plan[0]]

    def _plan(self, netns: str, header: bytes) -> tuple[list[int], list[int]]:
        """Return the places of the wanted counters behind this header, ascending, and their series."""
        names = header.decode("ascii", "replace").split()
        protocol = names[0].rstrip(":") if names else ""
        wanted = PROTOCOLS.get(protocol, ())
        places = [at for at, name in enumerate(names) if name in wanted]
        return places, [self._catalogue.id("linux.snmp", key=f"{protocol}.{names[at]}", netns=netns) for at in places]


def snapshot_interfaces(roots: Roots | None = None) -> tuple[Interface, ...]:
    """Return the interfaces of all network namespaces that may be entered."""
    spaces = namespaces("net", roots or Roots())
    visitor = Visitor()
    home = {space.inode: 0 if space.home else space.inode for space in spaces}
    try:
        found = visitor.visit(spaces, lambda space: _interfaces(home[space.inode], spaces, home))
    except OSError:
        return ()
    finally:
        visitor.close()
    return tuple(interface for part in found.values() for interface in part)


def _interfaces(netns: int, spaces: list[Namespace], home: dict[int, int]) -> list[Interface]:
    addresses = _addresses()
    found = list(links())
    linked = {_number(a) for link in found if (a := link.attributes.get(IFLA_LINK_NETNSID)) is not None}
    peers = _netns_ids(spaces) if linked else {}
    interfaces = []
    for link in found:
        extra = link.attributes
        info = netlink.attributes(extra.get(IFLA_LINKINFO, b""), 0)
        kind = info.get(1, b"").rstrip(b"\0").decode("ascii", "replace")
        peer = peers.get(_number(extra[IFLA_LINK_NETNSID])) if IFLA_LINK_NETNSID in extra else None
        if kind == "veth" and peer is None and IFLA_LINK_NETNSID not in extra and IFLA_LINK in extra:
            peer_netns: int | None = netns  # both ends lie in one namespace
        else:
            peer_netns = home.get(peer) if peer is not None else None
        loopback = link.name == "lo" and not kind
        interfaces.append(
            Interface(
                name=link.name,
                netns=netns,
                index=link.index,
                kind=kind or ("loopback" if loopback else "device"),
                operstate=link.operstate,
                mtu=_number(extra.get(IFLA_MTU, b"")),
                addresses=tuple(addresses.get(link.index, ())),
                qdisc=extra.get(IFLA_QDISC, b"").rstrip(b"\0").decode("ascii", "replace"),
                up=link.up,
                peer_netns=peer_netns,
                peer_index=_number(extra.get(IFLA_LINK, b"")),
                master=_number(extra.get(IFLA_MASTER, b"")),
            )
        )
    return interfaces


def _addresses() -> dict[int, list[str]]:
    """Return ``{interface index: addresses with prefix}`` of the calling thread's namespace."""
    found: dict[int, list[str]] = {}
    for _, body in netlink.messages(netlink.ask(netlink.ROUTE, GET_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0))):
        if len(body) < _ADDRESS.size:
            continue
        _, prefix, _, _, index = _ADDRESS.unpack_from(body)
        attributes = netlink.attributes(body, _ADDRESS.size)
        packed = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS, b"")
        if len(packed) in (4, 16):
            found.setdefault(index, []).append(f"{ipaddress.ip_address(packed)}/{prefix}")
    return found


def _netns_ids(spaces: list[Namespace]) -> dict[int, int]:
    """Return ``{id that this namespace has for another: its inode}``."""
    found = {}
    for space in spaces:
        try:
            handle = os.open(space.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            body = b"\0" * 4 + netlink.attribute(NETNSA_FD, struct.pack("=i", handle))
            answers = netlink.ask(netlink.ROUTE, GET_NSID, body, dump=False)
        except OSError:
            continue
        finally:
            os.close(handle)
        for _, answer in netlink.messages(answers):
            number = _number(netlink.attributes(answer, 4).get(NETNSA_NSID, b"\xff" * 4))
            if number >= 0:
                found[number] = space.inode
    return found
