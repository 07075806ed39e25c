"""CPU and lock faults: too much work, a quota, a mask, a mutex."""

from __future__ import annotations

import os
import statistics

from tests.faults import kernel
from tests.faults.scenario import CPUS, Injected, compiler, controller, cpus, entity, process, root, scenario, tool
from tests.faults.stage import Stage


def _saturated() -> bool:
    """Work waits for a CPU more than half of the time and nothing idles."""
    start = kernel.idle_s()
    waiting = kernel.rate(lambda: kernel.psi_us("cpu") / 1e6, 0.8)
    return waiting > 0.5 and kernel.idle_s() - start < 0.1 * CPUS and kernel.runnable() > CPUS


@scenario("cpu.saturation/threads", needs=(compiler,))
def saturation_threads(stage: Stage) -> Injected:
    """One process computes in four threads for each CPU."""
    program = stage.spawn(stage.compiled("spin.c", "report"), str(4 * CPUS))
    stage.wait_until(_saturated, "runnable tasks wait for CPUs")
    return Injected((process("cpu.saturation", program.pid),), lambda: program.poll() is None)


@scenario("cpu.saturation/workers")
def saturation_workers(stage: Stage) -> Injected:
    """A Python master has three computing child processes for each CPU."""
    program = stage.spawn(*stage.script("busy.py", "ingest.py"), str(3 * CPUS))
    stage.wait_until(_saturated, "runnable tasks wait for CPUs")
    return Injected((process("cpu.saturation", program.pid),), lambda: program.poll() is None)


@scenario("cpu.saturation/stress", needs=(tool("stress-ng"),))
def saturation_stress(stage: Stage) -> Injected:
    """The stress-ng matrix stressor, six for each CPU."""
    program = stage.spawn("stress-ng", "--matrix", str(6 * CPUS), "--timeout", "80s", "--quiet")
    stage.wait_until(_saturated, "runnable tasks wait for CPUs")
    return Injected((process("cpu.saturation", program.pid),), lambda: program.poll() is None)


def _throttled(stage: Stage, program_argv: list[str], share: float, name: str) -> Injected:
    group = stage.cgroup("cpu", name)
    group.limit_cpu(share)
    program = stage.spawn(*program_argv, cgroups=[group])

    def stopped() -> bool:
        idle = kernel.idle_s()
        periods = kernel.rate(group.throttled_periods)
        return periods > 5 and kernel.idle_s() - idle > 0.2 * CPUS

    stage.wait_until(stopped, "the quota stops the group while the host idles")
    return Injected((entity("cpu.throttling", "cgroup", group.name, str(group.path)),), lambda: program.poll() is None)


@scenario("cpu.throttling/threads", needs=(root, compiler, controller("cpu")))
def throttling_threads(stage: Stage) -> Injected:
    """Two computing threads may use a fifth of one CPU."""
    return _throttled(stage, [str(stage.compiled("spin.c", "app-server")), "2"], 0.2, "app")


@scenario("cpu.throttling/web", needs=(root, controller("cpu")))
def throttling_web(stage: Stage) -> Injected:
    """A busy web server with clients may use a quarter of one CPU."""
    port = stage.free_port()
    stage.spawn(*stage.script("ask.py", "gateway.py"), "127.0.0.1", str(port), "4", "0.005", "30")
    return _throttled(stage, [*stage.script("web.py", "orders.py"), str(port), "60000"], 0.25, "orders")


def _confined(pid: int) -> bool:
    idle = kernel.idle_s()
    used = kernel.rate(lambda: kernel.cpu_s(pid))
    runnable = sum(kernel.stat(pid, tid)[0] == "R" for tid in kernel.threads(pid))
    return used > 0.7 and kernel.idle_s() - idle > 0.5 * (CPUS - 1) and runnable > 1


@scenario("cpu.affinity/mask", needs=(compiler, cpus(2)))
def affinity_mask(stage: Stage) -> Injected:
    """Four computing threads are pinned to one CPU."""
    program = stage.spawn(stage.compiled("spin.c", "encoder"), "4", cpus={max(os.sched_getaffinity(0))})
    stage.wait_until(lambda: _confined(program.pid), "threads share one CPU while others idle")
    return Injected((process("cpu.affinity", program.pid),), lambda: program.poll() is None)


@scenario("cpu.affinity/cpuset", needs=(root, cpus(2), controller("cpuset")))
def affinity_cpuset(stage: Stage) -> Injected:
    """Python threads that hash blocks are in a cpuset of one CPU."""
    group = stage.cgroup("cpuset", "batch")
    group.confine("0")
    program = stage.spawn(*stage.script("digest.py", "checksums.py"), "6", cgroups=[group])
    stage.wait_until(lambda: _confined(program.pid), "threads share one CPU while others idle")
    return Injected((process("cpu.affinity", program.pid),), lambda: program.poll() is None)


def _convoy(stage: Stage, pid: int, threads: int) -> Injected:
    def waiting() -> bool:
        return len(kernel.threads(pid)) >= threads and kernel.futex_waiters(pid) >= threads - 3

    def still() -> bool:
        """Over a few looks: a mutex that has just been passed on leaves some of them between two waits."""
        return statistics.median(kernel.futex_waiters(pid) for _ in range(9)) > threads / 2

    stage.wait_until(lambda: all(waiting() for _ in range(5)), "most threads wait in futex")
    return Injected((process("lock.contention", pid),), still)


@scenario("lock.contention/compute", needs=(root, compiler))
def contention_compute(stage: Stage) -> Injected:
    """Sixteen threads need one mutex that is held while computing for a millisecond."""
    program = stage.spawn(stage.compiled("convoy.c", "pricing"), "16", "1000", "compute")
    return _convoy(stage, program.pid, 16)


@scenario("lock.contention/sleep", needs=(root, compiler))
def contention_sleep(stage: Stage) -> Injected:
    """Thirty-two threads need one mutex that is held over a wait of two milliseconds."""
    program = stage.spawn(stage.compiled("convoy.c", "catalog"), "32", "2000", "sleep")
    return _convoy(stage, program.pid, 32)


@scenario("lock.contention/python", needs=(root,))
def contention_python(stage: Stage) -> Injected:
    """Twelve Python threads need one lock that is held over a wait of three milliseconds."""
    program = stage.spawn(*stage.script("convoy.py", "sessions.py"), "12", "3")
    return _convoy(stage, program.pid, 12)
