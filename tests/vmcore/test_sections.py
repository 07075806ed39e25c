"""What the sections make of each other's parts."""

from __future__ import annotations

from pathlib import Path

from collectors.vmcore.read import read_crash
from collectors.vmcore.words import words
from tests.vmcore import damage
from tests.vmcore.conftest import Vmcores


def test_a_report_in_the_log_of_a_kernel_that_went_on_is_kept(vmcores: Vmcores, tmp_path: Path) -> None:
    """A dump taken live after an oops: memory knows no panic, the log tells of what happened."""
    whole = vmcores.get("nullptr").path
    bender = damage.Bender(whole, whole)
    changes = {}
    for name in ("panic_cpu", "crashing_cpu"):
        address = bender.prog.symbol(name).address
        changes[address] = words(bender.prog).u64(address) | 0xFFFFFFFF  # -1: none
    bender.write(changes)(tmp_path / "live")
    live = read_crash(tmp_path / "live")
    found, before = live.panic, read_crash(whole).panic
    assert found is not None
    assert before is not None
    assert found.task == before.task
    assert live.task(found.task) is not None
    assert (found.kind, found.function, found.module) == (before.kind, before.function, before.module)
