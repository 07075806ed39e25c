"""Boot a scenario's guest with a crash kernel in wait, and fetch what that saved: dumps as production hosts make them.

One boot gives all forms: makedumpfile's compressed and filtered dump (lzo, zlib, flattened, ELF), its kernel log, and
a plain copy of /proc/vmcore. The disk holds the tools and both kernels and takes the dumps; debugfs reads it without a
mount. Standard library only, as guest.py.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from tests.vmcore.guest import GuestError, Scenario, arguments_of_qemu, await_text, stop

FORMS = ("kexec", "kexec-zlib", "kexec-flat", "kexec-elf31", "kexec-elf", "kexec-dmesg")
SAVED = "the crash is saved"
_MEMORY = 448
_RESERVED = 192
_SECONDS = 240
_COMMANDS = (
    "mkdir -p /disk /lib/modules/$(uname -r)",
    "cp /modules/virtio* /lib/modules/$(uname -r)",
    "depmod; modprobe virtio_pci; modprobe virtio_blk",
    "mount -t ext4 /dev/vda /disk",
    ". /disk/save_crash.sh",
)


def make_saved(scenario: Scenario, arguments: argparse.Namespace, interrupted: threading.Event) -> dict[str, Path]:
    """Boot, let it crash and save; return the files by form. :raises GuestError: it did otherwise"""
    folder: Path = arguments.folder
    serial = folder / f"{scenario['name']}.kexec.log"
    partial = serial.with_suffix(".log.part")
    partial.unlink(missing_ok=True)
    crashing = {
        **scenario,
        "memory": _MEMORY,
        "append": [*scenario.get("append", []), f"crashkernel={_RESERVED}M"],
        "commands": [*_COMMANDS, *scenario["commands"]],
        "seconds": _SECONDS,
    }
    with tempfile.TemporaryDirectory(prefix="guest-", dir=folder) as work:
        disk = Path(work) / "disk"
        subprocess.run(["cp", "--sparse=always", folder / "crash.disk", disk], check=True)
        command = arguments_of_qemu(crashing, arguments.kernel, arguments.initramfs, Path(work), partial)
        command += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
        qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            log = await_text(SAVED, qemu, partial, _SECONDS, interrupted)
        finally:
            stop(qemu)
        if not re.search(scenario["panic"], log):
            raise GuestError(f"the guest panicked otherwise, see {partial}")
        saved = Path(work) / "saved"
        saved.mkdir()
        subprocess.run(["debugfs", "-R", f"rdump /out {saved}", disk], check=True, capture_output=True)
        found = {form: _keep(saved / "out" / form, folder, scenario["name"]) for form in FORMS}
    partial.rename(serial)
    return {form: path for form, path in found.items() if path is not None}


def _keep(saved: Path, folder: Path, name: str) -> Path | None:
    """Move a file to its place, holes for zeros; a form that the tools could not make is empty or missing."""
    if not saved.is_file() or not saved.stat().st_size:
        return None
    out = folder / f"{name}.{saved.name}"
    shutil.move(saved, out)
    out.chmod(0o600)
    subprocess.run(["fallocate", "--dig-holes", out], check=False)
    return out
