"""Says whether eBPF tracing can run on this host, which headers it would compile against, and what would improve it.

Nothing is compiled or loaded: files, capabilities and the interpreters are looked at. It cannot know whether a
security module forbids bpf(2): then loading fails, and the collector's state says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from collectors.ebpf.handover import interpreter_with_bcc
from collectors.ebpf.headers import Headers, find_headers

CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39


@dataclass(frozen=True, slots=True)
class EbpfHost:
    """What was found. `missing` are reasons why tracing cannot start, `improve` what a person could do."""

    headers: Headers
    interpreter: str | None
    privileged: bool
    btf: bool
    tracefs: bool
    missing: tuple[str, ...]
    improve: tuple[str, ...]

    @property
    def case(self) -> str:
        """The headers' case in a sentence, for `diagnose doctor`."""
        return {
            "own": f"compiles against this kernel's own headers ({self.headers.version})",
            "borrowed": f"compiles against borrowed headers ({self.headers.version}): tracepoint arguments only",
            "none": "no kernel headers on this host",
        }[self.headers.kind]


def inspect_host(
    sys: Path = Path("/sys"),
    modules: Path = Path("/lib/modules"),
    sources: Path = Path("/usr/src"),
    status: Path = Path("/proc/self/status"),
) -> EbpfHost:
    headers = find_headers(modules=modules, sources=sources)
    privileged = may_trace(status)
    interpreter = interpreter_with_bcc()
    btf = (sys / "kernel/btf/vmlinux").exists()
    tracefs = (sys / "kernel/tracing").is_dir()
    missing, improve = [], []
    if not privileged:
        missing.append("tracing needs root")
        improve.append("run as root, or grant CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN")
    if interpreter is None:
        missing.append("BCC is not installed")
        improve.append("install python3-bpfcc")
    if headers.kind == "none":
        missing.append("no kernel headers of any version")
        improve.append("install linux-headers-$(uname -r) or any other linux-headers package")
    if not btf:
        missing.append("the kernel publishes no BTF")
        improve.append("use a kernel built with CONFIG_DEBUG_INFO_BTF")
    if not tracefs:
        missing.append("the kernel has no tracefs")
    return EbpfHost(headers, interpreter, privileged, btf, tracefs, tuple(missing), tuple(improve))


def may_trace(status: Path) -> bool:
    """Read the effective capabilities: CAP_SYS_ADMIN, or CAP_BPF with CAP_PERFMON (tracefs then must be readable)."""
    try:
        line = next(row for row in status.read_text().splitlines() if row.startswith("CapEff:"))
    except (OSError, StopIteration):
        return False
    held = int(line.split()[1], 16)
    both = 1 << CAP_PERFMON | 1 << CAP_BPF
    return bool(held >> CAP_SYS_ADMIN & 1) or held & both == both
