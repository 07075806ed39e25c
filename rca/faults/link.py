"""Links that are down or report errors of their own, and the connection-tracking table."""

from __future__ import annotations

import numpy as np

from rca.faults.netns import (
    enter,
    interface_culprit,
    interfaces,
    netns_label,
    packets,
)
from rca.faults.shared import rise, times
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, series_onset
from wardround.models.diagnosis import Culprit
from wardround.models.topology import Interface
from wardround.shell import command


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
        statement=f"the kernel logged a full table {times(len(lines))}",
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
    netns = netns_label(link.netns)
    bad = rise(view, "system.network.errors", interface=link.name, netns=netns) + rise(
        view, "system.network.dropped", interface=link.name, netns=netns
    )
    flaps = rise(view, "linux.network.carrier_changes", interface=link.name, netns=netns)
    return bad, flaps, packets(view, link)


def _went_down(view: View, link: Interface) -> bool:
    """Whether it was up when the window began and is down now."""
    was = next((i for i in view.observation.before.interfaces if (i.name, i.netns) == (link.name, link.netns)), None)
    return was is not None and was.operstate == "up" and link.operstate in ("down", "lowerlayerdown")


def _link_suspects(view: View) -> list[Culprit]:
    found: list[tuple[float, Culprit]] = []
    for link in view.observation.after.interfaces:
        bad, flaps, packets = _link_trouble(view, link)
        if link.name != "lo" and (bad > max(20.0, 0.01 * packets) or flaps >= 2 or _went_down(view, link)):
            found.append((bad + 1000 * flaps, interface_culprit(link, netns_label(link.netns), "", None)))
    return [culprit for _, culprit in sorted(found, key=lambda f: -f[0])[:3]]


def _link_of(view: View, culprit: Culprit) -> Interface | None:
    netns = culprit.label("netns") or ""
    return next((i for i in interfaces(view, netns) if i.name == culprit.name), None)


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
            f"{link.name} is {link.operstate}, changed carrier {times(flaps)} and reported "
            f"{bad:.0f} errors and drops over {packets:.0f} packets"
        ),
        values={"carrier_changes": flaps, "errors": bad, "packets": packets},
        unit="{event}",
        reproduce=enter(view, netns) + command("ip -s link show {}", link.name),
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


MODELS = (CONNTRACK, LINK)
