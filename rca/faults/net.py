"""The path: packets lost on it, or held on it.

Loss and latency are told apart by retransmissions; which end of a path loses cannot be told from one host, so the
interface towards the peer is named.
"""

from __future__ import annotations

import ipaddress

import numpy as np

from rca.faults.netns import (
    enter,
    inside,
    interface_culprit,
    interfaces,
    namespaces,
    peers,
    snmp,
    towards,
)
from rca.faults.shared import pressure
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, series_onset
from wardround.models.diagnosis import Culprit
from wardround.shell import command

# A peer on a directly connected network answers well within this; above it something on the path holds packets.
NEAR = 0.02


def _loss_suspects(view: View) -> list[Culprit]:
    found: list[tuple[float, Culprit]] = []
    for netns in namespaces(view):
        lost = snmp(view, "Tcp.RetransSegs", netns)
        if lost < 3:
            continue
        for peer in peers(view, netns)[:3] or [""]:
            link = (
                towards(view, peer, netns)
                if peer
                else next((i for i in interfaces(view, netns) if i.name != "lo"), None)
            )
            if link is not None:
                found.append((lost, interface_culprit(link, netns, peer, inside(view, netns))))
                break
    return [culprit for _, culprit in sorted(found, key=lambda f: -f[0])[:3]]


def _retransmits(view: View, culprit: Culprit) -> Finding | None:
    netns = culprit.label("netns") or ""
    lost, sent = snmp(view, "Tcp.RetransSegs", netns), snmp(view, "Tcp.OutSegs", netns)
    if sent + lost <= 0:
        return None
    share = lost / (sent + lost)
    peer = culprit.label("peer")
    return Finding(
        value=share,
        statement=f"{lost:.0f} of {sent + lost:.0f} TCP segments were retransmitted ({share:.1%})"
        + (f", most of them to {peer}" if peer else ""),
        values={"retransmitted": lost, "segments": sent + lost, "retransmit_ratio": share},
        unit="1",
        reproduce=f"{enter(view, netns)}nstat -az TcpRetransSegs TcpOutSegs; {enter(view, netns)}ss -tin",
        source="collectors.network",
        series=(f"linux.snmp{{key=Tcp.RetransSegs, netns={netns}}}",),
        onset=series_onset(view.window, view.window.level("linux.snmp", key="Tcp.RetransSegs", netns=netns)),
    )


def _retransmit_count(view: View, culprit: Culprit) -> Finding | None:
    """Enough of them that chance does not do it."""
    netns = culprit.label("netns") or ""
    lost = snmp(view, "Tcp.RetransSegs", netns)
    timeouts = snmp(view, "TcpExt.TCPTimeouts", netns)
    return Finding(
        value=lost,
        statement=f"{lost:.0f} retransmissions and {timeouts:.0f} retransmission time-outs in the window",
        values={"retransmitted": lost, "timeouts": timeouts},
        unit="{segment}",
        reproduce=f"{enter(view, netns)}nstat -az TcpExtTCPTimeouts",
        source="collectors.network",
        series=(f"linux.snmp{{key=TcpExt.TCPTimeouts, netns={netns}}}",),
    )


def _refused_not_lost(view: View, culprit: Culprit) -> Finding | None:
    """Retransmitted handshakes to a full accept queue or a dead address are no loss on the path."""
    netns = culprit.label("netns") or ""
    lost = snmp(view, "Tcp.RetransSegs", netns)
    handshakes = snmp(view, "TcpExt.TCPSynRetrans", netns)
    overflows = sum(snmp(view, "TcpExt.ListenOverflows", n) for n in namespaces(view))
    if lost <= 0:
        return None
    share = min(handshakes / lost, 1.0)
    value = 1.0 if overflows > 0.2 * lost else share
    return Finding(
        value=value,
        statement=(
            f"{handshakes:.0f} of the {lost:.0f} retransmissions were of handshakes; "
            f"{overflows:.0f} connections overflowed an accept queue"
        ),
        values={"handshakes": handshakes, "retransmitted": lost, "overflows": overflows},
        unit="{segment}",
        reproduce=f"{enter(view, netns)}nstat -az TcpExtTCPSynRetrans TcpExtListenOverflows",
        source="collectors.network",
        series=(f"linux.snmp{{key=TcpExt.TCPSynRetrans, netns={netns}}}",),
    )


LOSS = FaultModel(
    fault="net.loss",
    culprit="interface",
    prior=0.08,
    suspects=_loss_suspects,
    features=(
        Feature(
            "retransmit_ratio",
            "metric.network",
            _retransmits,
            Curve((0.0005, -3.0), (0.003, -0.5), (0.01, 1.5), (0.05, 3.0)),
            needed=True,
            ask="segments are retransmitted: `nstat -az TcpRetransSegs` twice",
        ),
        Feature("retransmit_count", "metric.network", _retransmit_count, Curve((2.0, -2.0), (8.0, 0.0), (30.0, 1.0))),
        Feature("not_refused", "metric.network", _refused_not_lost, Curve((0.2, 0.5), (0.6, -0.5), (1.0, -3.0))),
    ),
    headline=lambda c, f: (
        f"packets are lost on {c.name}"
        + (f" towards {c.label('peer')}" if c.label("peer") else "")
        + f": {f['retransmit_ratio'].value:.1%} of TCP segments are sent again."
    ),
    symptoms=("net.latency", "net.backlog", "engine.down"),
    effects=(
        "linux.snmp",
        "linux.tcp.retransmits",
        "linux.tcp.peer.retransmits",
        "linux.tcp.peer.rtt",
        "linux.packet_drops",
    ),
    chain=("packets are lost on the path", "TCP sends them again after a time-out", "every exchange slows"),
    severity="warning",
    actions=("net.inspect_path",),
)


def _rtt(view: View, peer: str, netns: str) -> tuple[float, float]:
    """(median, lowest) round-trip time to a peer, seconds."""
    rtt = view.window.seen("linux.tcp.peer.rtt", peer=peer, netns=netns)
    low = view.window.seen("linux.tcp.peer.min_rtt", peer=peer, netns=netns)
    return (float(np.median(rtt)) if len(rtt) else float("nan"), float(low.min()) if len(low) else float("nan"))


def _is_near(view: View, peer: str, netns: str) -> bool:
    """Whether a peer sits on a network this namespace is directly connected to, or on the host itself."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    return any(address in ipaddress.ip_interface(own).network for i in interfaces(view, netns) for own in i.addresses)


def _latency_suspects(view: View) -> list[Culprit]:
    found: list[tuple[float, Culprit]] = []
    for netns in sorted(view.window.entities("linux.tcp.peer.rtt", "netns")):
        for peer in view.window.entities("linux.tcp.peer.rtt", "peer", netns=netns):
            rtt, low = _rtt(view, peer, netns)
            link = towards(view, peer, netns)
            near = _is_near(view, peer, netns)
            if link is not None and (rtt > NEAR if near else rtt > max(3 * low, 0.05)):
                found.append((rtt, interface_culprit(link, netns, peer, inside(view, netns))))
    return [culprit for _, culprit in sorted(found, key=lambda f: -f[0])[:3]]


def _round_trip(view: View, culprit: Culprit) -> Finding | None:
    netns, peer = culprit.label("netns") or "", culprit.label("peer") or ""
    rtt, low = _rtt(view, peer, netns)
    if np.isnan(rtt):
        return None
    near = _is_near(view, peer, netns)
    usual = NEAR / 10 if near else low
    told = "a peer on the same network" if near else f"usual is {1e3 * low:.1f} ms"
    return Finding(
        value=rtt / max(usual, 1e-4),
        statement=f"the round trip to {peer} takes {1e3 * rtt:.1f} ms ({told})",
        values={"rtt_seconds": rtt},
        unit="s",
        baseline={"min_rtt_seconds": low},
        reproduce=enter(view, netns) + command("ss -tino dst {}", peer),
        source="collectors.sockets",
        series=(f"linux.tcp.peer.rtt{{netns={netns}, peer={peer}}}",),
        onset=series_onset(view.window, view.window.level("linux.tcp.peer.rtt", peer=peer, netns=netns)),
    )


def _without_loss(view: View, culprit: Culprit) -> Finding | None:
    netns = culprit.label("netns") or ""
    lost, sent = snmp(view, "Tcp.RetransSegs", netns), snmp(view, "Tcp.OutSegs", netns)
    share = lost / max(sent + lost, 1.0)
    return Finding(
        value=share,
        statement=f"{share:.1%} of TCP segments were retransmitted meanwhile",
        values={"retransmit_ratio": share},
        unit="1",
        reproduce=f"{enter(view, netns)}nstat -az TcpRetransSegs TcpOutSegs",
        source="collectors.network",
        series=(f"linux.snmp{{key=Tcp.RetransSegs, netns={netns}}}",),
    )


LATENCY = FaultModel(
    fault="net.latency",
    culprit="interface",
    prior=0.08,
    suspects=_latency_suspects,
    features=(
        Feature(
            "round_trip",
            "metric.sockets",
            _round_trip,
            Curve((2.0, -3.0), (5.0, -0.5), (10.0, 1.5), (30.0, 3.0)),
            needed=True,
            ask="the kernel's smoothed round-trip time: `ss -ti`",
        ),
        Feature("without_loss", "metric.network", _without_loss, Curve((0.003, 0.8), (0.02, -1.0), (0.05, -3.0))),
        Feature("cpu_pressure", "metric.cpu", pressure("cpu"), Curve((0.5, 0.2), (0.8, -0.5), (0.95, -1.5))),
    ),
    headline=lambda c, f: (
        f"the path of {c.name} to {c.label('peer')} is slow: "
        f"a round trip takes {1e3 * (f['round_trip'].values['rtt_seconds'] or 0):.0f} ms without loss."
    ),
    symptoms=("net.backlog", "engine.down"),
    effects=("linux.tcp.peer.rtt",),
    chain=("something on the path holds packets", "each round trip takes longer", "every exchange slows"),
    severity="warning",
    actions=("net.inspect_path",),
)


MODELS = (LOSS, LATENCY)
