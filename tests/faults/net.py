"""Network faults, between network namespaces of their own or on the loopback."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from tests.faults import kernel
from tests.faults.scenario import Injected, compiler, device, entity, process, root, scenario, tool
from tests.faults.stage import Stage

HERE, PEER, PORT = "198.18.7.1", "198.18.7.2", "8080"
"""Addresses of the range set aside for benchmarks (RFC 2544)."""
_NETNS = (root, tool("ip"))


def _lossy(stage: Stage, here: str | None, percent: int, sender: list[str]) -> Injected:
    there = stage.netns("db")
    names = stage.veth(here, there, HERE, PEER)
    rules = f"""table ip filter {{ chain input {{ type filter hook input priority 0;
        iifname "{names[1]}" numgen random mod 100 < {percent} drop
        }}
        }}"""
    stage.spawn(*stage.script("stream.py", "store.py"), "serve", PEER, PORT, netns=there)
    time.sleep(0.3)
    program = stage.spawn(*sender, netns=here)
    time.sleep(0.5)
    stage.run("ip", "netns", "exec", there, "nft", rules)

    def loses() -> bool:
        sent = kernel.netstat(program.pid, "OutSegs")
        again = kernel.rate(lambda: kernel.netstat(program.pid, "RetransSegs"), 1.5)
        return again > 1 and again * 1.5 > 0.02 * (kernel.netstat(program.pid, "OutSegs") - sent)

    stage.wait_until(loses, "segments are sent again")
    return Injected((entity("net.loss", "interface", *names),), loses)


@scenario("net.loss/stream", needs=(*_NETNS, tool("nft")))
def loss_stream(stage: Stage) -> Injected:
    """A stream between two namespaces loses every twelfth packet."""
    sender = [*stage.script("stream.py", "feed.py"), "send", PEER, PORT, "2", "8000", "0.01"]
    return _lossy(stage, stage.netns("app"), 8, sender)


@scenario("net.loss/requests", needs=(*_NETNS, tool("nft")))
def loss_requests(stage: Stage) -> Injected:
    """Requests from the host's own namespace to a peer lose every seventh packet."""
    sender = [*stage.script("stream.py", "frontend.py"), "talk", PEER, PORT, "6", "900", "0.02"]
    return _lossy(stage, None, 15, sender)


def round_trips(netns: str) -> list[tuple[float, float]]:
    """Smoothed and least round-trip time in milliseconds of each connection to the peer."""
    command = ["ip", "netns", "exec", netns, "ss", "-Htin", "dst", PEER]
    said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
    return [(float(a), float(b)) for a, b in re.findall(r"\brtt:([\d.]+)/.*?\bminrtt:([\d.]+)", said)]


def _late(stage: Stage, here: str, names: tuple[str, ...], by_ms: float) -> Injected:
    def late() -> bool:
        return any(now > least + by_ms for now, least in round_trips(here))

    stage.wait_until(late, f"round trips take {by_ms:g} ms more than the least", 20)
    return Injected((entity("net.latency", "interface", *names),), late)


@scenario("net.latency/relay", needs=(*_NETNS, tool("ss"), device("/dev/net/tun")))
def latency_relay(stage: Stage) -> Injected:
    """Packets between two namespaces pass a tunnel that after a while delays each by 80 ms."""
    here, there = stage.netns("app"), stage.netns("db")
    for netns, name, own, other in ((here, "tun0", HERE, PEER), (there, "tun1", PEER, HERE)):
        stage.run("ip", "-n", netns, "tuntap", "add", name, "mode", "tun")
        stage.run("ip", "-n", netns, "addr", "add", own, "peer", other, "dev", name)
        stage.run("ip", "-n", netns, "link", "set", name, "up")
    stage.spawn(*stage.script("relay.py", "overlay.py"), here, "tun0", there, "tun1", "80", "4")
    stage.spawn(*stage.script("stream.py", "store.py"), "serve", PEER, PORT, netns=there)
    time.sleep(0.4)
    stage.spawn(*stage.script("stream.py", "frontend.py"), "talk", PEER, PORT, "4", "200", "0.05", netns=here)
    return _late(stage, here, ("tun0", "tun1"), 100)


@scenario("net.latency/queue", needs=(*_NETNS, tool("tc", "ss")))
def latency_queue(stage: Stage) -> Injected:
    """A bulk transfer keeps a long queue on a slow link; the small requests behind it wait."""
    here, there = stage.netns("app"), stage.netns("db")
    names = stage.veth(here, there, HERE, PEER)
    stage.spawn(*stage.script("stream.py", "store.py"), "serve", PEER, PORT, "65536", netns=there)
    time.sleep(0.4)
    stage.spawn(*stage.script("stream.py", "frontend.py"), "talk", PEER, PORT, "3", "200", "0.05", netns=here)
    time.sleep(1.0)
    shape = ["tbf", "rate", "3mbit", "burst", "16kb", "limit", "4mb"]
    stage.run("ip", "netns", "exec", here, "tc", "qdisc", "add", "dev", names[0], "root", *shape)
    stage.spawn(*stage.script("stream.py", "mirror.py"), "send", PEER, PORT, "2", "65536", "0", netns=here)
    return _late(stage, here, names, 60)


def _overflowing(stage: Stage, server: subprocess.Popen[bytes], port: int, clients: int) -> Injected:
    time.sleep(0.4)
    stage.spawn(*stage.script("ask.py", "gateway.py"), "127.0.0.1", str(port), str(clients), "0.05", "4")

    def overflows() -> bool:
        return kernel.rate(lambda: kernel.netstat(server.pid, "ListenOverflows")) > 1

    stage.wait_until(overflows, "the accept queue overflows")
    return Injected((process("net.backlog", server.pid),), overflows)


@scenario("net.backlog/c", needs=(compiler,))
def backlog_c(stage: Stage) -> Injected:
    """A C server accepts five connections a second; forty clients want in."""
    port = stage.free_port()
    server = stage.spawn(stage.compiled("slow.c", "authd"), str(port), "8", "200000")
    return _overflowing(stage, server, port, 40)


@scenario("net.backlog/python")
def backlog_python(stage: Stage) -> Injected:
    """A single-threaded Python server takes 300 ms for each request of thirty clients."""
    port = stage.free_port()
    server = stage.spawn(*stage.script("slow.py", "pdf.py"), str(port), "4", "0.3")
    return _overflowing(stage, server, port, 30)


def _ports_used_up(stage: Stage, program: subprocess.Popen[bytes], said: Path) -> Injected:
    def refused() -> bool:
        return kernel.rate(lambda: said.read_text().count("Cannot assign requested address")) > 1

    stage.wait_until(refused, "connect fails with EADDRNOTAVAIL", 20)
    return Injected((process("net.ports", program.pid),), refused)


def _narrow(stage: Stage, netns: str, ports: str) -> None:
    path = "/proc/sys/net/ipv4/ip_local_port_range"
    stage.run("ip", "netns", "exec", netns, "sh", "-c", f"echo {ports} > {path}")


@scenario("net.ports/kept", needs=_NETNS)
def ports_kept(stage: Stage) -> Injected:
    """A client keeps every connection to one destination until no local port is left."""
    netns = stage.netns("app")
    _narrow(stage, netns, "40000 40127")
    stage.spawn(*stage.script("stream.py", "store.py"), "serve", "127.0.0.1", PORT, netns=netns)
    time.sleep(0.4)
    said = stage.folder / "crawler.log"
    client = [*stage.script("ports.py", "crawler.py"), "127.0.0.1", PORT, "keep", "0.01"]
    return _ports_used_up(stage, stage.spawn(*client, netns=netns, output=said), said)


@scenario("net.ports/closed", needs=_NETNS)
def ports_closed(stage: Stage) -> Injected:
    """A client opens and closes so often that every local port towards the peer is in TIME_WAIT."""
    here, there = stage.netns("app"), stage.netns("db")
    stage.veth(here, there, HERE, PEER)
    _narrow(stage, here, "42000 42299")
    stage.spawn(*stage.script("stream.py", "store.py"), "serve", PEER, PORT, netns=there)
    time.sleep(0.4)
    said = stage.folder / "poller.log"
    client = [*stage.script("ports.py", "poller.py"), PEER, PORT, "close", "0.005"]
    return _ports_used_up(stage, stage.spawn(*client, netns=here, output=said), said)
