"""Types for drgn out of BTF: the kernel carries its own type information, so a dump explains itself.

>>> finder = BtfFinder(prog, Btf.parse(blob))
>>> prog.register_type_finder("btf", finder.find_type, enable_index=-1)
>>> prog.register_object_finder("btf", finder.find_object, enable_index=-1)
>>> prog.type("struct task_struct").member("pid")
TypeMember(prog.type('pid_t'), name='pid', bit_offset=18560)

Source: Documentation/bpf/btf.rst of the kernel. BTF knows every type that the kernel's code uses, its functions, and
the variables of the per-CPU section; other variables have a symbol but no type. It knows no line numbers, no locals.
Types are made when they are asked for: of 100,000 in a kernel an analysis needs a few hundred.
Cost: 40 ms for the record index of a kernel's 4 MB, 0.3 ms for a name that is looked up first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from drgn import (
    FindObjectFlags,
    Object,
    Program,
    Qualifiers,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    TypeParameter,
)
from numpy.typing import NDArray

from collectors.vmcore.arrays import UNSOUND, chain

MAGIC = 0xEB9F
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF = 1, 2, 3, 4, 5, 6, 7, 8
_VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO, _VAR, _DATASEC, _FLOAT = 9, 10, 11, 12, 13, 14, 15, 16
_DECL_TAG, _TYPE_TAG, _ENUM64 = 17, 18, 19
# Words after a record's three: fixed ones, and those for each of its `vlen` parts.
_FIXED = {_INT: 1, _ARRAY: 3, _VAR: 1, _DECL_TAG: 1}
_EACH = {_STRUCT: 3, _UNION: 3, _ENUM: 2, _FUNC_PROTO: 2, _DATASEC: 3, _ENUM64: 3}
# The same as columns by kind: words a record takes (0: there is no such kind), and words a part.
_LENGTHS = np.array([3 + _FIXED.get(kind, 0) if 1 <= kind <= _ENUM64 else 0 for kind in range(32)], np.int32)
_PARTS = np.array([_EACH.get(kind, 0) for kind in range(32)], np.int32)
_QUALIFIERS = {_CONST: Qualifiers.CONST, _VOLATILE: Qualifiers.VOLATILE, _RESTRICT: Qualifiers.RESTRICT}
_MOST_CHAINED = 64  # typedefs and qualifiers in a row; more is a loop in a damaged blob
_NAMED = {
    TypeKind.STRUCT: (_STRUCT,),
    TypeKind.UNION: (_UNION,),
    TypeKind.ENUM: (_ENUM, _ENUM64),
    TypeKind.TYPEDEF: (_TYPEDEF,),
    TypeKind.INT: (_INT,),
    TypeKind.BOOL: (_INT,),
    TypeKind.FLOAT: (_FLOAT,),
}


class BtfError(ValueError):
    """The blob is not BTF, or damaged."""


class Record(NamedTuple):
    """One record. `at` is the index of its first word; `size` is a size or the id of a type, by its kind."""

    name: int
    kind: int
    parts: int
    flag: bool
    size: int
    at: int


@dataclass(frozen=True)
class Btf:
    """One blob: the kernel's, or a module's on top of the kernel's (`base`), whose ids and strings it continues."""

    words: memoryview
    strings: bytes
    starts: NDArray[np.int64] = field(repr=False)
    base: Btf | None = None

    @classmethod
    def parse(cls, blob: bytes, base: Btf | None = None) -> Btf:
        """Index a blob. :raises BtfError: it is cut or not BTF"""
        if len(blob) < 24:
            raise BtfError("BTF is cut before its header ends")
        magic, _, _, header, type_at, type_size, string_at, string_size = struct.unpack_from("<HBBIIIII", blob)
        if magic != MAGIC:
            raise BtfError(f"no BTF: it begins with {magic:#x}")
        types = blob[header + type_at : header + type_at + type_size // 4 * 4]
        strings = blob[header + string_at : header + string_at + string_size]
        if len(types) < type_size or len(strings) < string_size:
            raise BtfError(
                f"BTF is cut: {len(blob)} bytes of {header + max(type_at + type_size, string_at + string_size)}"
            )
        words = memoryview(types).cast("I")
        return cls(words, strings, _starts(words), base)

    @property
    def first_id(self) -> int:
        return self.base.next_id if self.base is not None else 1

    @property
    def next_id(self) -> int:
        return self.first_id + len(self.starts)

    @property
    def _first_string(self) -> int:
        return self.base._first_string + len(self.base.strings) if self.base is not None else 0

    def record(self, type_id: int) -> Record:
        """:raises BtfError: there is no such type"""
        if type_id < self.first_id and self.base is not None:
            return self.base.record(type_id)
        index = type_id - self.first_id
        if not 0 <= index < len(self.starts):
            raise BtfError(f"BTF has no type {type_id}")
        at = int(self.starts[index])
        name, info, size = self.words[at : at + 3]
        return Record(name, info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31), size, at)

    def owner(self, type_id: int) -> Btf:
        """Return the blob that a type's words lie in."""
        return self.base.owner(type_id) if self.base is not None and type_id < self.first_id else self

    def text(self, offset: int) -> str:
        if self.base is not None and offset < self._first_string:
            return self.base.text(offset)
        start = offset - self._first_string
        end = self.strings.find(b"\0", start)
        return self.strings[start : end if end >= 0 else None].decode("ascii", "replace")

    @cached_property
    def _heads(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """(name offsets, kinds) of all records."""
        words = np.frombuffer(self.words, np.uint32)
        return words[self.starts], (words[self.starts + 1] >> 24 & 0x1F).astype(np.uint32)

    def _offset_of(self, name: str) -> list[int]:
        """Offsets of a string: its own entry, and one of the base, which a module's records may name too."""
        found = self.base._offset_of(name) if self.base is not None else []
        at = self.strings.find(b"\0" + name.encode() + b"\0")
        return found if at < 0 else [*found, at + 1 + self._first_string]

    def find(self, name: str, kinds: tuple[int, ...]) -> Iterator[int]:
        """Yield the ids of this blob's types of that name and one of these kinds."""
        names, types = self._heads
        for offset in self._offset_of(name):
            for index in np.flatnonzero(names == offset).tolist():
                if types[index] in kinds:
                    yield self.first_id + index

    def parts(self, type_id: int) -> list[tuple[int, ...]]:
        """Return a record's parts: members, enumerators, parameters or section entries, as raw words."""
        blob, record = self.owner(type_id), self.record(type_id)
        each = _EACH[record.kind]
        first = record.at + 3
        raw = blob.words[first : first + each * record.parts].tolist()
        return [tuple(raw[i : i + each]) for i in range(0, len(raw), each)]

    def extra(self, type_id: int) -> list[int]:
        """Return a record's fixed words after its first three."""
        blob, record = self.owner(type_id), self.record(type_id)
        return blob.words[record.at + 3 : record.at + 3 + _FIXED[record.kind]].tolist()

    @cached_property
    def _enumerators(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(name offsets, type ids) of every enumerator."""
        names: list[NDArray[np.uint32]] = []
        ids: list[NDArray[np.int64]] = []
        words, (_, kinds) = np.frombuffer(self.words, np.uint32), self._heads
        for index in np.flatnonzero((kinds == _ENUM) | (kinds == _ENUM64)).tolist():
            record = self.record(self.first_id + index)
            each = _EACH[record.kind]
            part = words[record.at + 3 : record.at + 3 + each * record.parts : each]
            names.append(part)
            ids.append(np.full(len(part), self.first_id + index, np.int64))
        if not names:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(names).astype(np.int64), np.concatenate(ids)

    def enumeration_of(self, enumerator: str) -> int | None:
        """Return the id of the enumeration that declares a name."""
        names, ids = self._enumerators
        for offset in self._offset_of(enumerator):
            hits = np.flatnonzero(names == offset)
            if len(hits):
                return int(ids[hits[0]])
        return None


def _starts(words: memoryview) -> NDArray[np.int64]:
    """Where each record begins: their lengths differ, so each tells where the next one is."""
    table, total = np.frombuffer(words, np.uint32), len(words)

    def ends(first: int, last: int) -> NDArray[np.int32]:
        info = table[first + 1 : last + 1]
        kind = info >> 24 & 0x1F
        end: NDArray[np.int32] = np.arange(first, last, dtype=np.int32)
        end += _LENGTHS[kind] + _PARTS[kind] * (info & 0xFFFF).astype(np.int32)
        end[_LENGTHS[kind] == 0] = UNSOUND
        return end

    starts, at = chain(total - 2, ends)
    if at < total - 2:
        raise BtfError(f"BTF has a record of the unknown kind {words[at + 1] >> 24 & 0x1F}")
    if at > total:
        raise BtfError("BTF is cut within a record")
    return np.frombuffer(starts, np.int64) if starts else np.empty(0, np.int64)


class BtfFinder:
    """Finds types, functions and variables of one blob for drgn. Its two methods are what drgn's finders expect.

    `variables` gives types of variables that BTF leaves out, as C type names.
    """

    def __init__(self, prog: Program, btf: Btf, variables: dict[str, str] | None = None) -> None:
        self.prog, self.btf = prog, btf
        self._variables = variables or {}
        self._made: dict[int, Type] = {}
        self._making: set[int] = set()  # only members may lead back to their structure, and they are made later
        self._found: dict[tuple[str | TypeKind, ...], Type | None] = {}

    # --- drgn's finders ---

    def find_type(self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None) -> Type | None:
        """Return a type by name. BTF knows no files, so a lookup by file finds nothing."""
        if filename:
            return None
        key = (name, *kinds)
        if key not in self._found:  # drgn asks for the same few again and again
            self._found[key] = self._search(kinds, name)
        return self._found[key]

    def _search(self, kinds: TypeKindSet, name: str) -> Type | None:
        for kind in kinds:
            for type_id in self.btf.find(name, _NAMED.get(kind, ())):
                found = self.type(type_id)
                if found.kind == kind:
                    return found
        return None

    def find_object(self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None) -> Object | None:
        """Return a variable or function at its symbol's address, or an enumerator's value."""
        if filename:
            return None
        if flags & FindObjectFlags.VARIABLE:
            known = self._variables.get(name)
            for type_id in self.btf.find(name, (_VAR,)):
                return self._at_symbol(name, self.type(self.btf.record(type_id).size))
            if known is not None:
                try:
                    type_ = self.prog.type(known)
                except LookupError:
                    return None  # another kernel's variable
                return self._at_symbol(name, type_)
        if flags & FindObjectFlags.FUNCTION:
            for type_id in self.btf.find(name, (_FUNC,)):
                return self._at_symbol(name, self.type(self.btf.record(type_id).size))
        if flags & FindObjectFlags.CONSTANT:
            enumeration = self.btf.enumeration_of(name)
            if enumeration is not None:
                made = self.type(enumeration)
                for enumerator in made.enumerators or ():
                    if enumerator.name == name:
                        return Object(self.prog, made, enumerator.value)
        return None

    def _at_symbol(self, name: str, type_: Type) -> Object | None:
        try:
            return Object(self.prog, type_, address=self.prog.symbol(name).address)
        except LookupError:
            return None

    # --- types by id ---

    def type(self, type_id: int) -> Type:
        """Return drgn's type for an id; made once. :raises BtfError: the id or its record is damaged"""
        if type_id not in self._made:
            if type_id in self._making:
                raise BtfError(f"BTF's type {type_id} is made of itself")
            self._making.add(type_id)
            try:
                self._made[type_id] = self._make(type_id)
            finally:
                self._making.discard(type_id)
        return self._made[type_id]

    def _make(self, type_id: int) -> Type:
        if type_id == 0:
            return self.prog.void_type()
        qualifiers, type_id = self._unqualified(type_id)
        if type_id == 0:
            return self.prog.void_type(qualifiers=qualifiers)
        record = self.btf.record(type_id)
        makers = {
            _INT: self._int, _PTR: self._pointer, _ARRAY: self._array, _STRUCT: self._compound, _UNION: self._compound,
            _ENUM: self._enum, _ENUM64: self._enum, _FWD: self._forward, _TYPEDEF: self._typedef,
            _FUNC_PROTO: self._function, _FLOAT: self._float,
        }  # fmt: skip
        maker = makers.get(record.kind)
        if maker is None:
            raise BtfError(f"BTF's record {type_id} is no type (kind {record.kind})")
        made = maker(type_id, record)
        return made.qualified(qualifiers) if qualifiers else made

    def _unqualified(self, type_id: int) -> tuple[Qualifiers, int]:
        qualifiers = Qualifiers.NONE
        for _ in range(_MOST_CHAINED):
            if type_id == 0:
                break
            record = self.btf.record(type_id)
            if record.kind not in _QUALIFIERS and record.kind != _TYPE_TAG:
                return qualifiers, type_id
            qualifiers |= _QUALIFIERS.get(record.kind, Qualifiers.NONE)
            type_id = record.size
        else:
            raise BtfError("BTF's qualifiers run in a circle")
        return qualifiers, type_id

    def _name(self, record: Record) -> str | None:
        return self.btf.text(record.name) or None

    def _int(self, type_id: int, record: Record) -> Type:
        (word,) = self.btf.extra(type_id)
        name = self._name(record) or f"int{record.size * 8}_t"
        if word >> 24 & 4:
            return self.prog.bool_type(name, record.size)
        return self.prog.int_type(name, record.size, bool(word >> 24 & 1))

    def _float(self, type_id: int, record: Record) -> Type:
        return self.prog.float_type(self._name(record) or "float", record.size)

    def _pointer(self, type_id: int, record: Record) -> Type:
        return self.prog.pointer_type(self.type(record.size))

    def _array(self, type_id: int, record: Record) -> Type:
        element, _, length = self.btf.extra(type_id)
        return self.prog.array_type(self.type(element), length)

    def _typedef(self, type_id: int, record: Record) -> Type:
        return self.prog.typedef_type(self.btf.text(record.name), self.type(record.size))

    def _forward(self, type_id: int, record: Record) -> Type:
        make = self.prog.union_type if record.flag else self.prog.struct_type
        return make(self._name(record))

    def _function(self, type_id: int, record: Record) -> Type:
        parameters, variadic = [], False
        for name, parameter in self.btf.parts(type_id):
            if not parameter and not name:
                variadic = True  # the last, without name or type, stands for "..."
            else:
                parameters.append(TypeParameter(_later(self, parameter), self.btf.text(name) or None))
        return self.prog.function_type(self.type(record.size), parameters, variadic)

    def _enum(self, type_id: int, record: Record) -> Type:
        bits = record.size * 8
        enumerators = []
        for part in self.btf.parts(type_id):
            value = part[1] | (part[2] << 32 if len(part) == 3 else 0)
            if record.flag and value >> (bits - 1) & 1:
                value -= 1 << bits
            enumerators.append(
                TypeEnumerator(self.btf.text(part[0]), value & ((1 << bits) - 1) if value >= 0 else value)
            )
        names = {1: "char", 2: "short", 4: "int", 8: "long"}
        name = names.get(record.size, "int") if record.flag else "unsigned " + names.get(record.size, "int")
        return self.prog.enum_type(self._name(record), self.prog.int_type(name, record.size, record.flag), enumerators)

    def _compound(self, type_id: int, record: Record) -> Type:
        members = []
        for name, member, place in self.btf.parts(type_id):
            width = place >> 24 if record.flag else 0
            bit = place & 0xFFFFFF if record.flag else place
            members.append(TypeMember(_later(self, member, width), self.btf.text(name) or None, bit))
        make = self.prog.struct_type if record.kind == _STRUCT else self.prog.union_type
        return make(self._name(record), record.size, members)


def _later(finder: BtfFinder, type_id: int, width: int = 0) -> Any:
    """What makes a member's type when it is first looked at: structures refer to each other in circles."""

    def make() -> Type | Object:
        made = finder.type(type_id)
        return Object(finder.prog, made, bit_field_size=width) if width else made

    return make
