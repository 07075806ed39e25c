"""NUMA, thermal and memory error counters, from this host and from recorded trees."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from collectors.base import Roots
from collectors.edac import EdacCollector
from collectors.numa import NumaCollector, large_processes, placement
from collectors.thermal import ThermalCollector
from tests.collectors.netlab import told
from wardround.models.series import Catalogue


def tree(base: Path, files: dict[str, str]) -> Roots:
    for name, text in files.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text)
    (base / "proc").mkdir(exist_ok=True)
    return Roots(proc=f"{base}/proc", sys=f"{base}/sys")


def read(collector_class, roots: Roots) -> dict[tuple[str, ...], float]:
    catalogue = Catalogue()
    collector = collector_class(catalogue, roots)
    assert collector.probe().available
    collector.start()
    seen = told(catalogue, collector.read(1.0, 1.0).frame)
    collector.stop()
    return seen


@pytest.mark.skipif(not Path("/sys/devices/system/node/node0/numastat").exists(), reason="no NUMA here")
def test_this_hosts_first_node_has_memory_and_counts():
    """Less is free than there is, and allocations were served."""
    seen = read(NumaCollector, Roots())
    assert 0 < seen["linux.numa.memory", "0", "free"] < seen["linux.numa.memory", "0", "total"]
    assert seen["linux.numa", "numa_hit", "0"] > 0


@pytest.mark.skipif(not Path("/proc/self/numa_maps").exists(), reason="no NUMA here")
def test_placement_of_a_process_is_what_it_holds():
    """32 MiB touched are found on a node, and the process among those of that size."""
    with mmap.mmap(-1, 32 << 20) as held:
        before = sum(placement("/proc/self/numa_maps").values())
        held.write(b"x" * (32 << 20))
        after = sum(placement("/proc/self/numa_maps").values())
        assert after - before == pytest.approx(32 << 20, rel=0.05)
        assert os.getpid() in large_processes(Roots(), 32 << 20)


def test_two_nodes_and_a_large_process(tmp_path):
    """numa_maps is read where there are two nodes: pages of each size add up by node."""
    node = "numa_hit 5\nnuma_miss 7\nodd\nfuture_key 1\n"
    roots = tree(
        tmp_path,
        {
            "sys/devices/system/node/node0/numastat": node,
            "sys/devices/system/node/node1/numastat": node,
            "sys/devices/system/node/node1/meminfo": "Node 1 MemTotal:       100 kB\nNode 1 MemFree: 40 kB\n",
            "proc/42/statm": "900000 800000 1 1 0 1 0\n",
            "proc/42/numa_maps": "7f00 default anon=3 N0=1 N1=2 kernelpagesize_kB=4\n"
            "7f99 default N1=3 kernelpagesize_kB=2048\n",
            "proc/43/statm": "900000 8 1 1 0 1 0\n",
        },
    )
    seen = read(NumaCollector, roots)
    assert seen["linux.numa", "numa_miss", "1"] == 7
    assert seen["linux.numa.memory", "1", "free"] == 40 * 1024
    assert seen["linux.process.numa", "1", "42"] == 2 * 4096 + 3 * 2048 * 1024
    assert ("linux.process.numa", "0", "43") not in seen


def test_zones_and_throttling(tmp_path):
    """Two zones of one type stay apart; a sensor that gives nothing is left out."""
    roots = tree(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
            "sys/class/thermal/thermal_zone0/temp": "93500\n",
            "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp\n",
            "sys/class/thermal/thermal_zone1/temp": "-5000\n",
            "sys/class/thermal/thermal_zone2/temp": "",
            "sys/devices/system/cpu/cpu3/thermal_throttle/core_throttle_count": "12\n",
        },
    )
    assert read(ThermalCollector, roots) == {
        ("linux.thermal.temperature", "x86_pkg_temp:0"): 93.5,
        ("linux.thermal.temperature", "x86_pkg_temp:1"): -5.0,
        ("linux.cpu.throttle", "3", "core"): 12.0,
    }


def test_memory_errors_and_machine_checks(tmp_path):
    """Counts by controller; exceptions of all CPUs added, polls left out."""
    roots = tree(
        tmp_path,
        {
            "sys/devices/system/edac/mc/mc0/ce_count": "4\n",
            "sys/devices/system/edac/mc/mc0/ue_count": "0\n",
            "proc/interrupts": "  CPU0 CPU1\nMCE:  1 2  Machine check exceptions\nMCP: 70 70 Machine check polls\n",
        },
    )
    assert read(EdacCollector, roots) == {
        ("linux.edac", "mc0", "ce"): 4.0,
        ("linux.edac", "mc0", "ue"): 0.0,
        ("linux.mce",): 3.0,
    }


@pytest.mark.parametrize("collector_class", [NumaCollector, ThermalCollector, EdacCollector])
def test_a_host_without_the_hardware_says_so(collector_class, tmp_path):
    """A reason, and a read that brings nothing."""
    collector = collector_class(Catalogue(), tree(tmp_path, {}))
    assert collector.probe().reason
    assert not collector.probe().available
    assert len(collector.read(1.0, 1.0).frame.ids) == 0
