"""Actions on an inference engine: restart it, or start it with the threads that its CPUs can carry."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from remediation.action import INTERRUPTS, READS, Draft, Params, Spec, Target
from wardround.shell import command


class EngineName(Params):
    """One engine by its address or name."""

    engine: str = Field(min_length=1, max_length=255)


class Threads(Params):
    """The compute threads an engine is started with."""

    engine: str = Field(min_length=1, max_length=255)
    threads: int = Field(ge=1, le=1024)


def _radius(target: Target) -> str:
    engine = target.engine
    model = f", model {engine.model}" if engine is not None and engine.model else ""
    return f"1 engine{model}: requests in work fail unless a proxy holds them"


def restart(target: Target) -> Iterator[Draft]:
    engine = target.engine
    state = "not answering" if engine is not None and engine.healthy is False else "running"
    pid = f" (pid {engine.pid})" if engine is not None and engine.pid else ""
    yield Draft(
        params=EngineName(engine=target.name[:255]),
        preview=f"{target.name}{pid}: {state} -> restarted with the same options",
        blast_radius=_radius(target),
        rollback="none: what was in work is lost; its options stay as they are",
        precheck="its health check still fails, and its model file can be read",
        verify="wardround.engine.up is 1",
    )


def set_threads(target: Target) -> Iterator[Draft]:
    """Start it with one thread fewer than the CPUs it may use: the rest of the host needs one too."""
    engine = target.engine
    process = target.process or (target.processes.get(engine.pid) if engine is not None and engine.pid else None)
    if process is None:
        return
    usable = len(process.affinity) or target.observation.host.cpus
    group = target.observation.after.cgroups.get(process.cgroup("cpu"))
    if group is not None and group.cpu_quota is not None:
        usable = min(usable, max(int(group.cpu_quota), 1))
    wanted = max(usable - 1, 1)
    now = engine.threads if engine is not None and engine.threads is not None else None
    if now is not None and now <= wanted:
        return
    yield Draft(
        params=Threads(engine=target.name[:255], threads=wanted),
        preview=f"compute threads of {target.name} (pid {process.pid}): "
        f"{now if now is not None else f'unknown ({process.thread_count} threads in all)'} -> {wanted} "
        f"of {usable} usable CPUs, at a restart",
        blast_radius=_radius(target),
        rollback=f"restart with {now if now is not None else 'its former'} threads",
        precheck="the engine's options name the same number of threads",
        verify="gen_ai.server.tokens per second rises",
    )


def inspect(target: Target) -> Iterator[Draft]:
    yield Draft(
        params=EngineName(engine=target.name[:255]),
        preview=f"read health and last messages of {target.name}: "
        + command("curl -s {}; tail -n 50 /var/log/syslog || journalctl -n 50", f"{target.name}/health"),
        blast_radius="none",
        rollback="none needed: it only reads",
        precheck="none",
        verify="the last message names why it does not answer",
    )


ACTIONS = (
    Spec("engine.inspect", "read an engine's health and last messages", EngineName, READS, inspect),
    Spec("engine.set_threads", "start an engine with fitting threads", Threads, INTERRUPTS, set_threads),
    Spec("engine.restart", "restart an engine", EngineName, INTERRUPTS, restart),
)
