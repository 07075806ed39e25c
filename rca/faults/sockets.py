"""Sockets: accept queues that overflow, and local ports that are used up."""

from __future__ import annotations

import numpy as np

from rca.faults.netns import (
    enter,
    netns_label,
    snmp,
)
from rca.faults.shared import process_culprit, syscall_errors, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, series_onset
from wardround.models.diagnosis import Culprit
from wardround.models.topology import Socket
from wardround.shell import command


def _listeners(view: View) -> list[Socket]:
    return [s for s in view.observation.after.sockets if s.state.lower().startswith("listen") and s.pid in view.users]


def _queue_share(view: View, listener: Socket) -> float:
    """Mean fill of an accept queue over the window; the kernel lets one more in than the backlog says."""
    netns = netns_label(listener.netns)
    seen = view.window.seen("linux.tcp.listen.queue", address=listener.local, netns=netns)
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
            Culprit("process", base.name, s.pid, (*base.labels, ("listen", s.local), ("netns", netns_label(s.netns))))
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
        reproduce=enter(view, netns)
        + command("ss -ltn {}   # Recv-Q, Send-Q", f"sport = :{str(address).rpartition(':')[2]}"),
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
        reproduce=f"{enter(view, netns)}nstat -az TcpExtListenOverflows TcpExtListenDrops",
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
        f"{who(c)} does not accept connections on {c.label('listen')} fast enough: "
        f"its queue is {f['queue_full'].value:.0%} full"
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


def _port_users(view: View, destination: str, netns: str) -> int | None:
    """The process with most sockets towards a destination."""
    held = [
        s
        for s in view.observation.after.sockets
        if s.remote == destination and netns_label(s.netns) == netns and s.pid in view.users
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
    """Where closed connections no longer name their owner.

    Who fails to get a port, else who is busiest in the namespace.
    """
    failing = {pid: r for pid, r in syscall_errors(view, "EADDRNOTAVAIL").items() if pid in view.users}
    if failing:
        return max(failing, key=lambda pid: failing[pid])
    inside = [
        pid for pid, p in view.users.items() if netns_label(p.netns) == netns or (netns and str(p.netns) == netns)
    ]
    return max(inside, key=lambda pid: view.cpu.get(pid, 0.0), default=None)


def _ports_share(view: View, destination: str, netns: str) -> float:
    seen = view.window.seen("linux.tcp.ports.used", destination=destination, netns=netns)
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
        reproduce=enter(view, netns)
        + command("ss -tan dst {} | wc -l; cat /proc/sys/net/ipv4/ip_local_port_range", destination),
        source="collectors.sockets",
        series=(f"linux.tcp.ports.used{{destination={destination}, netns={netns}}}",),
        onset=series_onset(view.window, used),
    )


def _no_port(view: View, culprit: Culprit) -> Finding | None:
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


MODELS = (BACKLOG, PORTS)
