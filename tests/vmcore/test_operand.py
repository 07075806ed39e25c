"""Memory operands of instructions, as compilers of the kernel emit them (encodings checked with an assembler)."""

from __future__ import annotations

import pytest

from collectors.vmcore.operand import decode

CASES = [
    ("488b4008", "read", "RAX+0x8"),  # mov 0x8(%rax),%rax
    ("48894708", "write", "RDI+0x8"),  # mov %rax,0x8(%rdi)
    ("488b0424", "read", "RSP"),  # mov (%rsp),%rax
    ("498b4500", "read", "R13"),  # mov 0x0(%r13),%rax
    ("48c7400800000000", "write", "RAX+0x8"),  # movq $0,0x8(%rax)
    ("f0480fb10a", "write", "RDX"),  # lock cmpxchg %rcx,(%rdx)
    ("0fb64703", "read", "RDI+0x3"),  # movzbl 0x3(%rdi),%eax
    ("837f2800", "read", "RDI+0x28"),  # cmpl $0,0x28(%rdi)
    ("83472801", "write", "RDI+0x28"),  # addl $1,0x28(%rdi)
    ("ff5018", "read", "RAX+0x18"),  # call *0x18(%rax)
    ("4a8b04f8", "read", "RAX+R15*8"),  # mov (%rax,%r15,8),%rax
    ("8b04cd00010000", "read", "RCX*8+0x100"),  # mov 0x100(,%rcx,8),%eax
    ("488b40f8", "read", "RAX-0x8"),  # mov -0x8(%rax),%rax
    ("f3a4", "write", "RDI"),  # rep movsb
    ("55", "write", "RSP-0x8"),  # push %rbp
    ("4157", "write", "RSP-0x8"),  # push %r15
    ("e800000000", "write", "RSP-0x8"),  # call
    ("668b4710", "read", "RDI+0x10"),  # mov 0x10(%rdi),%ax
    ("f6471001", "read", "RDI+0x10"),  # testb $1,0x10(%rdi)
]


@pytest.mark.parametrize(("code", "access", "operand"), CASES)
def test_the_operand_is_read_out_of_the_instruction(code: str, access: str, operand: str) -> None:
    found = decode(bytes.fromhex(code).ljust(15, b"\x90"))
    assert found is not None
    assert (found.access, str(found)) == (access, operand)


@pytest.mark.parametrize(
    "code",
    [
        "4889c3",  # mov %rax,%rbx: no memory
        "488b0511223344",  # relative to RIP
        "65488b042500000000",  # per-CPU
        "0f0b",  # ud2
        "",
        "48",
        "0f",
        "8b",
        "8b84",  # cut
    ],
)
def test_what_has_no_operand_it_knows_gives_none(code: str) -> None:
    assert decode(bytes.fromhex(code)) is None


def test_the_address_is_computed_in_64_bits() -> None:
    found = decode(bytes.fromhex("4a8b44f8f8"))  # mov -0x8(%rax,%r15,8),%rax
    assert found is not None
    assert found.address({"RAX": 0xFFFFFFFFFFFFFFFF, "R15": 2}) == 7
    assert found.address({"RAX": 1}) is None


def test_any_bytes_are_survived() -> None:
    for first in range(256):
        for second in range(256):
            decode(bytes((first, second, 0x84, 0x24)))
            decode(bytes((0x0F, first, second)))
