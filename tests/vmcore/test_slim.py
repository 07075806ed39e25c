"""The small copy of a dump: its analysis is the original's, and what it must not carry is not in it."""

from __future__ import annotations

import lzma
from dataclasses import replace
from pathlib import Path

import pytest

from collectors.vmcore.layout import layout
from collectors.vmcore.open import open_dump
from collectors.vmcore.read import read_crash, slim
from collectors.vmcore.slim import masked, secrets_in
from collectors.vmcore.tasks import cpus, task_addresses
from tests.vmcore.conftest import Vmcores
from wardround.errors import UserError
from wardround.models.vmcore import Vmcore


def _told(vmcore: Vmcore) -> Vmcore:
    """What does not depend on the file's form."""
    header = replace(vmcore.header, path="", size=0, format="elf")
    return replace(vmcore, seconds=0.0, header=header)


@pytest.mark.parametrize(
    ("scenario", "series", "form"),
    [
        ("abba", "6.12", "elf"), ("oom", "6.1", "elf"), ("spinself", "6.1", "elf"), ("uaf", "6.12", "elf"),
        ("nullptr", "6.1", "kdump"),
    ],
)  # fmt: skip
def test_the_copy_s_analysis_equals_the_original_s(
    vmcores: Vmcores, tmp_path: Path, scenario: str, series: str, form: str
) -> None:
    dump = vmcores.get(scenario, series, form)
    size, pages, secrets = slim(dump.path, tmp_path / "small")
    assert (tmp_path / "small").stat().st_size == size
    assert size < 40 << 20
    assert pages * 4096 < size
    assert not secrets
    copy, original = read_crash(tmp_path / "small"), read_crash(dump.path)
    assert _told(copy) == _told(original)
    assert not copy.skipped


def test_a_packed_copy_is_read_as_it_is(vmcores: Vmcores, tmp_path: Path) -> None:
    dump = vmcores.get("listbug")
    slim(dump.path, tmp_path / "small.xz")
    assert (tmp_path / "small.xz").stat().st_size < 6 << 20
    with lzma.open(tmp_path / "small.xz") as packed:
        assert packed.read(4) == b"\x7fELF"
    assert _told(read_crash(tmp_path / "small.xz")) == _told(read_crash(dump.path))


def test_a_copy_of_another_version_says_that_pages_may_be_left_out(
    vmcores: Vmcores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slim(vmcores.get("sysrq").path, tmp_path / "small")
    assert "small copy" not in open_dump(tmp_path / "small").lost
    monkeypatch.setattr("collectors.vmcore.open.__version__", "9.9")
    assert "9.9 looks at" in open_dump(tmp_path / "small").lost["small copy"]


def test_a_copy_keeps_what_a_later_version_may_look_at(vmcores: Vmcores, tmp_path: Path) -> None:
    slim(vmcores.get("nullptr").path, tmp_path / "small")
    small, whole = open_dump(tmp_path / "small"), open_dump(vmcores.get("nullptr").path)
    for name in ("crashing_cpu", "console_drivers", "net_namespace_list"):
        address = whole.prog.symbol(name).address
        assert small.prog.read(address, 8) == whole.prog.read(address, 8), name
    for task in task_addresses(whole, cpus(whole)):
        size = layout(whole.prog, "struct task_struct").size
        assert small.prog.read(task, size) == whole.prog.read(task, size)


def test_secrets_in_the_kernel_log_are_not_in_the_copy(vmcores: Vmcores, tmp_path: Path) -> None:
    content = vmcores.get("sysrq").path.read_bytes()
    line = b"setting system clock to 20"
    secret = b"password=hunter2-correcthor"[: len(line)]
    assert content.count(line) >= 1
    planted = tmp_path / "planted"
    planted.write_bytes(content.replace(line, secret))
    assert slim(planted, tmp_path / "small")[2] >= 1
    copied = (tmp_path / "small").read_bytes()
    assert b"hunter2" not in copied
    assert b"password=xxxx" in copied
    told = [each.text for each in read_crash(tmp_path / "small").log if "password=" in each.text]
    assert told


def test_a_short_secret_is_overwritten_where_it_stands_and_nowhere_else() -> None:
    secrets = secrets_in(["mount: user=app,passwd=7 failed", "no secret here: 7"])
    memory = b"\x07 7 7777 mount: user=app,passwd=7 failed\0 7"
    assert masked(memory, secrets) == b"\x07 7 7777 mount: user=app,passwd=x failed\0 7"


def test_a_copy_overwrites_no_file_and_is_gone_where_it_failed(vmcores: Vmcores, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        slim(vmcores.get("sysrq").path, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
    (tmp_path / "no dump").write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(UserError, match="no crash dump"):
        slim(tmp_path / "no dump", tmp_path / "out")
    assert not (tmp_path / "out").exists()
