"""Playbooks of faults: a null pointer followed, memory corrupted, a count or state broken.

The class of the kernel's first report speaks most; the faulting address, poison in registers, what slab tracking
recorded, and broken objects found in the dump confirm or object. Without a dump nobody can tell which object it was.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from rca.model import Curve, Finding
from rca.vmcore.facts import RECURSION, Facts, function_of
from rca.vmcore.playbook import TREATMENT, Clue, Playbook
from rca.vmcore.story import generic, telling
from wardround.models.diagnosis import Culprit
from wardround.models.vmcore import Anomaly, StackFrame, plain

# How well a report of each kind fits each fault, 0 to 1; kinds not named do not fit.
FITS: Mapping[str, Mapping[str, float]] = {
    "kernel.null_dereference": {"null_pointer": 1.0, "bad_pointer": 0.45, "general_protection": 0.2, "unknown": 0.2},
    "kernel.memory_corruption": {
        "use_after_free": 1.0,
        "out_of_bounds": 1.0,
        "list_corruption": 1.0,
        "slab_corruption": 1.0,
        "stack_protector": 1.0,
        "stack_overflow": 1.0,
        "double_fault": 0.8,
        "general_protection": 0.8,
        "bad_pointer": 0.75,
        "invalid_opcode": 0.45,
        "bug": 0.45,
        "refcount": 0.25,
        "null_pointer": 0.1,
    },
    "kernel.refcount": {"refcount": 1.0, "bug": 0.5, "warning": 0.35, "divide": 0.45, "slab_corruption": 0.2},
}
# Classes of reports that an instruction made which could not be executed, or an assertion.
OOPSES = frozenset(("null_pointer", "bad_pointer", "general_protection", "bug", "divide", "invalid_opcode"))
_FIT = Curve((0.0, -4.0), (0.25, -1.5), (0.5, 0.6), (0.8, 2.0), (1.0, 4.0))
_NO_PLACE = ("oom", "hung_task", "sysrq")  # the stack is of who noticed, or of who asked for the crash
_BAD_ACCESS = ("general_protection", "bad_pointer", "null_pointer", "unknown")
_ALLOCATOR = re.compile(r"_{0,3}(?:kmem_|slab_|kmalloc|kfree|get_freepointer|deactivate_slab|rmqueue|free_unref)")
_VARIABLE = re.compile(r"([A-Za-z_]\w*) at 0x")
_NEAR_NULL = 16 * 4096
_ERRORS = (1 << 64) - 4096


def reported(fault: str) -> Clue:
    """The clue of the first report's class."""

    def measure(facts: Facts, _: Culprit) -> Finding | None:
        fits = FITS[fault]
        return facts.first_report(fits.get(facts.kind, 0.0), lacks=[kind for kind, fit in fits.items() if fit >= 1.0])

    return Clue("reported", measure, _FIT, needed=True)


def _accused(facts: Facts) -> list[Culprit]:
    found = facts.accused
    if found is not None and found.frame.function:
        return [function_of(found.frame)]
    panic = facts.panic
    if panic is not None and panic.function and not generic(StackFrame(panic.function, module=panic.module)):
        return [
            Culprit("kernel_function", plain(panic.function), None, (("module", panic.module),) * bool(panic.module))
        ]
    return [Culprit("kernel_function", "unknown function")] if facts.panic is not None else []


def _function(facts: Facts, culprit: Culprit) -> Finding | None:
    """Where on the stack the accused stands: the closer to the fault, the surer."""
    found = facts.accused
    if found is None or facts.kind in _NO_PLACE:
        return None
    passed = f" after {', '.join(dict.fromkeys(found.passed))}" if found.passed else ""
    return facts.finding(
        1.0 / (1.0 + len(found.passed) / 8.0),
        f"{found.frame.name} is {found.why}{passed}",
        found.frame.function,
        {"frames_passed": len(found.passed)},
        show=facts.show_stack(),
    )


FUNCTION = Clue(
    "function", _function, Curve((0.0, -0.2), (0.5, 0.2), (1.0, 0.5)), ask="the crash's own stack, from a dump"
)


def _later(facts: Facts, _: Culprit) -> Finding | None:
    """How the dump came about where a task had been killed by an oops before: told, and weighed for nothing."""
    report, panic = facts.report, facts.panic
    if not facts.earlier or report is None or panic is None:
        return None
    end = next((r for r in facts.vmcore.reports if r.fatal), None)
    after = max(end.time - report.time, 0.0) if end else 0.0
    return facts.finding(
        1.0,
        f"the kernel killed {facts.who() or 'a task'} at this oops and went on (panic_on_oops is off); what that task "
        f"held stays held; {after:.0f} s later the crash came by: {panic.message}",
        panic.message[:80],
        {"seconds": after},
        "s",
    )


LATER = Clue("later", _later, Curve((0.0, 0.0), (1.0, 0.3)))


def _address(facts: Facts, _: Culprit) -> Finding | None:
    """How near to null the address is that could not be accessed."""
    context = facts.context
    if context is None or context.address is None:
        return None
    at = context.address
    value = 1.0 if at < _NEAR_NULL else 0.6 if at >= _ERRORS else 0.0
    access = {"execute": "run code at", "": "use"}.get(context.access, context.access)
    words = f", {context.meaning}" if context.meaning else ""
    titled = facts.report is not None and f"{at:x}" in facts.report.title
    look_for = facts.report.title[:80] if facts.report is not None and titled else f"{at:016x}"
    return facts.finding(value, f"the CPU could not {access} address {at:#x}{words}", look_for, {"address": at})


def _forbidden(facts: Facts, _: Culprit) -> Finding | None:
    """A write to memory that is mapped but must not be written: proof of a wild write, whatever the pointer."""
    context, report = facts.context, facts.report
    words = report.detail("forbidden") if report else ""
    if context is None or context.address is None or not words or context.address < 1 << 63:
        return None
    if context.access == "read":
        return None
    what = f", {context.meaning}" if context.meaning else ""
    how = "write" if context.access == "write" else "run" if context.access == "execute" else "access"
    return facts.finding(
        1.0,
        f"the CPU was not allowed to {how} address {context.address:#x}{what}: it is mapped, but protected ({words})",
        words,
        {"address": context.address},
    )


def _assertion(facts: Facts, _: Culprit) -> Finding | None:
    """Whether the accused stopped the kernel itself: an assertion (BUG) of its own code did not hold."""
    report, found = facts.report, facts.accused
    if facts.kind != "bug" or report is None or found is None or not report.detail("place"):
        return None
    if plain(found.frame.function) != plain(report.function):
        return None
    place = report.detail("place")
    return facts.finding(
        1.0,
        f"{found.frame.name} stopped the kernel itself: its assertion at {_file(place)} did not hold",
        "ernel BUG at",
    )


def _file(place: str) -> str:
    """The file and line of a BUG without the folders of the machine it was built on."""
    return place.rpartition("/")[2]


def _poison(facts: Facts, _: Culprit) -> Finding | None:
    seen = list(facts.poisons())
    title = facts.panic.report if facts.panic else ""
    if "LIST_POISON" in title:
        return facts.finding(1.0, f"the list entry had been deleted before: {title}", title[:80])
    if not seen and (facts.context is None or facts.kind not in _BAD_ACCESS):
        return None  # the checks that stopped it need no bad access
    if not seen:
        return facts.finding(0.0, "neither the faulting address nor a register holds a poison", "RAX:")
    where, value, words = seen[0]
    return facts.finding(1.0, f"{where} {value:#x}, {words}", f"{value:016x}", {"places": len(seen)})


def _free_list(facts: Facts, _: Culprit) -> Finding | None:
    """Whether the allocator itself used the bad pointer: it follows links that lie in free objects."""
    at = next((frame for frame in facts.stack if frame.exception), None)
    if facts.kind not in _BAD_ACCESS or at is None or _ALLOCATOR.match(at.function) is None:
        return None
    told = f"the allocator itself met the bad pointer, in {at.function}: what lies in a free object was overwritten"
    return facts.finding(1.0, told, at.function, show=facts.show_stack())


def _freed_object(facts: Facts, _: Culprit) -> Finding | None:
    """Registers of the fault that point to an object which was free again."""
    context = facts.context
    if context is None or "a freed object" not in context.meaning:
        return None
    told = next(part for part in context.meaning.split("; ") if "a freed object" in part)
    told = told if " points to " in told else f"the faulting address is in {told}"
    return facts.finding(1.0, told, "RAX:", show=facts.show_stack())


def _tracked(facts: Facts, _: Culprit) -> Finding | None:
    """Who allocated and freed the object, where a checker recorded it."""
    report = facts.report
    freed = report.detail("freed_in") if report else ""
    allocated = report.detail("allocated_in") if report else ""
    if report is None or not (freed or allocated):
        return None
    told = [f"allocated in {allocated}"] * bool(allocated) + [f"freed in {freed}"] * bool(freed)
    return facts.finding(1.0, f"the object was {' and '.join(told)}", "Freed in" if freed else "Allocated in")


def _recursion(facts: Facts, _: Culprit) -> Finding | None:
    """One function many times on one stack: recursion that ate it."""
    counts = Counter(frame.name for frame in facts.stack if frame.sure and not generic(frame))
    if not counts:
        return None
    name, times = counts.most_common(1)[0]
    if times < RECURSION:
        return None
    told = f"{name} is {times} times on the stack"
    return facts.finding(float(times), told, name.split()[0], {"times": times}, show=facts.show_stack())


def _anomalies(*words: str) -> Clue:
    """Broken objects that the dump holds."""

    def measure(facts: Facts, _: Culprit) -> Finding | None:
        found = facts.anomalies(*words)
        if not found:
            return None
        worst: Anomaly = found[0]
        return facts.finding(
            {"read": 1.0, "derived": 1.0, "inferred": 0.6, "hint": 0.3}[worst.certainty],
            worst.statement,
            worst.subject,
            {**worst.values, "found": len(found)},
            show=("--variable", name) if (name := _variable(worst)) else (),
        )

    return Clue(
        "objects", measure, Curve((0.0, 0.0), (0.3, 0.4), (1.0, 1.8)), ask="the dump itself: its objects are checked"
    )


def _variable(worst: Anomaly) -> str:
    """The name of the variable that an object was found in, empty where it is none."""
    found = _VARIABLE.match(worst.source)
    return found[1] if found and worst.subject.startswith(found[1]) else ""


def _where(culprit: Culprit) -> str:
    module = culprit.label("module")
    return f"{culprit.name} [{module}]" if module else culprit.name


def _called_by(facts: Facts, culprit: Culprit) -> str:
    """The caller where it is of another module: that one may have handed over what is bad."""
    frames = list(telling(facts.stack))
    at = next((n for n, frame in enumerate(frames) if plain(frame.function) == culprit.name), None)
    module = culprit.label("module")
    if at is None or not module:
        return ""
    caller = next((frame for frame in frames[at + 1 :] if frame.module not in ("", module)), None)
    return f", called by {caller.name}," if caller is not None else ""


def _task(facts: Facts) -> str:
    return f", while {facts.who()} ran" if facts.who() else ""


def _null_headline(facts: Facts, culprit: Culprit, findings: Mapping[str, Finding]) -> str:
    address = findings.get("address")
    told = f": {address.statement}" if address else ""
    by = _called_by(facts, culprit)
    what = "an error code as a pointer" if "taken for a pointer" in told and "null" not in told else "a null pointer"
    return f"{_where(culprit)}{by} followed {what}{_task(facts)}{told}.{_end(findings)}"


def _end(findings: Mapping[str, Finding]) -> str:
    """How the crash came about later, where this was not yet the end."""
    later = findings.get("later")
    return f" {later.statement[0].upper()}{later.statement[1:]}." if later else ""


def _corruption_headline(facts: Facts, culprit: Culprit, findings: Mapping[str, Finding]) -> str:
    poison = findings.get("poison")
    seen = poison.statement if poison is not None and poison.value > 0 else ""
    what = _CORRUPTED.get(facts.kind) or _met(seen)
    parts = [seen] if seen else []
    parts += _stale(facts, findings)
    if facts.kind == "slab_corruption" and "tracked" in findings:
        what = "last handled a slab object that was then overwritten or freed again"
    if (forbidden := findings.get("forbidden")) is not None:
        what, parts = "accessed memory that it must not write", [forbidden.statement]
    told = f": {'; '.join(parts)}" if parts else ""
    if facts.jumped and facts.context is not None and facts.kind in _BAD_ACCESS:
        return f"{_where(culprit)} lost its way{_task(facts)}: the CPU ran at {_astray(facts)}{told}.{_end(findings)}"
    return f"{_where(culprit)}{_called_by(facts, culprit)} {what}{_task(facts)}{told}.{_end(findings)}"


def _met(poison: str) -> str:
    """What a bad pointer says that the accused did, by the words of its poison."""
    if "freed" in poison:
        return "used memory that had been freed"
    if "deleted list entry" in poison:
        return "followed a list entry that had been deleted"
    return "used a pointer that text was written over" if "the text" in poison else "worked on corrupted memory"


def _stale(facts: Facts, findings: Mapping[str, Finding]) -> list[str]:
    """What still points to freed memory, where that is what was met, and where the allocator knows who freed it."""
    kept = next((a for a in facts.anomalies("freed_object") if a.certainty in ("read", "derived")), None)
    of_variable = [kept.statement] if kept and facts.kind in _MET_FREED else []
    free_list, register = findings.get("free_list"), findings.get("freed_object")
    if free_list is not None:
        return [free_list.statement, *of_variable]
    return of_variable or ([register.statement] if register else [])


def _astray(facts: Facts) -> str:
    """Where the CPU was without code."""
    context = facts.context
    assert context is not None
    address = context.registers.get("RIP", 0)
    return f"{address:#x}, which is no code" + (f" ({context.meaning})" if context.meaning else "")


_MET_FREED = ("slab_corruption", "use_after_free", "list_corruption", "general_protection", "bad_pointer", "refcount")
_CORRUPTED = {
    "use_after_free": "used memory that had been freed",
    "out_of_bounds": "accessed memory outside an object",
    "list_corruption": "worked on a broken list",
    "slab_corruption": "met a slab object that was overwritten or freed twice",
    "stack_protector": "wrote beyond a buffer on its stack",
    "stack_overflow": "overran the kernel stack",
    "double_fault": "broke the kernel stack",
}


def _corruption_chain(facts: Facts, culprit: Culprit) -> tuple[str, ...]:
    if facts.report is not None and facts.report.detail("forbidden"):
        return (f"{culprit.name} used an address that it must not write", "the CPU refused", "the kernel stopped there")
    if facts.kind == "stack_overflow" and facts.report is not None and "stack end" in facts.report.title:
        return (f"{culprit.name} wrote over the end of the kernel stack", "the scheduler found its mark gone", "panic")
    if facts.kind in ("stack_overflow", "double_fault"):
        return (f"{culprit.name} used up the kernel stack", "the guard page was hit", "the kernel panicked")
    if facts.kind == "stack_protector":
        return (f"a write in {culprit.name} ran over its stack frame", "the canary did not match on return", "panic")
    seen = " ".join(words for _, _, words in facts.poisons())
    if facts.jumped and facts.kind in _BAD_ACCESS:
        why = "a return address or a pointer to a function was overwritten"
    elif "freed" in seen:
        why = "an object was freed while something still pointed to it"
    else:
        why = (
            "text was written over a pointer"
            if "the text" in seen
            else "memory was overwritten, or used after it was freed"
        )
    return (why, f"{culprit.name} met it", "the kernel stopped there")


def _refcount_chain(facts: Facts, culprit: Culprit) -> tuple[str, ...]:
    if facts.kind == "divide":
        return ("a count was zero that must not be", f"{culprit.name} divided by it", "the CPU trapped")
    if facts.kind == "bug":
        return (
            "a count or a state was left wrong",
            f"the assertion of {culprit.name} met it",
            "the kernel stopped there",
        )
    return (f"{culprit.name} left a count or state wrong", "the object is freed too early or never")


def _refcount_headline(facts: Facts, culprit: Culprit, findings: Mapping[str, Finding]) -> str:
    how = facts.report.detail("how") if facts.report else ""
    if (assertion := findings.get("assertion")) is not None:
        return f"{assertion.statement}{_task(facts)}: most likely a count or a state is wrong."
    words = {
        "underflow": "dropped a reference that was not held",
        "saturated": "used a reference count that is out of range",
        "addition on 0": "took a reference on an object already released",
        "overflow": "took more references than a count holds",
    }.get(how, "divided by zero" if facts.kind == "divide" else "broke a reference count or a state")
    objects = findings.get("objects")
    told = f": {objects.statement}" if objects else ""
    return f"{_where(culprit)} {words}{_task(facts)}{told}."


NULL_DEREFERENCE = Playbook(
    fault="kernel.null_dereference",
    culprit="kernel_function",
    prior=0.12,
    suspects=_accused,
    clues=(
        reported("kernel.null_dereference"),
        Clue("address", _address, Curve((0.0, -3.0), (0.6, 2.0), (1.0, 2.5)), ask="the address that faulted (CR2)"),
        FUNCTION,
        LATER,
    ),
    headline=_null_headline,
    chain=lambda _, c: (f"{c.name} used a pointer that was null", "the CPU faulted", "the kernel gave the task up"),
    symptoms=("kernel.hung_task", "kernel.panic_requested"),
)
MEMORY_CORRUPTION = Playbook(
    fault="kernel.memory_corruption",
    culprit="kernel_function",
    prior=0.12,
    suspects=_accused,
    clues=(
        reported("kernel.memory_corruption"),
        Clue(
            "poison",
            _poison,
            Curve((0.0, -0.3), (1.0, 2.5)),
            ask="boot with slub_debug=FZPU or a KASAN kernel: the first wrong access is then named",
        ),
        Clue("forbidden", _forbidden, Curve((0.0, 0.0), (1.0, 3.0))),
        Clue("free_list", _free_list, Curve((0.0, 0.0), (1.0, 1.8))),
        Clue("freed_object", _freed_object, Curve((0.0, 0.0), (1.0, 1.0))),
        Clue("tracked", _tracked, Curve((0.0, 0.0), (1.0, 1.0))),
        Clue("recursion", _recursion, Curve((4.0, 0.3), (16.0, 1.2))),
        _anomalies("poison", "list", "freed", "redzone", "canary", "slab", "stack"),
        FUNCTION,
        LATER,
    ),
    headline=_corruption_headline,
    chain=_corruption_chain,
    symptoms=("kernel.null_dereference", "kernel.refcount", "kernel.hung_task", "kernel.panic_requested"),
    actions=(*TREATMENT, "kernel.trace_slab"),
)
REFCOUNT = Playbook(
    fault="kernel.refcount",
    culprit="kernel_function",
    prior=0.1,
    suspects=_accused,
    clues=(
        reported("kernel.refcount"),
        Clue("assertion", _assertion, Curve((0.0, 0.0), (1.0, 1.6))),
        _anomalies("refcount", "state", "count", "reference"),
        FUNCTION,
        LATER,
    ),
    headline=_refcount_headline,
    chain=_refcount_chain,
    symptoms=("kernel.memory_corruption", "kernel.panic_requested"),
)
PLAYBOOKS = (NULL_DEREFERENCE, MEMORY_CORRUPTION, REFCOUNT)
