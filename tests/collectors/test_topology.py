"""The snapshot as a whole: every subject, and what happens when one fails or hangs."""

from __future__ import annotations

import os
import threading
import time

import pytest

import collectors.topology
from collectors.topology import snapshot


def test_every_subject_of_this_host_is_read():
    topology, failed = snapshot()
    assert failed == {}
    assert os.getpid() in topology.processes
    assert any(mount.mountpoint == "/" for mount in topology.mounts)


def test_the_children_of_a_process_are_found():
    topology, _ = snapshot()
    parent = topology.processes[os.getpid()].ppid
    assert os.getpid() in {process.pid for process in topology.children(parent)}


@pytest.fixture
def release():
    event = threading.Event()
    yield event
    event.set()


def test_a_subject_that_hangs_or_fails_is_left_out_with_the_reason(monkeypatch, release):
    def hang(roots):
        release.wait(30)
        return {}

    def fail(roots):
        raise ValueError("not the format we know")

    monkeypatch.setattr(collectors.topology, "PATIENCE", 0.5)
    monkeypatch.setattr("collectors.block.snapshot_devices", hang)
    monkeypatch.setattr("collectors.units.snapshot_units", fail)
    began = time.time()
    topology, failed = snapshot()
    assert set(failed) == {"devices", "units"}
    assert "did not come back" in failed["devices"]
    assert failed["units"] == "ValueError: not the format we know"
    assert os.getpid() in topology.processes
    assert topology.time >= began
