"""The programs this one is compared with: Debian's node exporter and Netdata, run as guests and taken away again.

Nothing is installed: the packages (and the libraries this host lacks for them) are downloaded with apt, unpacked into a
temporary folder and started from there on a loopback port, with configuration, cache and database beside them.
Defaults are kept, apart from what would reach outside: statistics to its makers, the cloud, the statsd port.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("prometheus-node-exporter", "netdata-core")
PATIENCE = 20.0

NETDATA_CONF = """
[global]
    run as user = root
[directories]
    config = {root}/etc
    stock config = {root}/none
    log = {root}/log
    cache = {root}/cache
    lib = {root}/lib
    home = {root}/lib
    plugins = {root}/unpacked/usr/lib/netdata/plugins.d
    web = {root}/unpacked/usr/share/netdata/web
[web]
    bind to = 127.0.0.1:{port}
[plugins]
    statsd = no
[statsd]
    enabled = no
[cloud]
    enabled = no
"""


class CannotCompareError(Exception):
    """The packages cannot be had or started here; the message says why."""


def fetch(root: Path) -> Path:
    """Download and unpack the packages under `root`. :raises CannotCompareError: no apt, no network"""
    if shutil.which("apt-get") is None:
        raise CannotCompareError("this host has no apt-get")
    plan = _run(["apt-get", "install", "--simulate", "--no-install-recommends", *PACKAGES], root)
    missing = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    downloads = root / "downloads"
    downloads.mkdir()
    _run(["apt-get", "download", *dict.fromkeys([*PACKAGES, *missing])], downloads)
    unpacked = root / "unpacked"
    for package in downloads.glob("*.deb"):
        _run(["dpkg-deb", "--extract", str(package), str(unpacked)], root)
    return unpacked


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise CannotCompareError(f"`{' '.join(command[:2])}` failed: {last[0]}")
    return done.stdout


@contextmanager
def node_exporter(unpacked: Path) -> Iterator[tuple[int, str]]:
    """Run it inside the block; yields ``(pid, URL to scrape)``."""
    port = free_port()
    command = [str(unpacked / "usr/bin/prometheus-node-exporter"), f"--web.listen-address=127.0.0.1:{port}"]
    with _started(command, unpacked) as process:
        url = f"http://127.0.0.1:{port}/metrics"
        _wait_for(url, process)
        yield process.pid, url


@contextmanager
def netdata(unpacked: Path) -> Iterator[tuple[int, str]]:
    """Run it inside the block; yields ``(pid, base URL)``."""
    root, port = unpacked.parent, free_port()
    for name in ("etc", "log", "cache", "lib", "none"):
        (root / name).mkdir(exist_ok=True)
    (root / "etc" / ".opt-out-from-anonymous-statistics").touch()
    config = root / "etc" / "netdata.conf"
    config.write_text(NETDATA_CONF.format(root=root, port=port))
    command = [str(unpacked / "usr/sbin/netdata"), "-D", "-c", str(config), "-P", str(root / "pid")]
    with _started(command, unpacked) as process:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/api/v1/info", process)
        yield process.pid, url


@contextmanager
def _started(command: list[str], unpacked: Path) -> Iterator[subprocess.Popen[bytes]]:
    libraries = [str(folder) for folder in (unpacked / "usr/lib").glob("*-linux-gnu*")]
    process = subprocess.Popen(
        command,
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and its plugins, which share its session."""
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        time.sleep(0.2)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CannotCompareError(f"{process.args!r} ended with {process.returncode}")
        try:
            get(url)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise CannotCompareError(f"{url} does not answer")


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())


def samples(exposition: bytes) -> int:
    """Return the number of series in a Prometheus text answer."""
    return sum(1 for line in exposition.splitlines() if line and not line.startswith(b"#"))


def dimensions(url: str) -> int:
    """Return the number of dimensions (its word for series) that a Netdata collects."""
    return int(json.loads(get(f"{url}/api/v1/charts"))["dimensions_count"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
