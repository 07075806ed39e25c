"""Dumps as production hosts make them, and of kernels from 5.10 to 7.3: each is explained, and nothing is left out.

They are made by `make_vmcores.sh --kernel ... --format kexec` and by `--kernel SUITE-VERSION`, not by the tests: those
run where the dumps are.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
from pathlib import Path

import pytest

from collectors.base import Roots
from collectors.vmcore.open import identify
from collectors.vmcore.past import PastCrashes
from collectors.vmcore.read import read_crash
from rca.vmcore.classify import Judgement, classify
from tests.vmcore.conftest import Dump, Vmcores
from wardround.models.vmcore import Vmcore

COMPRESSED = ("kexec", "kexec-zlib", "kexec-flat")
SAVED = (*COMPRESSED, "kexec-elf31", "kexec-elf")
NEW = ("sid-7", "trixie-7")
CASES = [
    *[("6.1", name, form) for name in ("nullptr", "abba") for form in SAVED],
    *[("6.1", name, "kexec") for name in ("uaf", "listbug", "spinself", "oom")],
    *[(series, name, form) for series in NEW for name in ("nullptr", "abba") for form in COMPRESSED],
    *[("sid-7", name, "elf") for name in (
        "nullptr", "abba", "rwsem", "semaphore", "hung", "spinself", "spinabba", "oom", "listbug", "uaf", "refcount",
        "sysrq", "stackover", "stackprot", "initfault", "spinheap",
    )],
    *[("trixie-7", name, "elf") for name in ("nullptr", "abba", "rwsem", "oom", "uaf")],
    *[("trixie-6.12", name, "elf") for name in ("nullptr", "abba", "hung", "oom", "uaf")],
    *[("bullseye-5.10", name, "elf") for name in ("nullptr", "abba", "hung", "oom", "uaf", "listbug")],
    *[("full-6.1", name, "elf") for name in ("nullptr", "abba")],
]  # fmt: skip


def _judged(dump: Dump) -> tuple[Vmcore, Judgement]:
    vmcore = read_crash(dump.path)
    return vmcore, classify(vmcore, 0.0, ())


@pytest.mark.parametrize(("series", "scenario", "form"), CASES, ids=["-".join(case) for case in CASES])
def test_the_crash_is_explained_and_no_section_is_left_out(
    vmcores: Vmcores, series: str, scenario: str, form: str
) -> None:
    dump = vmcores.made(scenario, series, form)
    vmcore, judged = _judged(dump)
    first, expected = judged.hypotheses[0], dump.expected
    missed = [f"{each.name}: {each.reason}" for each in vmcore.skipped]
    # a makedumpfile that is older than the kernel leaves out pages that a list runs through
    lists = [each for each in missed if series in NEW and form in COMPRESSED and "breaks off after" in each]
    assert [each for each in missed if each not in lists] == []
    assert first.fault == expected["fault"]
    if first.culprit.kind == "kernel_function":
        assert (first.culprit.name, first.culprit.label("module")) == (expected["function"], expected["module"])
    elif first.culprit.kind == "kernel_task":
        named = first.culprit.label("tasks") or first.headline
        # Old busybox runs a script without a name of its own.
        assert all(f"{task} (pid" in named or "sh (pid" in named for task in expected["tasks"])
    if "locks" in expected and expected["fault"] == "kernel.deadlock":
        assert set(expected["locks"]) <= {lock.symbol for lock in vmcore.locks}


@pytest.mark.parametrize("form", [*SAVED, "kexec-dmesg"])
def test_an_oops_that_started_the_crash_kernel_ended_the_kernel(vmcores: Vmcores, form: str) -> None:
    """No panic() was called and the log ends in the oops: that is no task killed long before the crash."""
    vmcore, judged = _judged(vmcores.made("nullptr", "6.1", form))
    assert vmcore.reports[-1].fatal
    assert "went on" not in judged.hypotheses[0].headline


@pytest.mark.parametrize("form", SAVED)
def test_registers_of_a_crash_kernel_s_note_are_those_of_the_fault(vmcores: Vmcores, form: str) -> None:
    vmcore, _ = _judged(vmcores.made("nullptr", "6.1", form))
    assert vmcore.panic is not None
    context = vmcore.panic.context
    assert context is not None
    assert context.function == "ringstat_drain_channel"
    assert "with RAX 0x0 as the pointer" in context.meaning
    assert vmcore.panic.stack[0].exception


def test_formats_are_told_by_their_first_bytes(vmcores: Vmcores) -> None:
    forms = {form: identify(vmcores.made("abba", "6.1", form).path)[0] for form in SAVED}
    assert forms == {
        "kexec": "kdump", "kexec-zlib": "kdump", "kexec-flat": "flattened", "kexec-elf31": "elf", "kexec-elf": "elf",
    }  # fmt: skip


def test_what_a_filter_leaves_out_changes_no_answer(vmcores: Vmcores) -> None:
    """Free, user and cache pages are a good part of memory, and no answer leans on them."""
    whole, _ = _judged(vmcores.made("abba", "6.1", "kexec-elf"))
    filtered, _ = _judged(vmcores.made("abba", "6.1", "kexec"))
    assert filtered.locks == whole.locks
    assert filtered.cycles == whole.cycles
    assert [(task.pid, task.stack) for task in filtered.tasks] == [(task.pid, task.stack) for task in whole.tasks]


@pytest.mark.parametrize(
    ("dump_name", "log_name"),
    [
        ("202611222310/dump.202611222310", "202611222310/dmesg.202611222310"),
        ("127.0.0.1-2026-11-22-23:10:18/vmcore", "127.0.0.1-2026-11-22-23:10:18/vmcore-dmesg.txt"),
    ],
)
def test_a_host_s_last_crash_is_found_and_read_where_its_distribution_leaves_it(
    vmcores: Vmcores, tmp_path: Path, dump_name: str, log_name: str
) -> None:
    dump = vmcores.made("nullptr", "6.1", "kexec")
    _, crashed = _place(dump.path, tmp_path, dump_name), _place(dump.log, tmp_path, log_name)
    past = PastCrashes(Roots(proc=str(tmp_path), sys=str(tmp_path), var=str(tmp_path)), lambda: crashed + 300.0)
    past.start(60.0)
    (crash,) = past.finish(60.0)
    assert crash.dump.endswith(dump_name)
    assert crash.log.endswith(log_name)
    assert crash.why == ""
    assert crash.vmcore is not None
    assert crash.vmcore.header.tier == "dump"
    assert crash.vmcore.panic is not None
    assert crash.vmcore.panic.function == "ringstat_drain_channel"


def test_records_that_systemd_moved_out_of_pstore_are_read_as_one_log(vmcores: Vmcores, tmp_path: Path) -> None:
    log = vmcores.made("nullptr", "6.1", "kexec-dmesg").path
    folder = tmp_path / "lib" / "systemd" / "pstore" / "1795389018" / "001"
    folder.mkdir(parents=True)
    shutil.copyfile(log, folder / "dmesg.txt")
    now = log.stat().st_mtime + 300.0
    past = PastCrashes(Roots(proc=str(tmp_path), sys=str(tmp_path), var=str(tmp_path)), lambda: now)
    past.start(60.0)
    (crash,) = past.finish(60.0)
    assert crash.vmcore is not None
    assert crash.vmcore.panic is not None
    assert crash.vmcore.panic.function == "ringstat_drain_channel"


def _place(source: Path, var: Path, name: str) -> float:
    """Leave a file below /var/crash with its own time, which is returned."""
    path = var / "crash" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)
    time = source.stat().st_mtime
    os.utime(path, (time, time))
    return time


@pytest.mark.parametrize("scenario", ["oom", "hung", "abba"])
def test_a_dump_whose_types_cannot_be_had_is_judged_by_its_log(vmcores: Vmcores, tmp_path: Path, scenario: str) -> None:
    """Here the symbol table's first word is overwritten, by which it is found."""
    dump = vmcores.made(scenario, "bullseye-5.10")
    copy = tmp_path / "vmcore"
    shutil.copyfile(dump.path, copy)
    content = copy.read_bytes()
    text = struct.pack("<Q", int(re.findall(rb"SYMBOL\(_stext\)=([0-9a-f]+)", content)[0], 16))
    with copy.open("r+b") as file:
        at = content.find(text)
        while at >= 0:
            file.seek(at)
            file.write(bytes(8))
            at = content.find(text, at + 8)
    vmcore = read_crash(copy)
    of_log = classify(read_crash(dump.log), 0.0, ())
    judged = classify(vmcore, 0.0, ())
    assert judged.hypotheses[0].fault == of_log.hypotheses[0].fault
    assert judged.hypotheses[0].culprit.name == of_log.hypotheses[0].culprit.name
    assert [missed.name for missed in vmcore.skipped] == ["vmcore.symbols", "vmcore.types", "vmcore.panic"]
    assert "all but the log" in vmcore.skipped[1].reason


@pytest.mark.parametrize("series", ["6.1", "sid-7"])
def test_tasks_that_block_on_rt_mutexes_are_a_cycle_with_their_owners(vmcores: Vmcores, series: str) -> None:
    vmcore, judged = _judged(vmcores.made("rtmutex", series))
    assert judged.hypotheses[0].fault == "kernel.deadlock"
    names = {task.address: task.comm for task in vmcore.tasks}
    (cycle,) = vmcore.cycles
    assert sorted(names[task] for task in cycle.tasks) == ["lamp_clock", "lamp_dim"]
    assert [names[task] for task in cycle.bystanders] == ["lamp_status"]
    assert {(lock.kind, lock.symbol) for lock in vmcore.locks} == {
        ("rt_mutex", "grid_lock"),
        ("rt_mutex", "timer_lock"),
    }


@pytest.mark.parametrize("series", ["6.1", "sid-7"])
def test_a_writer_that_spins_for_what_it_reads_is_a_lockup(vmcores: Vmcores, series: str) -> None:
    vmcore, judged = _judged(vmcores.made("rwlock", series))
    first = judged.hypotheses[0]
    assert (first.fault, first.culprit.name) == ("kernel.lockup", "lamp_replace")
    assert [lock.symbol for lock in vmcore.locks if lock.kind == "spinlock"] == ["lamp_lock"]


@pytest.mark.parametrize("series", ["6.1", "sid-7"])
def test_waits_for_a_percpu_rwsem_accuse_nobody_of_holding_it(vmcores: Vmcores, series: str) -> None:
    """Its readers are counted by CPU, its writer waits in no list: no cycle may be made up."""
    vmcore, judged = _judged(vmcores.made("percpu", series))
    assert vmcore.cycles == ()
    assert judged.hypotheses[0].fault == "kernel.hung_task"
    assert all(lock.owner is None for lock in vmcore.locks)
