"""Known workloads with a prime number of events, each cross-checked by a second source."""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from collectors.base import Roots
from collectors.ebpf.collector import EbpfCollector
from collectors.ebpf.subjects.block import LOOK_FOR_DEVICES
from tests.collectors.ebpf.conftest import Tracer
from wardround.models.metrics import METRICS
from wardround.models.series import Catalogue

pytestmark = [pytest.mark.ebpf, pytest.mark.root]
ME = os.getpid()


def _reap(pids: list[int]) -> list[int]:
    return [os.waitpid(pid, 0)[1] for pid in pids]


def _children(count: int, end: int) -> list[int]:
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os._exit(end)
        pids.append(pid)
    return pids


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
class TestLifecycle:
    def test_counts_23_forks_and_their_ends(self, tracer: Tracer) -> None:
        """23 children are forked and end well; /proc/stat has counted at least as many new processes."""
        before = _processes_since_boot()
        traced = tracer.during(lambda: _reap(_children(23, 0)))
        assert traced.of("linux.process.forks", pid=ME) == 23
        assert traced.of("linux.process.children.ended", pid=ME, outcome="ok") == 23
        assert _processes_since_boot() - before >= 23

    def test_reports_exit_codes_with_parent_and_age(self, tracer: Tracer) -> None:
        """7 children leave with code 3: 7 events name the parent, the code, and a life of under a minute."""
        pids: list[int] = []
        traced = tracer.during(lambda: (pids.extend(_children(7, 3)), _reap(pids)))
        exits = [e for e in traced.events if e.kind == "process_exit" and e.attributes["ppid"] == ME]
        assert sorted(e.pid or 0 for e in exits) == sorted(pids)
        assert {e.attributes["exit_code"] for e in exits} == {3}
        assert all(0 < float(e.attributes["seconds_lived"]) < 60 for e in exits)
        assert all(abs(e.time - time.time()) < 60 for e in exits)
        assert traced.of("linux.process.children.ended", pid=ME, outcome="exit 3") == 7

    def test_names_the_sender_of_11_killing_signals(self, tracer: Tracer) -> None:
        """11 sleeping children are killed: each signal names us as sender, each death its signal, as waitpid does."""

        def kill_all() -> None:
            children = [subprocess.Popen(["sleep", "60"]) for _ in range(11)]
            for child in children:
                child.kill()
            statuses.extend(child.wait() for child in children)

        statuses: list[int] = []
        traced = tracer.during(kill_all)
        signals = [e for e in traced.events if e.kind == "fatal_signal" and e.attributes["sender_pid"] == ME]
        deaths = [e for e in traced.events if e.kind == "process_exit" and e.attributes["ppid"] == ME]
        assert len(signals) == len(deaths) == 11
        assert {e.attributes["signal"] for e in (*signals, *deaths)} == {9}
        assert statuses == [-signal.SIGKILL] * 11

    def test_counts_programs_executed_for_their_parent(self, tracer: Tracer) -> None:
        traced = tracer.during(lambda: [subprocess.run(["true"], check=True) for _ in range(5)])
        assert traced.of("linux.process.execs", pid=ME) == 5


def test_counts_17_failures_by_errno(tracer: Tracer) -> None:
    """A process at its limit of open files fails 17 times with EMFILE, by its own count and by ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    failures = []

    def fail() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            for _ in range(17):
                try:
                    os.close(os.dup(0))
                except OSError as error:
                    failures.append(error.errno)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    traced = tracer.during(fail)
    assert len(failures) == 17
    assert traced.of("linux.process.syscall.errors", pid=ME, errno="EMFILE") == 17


@pytest.fixture
def loop_device(tmp_path: Path, root: None) -> Iterator[str]:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(1 << 20))
    made = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def zram_device(root: None) -> Iterator[str]:
    """A compressed RAM disk of our own: it takes bios, not requests, as dm and md do."""
    control = Path("/sys/class/zram-control")
    if not control.is_dir():
        pytest.skip("this kernel has no zram")
    number = (control / "hot_add").read_text().strip()
    try:
        Path(f"/sys/block/zram{number}/disksize").write_text(str(1 << 20))
        yield f"/dev/zram{number}"
    finally:
        (control / "hot_remove").write_text(number)


@pytest.mark.parametrize("kind", ["loop", "zram"])
def test_counts_13_direct_reads(tracer: Tracer, kind: str, request: pytest.FixtureRequest) -> None:
    """13 reads of 4 KiB past the cache: 13 requests and 53,248 bytes for us, as the device's own statistics say."""
    device: str = request.getfixturevalue(f"{kind}_device")
    name = Path(device).name
    page = mmap.mmap(-1, 4096)
    for _ in range(LOOK_FOR_DEVICES):
        tracer.read()  # new devices are looked for now and then

    def read() -> None:
        fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
        for block in range(13):
            assert os.preadv(fd, [page], block * 8192) == 4096
        os.close(fd)

    def device_reads() -> tuple[int, int]:
        fields = Path(f"/sys/block/{name}/stat").read_text().split()
        return int(fields[0]), int(fields[2]) * 512

    before = device_reads()
    traced = tracer.during(read)
    after = device_reads()
    assert traced.of("linux.disk.process_operations", pid=ME, device=name, direction="read") == 13
    assert traced.of("linux.disk.process_io", pid=ME, device=name, direction="read") == 13 * 4096
    assert (after[0] - before[0], after[1] - before[1]) == (13, 13 * 4096)
    assert 0 < traced.of("linux.disk.latency", device=name, quantile="0.5") < 10


def test_waits_for_a_cpu_agree_with_schedstat(tracer: Tracer) -> None:
    """Two busy processes share one CPU for a second: their waits are those of /proc/PID/schedstat."""
    spin = f"import os, time; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\nwhile True: pass"
    children = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2)]
    time.sleep(0.5)

    def delays() -> list[float]:
        return [int(Path(f"/proc/{c.pid}/schedstat").read_text().split()[1]) * 1e-9 for c in children]

    try:
        tracer.read()
        before = delays()
        traced = tracer.during(lambda: time.sleep(1.5))
        after = delays()
    finally:
        for child in children:
            child.kill()
            child.wait()
    for child, start, end in zip(children, before, after, strict=True):
        assert traced.of("linux.process.runqueue.wait", pid=child.pid) == pytest.approx(end - start, rel=0.3, abs=0.1)
        assert traced.of("linux.process.offcpu", pid=child.pid, reason="preempted") > 0.2
    assert traced.of("linux.sched.runqueue.latency", quantile="1") > 0


def test_time_in_a_lock_is_futex_wait(tracer: Tracer) -> None:
    """A thread waits seven times 50 ms for a lock that another thread holds: futex wait, not sleep."""
    lock = threading.Lock()

    def hold() -> None:
        for _ in range(7):
            with lock:
                time.sleep(0.05)
            time.sleep(0.01)

    def contend() -> None:
        holder = threading.Thread(target=hold)
        holder.start()
        while holder.is_alive():
            with lock:
                pass
            time.sleep(0.001)
        holder.join()

    traced = tracer.during(contend)
    assert 0.2 < traced.of("linux.process.futex.wait", pid=ME) < 2
    assert traced.of("linux.process.offcpu", pid=ME, reason="futex") == traced.of("linux.process.futex.wait", pid=ME)
    assert traced.of("linux.process.futex.count", pid=ME) >= 7


def test_interrupt_time_is_a_share_of_time(tracer: Tracer) -> None:
    """Soft interrupts take some time in half a second, and less than all CPUs have."""
    traced = tracer.during(lambda: time.sleep(0.5))
    assert 0 < traced.of("linux.interrupt.time", kind="soft") < 0.5 * (os.cpu_count() or 1) + 0.5


def test_frames_hold_declared_series_once_and_counters_that_never_fall(tracer: Tracer) -> None:
    """What every collector owes, while hundreds of processes are born and die between the reads."""
    storm = "import os\nfor _ in range(300):\n if os.fork() == 0: os._exit(1)\n os.wait()"
    child = subprocess.Popen([sys.executable, "-S", "-c", storm])
    before: dict[int, float] = {}
    while child.poll() is None or not before:
        frame = tracer.collector.read(time.time(), time.monotonic()).frame
        assert len(np.unique(frame.ids)) == len(frame.ids)
        assert np.isfinite(frame.values).all()
        now = dict(zip(frame.ids.tolist(), frame.values.tolist(), strict=True))
        for number, value in now.items():
            series = tracer.catalogue[number]
            assert {key for key, _ in series.labels} == set(METRICS[series.name].labels)
            assert series.metric.kind == "gauge" or value >= before.get(number, 0.0), series
        before = now
    assert child.returncode == 0


def test_it_starts_again_after_a_stop(tmp_path: Path, root: None) -> None:
    """Stopping twice is harmless, stopping while it loads ends the loader, and a new start loads anew."""
    collector = EbpfCollector(Catalogue(), Roots(cache_dir=tmp_path))
    if collector.inspect().missing:
        pytest.skip("; ".join(collector.inspect().missing))
    for _ in range(2):
        collector.start()
        collector.stop()
        collector.stop()
        collector.wait(60)
        assert collector.state == "stopped"
    collector.start()
    assert collector.wait(60), collector.reason
    time.sleep(0.3)
    collector.read(time.time(), time.monotonic())
    assert len(collector.read(time.time(), time.monotonic()).frame.ids) > 0
    collector.stop()
    collector.wait(30)
    assert not collector.read(time.time(), time.monotonic()).frame.ids.size


NETWORK = Path(__file__).with_name("network_workload.py")


def _in_own_network(case: str) -> dict[str, int]:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, str(NETWORK), case], capture_output=True, text=True, timeout=60
    )
    if done.returncode != 0:
        pytest.skip(f"no network namespace: {done.stderr.strip()[-200:]}")
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def test_retransmits_agree_with_the_namespace_counters(tracer: Tracer) -> None:
    """Connections to an address that never answers are retried: as often as RetransSegs of that namespace says."""
    kernel: dict[str, int] = {}
    traced = tracer.during(lambda: kernel.update(_in_own_network("retransmit")))
    assert kernel["RetransSegs"] >= 3
    assert traced.of("linux.tcp.retransmits", peer="198.51.100.7") == kernel["RetransSegs"]


def test_resets_agree_with_the_namespace_counters(tracer: Tracer) -> None:
    """7 connections to a closed port are refused: 7 resets sent (OutRsts) and 7 received."""
    kernel: dict[str, int] = {}
    traced = tracer.during(lambda: kernel.update(_in_own_network("reset")))
    assert kernel["OutRsts"] == 7
    assert traced.of("linux.tcp.resets", peer="127.0.0.3", direction="receive") == 7
    assert traced.of("linux.tcp.resets", direction="transmit") >= 7


def test_drops_at_a_full_socket_agree_with_the_namespace_counters(tracer: Tracer) -> None:
    """Datagrams beyond a socket's buffer are dropped for the reason socket_rcvbuff: as many as Udp RcvbufErrors."""
    kernel: dict[str, int] = {}
    traced = tracer.during(lambda: kernel.update(_in_own_network("flood")))
    assert 0 < kernel["UdpRcvbufErrors"] < 23
    assert traced.of("linux.packet_drops", reason="socket_rcvbuff") == kernel["UdpRcvbufErrors"]


@pytest.fixture
def memory_cgroup(root: None) -> Iterator[Path]:
    """A memory cgroup of 24 MiB without swap (v1 or v2), removed afterwards."""
    for parent, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = parent / f"wardround-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            (group / limit).write_text(str(24 << 20))
            yield group
            group.rmdir()
            return
        group.rmdir()
    pytest.skip("no memory cgroup can be made here")


def _python_in(group: Path, program: str) -> subprocess.Popen[bytes]:
    enter = f"open('{group}/cgroup.procs', 'w').write('0')\n"
    return subprocess.Popen([sys.executable, "-S", "-c", enter + program])


def test_reclaim_in_a_small_cgroup_stalls_its_process(tracer: Tracer, memory_cgroup: Path, tmp_path: Path) -> None:
    """Writing 64 MiB of files through a cgroup of 24 MiB: the writer reclaims, and its cgroup hit its limit."""
    program = f"f = open('{tmp_path}/file', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20)); f.flush()"
    pids: list[int] = []

    def write() -> None:
        child = _python_in(memory_cgroup, program)
        pids.append(child.pid)
        assert child.wait() == 0

    traced = tracer.during(write)
    assert traced.of("linux.process.reclaim.count", pid=pids[0]) > 0
    assert 0 < traced.of("linux.process.reclaim.stall", pid=pids[0]) < 30
    failures = memory_cgroup / "memory.failcnt"
    if failures.exists():
        assert int(failures.read_text()) > 0


def test_an_oom_kill_names_its_victim(tracer: Tracer, memory_cgroup: Path) -> None:
    """A process that takes 64 MiB in a cgroup of 24 MiB is killed: one victim, the one waitpid reports."""
    children: list[subprocess.Popen[bytes]] = []

    def burst() -> None:
        child = _python_in(memory_cgroup, "x = b'x' * (64 << 20)")
        child.wait()
        children.append(child)

    traced = tracer.during(burst)
    if children[0].returncode != -signal.SIGKILL:
        pytest.skip("the cgroup's limit did not hold (swap)")
    victims = [e for e in traced.events if e.kind == "oom_kill"]
    assert [e.pid for e in victims] == [children[0].pid]
    assert victims[0].comm.startswith("python")
    assert int(victims[0].attributes["anon_rss_bytes"]) > 8 << 20


def _processes_since_boot() -> int:
    lines = Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("processes "))
