"""Host-wide sources against this kernel's own files and against files as other kernels write them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from collectors.base import Roots
from collectors.facts import cpu_list, read_host
from collectors.host import HostCollector
from collectors.interrupts import InterruptsCollector
from collectors.memory import MemoryCollector
from collectors.procfile import KeptFile, KeyedLines
from collectors.psi import PsiCollector
from tests.collectors.workload import read, value
from wardround.models.series import Catalogue


@pytest.fixture
def catalogue():
    return Catalogue()


def tree(tmp_path, **files):
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Roots(proc=str(tmp_path), sys=str(tmp_path / "sys"))


def test_cpu_time_of_a_busy_second_shows_in_the_host(catalogue):
    """The kernel may sample these times by the clock tick, so only roughly."""
    collector = HostCollector(catalogue, Roots())
    collector.start()
    first = read(collector)
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 1.0: pass"], check=True)
    second = read(collector)
    collector.stop()
    busy = [
        number
        for number, series in enumerate(catalogue)
        if series.name == "system.cpu.time" and series.label("state") in ("user", "nice", "system")
    ]
    spent = [float(frame.values[np.isin(frame.ids, busy)].sum()) for frame in (first, second)]
    assert spent[1] - spent[0] >= 0.5


def test_forks_are_counted(catalogue):
    collector = HostCollector(catalogue, Roots())
    collector.start()
    first = read(collector)
    for _ in range(7):
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    second = read(collector)
    collector.stop()
    name = "system.process.created"
    assert value(second, catalogue, name) - value(first, catalogue, name) >= 7


def test_waiting_for_a_cpu_is_read_from_schedstat_in_seconds(tmp_path, catalogue):
    stat = "cpu 1 2 3 4\ncpu0 100 0 300 4 5 6 7 8 9 10 new\nintr 77 1 2\nctxt 5\nprocs_running 3\nprocs_blocked 1\n"
    schedstat = "version 17\ntimestamp 4\ncpu0 0 0 0 0 0 0 123 2500000000 99\ndomain0 3 0 0\n"
    collector = HostCollector(catalogue, tree(tmp_path, stat=stat, schedstat=schedstat, loadavg="1.5 1 1 2/345 99\n"))
    assert collector.probe().available
    collector.start()
    frame = read(collector)
    collector.stop()
    assert value(frame, catalogue, "linux.cpu.run_delay", cpu=0) == pytest.approx(2.5)
    assert value(frame, catalogue, "system.cpu.time", cpu=0, state="system") == pytest.approx(
        300 / os.sysconf("SC_CLK_TCK")
    )
    assert value(frame, catalogue, "linux.tasks.count") == 345
    assert value(frame, catalogue, "system.interrupts") == 77


def test_memory_levels_are_bytes_and_swap_used_is_derived(tmp_path, catalogue):
    meminfo = (
        "MemTotal:  1000 kB\nMemFree:   100 kB\nMemAvailable: 200 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\nNew: 1 kB\n"
    )
    vmstat = "pgfault 7\nworkingset_nodes 9\nworkingset_refault_file 11\nnr_free_pages 3\nallocstall_normal 5\n"
    buddy = "Node 0, zone   Normal      3      5      7\nodd line\n"
    collector = MemoryCollector(catalogue, tree(tmp_path, meminfo=meminfo, vmstat=vmstat, buddyinfo=buddy))
    collector.start()
    frame = read(collector)
    collector.stop()
    assert value(frame, catalogue, "system.memory.limit") == 1000 * 1024
    assert value(frame, catalogue, "system.memory.usage", state="available") == 200 * 1024
    assert value(frame, catalogue, "system.paging.usage", state="used") == 30 * 1024
    keys = {catalogue[int(n)].label("key") for n in frame.ids} - {None}
    assert keys == {"pgfault", "workingset_refault_file", "allocstall_normal"}
    assert value(frame, catalogue, "linux.buddy.free", node=0, zone="Normal", order=2) == 7


def test_pressure_is_read_in_seconds(tmp_path, catalogue):
    text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n"
    collector = PsiCollector(catalogue, tree(tmp_path, pressure__cpu=text, pressure__memory=text))
    assert collector.probe().available
    frame = read(collector)
    collector.stop()
    assert value(frame, catalogue, "linux.psi.memory.some") == 1.5
    assert value(frame, catalogue, "linux.psi.cpu.full") == 0.5


def test_interrupt_lines_are_followed_once_busy_and_named_by_their_device(tmp_path, catalogue):
    def lines(count):
        return (
            "            CPU0       CPU1\n"
            f"  36:          0  {count}  PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0\n"
            "  40:          3          4   IO-APIC   5-edge      quiet\n"
            f" LOC:      {count}          0   Local timer interrupts\n"
            " ERR:          0\n"
        )

    softnet = "00000011 00000003 0000000a" + " 00000000" * 9 + " 00000001\n"
    roots = tree(tmp_path, interrupts=lines(1000), net__softnet_stat=softnet)
    collector = InterruptsCollector(catalogue, roots)
    collector.start()
    collector.read(0.0, 10.0)
    Path(roots.proc, "interrupts").write_text(lines(1500))
    frame = collector.read(1.0, 11.0).frame
    collector.stop()
    assert value(frame, catalogue, "linux.interrupts", irq="36:virtio1-req.0", cpu=1) == 1500
    assert value(frame, catalogue, "linux.interrupts", irq="LOC", cpu=0) == 1500
    assert {catalogue[int(n)].label("irq") for n in frame.ids} == {"36:virtio1-req.0", "LOC", None}
    assert value(frame, catalogue, "linux.softnet.dropped", cpu=1) == 3
    assert value(frame, catalogue, "linux.softnet.squeezed", cpu=1) == 10


def test_a_kept_file_of_many_records_is_read_to_its_end_again_and_again():
    file = KeptFile("/proc/self/maps")
    for _ in range(2):
        text = file.read()
        assert len(text) > 3 * 4096
        assert b"[stack]" in text[-1000:]
        file.close()


def test_chosen_keys_are_found_again_when_lines_come_and_go():
    lines = KeyedLines({"b": 1, "c": 2}.get)
    assert lines.values(b"a 1\nb 2\nc 3\n") == [2, 3]
    assert lines.values(b"b 5\nc 6\n") == [5, 6]
    assert lines.values(b"x y z\nb 7\nq c\n") == [7]
    assert lines.ids == [1]
    assert lines.values(b"") == []


def test_lists_of_cpus_are_understood():
    assert cpu_list("0-2,5") == (0, 1, 2, 5)
    assert cpu_list("") == ()


def test_facts_of_a_host_whose_files_cannot_be_read_are_defaults(tmp_path):
    host = read_host(Roots(proc=str(tmp_path), sys=str(tmp_path)))
    assert (host.boot_id, host.memory, host.numa_nodes, host.cgroup_versions) == ("", 0, (0,), ())
    assert host.kernel == os.uname().release
    assert time.time() > host.boot_time
