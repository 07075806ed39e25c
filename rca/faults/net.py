"""Network: loss, latency, accept queues, ephemeral ports, connection tracking, links.

Counters are read in every network namespace with a living process. Loss and latency are told apart by
retransmissions; which end of a path loses cannot be told from one host, so the interface towards the peer is named.
"""

from __future__ import annotations

import ipaddress

import numpy as np

from rca.faults.shared import pressure, process_culprit, rise, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, series_onset
from wardround.models.diagnosis import Culprit
from wardround.models.topology import Interface, Socket

# A peer on a directly connected network answers well within this; above it something on the path holds packets.
NEAR = 0.02


def _netns_label(number: int) -> str:
    return str(number) if number else ""


def namespaces(view: View) -> list[str]:
    """Labels of the network namespaces seen; empty for the host's own."""
    return sorted(view.window.entities("linux.snmp", "netns"))


def snmp(view: View, key: str, netns: str) -> float:
    """Events of one protocol counter in the window."""
    return rise(view, "linux.snmp", key=key, netns=netns)


def _inside(view: View, netns: str) -> int | None:
    """A process that lives in a namespace, to show commands for it."""
    if not netns:
        return None
    return next((pid for pid, p in view.processes.items() if str(p.netns) == netns), None)


def _enter(view: View, netns: str) -> str:
    pid = _inside(view, netns)
    return f"nsenter -t {pid} -n " if pid else ""


def _interfaces(view: View, netns: str) -> list[Interface]:
    return [i for i in view.observation.after.interfaces if _netns_label(i.netns) == netns]


def towards(view: View, peer: str, netns: str) -> Interface | None:
    """Return the interface of a namespace whose network holds a peer, else the busiest one that is not loopback."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return None
    links = _interfaces(view, netns)
    for link in links:
        for own in link.addresses:
            if address in ipaddress.ip_interface(own).network:
                return link
    outward = [i for i in links if i.name != "lo"]
    return max(outward, key=lambda i: _packets(view, i), default=None)


def _packets(view: View, link: Interface) -> float:
    return rise(view, "system.network.packets", interface=link.name, netns=_netns_label(link.netns))


def _peers(view: View, netns: str) -> list[str]:
    """Peers a namespace talks to, the most retransmitted to first."""
    traced = view.window.entities("linux.tcp.retransmits", "peer", netns=netns) or view.window.entities(
        "linux.tcp.retransmits", "peer"
    )
    counts = {peer: rise(view, "linux.tcp.retransmits", peer=peer) for peer in traced}
    told = view.window.entities("linux.tcp.peer.retransmits", "peer", netns=netns)
    for peer in told:
        levels = view.window.level("linux.tcp.peer.retransmits", peer=peer, netns=netns)
        seen = levels[~np.isnan(levels)]
        counts.setdefault(peer, float(seen.max() - seen.min()) if len(seen) else 0.0)
    return sorted(counts, key=lambda p: -counts[p])


def _interface_culprit(link: Interface, netns: str, peer: str, pid: int | None) -> Culprit:
    return Culprit("interface", link.name, pid, (("netns", netns), ("peer", peer)))


# --- loss ---


def _loss_suspects(view: View) -> list[Culprit]:
    found: list[tuple[float, Culprit]] = []
    for netns in namespaces(view):
        lost = snmp(view, "Tcp.RetransSegs", netns)
        if lost < 3:
            continue
        for peer in _peers(view, netns)[:3] or [""]:
            link = (
                towards(view, peer, netns)
                if peer
                else next((i for i in _interfaces(view, netns) if i.name != "lo"), None)
            )
            if link is not None:
                found.append((lost, _interface_culprit(link, netns, peer, _inside(view, netns))))
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
        reproduce=f"{_enter(view, netns)}nstat -az TcpRetransSegs TcpOutSegs; {_enter(view, netns)}ss -tin",
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
        reproduce=f"{_enter(view, netns)}nstat -az TcpExtTCPTimeouts",
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
        statement=f"{handshakes:.0f} of the {lost:.0f} retransmissions were of handshakes; {overflows:.0f} connections overflowed an accept queue",
        values={"handshakes": handshakes, "retransmitted": lost, "overflows": overflows},
        unit="{segment}",
        reproduce=f"{_enter(view, netns)}nstat -az TcpExtTCPSynRetrans TcpExtListenOverflows",
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


# --- latency ---


def _rtt(view: View, peer: str, netns: str) -> tuple[float, float]:
    """(median, lowest) round-trip time to a peer, seconds."""
    rtt = view.window.level("linux.tcp.peer.rtt", peer=peer, netns=netns)
    low = view.window.level("linux.tcp.peer.min_rtt", peer=peer, netns=netns)
    rtt, low = rtt[~np.isnan(rtt)], low[~np.isnan(low)]
    return (float(np.median(rtt)) if len(rtt) else float("nan"), float(low.min()) if len(low) else float("nan"))


def _is_near(view: View, peer: str, netns: str) -> bool:
    """Whether a peer sits on a network this namespace is directly connected to, or on the host itself."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    return any(address in ipaddress.ip_interface(own).network for i in _interfaces(view, netns) for own in i.addresses)


def _latency_suspects(view: View) -> list[Culprit]:
    found: list[tuple[float, Culprit]] = []
    for netns in sorted(view.window.entities("linux.tcp.peer.rtt", "netns")):
        for peer in view.window.entities("linux.tcp.peer.rtt", "peer", netns=netns):
            rtt, low = _rtt(view, peer, netns)
            link = towards(view, peer, netns)
            near = _is_near(view, peer, netns)
            if link is not None and (rtt > NEAR if near else rtt > max(3 * low, 0.05)):
                found.append((rtt, _interface_culprit(link, netns, peer, _inside(view, netns))))
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
        reproduce=f"{_enter(view, netns)}ss -tino dst {peer}",
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
        reproduce=f"{_enter(view, netns)}nstat -az TcpRetransSegs TcpOutSegs",
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
        f"the path of {c.name} to {c.label('peer')} is slow: a round trip takes {1e3 * (f['round_trip'].values['rtt_seconds'] or 0):.0f} ms without loss."
    ),
    symptoms=("net.backlog", "engine.down"),
    effects=("linux.tcp.peer.rtt",),
    chain=("something on the path holds packets", "each round trip takes longer", "every exchange slows"),
    severity="warning",
    actions=("net.inspect_path",),
)


# --- accept queue ---


def _listeners(view: View) -> list[Socket]:
    return [s for s in view.observation.after.sockets if s.state.lower().startswith("listen") and s.pid in view.users]


def _queue_share(view: View, listener: Socket) -> float:
    """Mean fill of an accept queue over the window; the kernel lets one more in than the backlog says."""
    netns = _netns_label(listener.netns)
    levels = view.window.level("linux.tcp.listen.queue", address=listener.local, netns=netns)
    seen = levels[~np.isnan(levels)]
    waiting = float(seen.mean()) if len(seen) else float(listener.queue)
    return waiting / max(listener.backlog, 1)


def _backlog_suspects(view: View) -> list[Culprit]:
    shares = [(_queue_share(view, s), s) for s in _listeners(view)]
    found = sorted(((share, s) for share, s in shares if share > 0.5), key=lambda f: -f[0])
    suspects = []
    for _, s in found[:3]:
        process = view.users[s.pid or 0]
        base = process_culprit(view.leader(process), view.group_of(process.pid))
        suspects.append(
            Culprit("process", base.name, s.pid, (*base.labels, ("listen", s.local), ("netns", _netns_label(s.netns))))
        )
    return suspects


def _queue_full(view: View, culprit: Culprit) -> Finding | None:
    address = culprit.label("listen")
    listener = next((s for s in _listeners(view) if s.local == address and s.pid == culprit.pid), None)
    if listener is None:
        return None
    share = _queue_share(view, listener)
    netns = culprit.label("netns") or ""
    return Finding(
        value=share,
        statement=f"the accept queue of {address} is {share:.0%} full on average (limit {listener.backlog})",
        values={"queue_share": share, "limit": listener.backlog},
        unit="1",
        reproduce=f"{_enter(view, netns)}ss -ltn 'sport = :{str(address).rpartition(':')[2]}'   # Recv-Q, Send-Q",
        source="collectors.sockets",
        series=(f"linux.tcp.listen.queue{{address={address}, netns={netns}}}",),
        onset=series_onset(view.window, view.window.level("linux.tcp.listen.queue", address=address, netns=netns)),
    )


def _overflows(view: View, culprit: Culprit) -> Finding | None:
    netns = culprit.label("netns") or ""
    if not view.window.columns("linux.snmp", key="TcpExt.ListenOverflows", netns=netns):
        return None
    dropped = snmp(view, "TcpExt.ListenOverflows", netns)
    return Finding(
        value=dropped,
        statement=f"{dropped:.0f} connections were dropped at full accept queues in the window",
        values={"overflows": dropped},
        unit="{connection}",
        reproduce=f"{_enter(view, netns)}nstat -az TcpExtListenOverflows TcpExtListenDrops",
        source="collectors.network",
        series=(f"linux.snmp{{key=TcpExt.ListenOverflows, netns={netns}}}",),
        onset=series_onset(view.window, view.window.level("linux.snmp", key="TcpExt.ListenOverflows", netns=netns)),
    )


BACKLOG = FaultModel(
    fault="net.backlog",
    culprit="process",
    prior=0.08,
    suspects=_backlog_suspects,
    features=(
        Feature("queue_full", "metric.sockets", _queue_full, Curve((0.3, -3.0), (0.7, 0.3), (0.95, 2.0)), needed=True),
        Feature(
            "overflows",
            "metric.network",
            _overflows,
            Curve((0.0, -1.5), (1.0, 1.5), (20.0, 2.5)),
            needed=True,
            ask="connections overflow the accept queue: `nstat -az TcpExtListenOverflows` twice",
        ),
    ),
    headline=lambda c, f: (
        f"{who(c)} does not accept connections on {c.label('listen')} fast enough: its queue is {f['queue_full'].value:.0%} full"
        + (f" and {f['overflows'].values['overflows']:.0f} were dropped." if "overflows" in f else ".")
    ),
    symptoms=("engine.down", "net.loss", "net.latency"),
    effects=("linux.tcp.listen.queue", "linux.snmp", "linux.packet_drops"),
    chain=(
        "connections arrive faster than they are accepted",
        "the accept queue fills",
        "handshakes are dropped and retried",
    ),
    severity="warning",
    actions=("net.raise_backlog", "process.capture_stacks", "service.restart"),
)


# --- ephemeral ports ---


def _port_users(view: View, destination: str, netns: str) -> int | None:
    """The process with most sockets towards a destination."""
    held = [
        s
        for s in view.observation.after.sockets
        if s.remote == destination and _netns_label(s.netns) == netns and s.pid in view.users
    ]
    best = max(held, key=lambda s: s.count, default=None)
    return best.pid if best else None


def _ports_suspects(view: View) -> list[Culprit]:
    found: list[tuple[float, Culprit]] = []
    for netns in sorted(view.window.entities("linux.tcp.ports.used", "netns")):
        for destination in view.window.entities("linux.tcp.ports.used", "destination", netns=netns):
            share = _ports_share(view, destination, netns)
            if share < 0.6:
                continue
            pid = _port_users(view, destination, netns) or _caller(view, netns)
            if pid is None:
                continue
            labels = (("destination", destination), ("netns", netns))
            found.append((share, Culprit("process", view.name(pid), pid, labels)))
    return [culprit for _, culprit in sorted(found, key=lambda f: -f[0])[:3]]


def _caller(view: View, netns: str) -> int | None:
    """Where closed connections no longer name their owner: who fails to get a port, else who is busiest in the namespace."""
    from rca.faults.proc import syscall_errors

    failing = {pid: r for pid, r in syscall_errors(view, "EADDRNOTAVAIL").items() if pid in view.users}
    if failing:
        return max(failing, key=lambda pid: failing[pid])
    inside = [
        pid for pid, p in view.users.items() if _netns_label(p.netns) == netns or (netns and str(p.netns) == netns)
    ]
    return max(inside, key=lambda pid: view.cpu.get(pid, 0.0), default=None)


def _ports_share(view: View, destination: str, netns: str) -> float:
    used = view.window.level("linux.tcp.ports.used", destination=destination, netns=netns)
    seen = used[~np.isnan(used)]
    size = view.window.last("linux.tcp.ports.range", netns=netns)
    return float(seen.max()) / size if len(seen) and size > 0 else 0.0


def _ports_used(view: View, culprit: Culprit) -> Finding | None:
    destination, netns = culprit.label("destination") or "", culprit.label("netns") or ""
    used = view.window.level("linux.tcp.ports.used", destination=destination, netns=netns)
    seen = used[~np.isnan(used)]
    total = view.window.last("linux.tcp.ports.range", netns=netns)
    if not len(seen) or not total > 0:
        return None
    return Finding(
        value=float(seen.max()) / total,
        statement=f"{seen.max():.0f} of {total:.0f} ephemeral ports towards {destination} are in use",
        values={"ports_used": float(seen.max()), "ports": total},
        unit="{port}",
        reproduce=f"{_enter(view, netns)}ss -tan dst {destination} | wc -l; cat /proc/sys/net/ipv4/ip_local_port_range",
        source="collectors.sockets",
        series=(f"linux.tcp.ports.used{{destination={destination}, netns={netns}}}",),
        onset=series_onset(view.window, used),
    )


def _no_port(view: View, culprit: Culprit) -> Finding | None:
    from rca.faults.proc import syscall_errors

    if not view.window.columns("linux.process.syscall.errors"):
        return None
    rate = syscall_errors(view, "EADDRNOTAVAIL").get(culprit.pid or 0, 0.0)
    return Finding(
        value=rate,
        statement=f"{rate:.1f} of its connects a second fail for want of a local port (EADDRNOTAVAIL)",
        values={"refused": rate},
        unit="{error}/s",
        reproduce=f"strace -f -p {culprit.pid} -e trace=connect 2>&1 | grep EADDRNOTAVAIL",
        source="collectors.ebpf",
        kind="event",
        series=(f"linux.process.syscall.errors{{errno=EADDRNOTAVAIL, pid={culprit.pid}}}",),
    )


PORTS = FaultModel(
    fault="net.ports",
    culprit="process",
    prior=0.1,
    suspects=_ports_suspects,
    features=(
        Feature(
            "ports_used",
            "metric.sockets",
            _ports_used,
            Curve((0.5, -3.0), (0.8, -0.3), (0.95, 2.0), (1.0, 3.0)),
            needed=True,
        ),
        Feature(
            "no_port",
            "metric.syscalls",
            _no_port,
            Curve((0.0, -1.0), (0.1, 1.5), (5.0, 2.5)),
            ask="connect fails with EADDRNOTAVAIL: strace or the program's own log",
        ),
    ),
    headline=lambda c, f: (
        f"{who(c)} has used up the ephemeral ports towards {c.label('destination')}: "
        f"{f['ports_used'].values['ports_used']:.0f} of {f['ports_used'].values['ports']:.0f} are taken."
    ),
    symptoms=("engine.down",),
    effects=("linux.tcp.ports.used", "linux.tcp.sockets", "linux.process.syscall.errors"),
    chain=(
        "connections are opened anew each time",
        "closed ones hold their port for a minute",
        "connect finds no port",
    ),
    severity="critical",
    actions=("net.widen_port_range",),
)


# --- connection tracking, links ---


def _conntrack_suspects(view: View) -> list[Culprit]:
    share = view.window.last("linux.conntrack.count") / view.window.last("linux.conntrack.limit")
    return [Culprit("host", view.host.name)] if share > 0.8 else []


def _table_full(view: View, _: Culprit) -> Finding | None:
    count, limit = view.window.last("linux.conntrack.count"), view.window.last("linux.conntrack.limit")
    if np.isnan(count) or not limit > 0:
        return None
    return Finding(
        value=count / limit,
        statement=f"{count:.0f} of {limit:.0f} connection-tracking entries are in use",
        values={"entries": count, "limit": limit},
        unit="{connection}",
        reproduce="cat /proc/sys/net/netfilter/nf_conntrack_count /proc/sys/net/netfilter/nf_conntrack_max",
        source="collectors.network",
        series=("linux.conntrack.count",),
    )


def _table_drops(view: View, _: Culprit) -> Finding | None:
    lines = [
        r
        for r in view.observation.logs
        if r.source == "kmsg" and "nf_conntrack: table full" in r.text and r.time > view.observation.start - 300
    ]
    return Finding(
        value=float(len(lines)),
        statement=f"the kernel logged a full table {len(lines)} times",
        values={"lines": len(lines)},
        unit="{event}",
        reproduce="dmesg -T | grep 'nf_conntrack: table full'",
        source="collectors.kmsg",
        kind="log",
        onset=lines[0].time if lines else None,
    )


CONNTRACK = FaultModel(
    fault="net.conntrack",
    culprit="host",
    prior=0.08,
    suspects=_conntrack_suspects,
    features=(
        Feature("table_full", "metric.network", _table_full, Curve((0.7, -3.0), (0.9, 0.0), (0.98, 2.5)), needed=True),
        Feature("table_drops", "log.kernel", _table_drops, Curve((0.0, -1.0), (1.0, 2.5))),
    ),
    headline=lambda c, f: f"the connection-tracking table of {c.name} is full: {f['table_full'].statement}.",
    symptoms=("net.loss", "net.backlog"),
    effects=("linux.conntrack.count", "linux.packet_drops", "linux.snmp"),
    chain=("every tracked connection takes an entry", "the table is full", "packets of new connections are dropped"),
    severity="critical",
    actions=("net.raise_conntrack_limit",),
)


def _link_trouble(view: View, link: Interface) -> tuple[float, float, float]:
    """(errors and own drops, carrier changes, packets) of an interface in the window."""
    netns = _netns_label(link.netns)
    bad = rise(view, "system.network.errors", interface=link.name, netns=netns) + rise(
        view, "system.network.dropped", interface=link.name, netns=netns
    )
    flaps = rise(view, "linux.network.carrier_changes", interface=link.name, netns=netns)
    return bad, flaps, _packets(view, link)


def _went_down(view: View, link: Interface) -> bool:
    """Whether it was up when the window began and is down now."""
    was = next((i for i in view.observation.before.interfaces if (i.name, i.netns) == (link.name, link.netns)), None)
    return was is not None and was.operstate == "up" and link.operstate in ("down", "lowerlayerdown")


def _link_suspects(view: View) -> list[Culprit]:
    found: list[tuple[float, Culprit]] = []
    for link in view.observation.after.interfaces:
        bad, flaps, packets = _link_trouble(view, link)
        if link.name != "lo" and (bad > max(20.0, 0.01 * packets) or flaps >= 2 or _went_down(view, link)):
            found.append((bad + 1000 * flaps, _interface_culprit(link, _netns_label(link.netns), "", None)))
    return [culprit for _, culprit in sorted(found, key=lambda f: -f[0])[:3]]


def _link_of(view: View, culprit: Culprit) -> Interface | None:
    netns = culprit.label("netns") or ""
    return next((i for i in _interfaces(view, netns) if i.name == culprit.name), None)


def _link_state(view: View, culprit: Culprit) -> Finding | None:
    link = _link_of(view, culprit)
    if link is None:
        return None
    bad, flaps, packets = _link_trouble(view, link)
    down = _went_down(view, link)
    share = bad / max(packets + bad, 1.0)
    netns = culprit.label("netns") or ""
    return Finding(
        value=1.0 if down or flaps >= 2 else min(share / 0.05, 1.0),
        statement=(
            f"{link.name} is {link.operstate}, changed carrier {flaps:.0f} times and reported "
            f"{bad:.0f} errors and drops over {packets:.0f} packets"
        ),
        values={"carrier_changes": flaps, "errors": bad, "packets": packets},
        unit="{event}",
        reproduce=f"{_enter(view, netns)}ip -s link show {link.name}",
        source="collectors.network",
        series=(f"linux.network.carrier_changes{{interface={link.name}, netns={netns}}}",),
        onset=series_onset(view.window, view.window.level("system.network.dropped", interface=link.name, netns=netns)),
    )


LINK = FaultModel(
    fault="net.link",
    culprit="interface",
    prior=0.06,
    suspects=_link_suspects,
    features=(
        Feature(
            "link_state",
            "metric.network",
            _link_state,
            Curve((0.1, -2.5), (0.3, 0.0), (0.7, 2.0), (1.0, 3.5)),
            needed=True,
        ),
    ),
    headline=lambda c, f: f"the link {c.name} is faulty: {f['link_state'].statement}.",
    symptoms=("net.loss", "net.latency", "engine.down"),
    effects=("linux.network.carrier_changes", "system.network.errors", "system.network.dropped"),
    chain=("the link loses frames or goes down", "what crosses it is lost"),
    severity="critical",
    actions=("net.inspect_interface",),
)


MODELS = (LOSS, LATENCY, BACKLOG, PORTS, CONNTRACK, LINK)
