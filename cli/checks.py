"""What `diagnose doctor` looks at: each check is a function that returns what holds here and what would improve it.

Nothing is loaded into the kernel, no process is touched, and nothing leaves the host unless the model is asked for.
A check says what was found at this moment; it cannot promise that a probe that may start also stays up.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wardround import __version__
from wardround.errors import StateError

if TYPE_CHECKING:
    from collectors.base import Collector
    from wardround.settings import Settings

_NVIDIA = "0x10de"  # PCI vendor
State = Literal["ok", "limited", "missing"]
OWN_NAMES = ("wardround", "collectors", "detectors", "rca", "remediation", "agents", "cli")
_CAPABILITIES = {
    2: "DAC_READ_SEARCH",
    12: "NET_ADMIN",
    19: "SYS_PTRACE",
    21: "SYS_ADMIN",
    34: "SYSLOG",
    38: "PERFMON",
    39: "BPF",
}  # linux/capability.h


@dataclass(frozen=True, slots=True)
class Check:
    """`required`: without it no diagnosis can run, and the doctor's exit code is 1."""

    name: str
    state: State
    detail: str
    improve: str = ""
    required: bool = False


_KDUMP = "install kdump-tools (or kexec-tools) and boot with crashkernel=256M"


def run_checks(settings: Settings, check_model: bool = False) -> Iterator[Check]:
    """Yield all checks, the host first, then this program's own places, then every collector's probe."""
    yield Check("wardround", "ok", f"{__version__} on Python {platform.python_version()}")
    host: tuple[Callable[[], Check], ...] = (
        kernel, privileges, procfs, pressure, cgroups, delay_accounting, kernel_log, journal, crash_dumps,
        nvidia,
    )  # fmt: skip
    for check in host:
        yield check()
    yield from tracing()
    yield import_names()
    yield state_folder(settings)
    yield store(settings)
    yield history(settings)
    yield model(settings, check_model)
    yield from collectors(settings)


def kernel() -> Check:
    return Check("kernel", "ok", f"{platform.system()} {platform.release()} on {platform.machine()}")


def privileges(status: Path = Path("/proc/self/status")) -> Check:
    """Root or single capabilities; which ones are held is told."""
    if os.geteuid() == 0:
        return Check("privileges", "ok", "root")
    row = next((line for line in _read(status).splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    mask = int(row.split()[1], 16)
    held = [name for bit, name in _CAPABILITIES.items() if mask >> bit & 1]
    detail = f"user {os.geteuid()}, capabilities: {', '.join(held) or 'none'}"
    return Check("privileges", "limited", detail, "run as root: other users' processes, tracing, kernel log")


def procfs() -> Check:
    ok = Path("/proc/stat").exists() and Path("/sys/class").exists()
    detail = "/proc and /sys are mounted" if ok else "/proc or /sys is not mounted"
    return Check("procfs", "ok" if ok else "missing", detail, "" if ok else "mount them", required=True)


def pressure() -> Check:
    try:
        Path("/proc/pressure/cpu").read_text()
    except OSError as error:
        return Check("pressure (PSI)", "missing", _why(error), "boot with psi=1 on a kernel with CONFIG_PSI")
    return Check("pressure (PSI)", "ok", "/proc/pressure")


def cgroups() -> Check:
    kinds = {line.split(" ")[2] for line in _read(Path("/proc/self/mounts")).splitlines() if line.count(" ") >= 3}
    versions = [version for kind, version in (("cgroup", "v1"), ("cgroup2", "v2")) if kind in kinds]
    if not versions:
        return Check("control groups", "missing", "no cgroup hierarchy is mounted", "mount cgroup2 at /sys/fs/cgroup")
    return Check("control groups", "ok", " and ".join(versions))


def delay_accounting() -> Check:
    if _read(Path("/proc/sys/kernel/task_delayacct")).strip() == "1":
        return Check("delay accounting", "ok", "per process waits for CPU, I/O and memory")
    return Check("delay accounting", "limited", "off", "sysctl kernel.task_delayacct=1 (costs little)")


def kernel_log() -> Check:
    try:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        fix = "run as root" if error.errno in (errno.EPERM, errno.EACCES) else "use a host or container with /dev/kmsg"
        return Check("kernel log", "missing", f"/dev/kmsg: {_why(error)}", fix)
    return Check("kernel log", "ok", "/dev/kmsg")


def crash_dumps(sys: Path = Path("/sys")) -> Check:
    if _read(sys / "kernel/kexec_crash_loaded").strip() == "1":
        return Check("crash dumps", "ok", "a crash kernel is loaded")
    backend = _read(sys / "module/pstore/parameters/backend").strip()
    if backend not in ("", "(null)"):
        return Check(
            "crash dumps", "limited", f"only the last lines of the log are kept, by pstore ({backend})", _KDUMP
        )
    return Check("crash dumps", "limited", "a crash of the kernel would leave nothing to explain it by", _KDUMP)


def journal() -> Check:
    program = shutil.which("journalctl")
    kept = any(Path(folder).is_dir() for folder in ("/run/log/journal", "/var/log/journal"))
    if program and kept:
        return Check("journal", "ok", program)
    why = "no journal is kept here" if program else "no journalctl"
    return Check("journal", "limited", f"{why}; log files are read instead", "name log files in the setting log_files")


def nvidia() -> Check:
    """A driver is only missed where there is a device for it."""
    version = _read(Path("/proc/driver/nvidia/version"))
    if version:
        return Check("NVIDIA GPU", "ok", version.splitlines()[0][:60])
    vendors = (_read(path).strip() for path in Path("/sys/bus/pci/devices").glob("*/vendor"))
    if _NVIDIA in vendors:
        return Check("NVIDIA GPU", "missing", "a device without its driver", "install the NVIDIA driver")
    return Check("NVIDIA GPU", "ok", "none on this host")


def tracing() -> Iterator[Check]:
    """eBPF: compiler, headers, type information, tracepoints."""
    from collectors.ebpf.host import inspect_host

    host = inspect_host()
    found = host.interpreter is not None
    detail = f"for {host.interpreter}" if found else "no Python here has it"
    yield Check("BCC", "ok" if found else "missing", detail, "" if found else "install python3-bpfcc")
    states: dict[str, tuple[State, str]] = {
        "own": ("ok", ""),
        "borrowed": ("limited", "install linux-headers-$(uname -r), if the distribution has it"),
        "none": ("missing", "install linux-headers-$(uname -r) or any other linux-headers package"),
    }
    state, improve = states[host.headers.kind]
    yield Check("kernel headers", state, host.case, improve)
    yield _present("BTF", host.btf, "/sys/kernel/btf/vmlinux", "use a kernel with CONFIG_DEBUG_INFO_BTF")
    yield _present("tracepoints", host.tracefs, "/sys/kernel/tracing", "use a kernel with tracefs")


def _present(name: str, there: bool, where: str, improve: str) -> Check:
    return Check(name, "ok", where) if there else Check(name, "missing", f"no {where}", improve)


def import_names() -> Check:
    """Each of our package names must be this tree's: another distribution may own the name `agents` too."""
    home = Path(__file__).resolve().parents[1]
    strange = []
    for name in OWN_NAMES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin is None or not origin.is_relative_to(home):
            strange.append(f"{name} ({origin or 'absent'})")
    if strange:
        advice = "install wardround in an environment of its own"
        return Check("import names", "missing", f"not ours: {', '.join(strange)}", advice, required=True)
    return Check("import names", "ok", f"all {len(OWN_NAMES)} are this tree's own", required=True)


def state_folder(settings: Settings) -> Check:
    """Try a real write where runs, history and checkpoints go."""
    folder = settings.state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        advice = "set state_dir (WARDROUND_STATE_DIR) to a folder that can be written"
        return Check("state folder", "missing", f"{folder}: {_why(error)}", advice)
    free = shutil.disk_usage(folder).free
    return Check("state folder", "ok", f"{folder}, {free / 2**30:.1f} GiB free")


def store(settings: Settings) -> Check:
    from wardround.store.repositories import Runs
    from wardround.store.session import FILE, open_store

    try:
        with open_store(settings.state_dir) as session:
            kept = Runs(session).count()
    except StateError as error:
        return Check("store", "missing", f"{error.what}: {error.why}", error.do)
    return Check("store", "ok", f"{settings.state_dir / FILE}, {kept} runs")


def history(settings: Settings) -> Check:
    from collectors.baseline import history_folders

    segments = [path for folder in history_folders(settings) for path in folder.iterdir()]
    if not segments:
        return Check("history", "limited", "none: usual is what the kernel counted since boot", "run `diagnose watch`")
    return Check("history", "ok", f"{len(segments)} segments")


def model(settings: Settings, ask: bool) -> Check:
    """Whether a model is configured; the endpoint is only asked (its list of models) where `ask`."""
    if not settings.model.configured:
        advice = "optional: set model.base_url and model.model"
        return Check("model", "limited", "none configured: the rules judge alone", advice)
    where = f"{settings.model.model} at {settings.model.base_url}"
    if not ask:
        return Check("model", "ok", f"{where} (not asked; --check-model does)")
    import httpx

    key = settings.model.api_key
    headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
    try:
        url = f"{settings.model.base_url.rstrip('/')}/models"
        reply = httpx.get(url, headers=headers, timeout=min(10.0, settings.model.timeout))
        reply.raise_for_status()
        names = [str(each.get("id")) for each in reply.json().get("data", [])]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError) as error:
        return Check("model", "missing", f"{where}: {type(error).__name__}: {error}", "check address, key and server")
    if settings.model.model not in names:
        known = ", ".join(names[:3]) or "none"
        return Check("model", "limited", f"{where} answers, but lists {known}", "correct model.model")
    return Check("model", "ok", f"{where} answers")


def collectors(settings: Settings) -> Iterator[Check]:
    """Ask every registered collector whether it can run here."""
    from collectors.base import Roots
    from collectors.registry import factories
    from wardround.models.series import Catalogue

    catalogue, roots = Catalogue(), Roots.of(settings)
    for name, factory in factories():
        yield _probe(name, partial(factory, catalogue, roots))


def _probe(name: str, build: Callable[[], Collector]) -> Check:
    try:
        capability = build().probe()
    except Exception as error:  # noqa: BLE001 - plugin boundary: a broken collector is what the doctor is to report
        return Check(name, "missing", f"broken: {type(error).__name__}: {error}", "report this")
    if capability.available:
        state: State = "limited" if capability.enable else "ok"
        return Check(name, state, capability.reason or "can run", capability.enable or "")
    return Check(name, "missing", capability.reason, capability.enable or "")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
