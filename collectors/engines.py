"""Local inference engines: which run here, whether they answer, and what they say of their work.

Source: `engine_find` (processes) and `engine_http` (their own interface), and the addresses in the setting `engines`
(``http://127.0.0.1:8080,…``). Measured cost: 0.01 ms a tick at rest, 3 ms every tenth second to look for engines among
100 processes, 1 ms a health check, which runs in a thread of its own.

An engine that listens but does not answer, or that was seen and is gone, is not up. One that listens nowhere (a library
inside a program) cannot be asked. It cannot know whether an engine was stopped on purpose.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import numpy as np

from collectors.base import Capability, Reading, Roots
from collectors.engine_find import Finder, Found
from collectors.engine_http import Connect, Health, check
from collectors.namespaces import Namespace, Paced, Visitor, host_namespace
from wardround.models.series import Catalogue, Frame
from wardround.models.topology import Engine

FORGET = 3600.0  # seconds that an engine which is gone is told as down
SNAPSHOT_TRIES = 2  # a busy host deserves a second try before an engine is called dead


@dataclass(slots=True)
class _Watched:
    """One address that is asked. `last_seen` is monotonic time; `health` the newest answer."""

    host: str
    port: int
    kind: str
    netns: int = 0
    configured: bool = False
    pid: int | None = None
    last_seen: float = 0.0
    health: Health | None = None
    thread: threading.Thread | None = field(default=None, repr=False)


def configured(addresses: Iterable[str]) -> list[tuple[str, int]]:
    """Return host and port of the setting's addresses; what is none is left out."""
    found = []
    for text in addresses:
        try:
            parts = urlsplit(text.strip() if "//" in text else f"//{text.strip()}")
            if parts.hostname:
                host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
                found.append((host, parts.port or 80))
        except ValueError:
            continue
    return found


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _connector(pid: int | None, netns: int, roots: Roots) -> Connect | None:
    """Return what makes a socket in the engine's network namespace; None where that is ours."""
    own = host_namespace("net", roots)
    if pid is None or not netns or (own and own.inode == netns):
        return None
    space = Namespace(netns, f"{roots.proc}/{pid}/ns/net", pid, False)

    def connect(family: socket.AddressFamily) -> socket.socket:
        visitor = Visitor()
        try:
            made = visitor.visit([space], lambda _: socket.socket(family))
        finally:
            visitor.close()
        if netns not in made:
            raise OSError("its network namespace cannot be entered")
        return made[netns]

    return connect


class EnginesCollector:
    """Collector of inference engines' health and metrics."""

    name = "collectors.engines"
    every = 2

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._roots = roots
        self._find = Paced(Finder(roots), least=10.0)
        self._watched: dict[str, _Watched] = {
            _address(host, port): _Watched(host, port, "", configured=True) for host, port in configured(roots.engines)
        }

    def probe(self) -> Capability:
        return Capability(True)

    def start(self) -> None:
        return

    def read(self, time: float, clock: float) -> Reading:
        for found in self._find(clock):
            if found.port is not None:
                self._watch(found, clock)
        ids: list[int] = []
        values: list[float] = []
        for address, one in list(self._watched.items()):
            if one.thread is None or not one.thread.is_alive():
                one.thread = threading.Thread(target=self._ask, args=(one,), name="wardround-engine", daemon=True)
                one.thread.start()
                one.thread.join(0.02)  # a healthy one answers at once
            health = one.health
            if health is None:
                continue
            if health.answers:
                one.last_seen = clock
            elif not one.configured and clock - one.last_seen > FORGET:
                del self._watched[address]
                continue
            self._tell(address, health, ids, values)
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def _watch(self, found: Found, clock: float) -> None:
        one = self._watched.get(found.address)
        if one is None:
            assert found.port is not None
            one = _Watched(found.host, found.port, found.kind, last_seen=clock)
            if not found.proved and not _ask(found, self._roots).answers:
                return  # only its name says so
            self._watched[found.address] = one
        one.pid, one.netns, one.kind = found.pid, found.netns, found.kind

    def _ask(self, one: _Watched) -> None:
        connect = _connector(one.pid, one.netns, self._roots)
        one.health = check(one.host, one.port, one.kind, metrics=True, connect=connect)

    def _tell(self, address: str, health: Health, ids: list[int], values: list[float]) -> None:
        ids.append(self._catalogue.id("wardround.engine.up", engine=address))
        values.append(float(health.healthy))
        if health.answers:
            ids.append(self._catalogue.id("wardround.engine.health_time", engine=address))
            values.append(health.seconds)
        for (metric, kind), value in health.metrics.items():
            labels = {"engine": address, "type": kind} if kind else {"engine": address}
            ids.append(self._catalogue.id(metric, **labels))
            values.append(value)

    def stop(self) -> None:
        return


def _ask(found: Found, roots: Roots, *, metrics: bool = False) -> Health:
    assert found.port is not None
    connect = _connector(found.pid, found.netns, roots)
    return check(found.host, found.port, found.kind, metrics=metrics, connect=connect)


def snapshot_engines(roots: Roots | None = None) -> tuple[Engine, ...]:
    """Return the engines that run here, proved by their map or their answer, and the configured ones; each is asked."""
    roots = roots or Roots()
    found = Finder(roots)()
    answers: dict[str, Health] = {}

    def ask(address: str, once: partial[Health]) -> None:
        for _ in range(SNAPSHOT_TRIES):
            answers[address] = once()
            if answers[address].healthy:
                return

    todo = {one.address: partial(_ask, one, roots) for one in found if one.port is not None}
    wanted = {_address(host, port): (host, port) for host, port in configured(roots.engines)}
    for address, (host, port) in wanted.items():
        todo.setdefault(address, partial(check, host, port, "", metrics=True))
    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in todo.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4.0)
    engines = []
    for one in found:
        health = answers.get(one.address)
        if one.proved or (health is not None and health.answers):
            engines.append(_engine(one, health, one.address in wanted))
    seen = {engine.address for engine in engines}
    for address in wanted.keys() - seen:
        health = answers.get(address) or Health(False, False, "does not answer")
        engines.append(
            Engine(
                health.kind or "unknown", None, address, healthy=health.healthy, detail=health.detail, configured=True
            )
        )
    return tuple(engines)


def _engine(found: Found, health: Health | None, is_configured: bool) -> Engine:
    return Engine(
        kind=found.kind,
        pid=found.pid,
        address=found.address,
        model=found.model,
        threads=found.threads,
        healthy=health.healthy if health else None,
        detail=health.detail if health else "listens on no port",
        configured=is_configured,
    )
