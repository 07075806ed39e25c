"""The judgement of a crash from its kernel log alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors.vmcore.fromlog import from_log, read_log
from rca.ground import ungrounded
from rca.vmcore.classify import Judgement, classify
from rca.vmcore.known import load
from rca.vmcore.playbook import Playbook
from remediation.catalogue import CATALOGUE
from wardround.models.vmcore import (
    DumpHeader,
    Lock,
    LockCycle,
    MemoryUse,
    Panic,
    RootBlocker,
    StackFrame,
    Task,
    Vmcore,
)

SCENARIOS = Path(__file__).parent / "scenarios.json"
LOGS = Path(__file__).parent / "logs"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wardround-tests" / "vmcores"
HEADER = DumpHeader("vmcore", "elf", 1, "dump")


def judge(path: Path) -> Judgement:
    return classify(read_log(path), 0.0, load())


@pytest.mark.parametrize(
    ("log", "fault", "culprit", "module"),
    [
        ("null_write_6.12", "kernel.null_dereference", "zram2_submit_page", "zram2"),
        ("null_call_6.1", "kernel.null_dereference", "crd_dispatch", "cardio"),
        ("list_poison_arm64", "kernel.memory_corruption", "mbxring_unlink_slot", "mbxring"),
        ("kasan_interleaved_6.6", "kernel.memory_corruption", "lease_expire", "leasedb"),
        ("slub_poison_6.1", "kernel.memory_corruption", "prb_close_window", "probebuf"),
        ("double_fault_5.15", "kernel.memory_corruption", "idx_visit_node", "treeidx"),
        ("mutex_owners_6.18", "kernel.deadlock", "tape_load", "tapelib"),
        ("io_hang_behind_lock_6.1", "kernel.hung_task", "backupd", "xfs"),
        ("rcu_stall_6.1", "kernel.lockup", "mtr_poll_ready", "meterdrv"),
        ("oom_tasks_6.1", "kernel.out_of_memory", "anonymous memory of tasks", None),
        ("driver_panics_6.1", "kernel.panic_requested", "localhost", None),
        ("list_warning_3.10", "kernel.memory_corruption", "snapfs_prune_sb", "snapfs"),
        ("jbd2_unsure_4.9", "kernel.hung_task", "jbd2/sdc-8", "jbd2"),
    ],
)
def test_fault_and_culprit_from_the_log_alone(log: str, fault: str, culprit: str, module: str | None) -> None:
    first = judge(LOGS / f"{log}.log").hypotheses[0]
    assert (first.fault, first.culprit.name, first.culprit.label("module")) == (fault, culprit, module)
    assert first.probability >= 0.5


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_every_figure_told_stands_in_the_evidence(log: Path) -> None:
    judged = judge(log)
    known = {e.id: e for e in judged.evidence}
    for evidence in judged.evidence:
        assert not ungrounded(evidence.statement, [evidence])
        assert evidence.kind == "vmcore"
    for hypothesis in judged.hypotheses:
        cited = [known[number] for number in (*hypothesis.supporting, *hypothesis.contradicting)]
        assert cited
        assert not ungrounded(hypothesis.headline, cited)
    assert judged.summary == judged.hypotheses[0].headline


def test_what_was_excluded_is_told_with_the_evidence_against_it() -> None:
    judged = judge(LOGS / "null_write_6.12.log")
    assert {"kernel.memory_corruption", "kernel.refcount"} <= {r.fault for r in judged.ruled_out}
    assert all(r.because for r in judged.ruled_out)


def test_actions_are_names_of_the_catalogue() -> None:
    for log in LOGS.glob("*.log"):
        judged = judge(log)
        assert {name for names in judged.actions.values() for name in names} <= CATALOGUE.keys()
        assert judged.actions[judged.hypotheses[0].id]


def test_a_guessed_cycle_is_never_confirmed() -> None:
    """Without owners all that is known is that every hung task waits for a lock."""
    told = (LOGS / "mutex_owners_6.18.log").read_text()
    guessed = "\n".join(line for line in told.splitlines() if "is blocked on a mutex" not in line)
    first = classify(from_log(guessed.encode()), 0.0).hypotheses[0]
    assert (first.fault, first.verdict) == ("kernel.deadlock", "likely")
    assert first.would_confirm
    owned = judge(LOGS / "mutex_owners_6.18.log").hypotheses[0]
    assert "tape_status" not in (owned.culprit.label("tasks") or "")


def test_onset_is_the_time_of_the_first_report_by_the_clock_that_the_kernel_set() -> None:
    first = judge(LOGS / "null_write_6.12.log").hypotheses[0]
    assert first.onset == pytest.approx(1795161601 - 1.270114 + 86401.120017)


def test_a_secret_in_the_kernels_words_is_not_told() -> None:
    log = b"[    5.000000] Kernel panic - not syncing: vault: password=hunter2hunter2 refused\n"
    judged = classify(from_log(log), 0.0)
    assert "password=" in judged.summary
    assert "hunter2" not in judged.summary + str([e.statement for e in judged.evidence])


def test_a_log_without_a_crash_gives_no_cause() -> None:
    judged = classify(from_log(b"[    0.000000] Linux version 6.1.0\n[    1.000000] all is well\n"), 0.0)
    assert judged.hypotheses == ()
    assert judged.severity == "none"
    assert "no report of a crash" in judged.summary


def _blocked(address: int, comm: str, module: str, waiting: float = 200.0) -> Task:
    stack = (
        StackFrame("__schedule"),
        StackFrame("schedule"),
        StackFrame("__mutex_lock.constprop.0"),
        StackFrame(f"{comm}_enter", module=module),
    )
    return Task(address, address & 0xFFF, address & 0xFFF, comm, "D", 0, waiting=waiting, stack=stack)


def test_a_cycle_read_from_a_dump_is_confirmed_without_its_bystanders() -> None:
    tasks = tuple(_blocked(0xFF00 + n, name, "ledger") for n, name in enumerate(("post", "audit", "print")))
    locks = (Lock("mutex", 1, "book", 0xFF01, (0xFF00, 0xFF02)), Lock("mutex", 2, "till", 0xFF00, (0xFF01,)))
    vmcore = Vmcore(
        HEADER,
        Panic("hung_task: blocked tasks", "hung_task"),
        tasks=tasks,
        locks=locks,
        cycles=(LockCycle((0xFF00, 0xFF01), (1, 2), (0xFF02,)),),
        ran=("vmcore.locks",),
    )
    first = classify(vmcore, 0.0).hypotheses[0]
    assert (first.fault, first.verdict, first.culprit.name) == ("kernel.deadlock", "confirmed", "post")


def test_without_a_cycle_in_the_dump_the_root_blocker_is_the_culprit() -> None:
    waiter, owner = _blocked(0xFF00, "waiter", "pool"), Task(0xFF05, 5, 5, "owner", "S", 0)
    vmcore = Vmcore(
        HEADER,
        Panic("hung_task: blocked tasks", "hung_task"),
        tasks=(waiter, owner),
        locks=(Lock("mutex", 1, "pool_lock", 0xFF05, (0xFF00,)),),
        blockers=(RootBlocker(0xFF05, (1,), (0xFF00,), "sleeps for a timer"),),
        ran=("vmcore.locks",),
    )
    first = classify(vmcore, 0.0).hypotheses[0]
    assert (first.fault, first.culprit.name) == ("kernel.hung_task", "owner")


def test_a_running_holder_of_the_spinlock_is_accused_not_the_one_that_spins() -> None:
    spinner = Task(
        1, 1, 1, "spinner", "R", 0, on_cpu=True,
        stack=(StackFrame("native_queued_spin_lock_slowpath", exception=True), StackFrame("stat_read", module="stat")),
    )  # fmt: skip
    holder = Task(2, 2, 2, "holder", "R", 1, on_cpu=True, stack=(StackFrame("stat_rebuild", module="stat"),))
    lock = Lock("spinlock", 9, "stat_lock", owner=2, waiters=(1,), certainty="inferred")
    panic = Panic("softlockup: hung tasks", "soft_lockup", task=1, stack=spinner.stack)
    first = classify(Vmcore(HEADER, panic, tasks=(spinner, holder), locks=(lock,)), 0.0).hypotheses[0]
    assert (first.fault, first.culprit.name) == ("kernel.lockup", "stat_rebuild")
    hint = Lock("spinlock", 9, "stat_lock", owner=2, waiters=(1,), certainty="hint")
    first = classify(Vmcore(HEADER, panic, tasks=(spinner, holder), locks=(hint,)), 0.0).hypotheses[0]
    assert first.culprit.name == "stat_read"


@pytest.mark.parametrize(
    "vmcore",
    [
        Vmcore(HEADER),
        Vmcore(HEADER, Panic("", "unknown")),
        Vmcore(HEADER, Panic("x", "oom"), memory=MemoryUse(0)),
        Vmcore(HEADER, Panic("x", "hung_task")),
        Vmcore(HEADER, Panic("x", "soft_lockup")),
        Vmcore(HEADER, cycles=(LockCycle((1, 2), (3,)),)),
    ],
)
def test_missing_parts_give_a_weaker_answer_and_no_failure(vmcore: Vmcore) -> None:
    assert classify(vmcore, 0.0).summary


def test_every_playbook_is_of_the_taxonomy_and_has_a_needed_clue() -> None:
    from rca.vmcore.classify import PLAYBOOKS

    def needed(playbook: Playbook) -> int:
        return sum(clue.needed for clue in playbook.clues)

    assert len({p.fault for p in PLAYBOOKS}) == len(PLAYBOOKS) == 8
    assert all(p.fault.startswith("kernel.") and needed(p) for p in PLAYBOOKS)


def _scenarios() -> Iterator[tuple[Path, dict[str, Any]]]:
    """The usual ones: what the extra scenarios hold only their dump can tell."""
    manifest = CACHE / "manifest.json"
    extra = {scenario["name"] for scenario in json.loads(SCENARIOS.read_text()) if scenario.get("extra")}
    for entry in json.loads(manifest.read_text()) if manifest.is_file() else ():
        once = not entry["format"].startswith("kexec") or entry["format"] == "kexec-dmesg"  # one boot, six files
        once = once and not entry["series"].startswith("bullseye")  # whose busybox gives scripts no name of their own
        if once and Path(entry["log"]).is_file() and entry["scenario"] not in extra:
            yield Path(entry["log"]), entry["expected"]


@pytest.mark.parametrize(
    ("log", "expected"), [pytest.param(*s, id=f"{s[0].parent.name}-{s[0].stem}") for s in _scenarios()]
)
def test_logs_of_real_crashes(log: Path, expected: dict[str, Any]) -> None:
    """The serial console's log of a real kernel's crash names the fault and the culprit."""
    first = judge(log).hypotheses[0]
    assert first.fault == expected["fault"]
    if first.culprit.kind == "kernel_function":
        assert (first.culprit.name, first.culprit.label("module")) == (expected["function"], expected["module"])
    elif first.culprit.kind == "kernel_task":
        # bystanders cannot be told from members without the dump
        assert first.culprit.name in expected["tasks"] + expected.get("bystanders", [])
        assert all(f"{task} (pid" in (first.culprit.label("tasks") or first.headline) for task in expected["tasks"])
        assert first.culprit.label("module") == expected["module"]
