"""Filesystems against real tmpfs and ext4 mounts, in this and in another mount namespace."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from collectors.base import Roots
from collectors.filesystem import FilesystemCollector, snapshot_mounts
from collectors.mountinfo import parse
from collectors.namespaces import Namespace
from collectors.topology import snapshot
from wardround.models.series import Catalogue
from wardround.models.topology import Mount

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.root]
HERE = Namespace(1, "/proc/self/ns/mnt", None, True)


def run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def tmpfs(tmp_path):
    """A tmpfs of 4 MiB with 64 inodes."""
    where = tmp_path / "small fs"
    where.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=64", "tmpfs", str(where))
    yield where
    run("umount", str(where))


@pytest.fixture
def ext4(tmp_path):
    """An ext4 filesystem on a loop device that turns read-only on errors."""
    image, where = tmp_path / "image", tmp_path / "ext4"
    with image.open("wb") as out:
        out.truncate(16 << 20)
    where.mkdir()
    run("mkfs.ext4", "-q", "-F", str(image))
    run("mount", "-o", "loop,errors=remount-ro", str(image), str(where))
    yield where
    run("umount", str(where))


def look() -> dict[tuple[str, ...], float]:
    """One read: ``{(metric, label values…): value}``."""
    catalogue = Catalogue()
    frame = FilesystemCollector(catalogue, Roots()).read(time.time(), time.monotonic()).frame
    return {
        (catalogue[int(i)].name, *(value for _, value in catalogue[int(i)].labels)): float(v)
        for i, v in zip(frame.ids, frame.values, strict=True)
    }


def mount_of(where: Path) -> Mount:
    return next(mount for mount in snapshot_mounts() if mount.mountpoint == str(where))


def test_space_and_inodes_agree_with_what_was_written(tmpfs):
    """Half a tmpfs written and ten files made: both are told exactly, the blank in its path notwithstanding."""
    (tmpfs / "data").write_bytes(b"x" * (2 << 20))
    for number in range(9):
        (tmpfs / f"f{number}").touch()
    seen = look()
    assert seen["system.filesystem.limit", str(tmpfs)] == 4 << 20
    assert seen["system.filesystem.usage", str(tmpfs), "used"] == 2 << 20
    assert seen["linux.filesystem.inodes", str(tmpfs), "used"] == 11  # the root folder too
    assert seen["linux.filesystem.readonly", str(tmpfs)] == 0


def test_what_fills_a_full_filesystem_is_named(tmpfs):
    """A large file, a deleted one that is still open, and the process that writes."""
    (tmpfs / "big.log").write_bytes(b"x" * (2 << 20))
    with (tmpfs / "gone").open("wb") as gone:
        gone.write(b"x" * (2 << 20))
        gone.flush()
        (tmpfs / "gone").unlink()
        mount = mount_of(tmpfs)
    assert (f"{tmpfs}/big.log", 2 << 20) in mount.largest
    assert (f"{tmpfs}/gone (deleted, pid {os.getpid()})", 2 << 20) in mount.largest
    assert os.getpid() in mount.writers
    [at_start] = [mount for mount in snapshot(at_start=True)[0].mounts if mount.mountpoint == str(tmpfs)]
    assert not at_start.largest  # looked for at the end of a window only


def test_the_folder_with_most_files_is_named_where_inodes_ran_out(tmpfs):
    """Sixty empty files in one folder."""
    (tmpfs / "spool").mkdir()
    for number in range(62):
        (tmpfs / "spool" / str(number)).touch()
    with pytest.raises(OSError, match="No space left"):
        (tmpfs / "spool" / "one more").touch()
    mount = mount_of(tmpfs)
    assert mount.largest_unit == "{file}"
    assert mount.largest[0] == (f"{tmpfs}/spool/", 62)


def test_a_filesystem_made_read_only_by_an_error_is_told_from_one_made_so_by_choice(ext4):
    """The kernel's own test error on ext4, against `mount -o remount,ro`."""
    device = os.path.basename(run("findmnt", "-no", "SOURCE", str(ext4)))
    assert look()["linux.filesystem.readonly", str(ext4)] == 0
    run("mount", "-o", "remount,ro", str(ext4))
    assert not any(mount.mountpoint == str(ext4) for mount in snapshot_mounts())
    run("mount", "-o", "remount,rw", str(ext4))
    trigger = Path("/sys/fs/ext4", device, "trigger_fs_error")
    if not trigger.exists():
        pytest.skip("this kernel cannot be asked for an ext4 error")
    trigger.write_text("test")
    seen = look()
    assert seen["linux.filesystem.readonly", str(ext4)] == 1
    assert seen["linux.filesystem.errors", device] == 1
    assert mount_of(ext4).failed


def test_reserved_blocks_are_not_free(ext4):
    """ext4 keeps five per cent for root: neither used nor free."""
    status = os.statvfs(ext4)
    seen = look()
    assert (
        seen["system.filesystem.usage", str(ext4), "reserved"] == (status.f_bfree - status.f_bavail) * status.f_frsize
    )
    assert sum(
        seen["system.filesystem.usage", str(ext4), state] for state in ("used", "free", "reserved")
    ) == pytest.approx(seen["system.filesystem.limit", str(ext4)])


def test_a_filesystem_in_another_mount_namespace_is_seen(tmp_path):
    """A nearly full tmpfs that only one process sees, named by its path there and that process."""
    where = tmp_path / "private"
    where.mkdir()
    script = (
        f"mount -t tmpfs -o size=1m tmpfs {where} && head -c 1000000 /dev/zero > {where}/f && echo up && exec sleep 60"
    )
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "up\n"
            mount = mount_of(where)
            assert not os.listdir(where)
        finally:
            child.kill()
    assert mount.seen_by == child.pid
    assert mount.mntns
    assert mount.largest[0][0] == f"{where}/f"


def test_a_remote_filesystem_that_does_not_answer_holds_up_nothing(tmp_path, monkeypatch):
    """statvfs of a fuse mount that sleeps: the read returns, says unresponsive, and does not ask twice."""
    proc = tmp_path / "proc"
    (proc / "self" / "ns").mkdir(parents=True)
    (proc / "self" / "ns" / "mnt").touch()
    (proc / "filesystems").write_text("\text4\n")
    (proc / "self" / "mountinfo").write_text("30 1 0:50 / /mnt/remote rw - nfs4 server:/share rw\n")
    asked = []

    def hang(path: str) -> os.statvfs_result:
        asked.append(path)
        time.sleep(1.0)
        raise OSError("gone")

    monkeypatch.setattr(os, "statvfs", hang)
    catalogue = Catalogue()
    collector = FilesystemCollector(catalogue, Roots(str(proc), "/sys", "/dev"))
    for clock in (0.0, 5.0):
        frame = collector.read(clock, clock).frame
        told = {catalogue[int(i)].name: float(v) for i, v in zip(frame.ids, frame.values, strict=True)}
        assert told["linux.filesystem.unresponsive"] == 1
    assert len(asked) == 1


@pytest.mark.parametrize(
    "line", ["", "x", "1 2 3", "a b c d e f - ext4 /dev/sda rw", "1 2 8:0 / / rw ext4 /dev/sda rw"]
)
def test_a_line_that_is_none_is_skipped(line):
    """Unknown or cut lines of mountinfo are left out."""
    assert parse(line, HERE) is None
