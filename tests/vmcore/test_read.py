"""The reader and its workers: limited, expendable, each part on its own; what is no dump is refused in a sentence."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from drgn import Program

from collectors.vmcore import read, worker
from collectors.vmcore.open import Dump
from collectors.vmcore.read import read_crash, slim
from collectors.vmcore.sections import SECTIONS, Section
from tests.vmcore.conftest import Vmcores
from wardround.errors import UserError
from wardround.models.vmcore import DumpHeader, Vmcore

NAMES = tuple(section.name for section in SECTIONS)


class _At:
    """Does something to the reader when it comes to a section for the first time."""

    def __init__(self, section: str, act: Callable[[int], object]) -> None:
        self.section, self.act, self.pids = section, act, list[int]()

    def __call__(self, section: str) -> None:
        if section == self.section and len(self.pids) == 1:
            self.act(self.pids[-1])

    def read(self, path: Path, seconds: float = 60.0) -> Vmcore:
        return read_crash(path, self, seconds, started=self.pids.append)


@pytest.mark.parametrize("section", ["tasks", "memory"])
def test_what_a_killed_reader_told_stands_and_another_goes_on_without_that_section(
    vmcores: Vmcores, section: str
) -> None:
    whole = read_crash(vmcores.get("abba").path)
    killed = _At(section, lambda pid: os.kill(pid, signal.SIGSEGV))
    found = killed.read(vmcores.get("abba").path)
    assert len(killed.pids) == 2
    assert [(each.name, each.reason) for each in found.skipped] == [
        (f"vmcore.{section}", "the reader was ended by signal 11 in this section")
    ]
    assert found.ran == tuple(name for name in whole.ran if name != f"vmcore.{section}")
    assert (found.log, found.modules, found.reports) == (whole.log, whole.modules, whole.reports)


def test_a_reader_that_falls_silent_is_ended(vmcores: Vmcores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "QUIET_SECONDS", 10.0)
    found = _At("work", lambda pid: os.kill(pid, signal.SIGSTOP)).read(vmcores.get("abba").path)
    assert [(each.name, each.reason) for each in found.skipped] == [
        ("vmcore.work", "the reader said nothing for 10 s in this section")
    ]
    assert "vmcore.anomalies" in found.ran


def test_all_readers_together_have_one_deadline(vmcores: Vmcores) -> None:
    found = _At("memory", lambda pid: os.kill(pid, signal.SIGSTOP)).read(vmcores.get("abba").path, seconds=8.0)
    assert [each.name for each in found.skipped] == ["vmcore.memory", "vmcore.rest"]
    assert found.cycles


def test_a_reader_may_not_write_nor_grow_nor_gain_rights(vmcores: Vmcores) -> None:
    seen: dict[str, str] = {}

    def look(pid: int) -> None:
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
            seen[line[:26].strip()] = line[26:47].strip()
        status = Path(f"/proc/{pid}/status").read_text()
        seen["rights"] = status.split("NoNewPrivs:")[1].split()[0]

    _At("log", look).read(vmcores.get("abba").path)
    assert seen["Max file size"] == seen["Max core file size"] == "0"
    assert seen["Max address space"] == str(worker.MEMORY_BYTES)
    assert seen["Max cpu time"] == str(worker.CPU_SECONDS)
    assert seen["rights"] == "1"


def _dump(tmp_path: Path) -> Dump:
    return Dump(tmp_path, "elf", 0, Program(), "x86_64", {})


def test_a_section_that_fails_or_takes_too_long_leaves_the_others_alone(tmp_path: Path) -> None:
    def slow(dump: Dump, known: Vmcore) -> dict[str, object]:
        time.sleep(30)
        return {}

    def broken(dump: Dump, known: Vmcore) -> dict[str, object]:
        raise LookupError("there is\nno such list")

    def greedy(dump: Dump, known: Vmcore) -> dict[str, object]:
        raise MemoryError

    def lossy(dump: Dump, known: Vmcore) -> dict[str, object]:
        dump.lost["a list"] = "it is cut"
        return {"header": replace(known.header, hostname="db-7")}

    sections = (
        Section("slow", slow, 0.2),
        Section("broken", broken),
        Section("greedy", greedy),
        Section("fine", lossy),
    )
    messages = list(worker.read(_dump(tmp_path), Vmcore(DumpHeader("", "elf", 0, "dump")), sections))
    skipped = {message["skipped"]: message["reason"] for message in messages if "skipped" in message}
    assert skipped == {
        "slow": "it took over 0.2 s",
        "broken": "there is no such list",
        "greedy": "it needed too much memory (MemoryError)",
        "a list": "it is cut",
    }
    assert [message["part"] for message in messages if "part" in message] == ["fine"]
    assert [message["begin"] for message in messages if "begin" in message] == ["slow", "broken", "greedy", "fine"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "0 bytes: the dump was not written"),
        (b"\x7fELF" + bytes(60), "an ELF file, but not 64-bit little-endian"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\x3e\0" + bytes(44), "an ELF file, but a program"),
        (b"\0\1\2\3" * 100, "neither ELF nor kdump by its first bytes, nor text"),
        (b"\x1f\x8b" + b"\xff" * 100, "the packed file is"),
    ],
)
def test_what_is_no_dump_is_refused_in_a_sentence(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_crash(path)
    assert str(path) in refused.value.what
    assert why in refused.value.why
    assert "/proc" not in str(refused.value)


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_crash(tmp_path / "none")
    fifo = tmp_path / "folder"
    fifo.mkdir()
    assert read_crash(fifo).panic is None


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_a_packed_log_is_read_as_the_log(vmcores: Vmcores, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    log = vmcores.get("nullptr").log
    packed = tmp_path / "dmesg.packed"
    packed.write_bytes(pack(log.read_bytes()))
    assert replace(read_crash(packed), seconds=0.0, header=read_crash(log).header) == replace(
        read_crash(log), seconds=0.0
    )


def test_a_packed_dump_is_unpacked_and_a_cut_one_as_far_as_it_goes(vmcores: Vmcores, tmp_path: Path) -> None:
    dump = vmcores.get("nullptr")
    slim(dump.path, tmp_path / "small")
    packed = tmp_path / "vmcore.gz"
    packed.write_bytes(gzip.compress((tmp_path / "small").read_bytes(), 1))
    whole = read_crash(packed)
    assert whole.header.path == str(packed)
    assert whole.panic is not None
    assert whole.panic.function == dump.expected["function"]
    assert not whole.skipped
    content = packed.read_bytes()
    packed.write_bytes(content[: len(content) * 9 // 10])
    cut = read_crash(packed)
    assert cut.header.release == whole.header.release
    assert any("cut or damaged" in each.reason for each in cut.skipped)
    assert any("missing at its end" in each.reason for each in cut.skipped)


def test_a_full_disk_is_told(vmcores: Vmcores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(os.urandom(1 << 20)))
    monkeypatch.setattr("collectors.vmcore.unpack._SHARE", 0.0)
    with pytest.raises(UserError, match="no room") as refused:
        read_crash(packed)
    assert "TMPDIR" in refused.value.do
