"""The command under each piece of evidence asks the narrowest question that the file can answer."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from pydantic import ValidationError

from collectors.vmcore.fromlog import read_log
from collectors.vmcore.questions import QUESTION
from rca.vmcore.classify import classify
from tests.agents import crashes
from wardround.models.vmcore import Anomaly, CacheUse, MemoryUse, Vmcore

KINDS = {"--stack": "pid", "--lock": "address", "--log": "text", "--variable": "name"}


def _dumped(vmcore: Vmcore, path: str = "/var/crash/1/vmcore") -> Vmcore:
    return replace(vmcore, header=replace(vmcore.header, tier="dump", format="elf", path=path))


def _commands(vmcore: Vmcore) -> dict[str, list[str]]:
    return {e.feature: shlex.split(e.reproduce) for e in classify(vmcore, 1.0).evidence}


def test_a_cycle_is_shown_by_its_lock_and_a_hang_by_its_stack() -> None:
    commands = _commands(crashes.deadlock())
    assert commands["cycle"] == ["diagnose", "vmcore", "show", "/var/crash/1/vmcore", "--lock", "0xffffffffc0a01000"]
    assert commands["hung"][-2:] == ["--stack", "143"]


def test_a_report_is_shown_by_its_own_line_and_the_accused_by_the_stack() -> None:
    commands = _commands(_dumped(crashes.null_write()))
    assert commands["reported"][-2:] == ["--log", "BUG: kernel NULL pointer dereference, address: 0000000000000038"]
    assert commands["function"][-2:] == ["--stack", "20412"]


def test_a_broken_object_is_shown_by_its_variable() -> None:
    vmcore = _dumped(crashes.null_write())
    broken = Anomaly("refcount", "pool_users", "pool_users is -3", "pool_users at 0xffffffffc0a03000", {"value": -3})
    told = replace(vmcore, anomalies=(broken,))
    assert _commands(told)["objects"][-2:] == ["--variable", "pool_users"]


def test_a_cache_that_filled_the_memory_is_shown_by_its_structure() -> None:
    told = _dumped(read_log(crashes.LOGS / "oom_tasks_6.1.log"))
    cache = CacheUse("sess_entry", 0xFFFF888100030000, 112, 600_000, 600_100, 66 << 20)
    vmcore = replace(told, memory=MemoryUse(128 << 20, (("slab_unreclaimable", 70 << 20),), (cache,)))
    assert _commands(vmcore)["cache"][-3:] == ["--struct", "kmem_cache", "0xffff888100030000"]


def test_of_a_log_the_line_is_searched() -> None:
    assert _commands(crashes.null_write())["reported"][:4] == ["grep", "-n", "-F", "--"]


@pytest.mark.parametrize("vmcore", [crashes.deadlock("/x/a b; reboot"), _dumped(crashes.null_write(), "/x/$(id)")])
def test_every_question_told_is_one_that_is_answered(vmcore: Vmcore) -> None:
    for words in _commands(vmcore).values():
        assert words[:2] == ["diagnose", "vmcore"]
        assert vmcore.header.path in words
        if words[2] != "show":
            continue
        option, value = words[4:]
        base = {"--lock": 16, "--stack": 10}.get(option)
        asked = int(value, base) if base else value
        try:
            QUESTION.validate_python({"ask": option[2:], KINDS[option]: asked})
        except ValidationError as error:
            pytest.fail(f"{words}: {error}")
