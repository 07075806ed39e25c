"""Boot one scenario's guest under QEMU until its kernel panics, and dump its memory.

Standard library only: it runs before the project is installed. Everything is bounded: the guest by its time limit, the
QMP answers by a socket timeout; QEMU runs under ``setpriv --pdeathsig`` and ``timeout``, so that it ends too when this
program is killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PANICKED = "---[ end Kernel panic"
QMP_SECONDS = 300
EXTENSIONS = {"elf": "elf", "kdump": "kdump", "flattened": "flat"}
KEXEC = "kexec"  # saved by a crash kernel: crash_kernel.py

Scenario = dict[str, Any]


class GuestError(Exception):
    """The guest did not do what the scenario says."""


class Qmp:
    """QEMU's control socket: one command, one answer, events skipped."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(QMP_SECONDS)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._lines.readline()
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: object) -> None:
        self._socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        while line := self._lines.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise GuestError(f"QMP {name}: {answer['error'].get('desc')}")
            if "return" in answer:
                return
        raise GuestError(f"QMP {name}: QEMU closed the connection")


def arguments_of_qemu(scenario: Scenario, kernel: Path, initramfs: Path, work: Path, serial: Path) -> list[str]:
    append = ["console=ttyS0", "panic=0", "oops=panic", *scenario.get("append", [])]
    if not scenario.get("kaslr", True):
        append.append("nokaslr")
    commands = work / "commands"
    commands.write_text("\n".join([*scenario["commands"], ""]), encoding="utf-8")
    return [
        "setpriv", "--pdeathsig", "TERM", "timeout", "--kill-after=5", str(scenario.get("seconds", 240) + QMP_SECONDS),
        "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max",
        "-m", str(scenario.get("memory", 128)), "-smp", str(scenario.get("cpus", 2)),
        "-nodefaults", "-display", "none", "-no-reboot", "-device", "vmcoreinfo",
        "-kernel", str(kernel), "-initrd", str(initramfs), "-append", " ".join(append),
        "-fw_cfg", f"name=opt/wardround/commands,file={commands}",
        "-serial", f"file:{serial}", "-qmp", f"unix:{work / 'qmp'},server=on,wait=off",
    ]  # fmt: skip


def await_text(
    text: str, qemu: subprocess.Popen[bytes], serial: Path, seconds: float, interrupted: threading.Event
) -> str:
    """Wait until the guest says a text; returns the whole log."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        log = serial.read_text(encoding="utf-8", errors="replace") if serial.exists() else ""
        if text in log:
            return log
        if qemu.poll() is not None:
            raise GuestError(f"QEMU ended with status {qemu.returncode}")
        if interrupted.wait(0.1):
            raise GuestError("interrupted")
    raise GuestError(f"no {text!r} within {seconds:.0f} s")


def rearrange(flattened: Path, out: Path) -> None:
    """Turn the stream that QEMU writes (``makedumpfile -F``) into the seekable file it stands for."""
    with flattened.open("rb") as source, out.open("wb") as target:
        if source.read(16).rstrip(b"\0") != b"makedumpfile":
            raise GuestError("QEMU wrote no flattened dump")
        source.seek(4096)
        while True:
            offset, size = struct.unpack(">qq", source.read(16))
            if offset < 0:
                return
            target.seek(offset)
            target.write(source.read(size))


def dump(qmp: Qmp, form: str, out: Path) -> None:
    """Write the stopped guest's memory; unwritten pages become holes of the file."""
    qmp.command("stop")
    if form == "elf":
        qmp.command("dump-guest-memory", paging=False, protocol=f"file:{out}")
        out.chmod(0o600)
        subprocess.run(["fallocate", "--dig-holes", str(out)], check=False)
        return
    flattened = out.with_suffix(".stream")
    qmp.command("dump-guest-memory", paging=False, protocol=f"file:{flattened}", format="kdump-zlib")
    if form == "flattened":
        flattened.rename(out)
    else:
        rearrange(flattened, out)
        flattened.unlink()


def log_of(path: Path) -> Path:
    """The serial log of a dump: NAME.log beside NAME.elf; other formats are other boots, NAME.kdump.log."""
    return path.with_suffix(".log") if path.suffix == ".elf" else path.with_name(f"{path.name}.log")


def stop(qemu: subprocess.Popen[bytes]) -> None:
    """End QEMU, which may have been told to quit already."""
    try:
        qemu.wait(timeout=2)
    except subprocess.TimeoutExpired:
        qemu.terminate()
        qemu.wait()


def check_note(path: Path) -> None:
    """The kernel's VMCOREINFO note lies near the start of every format, if the guest's driver handed it over."""
    with path.open("rb") as file:
        if b"OSRELEASE=" not in file.read(1 << 20):
            raise GuestError("the dump has no VMCOREINFO note")


def make(scenario: Scenario, arguments: argparse.Namespace, interrupted: threading.Event) -> Path:
    """Boot, wait, check that it is the panic that was asked for, dump. Only a whole dump gets the final name."""
    folder: Path = arguments.folder
    out = folder / f"{scenario['name']}.{EXTENSIONS[arguments.format]}"
    log_path = log_of(out)
    serial = log_path.with_suffix(".log.part")
    serial.unlink(missing_ok=True)
    partial = out.with_name(f"{out.name}.part")
    with tempfile.TemporaryDirectory(prefix="guest-") as work:
        command = arguments_of_qemu(scenario, arguments.kernel, arguments.initramfs, Path(work), serial)
        qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            log = await_text(PANICKED, qemu, serial, scenario.get("seconds", 240), interrupted)
            if not re.search(scenario["panic"], log):
                raise GuestError(f"the guest panicked otherwise, see {serial}")
            qmp = Qmp(Path(work) / "qmp")
            dump(qmp, arguments.format, partial)
            qmp.command("quit")
        finally:
            stop(qemu)
    check_note(partial)
    partial.rename(out)
    serial.rename(log_path)
    return out


def read_scenarios() -> list[Scenario]:
    scenarios: list[Scenario] = json.loads((HERE / "scenarios.json").read_text(encoding="utf-8"))
    return scenarios


def recipe_of(scenario: Scenario) -> str:
    """A digest of all that makes a dump what it is: a change of the scenario, its module or the guest makes it anew."""
    digest = hashlib.sha256(json.dumps(scenario, sort_keys=True).encode())
    module = scenario.get("module")
    for path in [HERE / "guest_init.sh", *([HERE / f"modules/{module}.c"] if module else [])]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def is_made(record: Path, recipe: str) -> bool:
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return known["recipe"] == recipe and Path(known["path"]).is_file()


def make_recorded(scenario: Scenario, arguments: argparse.Namespace, interrupted: threading.Event) -> bool:
    """One dump with its record, unless both are there already; returns False where the guest did otherwise."""
    name = scenario["name"]
    record = arguments.folder / f"{name}.{arguments.format}.json"
    recipe = recipe_of(scenario)
    if is_made(record, recipe):
        print(f"{name:<12} {'kept':>7}  {json.loads(record.read_text(encoding='utf-8'))['path']}", flush=True)
        return True
    if interrupted.is_set():
        return False
    start = time.monotonic()
    try:
        made = _made(scenario, arguments, interrupted)
    except (GuestError, OSError, subprocess.CalledProcessError) as error:
        print(f"{name:<12} {'failed':>7}  {error}", file=sys.stderr, flush=True)
        return False
    seconds = time.monotonic() - start
    for form, (path, log) in made.items():
        facts = {
            "scenario": name, "series": arguments.series, "kernel": arguments.release, "format": form,
            "kaslr": scenario.get("kaslr", True), "memory_mib": scenario.get("memory", 128), "path": str(path),
            "log": str(log), "modules": str(arguments.modules), "recipe": recipe, "seconds": round(seconds, 1),
            "expected": scenario["expected"],
        }  # fmt: skip
        record.with_name(f"{name}.{form}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        print(f"{name:<12} {seconds:6.1f}s  {path}", flush=True)
    return True


def _made(
    scenario: Scenario, arguments: argparse.Namespace, interrupted: threading.Event
) -> dict[str, tuple[Path, Path]]:
    """Make the files of a format; returns (dump, serial log) by form, of which a crash kernel saves several."""
    if arguments.format != KEXEC:
        path = make(scenario, arguments, interrupted)
        return {arguments.format: (path, log_of(path))}
    from tests.vmcore.crash_kernel import make_saved

    saved = make_saved(scenario, arguments, interrupted)
    log = saved.get("kexec-dmesg", arguments.folder / f"{scenario['name']}.kexec.log")  # without the crash kernel's own
    return {form: (path, log) for form, path in saved.items()}


def make_all(arguments: argparse.Namespace) -> int:
    scenarios = read_scenarios()
    wanted = arguments.only.split(",") if arguments.only else [s["name"] for s in scenarios if not s.get("extra")]
    if unknown := set(wanted) - {s["name"] for s in scenarios}:
        print(f"no such scenario: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    interrupted = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: interrupted.set())
    with ThreadPoolExecutor(arguments.jobs) as pool:
        made = pool.map(
            lambda scenario: make_recorded(scenario, arguments, interrupted),
            [s for s in scenarios if s["name"] in wanted],
        )
        return 0 if all(list(made)) else 1


def write_manifest(out: Path) -> None:
    """`manifest.json`: the list of all dumps made so far, of every kernel and format."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/*.json"))]
    manifest = out / "manifest.json"
    partial = manifest.with_suffix(".part")
    partial.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    partial.rename(manifest)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", type=Path, required=True, help="the bzImage")
    parser.add_argument("--initramfs", type=Path, required=True)
    parser.add_argument("--modules", type=Path, required=True, help="where the modules lie, with debug information")
    parser.add_argument("--series", required=True)
    parser.add_argument("--release", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where this kernel's dumps go")
    parser.add_argument("--format", choices=[*sorted(EXTENSIONS), KEXEC], default="elf")
    parser.add_argument("--only", default="", help="names of scenarios, with commas between")
    parser.add_argument("--jobs", type=int, default=1, help="guests at a time")
    arguments = parser.parse_args()
    status = make_all(arguments)
    write_manifest(arguments.folder.parent)
    return status
