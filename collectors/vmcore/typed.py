"""Values that a variable's type forbids: a reference count below zero, a state that its enumeration does not have.

Where a type is known (debug information, or BTF that describes variables) it is followed into its members. Where only
a module's enumerations are known, a variable is compared with one whose name it bears: that is inferred. Where nothing
is known, a word that holds exactly the value a broken reference count is set to still tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from drgn import FaultError, Object, Program, Type, TypeKind, sizeof

from wardround.models.vmcore import Certainty

# refcount_t is set to this when it would overflow or fall below zero (INT_MIN / 2)
SATURATED = 0xC0000000
BROKEN = "is a reference count that overflowed or fell below zero"
_DEEPEST = 5
_MOST_ELEMENTS = 64
_REFCOUNTS = {"refcount_t", "refcount_struct", "kref"}


@dataclass(frozen=True, slots=True)
class Wrong:
    """One forbidden value: `path` is the member within the variable, empty for the variable itself."""

    kind: str
    path: str
    statement: str
    value: int
    certainty: Certainty


def saturated(words: Sequence[int], start: int, size: int) -> Iterator[int]:
    """Yield addresses of 32-bit words that hold a saturated reference count; halves of pointers are none.

    >>> [hex(at) for at in saturated([0x1_C000_0000, 0xFFFF_FFFF_C000_0000], 0x1000, 16)]
    ['0x1000']
    """
    for index, word in enumerate(words):
        low, high = word & 0xFFFFFFFF, word >> 32
        at = start + 8 * index
        if low == SATURATED and high != 0xFFFFFFFF and at + 4 <= start + size:
            yield at
        if high == SATURATED and at + 8 <= start + size:
            yield at + 4


def wrong_values(prog: Program, type_: Type, address: int) -> Iterator[Wrong]:
    """Yield what is forbidden in a variable of a known type."""
    yield from _look(Object(prog, type_, address=address), "", 0)


def _look(value: Object, path: str, depth: int) -> Iterator[Wrong]:
    type_ = value.type_
    while type_.kind == TypeKind.TYPEDEF:
        if type_.name in _REFCOUNTS:
            yield from _refcount(value, path)
            return
        type_ = type_.type
    if depth > _DEEPEST:
        return
    try:
        if type_.kind == TypeKind.STRUCT and type_.members is not None:
            if type_.tag in _REFCOUNTS:
                yield from _refcount(value, path)
                return
            for member in type_.members:
                if member.name:
                    yield from _look(value.member_(member.name), f"{path}.{member.name}", depth + 1)
        elif type_.kind == TypeKind.ARRAY and type_.length:
            for index in range(min(type_.length, _MOST_ELEMENTS)):
                yield from _look(value[index], f"{path}[{index}]", depth + 1)
        elif type_.kind == TypeKind.ENUM:
            yield from _state(type_, value.value_(), path, "read")
        elif type_.kind == TypeKind.BOOL and value.bit_field_size_ is None and value.address_ is not None:
            (byte,) = value.prog_.read(value.address_, 1)
            if byte > 1:
                yield Wrong("impossible_state", path, f"holds {byte}, which no truth value is", byte, "read")
    except (FaultError, LookupError, ValueError):
        return


def _refcount(value: Object, path: str) -> Iterator[Wrong]:
    if value.address_ is None:
        return
    raw = int.from_bytes(value.prog_.read(value.address_, 4), "little")
    count = raw - (raw >> 31 << 32)
    if raw == SATURATED:
        yield Wrong("refcount_saturated", path, BROKEN, count, "read")
    elif count < 0:
        yield Wrong("refcount_negative", path, f"is a reference count of {count}", count, "read")


def _state(type_: Type, value: int, path: str, certainty: Certainty) -> Iterator[Wrong]:
    known = {one.value: one.name for one in type_.enumerators or ()}
    if not known or value in known or (_is_mask(known) and not value & ~_union(known)):
        return
    low, high = min(known), max(known)
    text = f"holds {value}, which enum {type_.tag or ''} has not ({known[low]} = {low} to {known[high]} = {high})"
    yield Wrong("impossible_state", path, text.replace("enum  ", "its enumeration "), value, certainty)


def _is_mask(known: Iterable[int]) -> bool:
    """Enumerations whose values are single bits may be added up."""
    values = [value for value in known if value > 0]
    return len(values) > 2 and all(value & (value - 1) == 0 for value in values)


def _union(known: Iterable[int]) -> int:
    found = 0
    for value in known:
        found |= value
    return found


def like_named(enumerations: Iterable[Type], name: str, size: int, value: int) -> Iterator[Wrong]:
    """Yield what a value is not of the one enumeration whose words are all in the variable's name."""
    parts = _parts(name)
    fitting = [
        one for one in enumerations if one.tag and sizeof(one) == size and len(_parts(one.tag)) > 1
        and _parts(one.tag) <= parts
    ]  # fmt: skip
    if len(fitting) == 1:
        yield from _state(fitting[0], value, "", "inferred")


def _parts(name: str) -> set[str]:
    return {part for part in re.split(r"[_\W]+|(?<=[a-z])(?=[A-Z])", name.lower()) if part}
