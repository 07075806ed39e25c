"""Known cases: how like a crash is to one, and what the library takes in."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.vmcore.fromlog import from_log
from rca.vmcore.classify import classify
from rca.vmcore.facts import Facts
from rca.vmcore.known import LIKE, SHIPPED, KnownCase, case_of, compare, library, load, matches, normalised, save
from wardround.errors import StateError, UserError
from wardround.models.vmcore import StackFrame

HUNG_IO = """
[ 4471.120201] INFO: task jbd2/sda1-8:312 blocked for more than 120 seconds.
[ 4471.120217] task:jbd2/sda1-8     state:D stack:0     pid:312   ppid:2      flags:0x00004000
[ 4471.120223] Call Trace:
[ 4471.120230]  __schedule+0x34d/0x9e0
[ 4471.120238]  schedule+0x5a/0xd0
[ 4471.120243]  io_schedule+0x42/0x70
[ 4471.120248]  bit_wait_io+0xd/0x60
[ 4471.120255]  __wait_on_bit+0x2c/0x90
[ 4471.120260]  out_of_line_wait_on_bit+0x91/0xb0
[ 4471.120265]  jbd2_journal_commit_transaction+0xf59/0x17c0 [jbd2]
[ 4471.120271]  kjournald2+0xab/0x270 [jbd2]
[ 4471.120360]  kthread+0xda/0x100
[ 4471.120366]  ret_from_fork+0x22/0x30
"""


def test_a_normalised_stack_has_neither_machinery_nor_suffixes() -> None:
    stack = (
        StackFrame("panic"),
        StackFrame("asm_exc_page_fault"),
        StackFrame("ring_drain.isra.0.cold", 12, module="ring", exception=True),
        StackFrame("ring_walk", module="ring"),
        StackFrame("ring_walk", module="ring"),
        StackFrame("guess", sure=False),
        StackFrame("vfs_write"),
        StackFrame("ksys_write"),
    )
    assert normalised(stack) == ("ring_drain", "ring_walk")


def test_likeness_falls_with_what_differs() -> None:
    case = KnownCase("a", "a", "bug", ("f", "g", "h", "i"), "m")
    same = compare(("f", "g", "h", "i"), "bug", "m", case).score
    deeper = compare(("f", "g", "x", "h", "i"), "bug", "m", case).score
    kind = compare(("f", "g", "h", "i"), "oom", "m", case).score
    top = compare(("x", "g", "h", "i"), "bug", "m", case).score
    assert same == pytest.approx(1.0)
    assert 1.0 > deeper > top
    assert 1.0 > kind > top
    assert compare(("x", "y"), "bug", "m", case).score == 0.0
    assert compare((), "bug", "m", case).score == 0.0


def test_a_known_case_is_told_as_evidence_and_moves_no_probability() -> None:
    vmcore = from_log(HUNG_IO.encode())
    judged = classify(vmcore, 0.0, load())
    assert judged.known[0].case.id == "jbd2-commit-waits-for-disk"
    told = next(e for e in judged.evidence if e.feature == "known_case")
    assert judged.known[0].case.source in told.statement
    assert told.id in judged.hypotheses[0].supporting
    alone = classify(vmcore, 0.0)
    assert [(h.fault, h.probability) for h in alone.hypotheses] == [(h.fault, h.probability) for h in judged.hypotheses]


def test_the_shipped_cases_are_whole_and_each_finds_itself() -> None:
    cases = list(load())
    assert len(cases) == len(list(SHIPPED.glob("*.json"))) >= 5
    for case in cases:
        assert case.stack
        assert case.cause
        assert case.source.startswith("https://")
        assert max(cases, key=lambda c: compare(case.stack, case.kind, case.module, c).score) == case


def test_users_cases_grow_the_library_and_broken_files_are_passed_over(tmp_path: Path) -> None:
    case = KnownCase("disk/../full", "our disk", "hung_task", ("jbd2_journal_commit_transaction", "kjournald2"), "jbd2")
    path = save(tmp_path / "cases", case)
    assert path.parent == tmp_path / "cases"
    (tmp_path / "cases" / "broken.json").write_text("{")
    (tmp_path / "cases" / "strange.json").write_text('{"id": 1, "stack": "x"}')
    (tmp_path / "cases" / "huge.json").write_text(" " * 100_000)
    assert case in list(load(tmp_path / "cases"))
    assert len(list(load(tmp_path / "cases"))) == len(list(load())) + 1
    found = matches(Facts(from_log(HUNG_IO.encode()), 0.0), load(tmp_path / "cases"))
    assert case in [match.case for match in found]
    assert all(match.score >= LIKE for match in found)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cases").write_text("in the way")
    with pytest.raises(StateError):
        save(tmp_path / "cases", KnownCase("a", "a", "bug", ("f",)))


def test_a_kept_case_is_found_again_and_holds_no_secret(tmp_path: Path) -> None:
    facts = Facts(from_log(HUNG_IO.encode()), 0.0)
    case = case_of(facts, "the array's battery was flat; login password=hunter2", "replace it", "flat battery")
    path = save(library(tmp_path), case)
    assert path == tmp_path / "cases" / "flat-battery.json"
    assert "hunter2" not in path.read_text()
    assert "jbd2/sda1" not in path.read_text()
    judged = classify(from_log(HUNG_IO.encode()), 0.0, load(library(tmp_path)))
    told = [evidence.statement for evidence in judged.evidence if "known case" in evidence.statement]
    assert any("flat battery" in line and "battery was flat" in line and "replace it" in line for line in told)


def test_a_case_without_a_name_is_named_by_class_and_function(tmp_path: Path) -> None:
    case = case_of(Facts(from_log(HUNG_IO.encode()), 0.0), "a slow disk")
    assert case.id == "hung_task-jbd2_journal_commit_transaction"
    assert case.title == "hung task in jbd2_journal_commit_transaction [jbd2]"
    save(tmp_path, case)
    with pytest.raises(UserError, match="already"):
        save(tmp_path, case)


@pytest.mark.parametrize(("log", "cause", "said"), [(b"all is well", "x", "kept"), (HUNG_IO.encode(), " ", "needs"),
                                                    (HUNG_IO.encode(), "x" * 2001, "too long")])  # fmt: skip
def test_what_cannot_be_kept_is_said(log: bytes, cause: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        case_of(Facts(from_log(log), 0.0), cause)
