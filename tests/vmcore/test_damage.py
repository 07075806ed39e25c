"""Damaged dumps: no traceback, no hang, what can be read is read, and damage is never called health.

A part of the cases of `benchmarks.vmcore_damage`, which runs all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest

from agents.crash import diagnose_crash
from benchmarks.vmcore_damage import locks_of
from collectors.vmcore.read import read_crash, slim
from tests.vmcore import damage
from tests.vmcore.conftest import Vmcores
from tests.vmcore.opened import opened
from wardround.errors import UserError
from wardround.models.diagnosis import Diagnosis
from wardround.models.document import to_document
from wardround.settings import Settings

SECONDS = 60.0


@pytest.fixture(scope="module")
def small(vmcores: Vmcores, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of a deadlock's dump: nearly every byte of it is read."""
    path = tmp_path_factory.mktemp("small") / "abba.slim"
    slim(vmcores.get("abba").path, path)
    return path


def _diagnosed(path: Path) -> Diagnosis | None:
    """The diagnosis, None where the file is refused in a sentence; every other end is an error of the test."""
    try:
        found = diagnose_crash(read_crash(path, seconds=SECONDS), Settings(), 1.0)
    except UserError:
        return None
    assert to_document(found).to_json()
    assert found.coverage.ran
    assert found.status in ("problem", "degraded")
    assert found.status == "problem" or found.coverage.skipped
    return found


def _all(cases: Iterable[damage.Case], tmp_path: Path) -> dict[str, Diagnosis | None]:
    found = {}
    for case in cases:
        case.write(tmp_path / "damaged")
        found[case.name] = _diagnosed(tmp_path / "damaged")
    return found


@pytest.mark.parametrize("form", ["elf", "kdump", "flattened"])
def test_a_dump_cut_anywhere_is_told_as_cut(vmcores: Vmcores, tmp_path: Path, form: str) -> None:
    dump = vmcores.get("nullptr", "6.1", form)
    for name, found in _all(damage.cuts(dump.path, 4), tmp_path).items():
        assert found is not None, name
        assert any("the file is cut" in each.reason for each in found.coverage.skipped), name


def test_a_cut_dump_without_page_tables_is_read_where_the_kernel_and_memory_lie(
    vmcores: Vmcores, tmp_path: Path
) -> None:
    dump = vmcores.get("nullptr")
    bender = damage.Bender(dump.path, dump.path)
    tables = bender.place(int(opened(dump.path).info["SYMBOL(swapper_pg_dir)"], 16))
    cut = tmp_path / "cut"
    damage.copy(dump.path, cut, dump.path.stat().st_size - 4096)
    damage.patch(cut, {tables: bytes(4096)})
    found = read_crash(cut)
    assert found.panic is not None
    assert found.panic.function == dump.expected["function"]
    assert len(found.tasks) > 20
    assert "vmcore.file" in {each.name for each in found.skipped}


def test_turned_bits_end_nothing(small: Path, tmp_path: Path) -> None:
    _all(damage.flips(small, 10, seed=11), tmp_path)
    _all(damage.storms(small, 2, seed=12), tmp_path)


def test_what_is_no_dump_of_a_kernel_is_refused_or_said_to_hold_no_crash(small: Path, tmp_path: Path) -> None:
    for name, found in _all(damage.formats(small), tmp_path).items():
        assert found is None or not found.hypotheses, name
        assert found is None or found.status == "degraded", name


def test_a_dump_of_another_machine_is_never_explained_as_one_of_this(small: Path, tmp_path: Path) -> None:
    cases = [case for case in damage.foreign(small) if "machine 183" in case.name or "arm64" in case.name]
    assert len(cases) == 2
    for name, found in _all(cases, tmp_path).items():
        assert found is None or (found.coverage.skipped and not found.hypotheses), name


def test_lists_that_run_in_circles_end(vmcores: Vmcores, small: Path, tmp_path: Path) -> None:
    cases = damage.loops(small, vmcores.get("abba").path, locks_of(small))
    own = [case for case in cases if "own next" in case.name or "its own" in case.name]
    assert len(own) > 8
    found = _all(islice(own, 0, None, 2), tmp_path)
    named = [each for each in found.values() if each is not None and each.hypotheses]
    assert len(named) >= len(found) // 2


def test_a_list_of_tasks_that_ends_too_early_is_told_and_read_from_its_other_end(
    vmcores: Vmcores, small: Path, tmp_path: Path
) -> None:
    cases = damage.loops(small, vmcores.get("abba").path, [])
    case = next(case for case in cases if case.name == "tasks: the head is its own next")
    (found,), whole = _all([case], tmp_path).values(), _diagnosed(small)
    assert found is not None
    assert whole is not None
    assert any("the list of tasks ends too early" in each.reason for each in found.coverage.skipped)
    assert found.hypotheses[0].fault == whole.hypotheses[0].fault


def test_each_broken_list_is_named(vmcores: Vmcores, small: Path, tmp_path: Path) -> None:
    """A deadlock whose list of waiters is broken must not pass for a mere hung task without a word."""
    locks = locks_of(small)
    cases = {case.name: case for case in damage.loops(small, vmcores.get("abba").path, locks)}
    wanted = {
        "modules: the head is its own next": "the list of modules",
        "caches: an entry is its own next": "the list of slab caches",
        "workqueues: an entry is its own next": "the list of workqueues",
        "waiters of a mutex: an entry is its own next": "the lock's list of waiters",
    }
    found = _all([cases[name] for name in wanted], tmp_path)
    for name, words in wanted.items():
        told = found[name]
        assert told is not None
        assert any(words in each.reason for each in told.coverage.skipped), (name, told.coverage.skipped)
