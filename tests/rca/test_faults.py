"""What tells neighbouring faults apart, each on an observation that differs in just that."""

from __future__ import annotations

from dataclasses import replace

from tests.rca.builder import CPUS, START, HostBuilder, process
from tests.rca.judge import first, judge
from wardround.models.records import LogRecord
from wardround.models.topology import Cgroup, FutexWait, Socket, Thread

MIB = 2.0**20


def saturated(nice: int = 0, idle: float = 0.0) -> HostBuilder:
    """One program wants four CPUs of two."""
    builder = HostBuilder(idle=idle)
    builder.rate("linux.psi.cpu.some", 0.95)
    return builder.runs(process(200, "crunch", nice=nice, thread_count=4), cpu=CPUS * (1 - idle) - 0.05, waits=2.2)


def test_more_work_than_cpus_is_saturation() -> None:
    """No idle CPU, tasks waiting, one program behind it."""
    assert first(saturated().build()) == ("cpu.saturation", "crunch", 200, "confirmed")


def test_waiting_while_cpus_idle_is_not_saturation() -> None:
    """With idle CPUs the cause is what keeps the program from them."""
    assert not [
        h for h in judge(saturated(idle=0.4).build()).hypotheses if h.fault == "cpu.saturation" and h.probability > 0.3
    ]


def test_a_nice_batch_job_is_harmless() -> None:
    """It takes only what nobody else wants."""
    done = judge(saturated(nice=19).build())
    assert all(h.probability < 0.9 for h in done.hypotheses)


def test_a_quota_that_stops_a_group_while_cpus_idle_is_throttling() -> None:
    """The group is named by its path."""
    builder = HostBuilder(idle=0.8)
    path = "/app.slice/api.service"
    builder.rate("linux.cgroup.cpu.periods", 10, cgroup=path).rate("linux.cgroup.cpu.throttled_periods", 9, cgroup=path)
    builder.rate("linux.cgroup.cpu.usage", 0.2, cgroup=path).level("linux.cgroup.cpu.quota", 0.2, cgroup=path)
    builder.after["cgroups"] = {path: Cgroup(path, 2, cpu_quota=0.2)}
    builder.runs(process(300, "api", cgroups=(("", path),)), cpu=0.2, waits=1.5)
    assert first(builder.build()) == ("cpu.throttling", path, 300, "confirmed")


def test_a_narrow_mask_beside_idle_cpus_is_affinity() -> None:
    """The same waiting, explained by the mask."""
    builder = HostBuilder()
    builder.rate("system.cpu.time", 0.0, cpu=0, state="idle").rate("system.cpu.time", 1.0, cpu=0, state="user")
    builder.rate("system.cpu.time", 0.97, cpu=1, state="idle").rate("system.cpu.time", 0.03, cpu=1, state="user")
    builder.runs(process(400, "encode", affinity=(0,), thread_count=4), cpu=0.98, waits=2.9)
    assert first(builder.build())[:3] == ("cpu.affinity", "encode", 400)


def growing(level: list[float]) -> HostBuilder:
    builder = HostBuilder(ticks=len(level))
    builder.runs(process(500, "ingest"), cpu=0.05)
    return builder.level("linux.process.memory.anon", level, pid=500)


def test_steady_growth_is_a_leak() -> None:
    """30 MiB a second reach the host's memory within minutes."""
    assert first(growing([(100 + 30 * t) * MIB for t in range(11)]).build())[:3] == ("mem.leak", "ingest", 500)


def test_a_program_that_computes_since_it_began_is_starting() -> None:
    """It loads its data at full speed: the same growth of a program that hardly computes is a leak."""

    def young(cpu: float) -> list[str]:
        builder = HostBuilder()
        builder.runs(process(500, "loader", start=START - 8), cpu=cpu)
        builder.level("linux.process.memory.anon", [(100 + 30 * t) * MIB for t in range(11)], pid=500)
        return [h.fault for h in judge(builder.build()).hypotheses if h.probability >= 0.5]

    assert young(0.05) == ["mem.leak"]
    assert young(0.9) == []


def test_a_zombie_leaks_no_more() -> None:
    """Its parent has not reaped it yet: what grew is gone."""
    observed = growing([(100 + 30 * t) * MIB for t in range(11)]).build()
    grown = observed.after.processes
    dead = replace(observed.after, processes={**grown, 500: replace(grown[500], state="Z")})
    assert first(observed)[0] == "mem.leak"
    assert [h for h in judge(replace(observed, after=dead)).hypotheses if h.fault == "mem.leak"] == []


def test_io_of_children_that_are_gone_counts_for_their_parent() -> None:
    """A shell whose short-lived children write: tracing knows their pids only, the shell's own account holds it."""
    builder = HostBuilder()
    builder.rate("system.disk.io_time", 0.95, device="sda").rate("linux.disk.queue_time", 18.0, device="sda")
    builder.rate("system.disk.io", 4e8, device="sda", direction="write")
    builder.rate("system.disk.operations", 500, device="sda", direction="write")
    builder.rate("linux.psi.io.some", 0.6)
    builder.rate("linux.disk.process_io", 4e8, pid=9999, device="sda", direction="write")
    builder.runs(process(600, "logger"), cpu=0.01).runs(process(610, "export"), cpu=0.02)
    builder.rate("linux.disk.process_io", 400, pid=600, device="sda", direction="write")
    builder.rate("process.disk.io", 400, pid=600, direction="write").rate(
        "process.disk.io", 4e8, pid=610, direction="write"
    )
    assert first(builder.build())[:3] == ("io.saturation", "export", 610)


def test_growth_that_levels_off_is_no_leak() -> None:
    """A start-up or a cache that fills and stops."""
    flat = [min(100 + 60 * t, 340) * MIB for t in range(11)]
    assert judge(growing(flat).build()).status == "ok"


def test_a_heap_that_goes_up_and_down_is_no_leak() -> None:
    """Garbage collection."""
    saw = [(200 + 40 * (t % 4)) * MIB for t in range(12)]
    assert judge(growing(saw).build()).status == "ok"


KILL = "Memory cgroup out of memory: Killed process 777 (render) total-vm:9kB, anon-rss:98304kB, file-rss:1kB, UID:0"


def killed(age: float, source: str = "kmsg", counted: float = 1.0) -> HostBuilder:
    builder = HostBuilder().rate("linux.vmstat", counted / 10, key="oom_kill").runs(process(100))
    builder.logs.append(LogRecord(START + 10 - age, source, KILL, "err"))
    return builder


def test_a_kill_in_the_window_names_the_killed_program() -> None:
    """It used the memory."""
    assert first(killed(4).build())[:3] == ("mem.oom", "render", 777)


def test_an_old_kill_is_history() -> None:
    """A kill of ten minutes ago is not the present fault."""
    assert judge(killed(600, counted=0).build()).status == "ok"


def still(tid: int, name: str = "worker") -> Thread:
    return Thread(tid, name, "S", 0.1, 10, "futex_wait_queue", "202 0x7f00 0x80 0x2 0x0")


def deadlocked(owner: int | None) -> HostBuilder:
    """Two threads that wait for each other beside one that polls."""
    builder = HostBuilder()
    locks = (FutexWait(601, 0x1000, True, False, 602), FutexWait(602, 0x2000, True, False, owner))
    threads = (still(600, "main"), still(601), still(602))
    return builder.runs(process(600, "ledger", threads=threads, locks=locks, thread_count=3))


def test_an_owner_cycle_is_a_deadlock() -> None:
    """Proof from the locks' own owner words."""
    assert first(deadlocked(601).build())[:4] == ("proc.hung", "ledger", 600, "confirmed")


def test_two_sleeping_threads_without_a_cycle_are_a_pool() -> None:
    """Another thread could still wake them."""
    assert judge(deadlocked(None).build()).status == "ok"


def test_all_threads_asleep_on_their_own_locks_is_a_deadlock() -> None:
    """Locks that record no owner: nobody is left to release them."""
    builder = HostBuilder()
    locks = tuple(FutexWait(tid, 0x1000 + tid, True, False, None) for tid in (700, 701, 702))
    builder.runs(process(700, "server", threads=tuple(still(t) for t in (700, 701, 702)), locks=locks, thread_count=3))
    assert first(builder.build())[:3] == ("proc.hung", "server", 700)


def test_a_stopped_process_is_hung_and_its_full_queue_a_symptom() -> None:
    """One cause, its effect listed under it."""
    builder = HostBuilder().runs(process(800, "httpd", state="T"))
    builder.after["sockets"] = (Socket("listen", "0.0.0.0:80", "", 0, 800, 129, 128),)
    builder.level("linux.tcp.listen.queue", 129, address="0.0.0.0:80", netns="")
    builder.rate("linux.snmp", 20, key="TcpExt.ListenOverflows", netns="")
    done = judge(builder.build())
    assert (done.hypotheses[0].fault, done.hypotheses[0].culprit.pid) == ("proc.hung", 800)
    assert "net.backlog" in done.hypotheses[0].explains
    assert all(h.probability < 0.3 for h in done.hypotheses[1:])


def test_two_unrelated_faults_are_two() -> None:
    """Neither explains the other."""
    builder = growing([(100 + 30 * t) * MIB for t in range(11)])
    builder.runs(process(900, "stopped", state="T"))
    done = judge(builder.build())
    assert {h.fault for h in done.hypotheses[:2]} == {"mem.leak", "proc.hung"}
    assert done.summary.startswith("2 independent faults")


def test_dead_children_name_their_parent() -> None:
    """Zombies at both ends of the window."""
    builder = HostBuilder().runs(process(1000, "spawner"))
    for pid in range(1001, 1061):
        builder.processes.append(process(pid, "child", ppid=1000, state="Z"))
    assert first(builder.build())[:3] == ("proc.zombies", "spawner", 1000)


def test_open_files_at_the_limit_name_the_process() -> None:
    """With refusals counted by tracing."""
    builder = HostBuilder().runs(process(1100, "proxy"))
    builder.level("process.open_file_descriptor.count", 1024, pid=1100).level("linux.process.fd.limit", 1024, pid=1100)
    builder.rate("linux.process.syscall.errors", 12, pid=1100, errno="EMFILE")
    assert first(builder.build())[:3] == ("proc.fd_exhaustion", "proxy", 1100)


def test_own_processes_are_never_blamed() -> None:
    """The observer's load is not the host's fault."""
    observation = saturated().build()
    assert judge(replace(observation, own_pids=frozenset({200}))).status == "ok"
