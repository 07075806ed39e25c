"""What is impossible in memory near the crash: broken reference counts, states and lists, poison, freed objects.

Looked at: the variables of the modules in question (out of tree, or named by the crash), the registers of the fault and
what they point to, the words on the crash stack, and the end of every process' kernel stack. Each finding names the
symbol or register, the address, and how sure it is. It cannot know an object that none of these reaches; a module that
is not in question is not looked at.
Cost: 20 to 50 ms with one module where no slab was read before, 5 ms else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from drgn import FaultError, Program

from collectors.vmcore import typed
from collectors.vmcore.addresses import classify, meaning
from collectors.vmcore.layout import each_node, layout
from collectors.vmcore.modbtf import module_types
from collectors.vmcore.modules import AddressMap
from collectors.vmcore.objects import MOST_WORDS, Found, Objects
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.statics import Static, read_statics
from collectors.vmcore.words import words
from wardround.models.vmcore import Anomaly, Variable

MOST_ANOMALIES = 64
MOST_VARIABLES = 128
_MOST_STACK = 96  # words of the crash stack
_STACK_END = 0x57AC6E9D
_MOST_TASKS = 8192
_ORDER = {"read": 0, "derived": 1, "inferred": 2, "hint": 3}


@dataclass(frozen=True, slots=True)
class Oddities:
    """What was found, surest first, and the variables of the modules looked at."""

    anomalies: tuple[Anomaly, ...] = ()
    variables: tuple[Variable, ...] = ()


def read_anomalies(
    dump: Dump, areas: AddressMap, modules: Collection[str] = (), registers: Mapping[str, int] | None = None
) -> Oddities:
    """Look at the variables of `modules` and at what the registers of the fault (``RDI`` …) point to.

    :raises LookupError, FaultError: the dump's types or symbols are not there at all
    """
    statics = read_statics(dump, modules)
    objects = Objects(dump.prog, areas, statics)
    found = [
        *_of_statics(dump, statics, objects),
        *_of_registers(dump.prog, registers or {}, objects),
        *_of_stack(dump.prog, (registers or {}).get("RSP"), objects),
        *_stack_ends(dump.prog),
    ]
    once: dict[tuple[str, str], Anomaly] = {}
    for one in sorted(found, key=lambda one: _ORDER[one.certainty]):
        once.setdefault((one.kind, one.subject), one)
    return Oddities(tuple(once.values())[:MOST_ANOMALIES], tuple(_variables(dump, statics))[:MOST_VARIABLES])


# --- variables of modules ---


def _of_statics(dump: Dump, statics: Iterable[Static], objects: Objects) -> Iterator[Anomaly]:
    prog = dump.prog
    enumerations = {
        name: list(types.enumerations()) for name, types in module_types(dump, {s.module for s in statics}).items()
    }
    for static in statics:
        held = words(prog).some(static.address, min(-(-static.size // 8), MOST_WORDS))
        place = Found(static.name, static.address, static.size, static.module)
        yield from objects.contents(place, held)
        if static.type is not None:
            yield from (_wrong(static, one) for one in typed.wrong_values(prog, static.type, static.address))
        elif static.size == 4 and held:
            value = held[0] & 0xFFFFFFFF
            fitting = typed.like_named(enumerations.get(static.module, ()), static.name, static.size, value)
            yield from (_wrong(static, one) for one in fitting)


def _wrong(static: Static, one: typed.Wrong) -> Anomaly:
    subject = f"{static.name}{one.path}"
    return Anomaly(
        kind=one.kind,
        subject=subject,
        statement=f"{subject} [{static.module}] {one.statement}",
        source=f"{static.name} at {static.address:#x}",
        values={"value": one.value},
        module=static.module,
        certainty="derived" if one.certainty == "read" else one.certainty,
    )


def _variables(dump: Dump, statics: Iterable[Static]) -> Iterator[Variable]:
    """Those of one word: what they hold and, where it is an address, of what."""
    for static in statics:
        if static.size not in (1, 2, 4, 8):
            continue
        try:
            value = int.from_bytes(words(dump.prog).read(static.address, static.size), "little")
        except FaultError:
            continue
        yield Variable(
            name=static.name,
            module=static.module,
            address=static.address,
            size=static.size,
            value=value,
            meaning=_symbol(dump.prog, value) if static.size == 8 and value >> 56 == 0xFF else "",
            type=static.type.type_name() if static.type is not None else "",
        )


def _symbol(prog: Program, address: int) -> str:
    try:
        symbol = prog.symbol(address)
    except LookupError:
        return meaning(address)
    offset = address - symbol.address
    return f"{symbol.name}+{offset:#x}" if offset else symbol.name


# --- registers and the crash stack ---


def _of_registers(prog: Program, registers: Mapping[str, int], objects: Objects) -> Iterator[Anomaly]:
    for name, value in registers.items():
        if classify(value) in ("freed", "poison"):
            yield Anomaly("poison", name, f"{name} holds {meaning(value)}", f"register {name}", {"value": value})
            continue
        if name in ("RIP", "RSP", "EFLAGS", "CS", "SS") or (place := objects.at(value)) is None:
            continue
        held = words(prog).some(place.address, min(-(-place.size // 8), MOST_WORDS))
        for one in (*objects.freed(place, f"{name} points into"), *objects.contents(place, held)):
            yield replace(one, source=f"{one.source}, reached from register {name}")
        yield from objects.deleted(place, value, name)


def _of_stack(prog: Program, top: int | None, objects: Objects) -> Iterator[Anomaly]:
    """Pointers on the crash stack: callers' registers were saved there. Old ones are there too, so only what an
    object holds counts, and that is inferred."""
    if top is None or top >> 56 != 0xFF or top % 8:
        return
    for index, value in enumerate(words(prog).some(top, _MOST_STACK)):
        place = objects.at(value)
        if place is None or place.free:
            continue
        held = words(prog).some(place.address, min(-(-place.size // 8), MOST_WORDS))
        source = f"a word on the crash stack ({top + 8 * index:#x})"
        for one in objects.contents(place, held):
            if one.kind != "freed_object":
                yield replace(one, source=f"{one.source}, reached from {source}", certainty="inferred")
        yield from objects.deleted(place, value, source)


def _stack_ends(prog: Program) -> Iterator[Anomaly]:
    """A kernel stack that ran over has lost the mark at its end."""
    try:
        task, memory = layout(prog, "struct task_struct"), words(prog)
        first = prog.symbol("init_task").address
        entries = each_node(prog, first + task.at("tasks"), _MOST_TASKS)
        stack, comm, flagged = task.at("stack"), task.at("comm"), task.at("tasks")
    except DAMAGE:
        return
    for node in entries:
        try:
            end = memory.u64(node - flagged + stack)
            # one word of each stack: read on its own, not a page of each
            found = prog.read_u64(end) if end else _STACK_END
        except FaultError:
            continue
        if found != _STACK_END:
            name = memory.text(node - flagged + comm, 16)
            yield Anomaly(
                kind="stack_end",
                subject=f"{node - flagged:#x}",
                statement=f"the mark at the end of the kernel stack of {name} is overwritten: {found:#x}",
                source=f"stack at {end:#x}",
                values={"value": found},
            )
