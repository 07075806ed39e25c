"""Memory faults, inside a memory cgroup that stands for the host where the fault would hurt others."""

from __future__ import annotations

import subprocess

from tests.faults import kernel
from tests.faults.cgroups import Cgroup
from tests.faults.scenario import Injected, Truth, compiler, controller, device, entity, process, root, scenario, tool
from tests.faults.stage import Stage

MB = 1 << 20


def _group(stage: Stage, name: str, limit_mb: int) -> Cgroup:
    group = stage.cgroup("memory", name)
    group.limit_memory(limit_mb * MB)
    return group


def _exhausted(group: Cgroup, limit_mb: int) -> bool:
    """The group is at its limit, charges meet the limit, and tasks stall on it."""
    hits = group.limit_hits()
    stalled = kernel.rate(lambda: kernel.psi_us("memory") / 1e6)
    return group.memory() > 0.95 * limit_mb * MB and group.limit_hits() - hits > 20 and stalled > 0.03


@scenario("mem.exhaustion/one", needs=(root, compiler, controller("memory")))
def exhaustion_one(stage: Stage) -> Injected:
    """A process holds nine tenths of its group's memory and streams a file through the rest."""
    group = _group(stage, "analytics", 256)
    stream = stage.file("events.log", 1 << 40)
    program = stage.spawn(stage.compiled("hold.c", "analytics"), "236", stream, cgroups=[group])
    stage.wait_until(lambda: _exhausted(group, 256), "charges meet the limit and stall")
    return Injected((process("mem.exhaustion", program.pid),), lambda: _exhausted(group, 256))


@scenario("mem.exhaustion/neighbours", needs=(root, compiler, controller("memory")))
def exhaustion_neighbours(stage: Stage) -> Injected:
    """A cache holds most of a group's memory; two other processes in it have to reclaim for every page they read."""
    group = _group(stage, "pod", 400)
    holder = stage.spawn(stage.compiled("hold.c", "cache"), "365", cgroups=[group])
    stage.wait_until(lambda: kernel.anon_bytes(holder.pid) > 360 * MB, "the cache is filled")
    for name in ("shipper", "indexer"):
        stage.spawn(stage.compiled("hold.c", name), "5", stage.file(f"{name}.log", 1 << 40), cgroups=[group])
    stage.wait_until(lambda: _exhausted(group, 400), "charges meet the limit and stall")
    return Injected((process("mem.exhaustion", holder.pid),), lambda: _exhausted(group, 400))


def _leaking(stage: Stage, program: subprocess.Popen[bytes], at_least_mb: float) -> Injected:
    def grows() -> bool:
        return program.poll() is None and kernel.rate(lambda: kernel.anon_bytes(program.pid)) > at_least_mb * MB

    stage.wait_until(grows, f"private memory grows by {at_least_mb:g} MB a second")
    return Injected((process("mem.leak", program.pid),), grows)


@scenario("mem.leak/free", needs=(compiler,))
def leak_free(stage: Stage) -> Injected:
    """A process without a limit grows by 30 MB a second (to 2 GB at most)."""
    return _leaking(stage, stage.spawn(stage.compiled("grow.c", "indexer"), "30", "2000"), 20)


@scenario("mem.leak/limited", needs=(root, compiler, controller("memory")))
def leak_limited(stage: Stage) -> Injected:
    """A process grows by 12 MB a second towards its group's limit of 1 GB."""
    group = _group(stage, "worker", 1024)
    return _leaking(stage, stage.spawn(stage.compiled("grow.c", "worker"), "12", "1000", cgroups=[group]), 8)


@scenario("mem.leak/python")
def leak_python(stage: Stage) -> Injected:
    """A Python program keeps every object it makes, 20 MB a second (to 1.5 GB at most)."""
    return _leaking(stage, stage.spawn(*stage.script("grow.py", "sessions.py"), "20", "1500"), 12)


def _killed_in(group: Cgroup, name: str, symptoms: tuple[str, ...] = ()) -> Truth:
    """The culprit dies: it goes by name, or by the pid of its latest incarnation."""

    def pids() -> frozenset[int]:
        try:
            return frozenset(int(pid) for pid in (group.path / "cgroup.procs").read_text().split())
        except OSError:
            return frozenset()

    return Truth("mem.oom", "process", frozenset({name}), pids, frozenset(symptoms))


@scenario("mem.oom/again", needs=(root, compiler, controller("memory")))
def oom_again(stage: Stage) -> Injected:
    """A program outgrows its group's 96 MB every two seconds and is started again."""
    group = _group(stage, "render", 96)
    grow = stage.compiled("grow.c", "renderer")
    stage.spawn(*stage.script("restart.py", "keeper.py"), "0.5", str(grow), "60", "4000", cgroups=[group])
    stage.wait_until(lambda: group.oom_kills() >= 1, "the kernel kills inside the group")
    first = group.oom_kills()
    truth = _killed_in(group, "renderer", ("proc.crash_loop", "mem.leak", "mem.exhaustion"))
    return Injected((truth,), lambda: group.oom_kills() > first)


@scenario("mem.oom/once", needs=(root, compiler, controller("memory")))
def oom_once(stage: Stage) -> Injected:
    """A program grows at once some seconds into the observation, and the kernel kills it."""
    group = _group(stage, "export", 128)
    program = stage.spawn(stage.compiled("grow.c", "exporter"), "400", "4000", "4", cgroups=[group])
    truth = Truth("mem.oom", "process", frozenset({"exporter"}), lambda: frozenset({program.pid}))
    return Injected((truth,), lambda: group.oom_kills() >= 1)


def _refaulting() -> bool:
    refaults = kernel.rate(lambda: kernel.vmstat("workingset_refault_file") + kernel.vmstat("workingset_refault_anon"))
    return refaults > 200


@scenario("mem.thrashing/file", needs=(root, compiler, controller("memory")))
def thrashing_file(stage: Stage) -> Injected:
    """The pages of a mapped file that a program touches are three times its group's memory."""
    group = _group(stage, "search", 64)
    index = stage.file("segments.idx", 192 * MB, sparse=False)
    program = stage.spawn(stage.compiled("pages.c", "search"), "file", index, cgroups=[group])

    def thrashes() -> bool:
        return kernel.rate(lambda: kernel.major_faults(program.pid)) > 100 and _refaulting()

    stage.wait_until(thrashes, "major faults and refaults")
    truth = entity("mem.thrashing", "cgroup", group.name, str(group.path))
    return Injected((truth,), thrashes)


_SWAP = (root, compiler, controller("memory"), device("/sys/class/zram-control"), tool("mkswap", "swapon"))


@scenario("mem.thrashing/swap", needs=_SWAP)
def thrashing_swap(stage: Stage) -> Injected:
    """Private memory of twice the group's limit goes to and from a compressed swap device."""
    swap = stage.zram(512 * MB)
    stage.swap_on(swap)
    group = _group(stage, "graph", 96)
    program = stage.spawn(stage.compiled("pages.c", "graph"), "anon", "200", cgroups=[group])

    def swaps() -> bool:
        return program.poll() is None and kernel.rate(lambda: kernel.vmstat("pswpin")) > 200

    stage.wait_until(swaps, "pages come back from swap")
    truth = entity("mem.thrashing", "cgroup", group.name, str(group.path))
    return Injected((truth,), swaps)
