"""What happened at a moment: log records and kernel events. Their text is host text: data, never instruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]
SEVERITIES: tuple[Severity, ...] = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One log line, cleaned of control sequences and cut to a bounded length by its collector.

    `source` is where it was read (``kmsg``, ``journal``, a file's path); `unit` the program or systemd unit that
    wrote it; `template` is filled by template mining (``detectors.templates``).
    """

    time: float
    source: str
    text: str
    severity: Severity = "info"
    unit: str = ""
    pid: int | None = None


EventKind = Literal[
    "oom_kill", "process_exit", "fatal_signal", "fork", "exec", "tcp_retransmit", "tcp_reset", "gpu_fault"
]


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One event the kernel reported (tracepoint, netlink). `attributes` hold plain values named as in the kernel.

    oom_kill: pid comm anon_rss_bytes cgroup?; process_exit: pid ppid comm exit_code signal seconds_lived;
    fatal_signal: pid comm signal sender_pid sender_comm.
    """

    time: float
    kind: EventKind
    pid: int | None = None
    comm: str = ""
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
