"""Block device and filesystem faults, on loop devices and tmpfs of their own.

A small device is stood in for by limiting, for one cgroup, the disk under the loop device: the kernel charges the
loop device's I/O to whoever asked for it, so the loop device itself answers slowly.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import kernel
from tests.faults.scenario import Injected, compiler, controller, entity, process, root, scenario, tool
from tests.faults.stage import NotBitingError, Stage, on_disk, scratch

MB = 1 << 20
_LOOP = (root, compiler, tool("losetup"))
_LIMITED = (*_LOOP, controller("blkio"), lambda: None if on_disk(scratch()) else f"{scratch()} is on no block device")
_EXT4 = (root, tool("losetup", "mkfs.ext4"))


def number(path: Path | str) -> str:
    """`major:minor` of the whole disk under a path, or of a device node."""
    info = os.stat(path)
    where = info.st_rdev or info.st_dev
    found = Path(f"/sys/dev/block/{os.major(where)}:{os.minor(where)}")
    if not found.exists():
        raise NotBitingError(f"{path} is on no block device")
    disk = found.resolve()
    return ((disk.parent if (disk / "partition").exists() else disk) / "dev").read_text().strip()


def await_ms(device: str, seconds: float = 1.5) -> tuple[float, float]:
    """Mean milliseconds of a request finished in this time, and requests a second; (0, 0) when none ended."""
    name = Path(device).name
    before = kernel.disk(name)
    time.sleep(seconds)
    after = kernel.disk(name)
    ios = after["ios"] - before["ios"]
    return ((after["wait_ms"] - before["wait_ms"]) / ios if ios else 0.0), ios / seconds


def _busy(device: str) -> Callable[[], bool]:
    """Busy all the time with a queue."""

    def saturated() -> bool:
        name = Path(device).name
        start, before = time.monotonic(), kernel.disk(name)
        time.sleep(1.0)
        passed_ms, after = (time.monotonic() - start) * 1000, kernel.disk(name)
        busy, queue = ((after[key] - before[key]) / passed_ms for key in ("busy_ms", "wait_ms"))
        return busy > 0.85 and queue > 4

    return saturated


@scenario("io.saturation/flood", needs=_LOOP)
def saturation_flood(stage: Stage) -> Injected:
    """Thirty-two threads read a loop device past the cache as fast as it goes."""
    device = stage.loop("disk.img", 256 * MB, sparse=False)
    program = stage.spawn(stage.compiled("dio.c", "compactor"), device, "256", "16", "32", "read", "0")
    saturated = _busy(device)
    stage.wait_until(saturated, "the device is always busy with a queue")
    return Injected((process("io.saturation", program.pid),), saturated)


@scenario("io.saturation/small", needs=_LIMITED)
def saturation_small(stage: Stage) -> Injected:
    """Sixteen threads write large blocks to a device that takes 12 MB a second."""
    device = stage.loop("disk.img", 256 * MB, sparse=False)
    group = stage.cgroup("blkio", "archive")
    stage.throttle(group, number(stage.folder), rate=12 * MB)
    program = stage.spawn(
        stage.compiled("dio.c", "archiver"), device, "256", "128", "16", "write", "0", cgroups=[group]
    )
    saturated = _busy(device)
    stage.wait_until(saturated, "the device is always busy with a queue")
    return Injected((process("io.saturation", program.pid),), saturated)


@scenario("io.saturation/fio", needs=(*_EXT4, tool("fio")))
def saturation_fio(stage: Stage) -> Injected:
    """fio writes small blocks at random to a file on ext4 on a loop device."""
    device = stage.loop("disk.img", 256 * MB, sparse=False)
    where = stage.ext4(device, "data")
    job = ["--name=db", f"--directory={where}", "--size=128M", "--rw=randwrite", "--bs=8k", "--direct=1"]
    load = ["--ioengine=libaio", "--iodepth=64", "--runtime=80", "--time_based", "--thread"]
    program = stage.spawn("fio", *job, *load)
    saturated = _busy(device)
    stage.wait_until(saturated, "the device is always busy with a queue", 25)
    return Injected((process("io.saturation", program.pid),), saturated)


def _slow(stage: Stage, device: str, at_least_ms: float) -> Injected:
    def slow() -> bool:
        took, rate = await_ms(device)
        return took > at_least_ms and 1 < rate < 100

    stage.wait_until(slow, f"requests take {at_least_ms:g} ms at a low rate", 25)
    name = Path(device).name
    return Injected((entity("io.latency", "device", name, device),), slow)


@scenario("io.latency/reads", needs=_LIMITED)
def latency_reads(stage: Stage) -> Injected:
    """A light reader of a device that answers sixteen small requests a second."""
    device = stage.loop("disk.img", 64 * MB, sparse=False)
    group = stage.cgroup("blkio", "lookup")
    stage.throttle(group, number(stage.folder), ops=16)
    stage.spawn(stage.compiled("dio.c", "lookup"), device, "64", "4", "1", "read", "30000", cgroups=[group])
    return _slow(stage, device, 30)


@scenario("io.latency/commits", needs=(*_LIMITED, *_EXT4))
def latency_commits(stage: Stage) -> Injected:
    """A program that writes and syncs a few records a second, on a device that takes six requests a second."""
    device = stage.loop("disk.img", 64 * MB, sparse=False)
    # no journal: its thread would write from another cgroup, past the limit
    where = stage.ext4(device, "data", features="^has_journal")
    log = stage.prefilled(where / "ledger.log", 8 * MB)
    group = stage.cgroup("blkio", "ledger")
    stage.throttle(group, number(stage.folder), ops=6)
    stage.spawn(*stage.script("records.py", "ledger.py"), log, "0.15", "2000", cgroups=[group])
    return _slow(stage, device, 40)


@scenario("io.latency/limit", needs=_LIMITED)
def latency_limit(stage: Stage) -> Injected:
    """A light reader whose cgroup may ask the device ten times a second: requests wait before they are issued."""
    device = stage.loop("disk.img", 64 * MB, sparse=False)
    group = stage.cgroup("blkio", "profiles")
    stage.throttle(group, number(device), ops=10)
    stage.spawn(stage.compiled("dio.c", "profiles"), device, "64", "4", "2", "read", "5000", cgroups=[group])

    def held_back() -> bool:
        stalled = kernel.psi_us("io")
        _, rate = await_ms(device)
        return 1 < rate < 20 and kernel.psi_us("io") - stalled > 0.5 * 1.5e6

    stage.wait_until(held_back, "the reader stalls at ten requests a second")
    name = Path(device).name
    return Injected((entity("io.latency", "device", name, device),), held_back)


def _refused(where: Path, code: int) -> bool:
    """Whether a new file with one block of data is refused with this error."""
    probe = where / "probe"
    try:
        probe.write_bytes(b"x" * 65536)
    except OSError as error:
        return error.errno == code
    finally:
        try:
            probe.unlink(missing_ok=True)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
    return False


def _filled(stage: Stage, fault: str, where: Path, what: str) -> Injected:
    stage.spawn(*stage.script("fill.py", "exporter.py"), str(where), what, "0.2")

    def full() -> bool:
        space = os.statvfs(where)
        if what == "files":
            return space.f_ffree == 0 and space.f_bavail > space.f_blocks // 4
        return space.f_bavail * space.f_frsize < 65536

    stage.wait_until(full, f"no {'inodes' if what == 'files' else 'space'} left")
    return Injected((entity(fault, "filesystem", str(where)),), lambda: full() and _refused(where, errno.ENOSPC))


@scenario("fs.full/tmpfs", needs=(root,))
def full_tmpfs(stage: Stage) -> Injected:
    """An exporter has filled a tmpfs of 48 MB and goes on trying."""
    return _filled(stage, "fs.full", stage.tmpfs("spool", size="48m"), "data")


@scenario("fs.full/ext4", needs=_EXT4)
def full_ext4(stage: Stage) -> Injected:
    """An exporter has filled an ext4 filesystem of 64 MB and goes on trying."""
    return _filled(stage, "fs.full", stage.ext4(stage.loop("disk.img", 64 * MB), "exports"), "data")


@scenario("fs.inodes/tmpfs", needs=(root,))
def inodes_tmpfs(stage: Stage) -> Injected:
    """A program has made as many empty files as a tmpfs has inodes."""
    return _filled(stage, "fs.inodes", stage.tmpfs("sessions", size="64m", inodes=1500), "files")


@scenario("fs.inodes/ext4", needs=_EXT4)
def inodes_ext4(stage: Stage) -> Injected:
    """A program has made as many empty files as an ext4 filesystem has inodes."""
    return _filled(stage, "fs.inodes", stage.ext4(stage.loop("disk.img", 64 * MB), "cache", inodes=1024), "files")


@scenario("fs.readonly/error", needs=_EXT4)
def readonly_error(stage: Stage) -> Injected:
    """An ext4 filesystem meets an error it was told of by its test switch and goes read-only under a writer."""
    device = stage.loop("disk.img", 64 * MB)
    where = stage.ext4(device, "store", options="errors=remount-ro")
    stage.spawn(*stage.script("records.py", "ledger.py"), str(where / "ledger.log"), "0.2")
    stage.wait_until(lambda: (where / "ledger.log").exists(), "the writer writes")
    Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")
    return _readonly(stage, where)


@scenario("fs.readonly/corruption", needs=(*_EXT4, tool("dumpe2fs")))
def readonly_corruption(stage: Stage) -> Injected:
    """The block bitmaps of an ext4 filesystem hold nonsense, which the kernel finds when a writer needs blocks."""
    device = stage.loop("disk.img", 64 * MB)
    where = stage.ext4(device, "store", options="errors=remount-ro,noinit_itable")
    stage.run("umount", str(where))
    listing = stage.run("dumpe2fs", device)
    spans = [line.split("Block bitmap at ")[1].split()[0] for line in listing.splitlines() if "Block bitmap at" in line]
    with open(device, "r+b") as disk:
        size = int(next(line for line in listing.splitlines() if line.startswith("Block size:")).split(":")[1])
        for block in spans:
            disk.seek(int(block) * size)
            disk.write(os.urandom(size))
    stage.run("mount", "-o", "errors=remount-ro", device, str(where))
    stage.spawn(*stage.script("records.py", "journal.py"), str(where / "journal.log"), "0.2")
    return _readonly(stage, where)


def _readonly(stage: Stage, where: Path) -> Injected:
    def refused() -> bool:
        return _refused(where, errno.EROFS)

    stage.wait_until(refused, "writes are refused with EROFS", 20)
    return Injected((entity("fs.readonly", "filesystem", str(where)),), refused)
