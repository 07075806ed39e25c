"""Control groups made for the test where this host has a hierarchy for them, and trees as other hosts have them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collectors.base import Roots
from collectors.cgroup import CgroupCollector
from collectors.cgroup_tree import hierarchies, snapshot_cgroups, walk
from collectors.process_table import read_process
from tests.collectors.workload import program, read, value
from wardround.models.series import Catalogue

MIB = 1 << 20
NAME = f"wardround-test-{os.getpid()}"


@pytest.fixture
def catalogue():
    return Catalogue()


@pytest.fixture
def group(request):
    """Make a group in the v1 hierarchies of the controllers asked for (`request.param`); remove it afterwards."""
    if os.geteuid() != 0:
        pytest.skip("making a control group needs root")
    folders = []
    for controller in request.param:
        mount = next((h.mount for h in hierarchies(Roots()) if controller in h.controllers), None)
        if mount is None:
            pytest.skip(f"no v1 {controller} hierarchy here")
        folder = Path(mount, NAME)
        folder.mkdir(exist_ok=True)
        folders.append(folder)
    yield folders
    for folder in folders:
        deadline = time.monotonic() + 5
        while folder.exists() and time.monotonic() < deadline:
            try:
                folder.rmdir()
            except OSError:
                time.sleep(0.05)


def started(catalogue, roots=None):
    collector = CgroupCollector(catalogue, roots or Roots())
    collector.start()
    return collector


def run_inside(folders, code):
    """Run Python code in a child that has put itself into the groups."""
    joins = "".join(f"open({str(folder / 'cgroup.procs')!r}, 'w').write('0')\n" for folder in folders)
    subprocess.run([sys.executable, "-c", joins + code], check=True, timeout=30)


@pytest.mark.parametrize("group", [("cpu", "cpuacct")], indirect=True)
def test_a_group_stopped_by_its_quota_is_seen_throttled(group, catalogue):
    (group[0] / "cpu.cfs_quota_us").write_text("20000")
    collector = started(catalogue)
    first = read(collector)
    run_inside(group, "import time\nwhile time.process_time() < 0.3: pass")
    second = read(collector)
    collector.stop()
    label = {"cgroup": f"/{NAME}"}
    assert value(first, catalogue, "linux.cgroup.cpu.quota", **label) == pytest.approx(0.2)
    assert value(second, catalogue, "linux.cgroup.cpu.throttled_periods", **label) >= 5
    assert value(second, catalogue, "linux.cgroup.cpu.throttled_time", **label) > 0.2
    used = [value(frame, catalogue, "linux.cgroup.cpu.usage", **label) for frame in (first, second)]
    assert 0.25 < used[1] - used[0] < 1.0


@pytest.mark.parametrize("group", [("memory",)], indirect=True)
def test_memory_its_limit_and_the_kill_at_the_limit_are_seen(group, catalogue):
    (group[0] / "memory.limit_in_bytes").write_text(str(48 * MIB))
    collector = started(catalogue)
    first = read(collector)
    code = f"import os\nif os.fork() == 0: x = bytearray({96 * MIB}); os._exit(0)\nos.wait()"
    run_inside(group, code)
    second = read(collector)
    collector.stop()
    label = {"cgroup": f"/{NAME}"}
    assert value(first, catalogue, "linux.cgroup.memory.limit", **label) == 48 * MIB
    assert value(second, catalogue, "linux.cgroup.memory.events", key="max", **label) > 0
    kills = [
        value(frame, catalogue, "linux.cgroup.memory.events", key="oom_kill", **label) for frame in (first, second)
    ]
    assert kills[1] - kills[0] == 1


@pytest.mark.parametrize("group", [("memory", "pids", "cpu")], indirect=True)
def test_one_path_in_several_hierarchies_is_one_group_with_its_limits(group):
    (group[0] / "memory.limit_in_bytes").write_text(str(64 * MIB))
    if (group[1] / "pids.max").exists():
        (group[1] / "pids.max").write_text("17")
    (group[2] / "cpu.cfs_period_us").write_text("50000")
    (group[2] / "cpu.cfs_quota_us").write_text("75000")
    found = snapshot_cgroups()[f"/{NAME}"]
    assert found.cpu_period == pytest.approx(0.05)
    assert (found.version, found.memory_limit, found.pids_limit, found.cpu_quota) == (1, 64 * MIB, 17, 1.5)


@pytest.mark.parametrize("group", [("memory",)], indirect=True)
def test_a_group_that_is_removed_between_two_looks_is_left_out(group, catalogue):
    collector = started(catalogue)
    first = read(collector)
    group[0].rmdir()
    second = read(collector)
    collector.stop()
    label = {"cgroup": f"/{NAME}"}
    assert value(first, catalogue, "linux.cgroup.memory.usage", **label) >= 0
    assert not value(second, catalogue, "linux.cgroup.memory.usage", **label) >= 0


@pytest.mark.parametrize("group", [("memory",)], indirect=True)
def test_groups_that_come_and_go_while_it_looks_do_not_disturb_it(group, catalogue):
    collector = started(catalogue)
    churn = f"""
import os
for n in range(300):
    path = os.path.join({str(group[0])!r}, str(n % 7))
    os.mkdir(path)
    os.rmdir(path)
"""
    child = subprocess.Popen([sys.executable, "-c", churn])
    while child.poll() is None:
        read(collector)
        snapshot_cgroups()
    collector.stop()
    assert child.returncode == 0


def v2_host(tmp_path, path="/engine.slice/llama.service", **files):
    """Lay out a host with the unified hierarchy only; returns its roots."""
    proc, sys_ = tmp_path / "proc", tmp_path / "sys"
    (proc / "self").mkdir(parents=True)
    (proc / "self/mounts").write_text("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n")
    folder = Path(f"{sys_}/fs/cgroup{path}")
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return Roots(proc=str(proc), sys=str(sys_)), folder


V2_FILES = {
    "cpu__stat": "usage_usec 5000000\nuser_usec 1\nnr_periods 10\nnr_throttled 4\nthrottled_usec 2500000\n",
    "cpu__max": "150000 100000\n",
    "memory__current": "1048576\n",
    "memory__stat": "anon 524288\nfile 4096\nworkingset_refault_file 77\npgfault 9\nnew_key 1\n",
    "memory__events": "low 0\nhigh 3\nmax 5\noom 1\noom_kill 1\noom_group_kill 0\n",
    "memory__max": "max\n",
    "memory__high": "2097152\n",
    "pids__current": "3\n",
    "pids__max": "100\n",
    "pids__events": "max 2\n",
    "io__stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
    "io__max": "8:0 rbps=1048576 wbps=max riops=max wiops=max\n",
    "memory__pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=123456\nfull avg10=0.00 total=23456\n",
    "cgroup__procs": "1\n",
}


def test_a_unified_hierarchy_is_read_in_full(tmp_path, catalogue):
    roots, _ = v2_host(tmp_path, **V2_FILES)
    collector = started(catalogue, roots)
    frame = read(collector)
    collector.stop()
    label = {"cgroup": "/engine.slice/llama.service"}
    expected = {
        ("cpu.usage",): 5.0,
        ("cpu.throttled_time",): 2.5,
        ("cpu.quota",): 1.5,
        ("memory.usage",): MIB,
        ("memory.high",): 2 * MIB,
        ("memory.anon",): MIB / 2,
        ("pids.limit",): 100,
        ("pids.refused",): 2,
    }
    for (name,), number in expected.items():
        assert value(frame, catalogue, f"linux.cgroup.{name}", **label) == pytest.approx(number), name
    assert value(frame, catalogue, "linux.cgroup.memory.faults", key="workingset_refault_file", **label) == 77
    assert value(frame, catalogue, "linux.cgroup.memory.events", key="max", **label) == 5
    assert value(frame, catalogue, "linux.cgroup.io", device="8:0", direction="write", **label) == 8192
    stall = value(frame, catalogue, "linux.cgroup.psi", resource="memory", kind="full", **label)
    assert stall == pytest.approx(0.023456)
    assert not value(frame, catalogue, "linux.cgroup.memory.limit", **label) >= 0


def test_a_unified_snapshot_names_the_limits(tmp_path):
    roots, _ = v2_host(tmp_path, cpuset__cpus="0-1,4\n", **V2_FILES)
    found = snapshot_cgroups(roots)["/engine.slice/llama.service"]
    assert found.version == 2
    assert found.cpu_quota == 1.5
    assert found.cpu_period == pytest.approx(0.1)
    assert found.memory_limit is None
    assert found.cpus == (0, 1, 4)
    assert found.io_limits == ("8:0 rbps 1048576",)


def test_files_of_an_unknown_format_are_left_out(tmp_path, catalogue):
    roots, _ = v2_host(tmp_path, **(V2_FILES | {"memory__current": "plenty\n", "pids__events": "max\n"}))
    collector = started(catalogue, roots)
    frame = read(collector)
    frame = read(collector)
    collector.stop()
    label = {"cgroup": "/engine.slice/llama.service"}
    assert not value(frame, catalogue, "linux.cgroup.memory.usage", **label) >= 0
    assert value(frame, catalogue, "linux.cgroup.cpu.usage", **label) == 5.0


def test_more_groups_than_it_can_follow_keeps_those_with_processes(tmp_path, catalogue, monkeypatch):
    monkeypatch.setattr("collectors.cgroup.MAX_GROUPS", 2)
    roots, folder = v2_host(tmp_path, path="/z/busy", **V2_FILES)
    for number in range(5):
        Path(f"{folder.parent.parent}/a{number}").mkdir()
    collector = started(catalogue, roots)
    frame = read(collector)
    collector.stop()
    assert value(frame, catalogue, "linux.cgroup.cpu.usage", cgroup="/z/busy") == 5.0
    assert "2 are followed" in collector.partial


def test_a_walk_meets_every_group_parents_first(tmp_path):
    for path in ("a/b/c", "a/d", "e"):
        (tmp_path / path).mkdir(parents=True)
    assert list(walk(str(tmp_path))) == ["/", "/a", "/a/b", "/a/b/c", "/a/d", "/e"]


def test_processes_name_the_groups_they_are_in():
    with program("") as child:
        lines = Path(f"/proc/{child.pid}/cgroup").read_text().splitlines()
        process = read_process("/proc", child.pid)
    assert process is not None
    assert {path for _, path in process.cgroups} == {line.split(":", 2)[2] for line in lines}
