"""Actions on sockets, ports and interfaces of the host's network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from remediation.action import LOCAL, READS, WIDE, Draft, Params, Spec, Target
from wardround.shell import command

Interface = Annotated[str, Field(pattern=r"^[^/\s\x00]+$", max_length=255)]


class Backlog(Params):
    """The accept queue limit of the host and of one listener; the program must listen anew to take it over."""

    address: str = Field(min_length=3, max_length=100)
    somaxconn: int = Field(ge=128, le=65535)


class PortRange(Params):
    """The local ports that outgoing connections may use, in the network namespace of `pid` (None: the host's)."""

    pid: int | None = Field(default=None, ge=2, le=2**22)
    first: int = Field(ge=1024, le=32768)
    last: int = Field(ge=49152, le=65535)


class Conntrack(Params):
    """The size of the connection-tracking table."""

    limit: int = Field(ge=4096, le=2**26)


class Path(Params):
    """An interface or peer to look at, or to route around."""

    name: Interface


def raise_backlog(target: Target) -> Iterator[Draft]:
    for listener in sorted(target.listeners, key=lambda s: (-s.queue, s.local))[:1]:
        wanted = min(max(listener.backlog * 4, 1024), 65535)
        if wanted <= listener.backlog:
            return
        yield Draft(
            params=Backlog(address=listener.local, somaxconn=wanted),
            preview=f"accept queue of {listener.local}: {listener.queue} waiting, limit {listener.backlog} -> {wanted} "
            "(net.core.somaxconn, and the program's own backlog at its next listen)",
            blast_radius="new listeners of this network namespace; more waits in the queue, nothing is served faster",
            rollback=f"net.core.somaxconn as before; limit {wanted} -> {listener.backlog}",
            precheck="sysctl net.core.somaxconn; ss -ltn shows the same limit",
            verify="linux.snmp TcpExt.ListenOverflows stops rising",
        )


def widen_port_range(target: Target) -> Iterator[Draft]:
    """Widen the range of the culprit's network namespace; every namespace has its own."""
    netns = target.hypothesis.culprit.label("netns") or ""
    size = target.observation.window.last("linux.tcp.ports.range", netns=netns)
    if size >= 65535 - 1024:
        return
    now = f"{size:.0f} ports" if size == size else "as it stands"
    where = f" in the network namespace of pid {target.hypothesis.culprit.pid}" if netns else ""
    yield Draft(
        params=PortRange(pid=target.hypothesis.culprit.pid if netns else None, first=1024, last=65535),
        preview=f"net.ipv4.ip_local_port_range{where}: {now} -> 1024 65535 ({65535 - 1024 + 1} ports)",
        blast_radius="outgoing connections of the namespace; ports of services above 1024 must be reserved",
        rollback="net.ipv4.ip_local_port_range as the precheck read it",
        precheck="sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports",
        verify="linux.tcp.ports.used stays below linux.tcp.ports.range",
    )


def raise_conntrack(target: Target) -> Iterator[Draft]:
    window = target.observation.window
    limit, count = window.last("linux.conntrack.limit"), window.last("linux.conntrack.count")
    if not limit > 0:
        return
    wanted = int(min(limit * 2, 2**26))
    yield Draft(
        params=Conntrack(limit=wanted),
        preview=f"net.netfilter.nf_conntrack_max: {limit:.0f} ({count:.0f} in use) -> {wanted}",
        blast_radius=f"the host; about {wanted * 320 // 2**20} MiB of kernel memory when full",
        rollback=f"net.netfilter.nf_conntrack_max: {wanted} -> {limit:.0f}",
        precheck="sysctl net.netfilter.nf_conntrack_max reads the same, and the memory is there",
        verify="linux.conntrack.count stays below the limit",
    )


def inspect_interface(target: Target) -> Iterator[Draft]:
    interface = next((i for i in target.observation.after.interfaces if i.name == target.name), None)
    state = f" ({interface.operstate}, queue {interface.qdisc or 'none'}, mtu {interface.mtu})" if interface else ""
    yield Draft(
        params=Path(name=_word(target.name)),
        preview=f"read the state of {target.name}{state}: ip -s -s link; tc -s qdisc; ethtool -S; nft list ruleset",
        blast_radius="none",
        rollback="none needed: it only reads",
        precheck="the interface or peer still exists",
        verify="drops, errors or a queueing rule are named",
    )


def inspect_path(target: Target) -> Iterator[Draft]:
    peer = target.hypothesis.culprit.label("peer") or ""
    pid = target.hypothesis.culprit.pid
    inside = f"nsenter -t {pid} -n " if pid is not None and target.hypothesis.culprit.label("netns") else ""
    yield Draft(
        params=Path(name=_word(peer or target.name)),
        preview=f"read the path from {target.name} to {peer or 'its peers'}: "
        + command(
            f"{inside}tc -s qdisc show dev {{}}; {inside}nft list ruleset; mtr -r {{}}", target.name, peer or "PEER"
        ),
        blast_radius="none; mtr sends a few packets",
        rollback="none needed: it only reads",
        precheck="the interface and the peer still exist",
        verify="the hop, rule or queue that drops or delays is named",
    )


def replace_path(target: Target) -> Iterator[Draft]:
    interface = next((i for i in target.observation.after.interfaces if i.name == target.name), None)
    others = [
        i.name
        for i in target.observation.after.interfaces
        if interface is not None
        and i.netns == interface.netns
        and i.name not in (target.name, "lo")
        and i.operstate == "up"
        and i.addresses
    ]
    if not others:
        return
    yield Draft(
        params=Path(name=_word(target.name)),
        preview=f"traffic over {target.name}: in use -> routed over {others[0]} (its state: up)",
        blast_radius="every connection over the interface; open ones may break",
        rollback=f"route over {target.name} again",
        precheck=f"the peers can be reached over {others[0]}",
        verify=target.metrics,
    )


def _word(name: str) -> str:
    return "".join(c for c in name if not c.isspace() and c != "/")[:255] or "unknown"


ACTIONS = (
    Spec("net.inspect_interface", "read the counters and rules of an interface", Path, READS, inspect_interface),
    Spec("net.inspect_path", "read where on the path to a peer packets are lost or late", Path, READS, inspect_path),
    Spec("net.raise_backlog", "lengthen the accept queue of a listener", Backlog, LOCAL, raise_backlog),
    Spec("net.widen_port_range", "let outgoing connections use more ports", PortRange, LOCAL, widen_port_range),
    Spec("net.raise_conntrack_limit", "enlarge the connection-tracking table", Conntrack, LOCAL, raise_conntrack),
    Spec("net.replace_path", "route around a bad interface", Path, WIDE, replace_path),
)
