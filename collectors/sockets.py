"""TCP sockets of every network namespace: states, accept queues, peers with their round-trip times, ports in use.

Source: netlink inet_diag, else /proc/PID/net/tcp; ip_local_port_range; /proc/PID/fd for owners (snapshots only). Needs
CAP_SYS_ADMIN for other namespaces and root for other users' descriptors. Measured cost: accept queues 0.1 ms a tick;
the rest 2 ms every third second on a quiet host, 80 ms with 20,000 sockets, paced to stay under 2 % of a core.

Limits: a peer's figures are those of its present sockets; a closed socket takes its retransmits along. A socket in
TIME_WAIT has no owner any more. Ports of a destination are counted over all local addresses.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from time import monotonic, thread_time

import numpy as np
from numpy.typing import NDArray

from collectors import inetdiag
from collectors.base import Capability, Reading, Roots
from collectors.inetdiag import CONNECTED, ESTABLISHED, LISTENING, STATES, Table, address_text, endpoint_text
from collectors.namespaces import Namespace, Paced, Visitor, namespaces
from wardround.models.series import Catalogue, Frame, IntArray
from wardround.models.topology import Socket

PEERS = 20  # busiest ones of a namespace
DESTINATIONS = 5
TELLING_PORTS = 0.02  # share of the range from which a destination is listed
SURVEY_LEAST = 3.0  # seconds between surveys of connected sockets
SURVEY_FACTOR = 60.0  # and not before this many times what the last one took
GROUPS = 64  # like sockets of one process, listed in a snapshot
SEARCH_SECONDS = 0.5  # for the owners of sockets
Emit = Callable[..., None]


def sockets(space: Namespace, roots: Roots, states: int, *, info: bool = False) -> Table:
    """Return the sockets of the namespace that the calling thread is in, `space`."""
    try:
        return inetdiag.dump(states, info=info)
    except OSError:
        return inetdiag.from_proc(f"{roots.proc}/thread-self/net", states)


def port_range(roots: Roots) -> tuple[int, int]:
    """Return the ephemeral ports of the calling thread's namespace, both ends included."""
    try:
        with open(f"{roots.proc}/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            low, high = file.read().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 32768, 60999


class SocketsCollector:
    """Collector of TCP socket states, queues, peers and ports."""

    name = "collectors.sockets"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._roots = roots
        self._spaces = Paced(lambda: namespaces("net", roots))
        self._visitor = Visitor()
        self._next_survey = float("-inf")
        self._states: set[tuple[str, str]] = set()  # seen once, told from then on
        self._peers: dict[str, set[bytes]] = {}
        self._ids: dict[tuple[str, bytes, int], tuple[int, int]] = {}

    def probe(self) -> Capability:
        try:
            inetdiag.dump(LISTENING)
        except OSError as error:
            return Capability(True, f"no inet_diag ({error.strerror}): no round-trip times", "modprobe tcp_diag")
        return Capability(True)

    def start(self) -> None:
        return

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []

        def emit(value: float, metric: str, **labels: str) -> None:
            ids.append(self._catalogue.id(metric, **labels))
            values.append(value)

        survey = clock >= self._next_survey
        spent = 0.0

        def look(space: Namespace) -> None:
            self._listeners(sockets(space, self._roots, LISTENING), space.label, ids, values)
            nonlocal spent
            if survey:
                began = thread_time()  # of the thread that is there; waiting for a CPU is no cost of ours
                connected = sockets(space, self._roots, CONNECTED, info=True)
                self._count_states(connected, space.label, emit)
                self._tell_peers(connected, space.label, emit)
                tell_ports(connected, port_range(self._roots), space.label, emit)
                spent += thread_time() - began

        self._visitor.visit(self._spaces(clock), look)
        if survey:
            self._next_survey = clock + max(SURVEY_LEAST, SURVEY_FACTOR * spent)
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        self._visitor.close()

    def _listeners(self, table: Table, netns: str, ids: list[int], values: list[float]) -> None:
        worst: dict[tuple[str, bytes, int], tuple[int, int]] = {}
        for at in range(len(table)):
            key = (netns, table.local[at].tobytes(), int(table.local_port[at]))
            queue, limit = int(table.queue[at]), int(table.backlog[at])
            if key not in worst or queue > worst[key][0]:  # of sockets that share a port, the longest queue
                worst[key] = (queue, limit)
        for key, (queue, limit) in worst.items():
            known = self._ids.get(key)
            if known is None:
                labels = {"address": endpoint_text(key[1], key[2]), "netns": netns}
                known = self._ids[key] = (
                    self._catalogue.id("linux.tcp.listen.queue", **labels),
                    self._catalogue.id("linux.tcp.listen.backlog", **labels),
                )
            ids += known
            values += (queue, limit if limit >= 0 else float("nan"))

    def _count_states(self, table: Table, netns: str, emit: Emit) -> None:
        counts = np.bincount(table.state, minlength=len(STATES))
        for state, name in enumerate(STATES):
            if name and (counts[state] or (netns, name) in self._states or state == ESTABLISHED):
                self._states.add((netns, name))
                emit(float(counts[state]), "linux.tcp.sockets", state=name, netns=netns)

    def _tell_peers(self, table: Table, netns: str, emit: Emit) -> None:
        live = table.where(table.state == ESTABLISHED)
        if not len(live):
            return
        first, group = _groups(live.remote)
        keys = [live.remote[row].tobytes() for row in first]
        count = np.bincount(group)
        lost = np.bincount(group, np.nan_to_num(live.retransmits))
        before = self._peers.get(netns, set())
        order = np.lexsort((-lost, -count))
        chosen = [int(i) for i in order if keys[i] in before][:PEERS]  # those told before go on while they live
        chosen += [int(i) for i in order[:PEERS] if keys[i] not in before]
        self._peers[netns] = {keys[i] for i in chosen}
        for i in chosen:
            labels = {"peer": address_text(keys[i]), "netns": netns}
            members = group == i
            emit(float(count[i]), "linux.tcp.peer.sockets", **labels)
            for values, reduce, metric in (
                (live.rtt, np.median, "rtt"),
                (live.min_rtt, np.min, "min_rtt"),
                (live.retransmits, np.sum, "retransmits"),
                (live.unacked, np.sum, "unacked"),
            ):
                known = values[members]
                known = known[~np.isnan(known)]
                if len(known):
                    emit(float(reduce(known)), f"linux.tcp.peer.{metric}", **labels)


def tell_ports(table: Table, ports: tuple[int, int], netns: str, emit: Emit) -> None:
    """Emit the size of the ephemeral range and the destinations that use a telling share of it."""
    low, high = ports
    size = high - low + 1
    emit(float(size), "linux.tcp.ports.range", netns=netns)
    for destination, used in busiest_destinations(table, ports):
        if used >= max(4, TELLING_PORTS * size):
            emit(float(used), "linux.tcp.ports.used", destination=destination, netns=netns)


def busiest_destinations(table: Table, ports: tuple[int, int], most: int = DESTINATIONS) -> list[tuple[str, int]]:
    """Return ``(ip:port, distinct local ephemeral ports in use towards it)``, TIME_WAIT included, most first."""
    mine = table.where((table.local_port >= ports[0]) & (table.local_port <= ports[1]) & (table.remote_port > 0))
    if not len(mine):
        return []
    pairs, _ = _groups(mine.remote, mine.remote_port, mine.local_port)
    mine = mine.where(pairs)
    first, group = _groups(mine.remote, mine.remote_port)
    count = np.bincount(group)
    far = mine.where(first)
    top = np.argsort(-count, kind="stable")[:most]
    return [(endpoint_text(far.remote[i].tobytes(), int(far.remote_port[i])), int(count[i])) for i in top]


def _groups(addresses: NDArray[np.uint8], *ports: IntArray) -> tuple[IntArray, IntArray]:
    """Return for each distinct combination a row that has it, and for each row the number of its combination."""
    words = np.ascontiguousarray(addresses).view(np.int64)
    columns = [*ports, words[:, 0], words[:, 1]]
    order = np.lexsort(columns)
    new = np.zeros(len(order), bool)
    new[:1] = True
    for column in columns:
        ordered = column[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(new) - 1
    return order[new], group


def snapshot_sockets(roots: Roots | None = None) -> tuple[Socket, ...]:
    """Return all TCP listeners, and the largest groups of like sockets of one process towards one address."""
    roots = roots or Roots()
    spaces = namespaces("net", roots)
    visitor = Visitor()

    def look(space: Namespace) -> tuple[Table, Table, tuple[int, int]]:
        listening = sockets(space, roots, LISTENING)
        return listening, sockets(space, roots, CONNECTED), port_range(roots)

    try:
        seen = visitor.visit(spaces, look)
    finally:
        visitor.close()
    wanted = {int(inode) for tables in seen.values() for table in tables[:2] for inode in table.inode if inode}
    owner = owners(wanted, roots)
    found: list[Socket] = []
    for space in spaces:
        if space.inode in seen:
            listening, connected, ports = seen[space.inode]
            netns = 0 if space.home else space.inode
            found += _listening(listening, netns, owner)
            found += _grouped(connected, ports, netns, owner)
    return tuple(found)


def owners(inodes: set[int], roots: Roots, deadline: float = SEARCH_SECONDS) -> dict[int, int]:
    """Return ``{socket inode: pid}`` of the processes that hold them, searched for at most `deadline` seconds.

    Of several holders the oldest pid counts, process 1 (socket activation) only where it is the sole one.
    """
    end = monotonic() + deadline
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, int] = {}
    if not wanted:
        return found
    pids = sorted(int(name) for name in os.listdir(roots.proc) if name.isdigit())
    for pid in [*(p for p in pids if p != 1), 1]:
        if monotonic() > end:
            break
        folder = f"{roots.proc}/{pid}/fd"
        try:
            descriptors = os.listdir(folder)
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                inode = wanted.get(os.readlink(f"{folder}/{descriptor}"))
            except OSError:
                continue
            if inode is not None:
                found.setdefault(inode, pid)
    return found


def _listening(table: Table, netns: int, owner: dict[int, int]) -> list[Socket]:
    return [
        Socket(
            state="listen",
            local=endpoint_text(table.local[at].tobytes(), int(table.local_port[at])),
            remote="",
            netns=netns,
            pid=owner.get(int(table.inode[at])),
            queue=int(table.queue[at]),
            backlog=max(0, int(table.backlog[at])),
            inode=int(table.inode[at]),
        )
        for at in range(len(table))
    ]


def _grouped(table: Table, ports: tuple[int, int], netns: int, owner: dict[int, int]) -> list[Socket]:
    """Group by state, owner and far end: a client's by ``ip:port``, a server's by ``ip:*`` and its own address."""
    counts: Counter[tuple[str, str, str, int | None]] = Counter()
    outward = (table.local_port >= ports[0]) & (table.local_port <= ports[1])
    for at in range(len(table)):
        state = int(table.state[at])
        remote, local = table.remote[at].tobytes(), ""
        if outward[at]:
            far = endpoint_text(remote, int(table.remote_port[at]))
        else:
            far, local = endpoint_text(remote, "*"), endpoint_text(table.local[at].tobytes(), int(table.local_port[at]))
        name = STATES[state] if state < len(STATES) else str(state)
        counts[name, local, far, owner.get(int(table.inode[at]))] += 1
    return [
        Socket(state=state, local=local, remote=far, netns=netns, pid=pid, count=count)
        for (state, local, far, pid), count in counts.most_common(GROUPS)
    ]
