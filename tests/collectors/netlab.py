"""Two network namespaces and a cable, and programs inside them, for the tests of the network collectors."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from wardround.models.series import Catalogue, Frame

NEAR, FAR = "10.213.7.1", "10.213.7.2"


def run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True, slots=True)
class Lab:
    """`near` and `far` are namespaces joined by a veth pair `cable` (near end) and `cable`p, with NEAR and FAR."""

    near: str
    far: str
    cable: str

    def inode(self, name: str) -> int:
        return os.stat(f"/run/netns/{name}").st_ino

    def python(self, netns: str, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Start Python code in a namespace; it lives until killed and says "up" when it is ready."""
        child = subprocess.Popen(
            ["ip", "netns", "exec", netns, sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        return child


@contextmanager
def lab() -> Iterator[Lab]:
    mark = secrets.token_hex(3)
    near, far, cable = f"near-{mark}", f"far-{mark}", f"c{mark}"
    try:
        run("ip", "netns", "add", near)
        run("ip", "netns", "add", far)
        run("ip", "-n", near, "link", "add", cable, "type", "veth", "peer", "name", f"{cable}p", "netns", far)
        for netns, interface, address in ((near, cable, NEAR), (far, f"{cable}p", FAR)):
            run("ip", "-n", netns, "link", "set", "lo", "up")
            run("ip", "-n", netns, "addr", "add", f"{address}/24", "dev", interface)
            run("ip", "-n", netns, "link", "set", interface, "up")
        yield Lab(near, far, cable)
    finally:
        for netns in (near, far):
            subprocess.run(["ip", "netns", "del", netns], check=False, capture_output=True)


@contextmanager
def ended(*children: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.communicate()


def told(catalogue: Catalogue, frame: Frame) -> dict[tuple[str, ...], float]:
    """A frame as ``{(metric, label values in order of their keys…): value}``."""
    assert frame.ids.dtype == np.int64
    return {
        (catalogue[int(i)].name, *(value for _, value in catalogue[int(i)].labels)): float(v)
        for i, v in zip(frame.ids, frame.values, strict=True)
    }
