"""Block devices against real loop devices and recorded diskstats."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from collectors.base import Roots
from collectors.block import BlockCollector, snapshot_devices
from wardround.models.series import Catalogue, Frame

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def values(frame: Frame, catalogue: Catalogue, name: str, **labels: str) -> list[float]:
    """All values of a metric whose labels include the given ones."""
    return [
        float(value)
        for number, value in zip(frame.ids, frame.values, strict=True)
        if catalogue[int(number)].name == name and labels.items() <= dict(catalogue[int(number)].labels).items()
    ]


@pytest.fixture
def loop(tmp_path):
    """A loop device over a file of 8 MiB."""
    backing = tmp_path / "disk"
    with backing.open("wb") as out:
        out.truncate(8 << 20)
    device = subprocess.run(
        ["losetup", "-f", "--show", str(backing)], capture_output=True, text=True, check=True
    ).stdout.strip()
    yield device, backing
    subprocess.run(["losetup", "-d", device], check=True)


@root
@pytest.mark.root
def test_bytes_written_to_a_loop_device_are_counted_exactly(loop):
    """A megabyte written past the page cache shows as a megabyte, in at least one operation."""
    device, _ = loop
    name = os.path.basename(device)
    catalogue = Catalogue()
    block = BlockCollector(catalogue, Roots())
    assert block.probe().available
    block.start()

    def write(size: int) -> None:
        with open(device, "wb", buffering=0) as out:
            out.write(b"x" * size)
            os.fsync(out.fileno())

    write(4096)  # a device without any operation has no series yet
    before = block.read(time.time(), time.monotonic()).frame
    write(1 << 20)
    after = block.read(time.time(), time.monotonic()).frame
    [was] = values(before, catalogue, "system.disk.io", device=name, direction="write")
    [now] = values(after, catalogue, "system.disk.io", device=name, direction="write")
    assert now - was == 1 << 20
    [operations] = values(after, catalogue, "system.disk.operations", device=name, direction="write")
    assert operations >= 1


@root
@pytest.mark.root
def test_a_loop_device_names_its_backing_file(loop):
    """What an operator must look at behind a loop device is the file."""
    device, backing = loop
    found = snapshot_devices()[os.path.basename(device)]
    assert found.backing == str(backing)
    assert found.size == 8 << 20
    assert found.major_minor.startswith("7:")


def recorded(tmp_path: Path, diskstats: str, *partitions: str) -> Roots:
    proc, sysfs = tmp_path / "proc", tmp_path / "sys"
    (proc / "self").mkdir(parents=True)
    (proc / "diskstats").write_text(diskstats)
    (proc / "self/mountinfo").write_text("22 1 8:2 / / rw shared:1 - ext4 /dev/sda2 rw\n")
    for name in partitions:
        folder = sysfs / "class/block" / name
        folder.mkdir(parents=True)
        (folder / "partition").write_text("1\n")
    return Roots(str(proc), str(sysfs), "/dev")


def test_partitions_are_left_out_unless_mounted(tmp_path):
    """sda1 is not mounted, sda2 is; sr0 never did anything."""
    line = "{} {} {} 10 0 80 5 20 0 160 7 1 9 12 0 0 0 0 2 1\n"
    text = line.format(8, 0, "sda") + line.format(8, 1, "sda1") + line.format(8, 2, "sda2")
    text += "11 0 sr0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    catalogue = Catalogue()
    frame = BlockCollector(catalogue, recorded(tmp_path, text, "sda1", "sda2")).read(1.0, 1.0).frame
    assert {series.label("device") for series in catalogue} == {"sda", "sda2"}
    assert values(frame, catalogue, "system.disk.io", device="sda", direction="write") == [160 * 512]
    assert values(frame, catalogue, "linux.disk.inflight", device="sda") == [1]
    assert values(frame, catalogue, "system.disk.operations", device="sda", direction="flush") == [2]


def test_an_old_kernels_short_line_gives_what_it_has(tmp_path):
    """Fourteen columns before Linux 4.18: no discards, no flushes, everything else; a broken line is skipped."""
    catalogue = Catalogue()
    text = "8 0 sda 10 0 80 5 20 0 160 7 1 9 12\nnonsense\n"
    frame = BlockCollector(catalogue, recorded(tmp_path, text)).read(1.0, 1.0).frame
    assert values(frame, catalogue, "linux.disk.queue_time", device="sda") == [0.012]
    assert not values(frame, catalogue, "system.disk.operations", direction="flush")


def test_without_diskstats_it_says_so(tmp_path):
    """A container without /proc/diskstats gets a reason, not an error."""
    block = BlockCollector(Catalogue(), Roots(str(tmp_path), str(tmp_path), str(tmp_path)))
    assert not block.probe().available
    assert len(block.read(1.0, 1.0).frame.ids) == 0
