"""Which frames of an unwound stack are believed."""

from __future__ import annotations

import pytest

from collectors.vmcore.stacks import _follows_call, _in_user_space, _printed


@pytest.mark.parametrize(
    ("code", "is_call"),
    [
        ("9090e811223344", True),  # call relative
        ("9090909090ffd0", True),  # call *%rax
        ("90909041ffd2" + "90", False),  # the call is not what ends there
        ("90909090" + "ff5018", True),  # call *0x18(%rax)
        ("90" + "ff9080010000", True),  # call *0x180(%rax)
        ("ff142500100000", True),  # call *0x1000
        ("90909090909090", False),
        ("9090909090ffe0", False),  # jmp *%rax
    ],
)
def test_an_address_to_return_to_stands_behind_a_call(code: str, is_call: bool) -> None:
    assert _follows_call(bytes.fromhex(code)) is is_call


def test_user_space_is_told_by_the_privilege_or_else_by_the_addresses() -> None:
    assert _in_user_space({"CS": 0x33}, 0xFFFFFFFF81000000)
    assert not _in_user_space({"CS": 0x10}, 0)  # a call through a null pointer is the kernel's
    assert _in_user_space({"RSP": 0x7FFE00000000}, 0x47B7A0)
    assert not _in_user_space({"RSP": 0xFFFFC90000100000}, 0)


def test_registers_have_the_names_that_the_kernel_prints() -> None:
    assert [_printed(name) for name in ("rax", "r8", "r10", "rflags", "rip", "x0")] == [
        "RAX", "R08", "R10", "EFLAGS", "RIP", "x0",
    ]  # fmt: skip
