"""The watch bench's own instruments, against processes whose cost is known."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.neighbours import CannotCompareError, fetch, samples
from benchmarks.watch import cpu_times, memory, tree

PARENT = """
import subprocess, sys, time
burn = "import time\\nwhile time.process_time() < 0.5: pass"
subprocess.run([sys.executable, "-c", burn], check=True)
child = subprocess.Popen([sys.executable, "-c", "held = bytearray(64 << 20); print(1, flush=True); input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
input()
child.communicate(b"\\n")
"""


def test_cpu_and_memory_of_a_tree_include_the_living_children_and_the_reaped():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        child = int(parent.stdout.readline())
        assert tree(parent.pid) == [parent.pid, child]
        _, reaped = cpu_times(parent.pid)
        assert reaped >= 0.45
        anonymous, resident = memory(parent.pid)
        assert 64 < anonymous < resident
    finally:
        parent.communicate("\n", timeout=10)


def test_a_process_that_is_gone_costs_nothing():
    assert cpu_times(2**22) == (0.0, 0.0)
    assert memory(2**22) == (0.0, 0.0)


def test_samples_are_the_lines_that_are_no_comments():
    assert samples(b'# HELP a b\n# TYPE a gauge\na 1\n\nb{c="d"} 2\n') == 2


def test_without_apt_there_is_no_comparison(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotCompareError, match="no apt-get"):
        fetch(tmp_path)
