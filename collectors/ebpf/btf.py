"""Reads the running kernel's type information (BTF) for the few facts the programs need: where a structure member
lies, what an enumeration's values are called, how many arguments a tracepoint passes.

Source: `/sys/kernel/btf/vmlinux` (CONFIG_DEBUG_INFO_BTF), format of Documentation/bpf/btf.rst.
Standard library only and valid for Python 3.10, because the loader imports it under the system's interpreter.
Cost: 0.1 to 0.2 s of CPU and about 25 MB for a 5.5 MB file, in the loader process, which exits.
"""

from __future__ import annotations

import array
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = 0xEB9F
_ENUM, _ENUM64, _FUNC_PROTO, _TYPEDEF, _PTR = 6, 19, 13, 8, 2
_STRUCT, _UNION = 4, 5
_SKIPPED_QUALIFIERS = frozenset({8, 9, 10, 11, 18})  # typedef volatile const restrict type_tag
# 32-bit words that follow the three of a type's head: fixed ones by kind, and per element (vlen) ones.
_FIXED_WORDS = {1: 1, 3: 3, 14: 1, 17: 1}
_WORDS_PER_ELEMENT = {4: 3, 5: 3, 6: 2, 13: 2, 15: 3, 19: 3}


@dataclass(frozen=True)
class Member:
    """A structure member: `bit` offset from the structure's start, and width in `bits` (0: not a bit-field)."""

    bit: int
    bits: int

    @property
    def byte(self) -> int:
        return self.bit // 8

    @property
    def mask(self) -> int:
        """The bit-field's mask inside its byte (little-endian numbering); fields that span bytes are not handled."""
        return ((1 << self.bits) - 1) << (self.bit % 8)


class Btf:
    """One BTF blob. :raises ValueError: where it is not BTF of this machine's byte order"""

    def __init__(self, blob: bytes) -> None:
        try:
            magic, _, _, head, type_off, type_len, str_off, str_len = struct.unpack_from("=HBBIIIII", blob)
        except struct.error as error:
            raise ValueError("BTF header is cut short") from error
        if magic != _MAGIC:
            raise ValueError("not BTF of this byte order")
        self._words = array.array("I", blob[head + type_off : head + type_off + type_len])
        self._strings = blob[head + str_off : head + str_off + str_len]
        self._at = array.array("I", [0])  # type id -> index of its first word; id 0 is void
        self._by_name: dict[int, list[int]] = {}
        self._walk()

    @classmethod
    def of_kernel(cls, path: str | Path = "/sys/kernel/btf/vmlinux") -> Btf:
        """:raises OSError: where the kernel publishes none :raises ValueError: where it cannot be read"""
        return cls(Path(path).read_bytes())

    def member(self, structure: str, path: str) -> Member | None:
        """Find a member by dotted path, e.g. ``member("task_struct", "sched_info.last_queued")``; None if absent."""
        for number in self._named(structure, {_STRUCT, _UNION}):
            found = self._member(number, path.split("."))
            if found is not None:
                return found
        return None

    def enum(self, name: str) -> dict[int, str]:
        """Return ``{value: constant}`` of an enumeration, empty where the kernel has none of this name."""
        for number in self._named(name, {_ENUM, _ENUM64}):
            index, kind, length = self._head(number)
            step = _WORDS_PER_ELEMENT[kind]
            first = index + 3
            return {
                self._words[at + 1]: self._string(self._words[at]) for at in range(first, first + step * length, step)
            }
        return {}

    def arguments(self, tracepoint: str) -> int | None:
        """Return how many arguments a raw tracepoint passes; None where the tracepoint is unknown."""
        for number in self._named(f"btf_trace_{tracepoint}", {_TYPEDEF}):
            pointer = self._words[self._at[number] + 2]
            prototype = self._words[self._at[pointer] + 2]
            _, kind, length = self._head(prototype)
            if kind == _FUNC_PROTO:
                return length - 1  # the first parameter is the callback's own data
        return None

    def _walk(self) -> None:
        words, index, end = self._words, 0, len(self._words)
        while index < end:
            info = words[index + 1]
            kind, length = info >> 24 & 0x1F, info & 0xFFFF
            if kind in (_STRUCT, _UNION, _ENUM, _ENUM64, _TYPEDEF) and words[index]:
                self._by_name.setdefault(words[index], []).append(len(self._at))
            self._at.append(index)
            index += 3 + _FIXED_WORDS.get(kind, 0) + _WORDS_PER_ELEMENT.get(kind, 0) * length

    def _head(self, number: int) -> tuple[int, int, int]:
        index = self._at[number]
        info = self._words[index + 1]
        return index, info >> 24 & 0x1F, info & 0xFFFF

    def _string(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode("ascii", "replace")

    def _named(self, name: str, kinds: set[int]) -> Iterator[int]:
        at = self._strings.find(b"\0" + name.encode() + b"\0")
        for number in self._by_name.get(at + 1, []) if at >= 0 else []:
            if self._head(number)[1] in kinds:
                yield number

    def _resolve(self, number: int) -> int:
        while number and self._head(number)[1] in _SKIPPED_QUALIFIERS:
            number = self._words[self._at[number] + 2]
        return number

    def _member(self, number: int, path: list[str]) -> Member | None:
        index, kind, length = self._head(number)
        if kind not in (_STRUCT, _UNION):
            return None
        has_bit_fields = self._words[index + 1] >> 31
        for at in range(index + 3, index + 3 + 3 * length, 3):
            name_off, inner, offset = self._words[at], self._words[at + 1], self._words[at + 2]
            bits = offset >> 24 if has_bit_fields else 0
            bit = offset & 0xFFFFFF if has_bit_fields else offset
            if not name_off:  # an anonymous structure or union: its members are reached as if they were ours
                found = self._member(self._resolve(inner), path)
            elif self._string(name_off) != path[0]:
                continue
            elif len(path) == 1:
                return Member(bit, bits)
            else:
                found = self._member(self._resolve(inner), path[1:])
            if found is not None:
                return Member(bit + found.bit, found.bits)
        return None
