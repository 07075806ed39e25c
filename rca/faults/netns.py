"""Network namespaces as the models read them: counters, interfaces, peers, and how to enter one to look again."""

from __future__ import annotations

import ipaddress

from rca.faults.shared import rise
from rca.view import View
from wardround.models.diagnosis import Culprit
from wardround.models.topology import Interface


def netns_label(number: int) -> str:
    return str(number) if number else ""


def namespaces(view: View) -> list[str]:
    """Labels of the network namespaces seen; empty for the host's own."""
    return sorted(view.window.entities("linux.snmp", "netns"))


def snmp(view: View, key: str, netns: str) -> float:
    """Events of one protocol counter in the window."""
    return rise(view, "linux.snmp", key=key, netns=netns)


def inside(view: View, netns: str) -> int | None:
    """A process that lives in a namespace, to show commands for it."""
    if not netns:
        return None
    return next((pid for pid, p in view.processes.items() if str(p.netns) == netns), None)


def enter(view: View, netns: str) -> str:
    pid = inside(view, netns)
    return f"nsenter -t {pid} -n " if pid else ""


def interfaces(view: View, netns: str) -> list[Interface]:
    return [i for i in view.observation.after.interfaces if netns_label(i.netns) == netns]


def towards(view: View, peer: str, netns: str) -> Interface | None:
    """Return the interface of a namespace whose network holds a peer, else the busiest one that is not loopback."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return None
    links = interfaces(view, netns)
    for link in links:
        for own in link.addresses:
            if address in ipaddress.ip_interface(own).network:
                return link
    outward = [i for i in links if i.name != "lo"]
    return max(outward, key=lambda i: packets(view, i), default=None)


def packets(view: View, link: Interface) -> float:
    return rise(view, "system.network.packets", interface=link.name, netns=netns_label(link.netns))


def peers(view: View, netns: str) -> list[str]:
    """Peers a namespace talks to, the most retransmitted to first."""
    traced = view.window.entities("linux.tcp.retransmits", "peer", netns=netns) or view.window.entities(
        "linux.tcp.retransmits", "peer"
    )
    counts = {peer: rise(view, "linux.tcp.retransmits", peer=peer) for peer in traced}
    told = view.window.entities("linux.tcp.peer.retransmits", "peer", netns=netns)
    for peer in told:
        seen = view.window.seen("linux.tcp.peer.retransmits", peer=peer, netns=netns)
        counts.setdefault(peer, float(seen.max() - seen.min()) if len(seen) else 0.0)
    return sorted(counts, key=lambda p: -counts[p])


def interface_culprit(link: Interface, netns: str, peer: str, pid: int | None) -> Culprit:
    return Culprit("interface", link.name, pid, (("netns", netns), ("peer", peer)))
