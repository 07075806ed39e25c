"""Playbooks of how it ended without a fault of its own: no memory left, or a crash that somebody asked for.

What holds the memory decides whom an out-of-memory panic accuses: a slab cache with the module that fills it, tasks, or
the page cache. From a log only sizes and the caller that found no memory are known, so the accused is likely, not sure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rca.model import Curve, Finding
from rca.vmcore.facts import Facts, function_of
from rca.vmcore.playbook import TREATMENT, Clue, Playbook
from rca.vmcore.story import blame, telling
from wardround.models.diagnosis import Culprit, Number
from wardround.models.vmcore import CacheUse, MemoryHolder, MemoryUse, StackFrame, Task, plain

_MIB = 2**20
_MOST_NAMED = 4
_TASKS = "task_struct"  # the cache with one object for each task
_HELD = {
    "anonymous": "anonymous memory of tasks",
    "page_cache": "page cache",
    "unevictable": "locked memory",
    "shared": "shared memory",
    "slab_unreclaimable": "kernel objects (slab)",
    "slab_reclaimable": "kernel caches that can be freed",
    "page_tables": "page tables",
    "kernel": "pages the kernel took for itself",
    "unaccounted": "pages the kernel took for itself",
    "vmalloc": "memory mapped by vmalloc",
    "kernel_stacks": "kernel stacks of too many tasks",
}


# How an accused is known, as its label says it.
_LAST = "the last to ask for memory"
_CODE = "its code takes such memory"
_KERNELS_OWN = ("kernel", "unaccounted", "vmalloc")


def _short(facts: Facts) -> bool:
    """Whether the kernel said that memory ran out: else who holds it says nothing about the crash."""
    return facts.kind == "oom" or any(report.kind == "oom" for report in facts.vmcore.reports)


def _largest(memory: MemoryUse | None) -> tuple[str, int]:
    """The owner with most memory, free and reserved memory apart; what is in no account counts as the kernel's own."""
    if memory is None:
        return "", 0
    parts = {name: size for name, size in memory.parts if name not in ("free", "reserved", "shared")}
    rest = memory.total - sum(parts.values()) - sum(s for n, s in memory.parts if n in ("free", "reserved"))
    if memory.total and rest > 0 and not any(name == "unaccounted" for name in parts):
        parts["kernel"] = rest
    return max(parts.items(), key=lambda part: part[1], default=("", 0))


def _top_cache(memory: MemoryUse | None) -> CacheUse | None:
    return max(memory.caches, key=lambda cache: cache.bytes, default=None) if memory else None


def _holders(facts: Facts) -> list[Culprit]:
    """Whom the memory accuses: the dump's own ranking; from a log the largest part and in it the largest cache."""
    memory = facts.vmcore.memory
    if memory is None or not _short(facts):
        return [Culprit("kernel_function", "unknown holder")] if facts.panic is not None else []
    if memory.holders:
        return [_ranked(facts, memory.holders[0])]
    part, _ = _largest(memory)
    cache = _top_cache(memory)
    if cache is not None and part in ("slab_unreclaimable", "slab_reclaimable", ""):
        functions = tuple(name for name, _ in (*cache.allocators, *cache.owners))
        return [_filler(facts, cache.name, cache.module, functions)]
    if part in ("anonymous", "shared", "unevictable") and memory.largest_tasks:
        return [_of_task(facts, memory.largest_tasks[0][0])]
    return [
        _asked_last(facts) if part in _KERNELS_OWN else Culprit("kernel_function", _HELD.get(part, "unknown holder"))
    ]


def _asked_last(facts: Facts) -> Culprit:
    """Pages that no account names: the module that asked for more when nothing was left, if one did."""
    found = blame(facts.stack, facts.foreign)
    if found is not None and found.frame.module:
        accused = function_of(found.frame)
        return Culprit(accused.kind, accused.name, None, (*accused.labels, ("known_by", _LAST)))
    return Culprit("kernel_function", _HELD["kernel"])


def _crowd(facts: Facts) -> tuple[StackFrame, list[Task]] | None:
    """The module's function that most kernel threads are in, with these; only where they are half of all tasks."""
    found: dict[tuple[str, str], list[Task]] = {}
    frames: dict[tuple[str, str], StackFrame] = {}
    for task in facts.vmcore.tasks:
        accused = blame(task.stack, facts.foreign)
        if accused is not None and accused.frame.module:
            where = (accused.frame.function, accused.frame.module)
            found.setdefault(where, []).append(task)
            frames.setdefault(where, accused.frame)
    most = max(found, key=lambda where: len(found[where]), default=("", ""))
    if most not in found or 2 * len(found[most]) < len(facts.vmcore.tasks):
        return None
    return frames[most], found[most]


def _of_stacks(facts: Facts) -> Culprit | None:
    """Kernel stacks are tasks: whose most of them are."""
    crowd = _crowd(facts)
    if crowd is None:
        return None
    frame, tasks = crowd
    known = ("known_by", f"{len(tasks)} of {len(facts.vmcore.tasks)} tasks are in it")
    return Culprit("kernel_function", plain(frame.function), None, (("module", frame.module), known))


def _stem(names: Collection[str]) -> str:
    """What the names of tasks have in common: ``worker/*``; empty where that is less than three letters."""
    first, last = min(names), max(names)
    alike = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    stem = first[:alike].rstrip("0123456789")
    return f"{stem}*" if len(stem) >= 3 else ""


def _alike(facts: Facts, culprit: Culprit) -> Finding | None:
    """Tasks by the hundred that all sleep in one function."""
    crowd = _crowd(facts) if _short(facts) and culprit.label("known_by") else None
    if crowd is None or plain(crowd[0].function) != culprit.name:
        return None
    frame, tasks = crowd
    stacks = {tuple(one.address for one in task.stack) for task in tasks}
    same = "all with one and the same stack" if len(stacks) == 1 else f"with {len(stacks)} different stacks"
    stem = _stem({task.comm for task in tasks})
    runs = {task.worker_function for task in tasks if task.worker_function}
    began = f", started with the thread function {runs.pop()}" if len(runs) == 1 else ""
    return facts.finding(
        1.0,
        f"{len(tasks)} tasks{f' named {stem}' if stem else ''} are in {frame.name}, {same}{began}",
        tasks[0].comm,
        {"tasks": len(tasks)},
        "{task}",
        ("--stack", str(tasks[0].pid)),
    )


def _taker(facts: Facts, holder: MemoryHolder) -> Culprit | None:
    """The function whose code takes such memory: the only module's that does, or the one that a task is in."""
    running = [taker for taker in holder.takers if _inside(facts, taker)]
    modules = {_parts(taker)[1] for taker in holder.takers}
    if not holder.takers or (len(modules) > 1 and len(running) != 1):
        return None
    name, module = _parts((*running, *holder.takers)[0])
    labels = (("module", module), *((("cache", holder.name),) if holder.kind == "slab" else ()))
    return Culprit("kernel_function", plain(name), None, (*labels, ("known_by", _CODE)))


def _parts(function: str) -> tuple[str, str]:
    """Return (function, module) of ``function [module]``; the module is empty where none is given."""
    name, _, module = function.partition(" [")
    return name, module.rstrip("]")


def _inside(facts: Facts, function: str) -> Task | None:
    """A task that is in a function, given as ``function [module]``."""
    return next((t for t in facts.vmcore.tasks if any(frame.name == function for frame in t.stack)), None)


def _at_work(facts: Facts, takers: Sequence[str]) -> tuple[Task, str] | None:
    """A task in one of the functions, else one in another function of their modules; with that function."""
    modules = {_parts(taker)[1] for taker in takers}
    found = [(task, frame) for task in facts.vmcore.tasks for frame in task.stack if frame.module in modules]
    found.sort(key=lambda one: one[1].name not in takers)
    return (found[0][0], found[0][1].name) if found else None


def _takers(facts: Facts, _: Culprit) -> Finding | None:
    """Which modules' code takes the memory that is short."""
    memory = facts.vmcore.memory
    if memory is None or not memory.holders or not memory.holders[0].takers or not _short(facts):
        return None
    takers = memory.holders[0].takers
    modules = sorted({_parts(taker)[1] for taker in takers})
    at_work = _at_work(facts, takers)
    what = f"the cache {memory.holders[0].name}" if memory.holders[0].kind == "slab" else "the page allocator"
    only = f"only {modules[0]} has" if len(modules) == 1 else f"{', '.join(modules[:_MOST_NAMED])} have"
    told = (
        f"of the modules from outside the kernel {only} code that takes from {what}: {', '.join(takers[:_MOST_NAMED])}"
    )
    if at_work is not None:
        told += f"; {at_work[0].name} is in {at_work[1]}"
    sure = "inferred" if len(modules) == 1 else "hint"
    return facts.finding(
        1.0 if len(modules) == 1 else 0.4,
        f"{told} ({sure})",
        _parts(takers[0])[0],
        {"modules": len(modules), "functions": len(takers)},
        show=("--stack", str(at_work[0].pid)) if at_work is not None else (),
    )


def _ranked(facts: Facts, holder: MemoryHolder) -> Culprit:
    if holder.kind == "process":
        try:
            return _of_task(facts, int(holder.name, 16))
        except ValueError:
            return Culprit("kernel_function", _HELD["anonymous"])
    of_tasks = holder.kind == "kernel_stacks" or holder.name == _TASKS
    if of_tasks and (stacks := _of_stacks(facts)) is not None:
        return stacks
    if holder.kind in ("slab", "vmalloc"):
        named = (holder.name,) if holder.kind == "vmalloc" else ()
        filler = _filler(facts, holder.name, holder.module, (*holder.functions, *named))
        return (_taker(facts, holder) or filler) if filler.name == holder.name else filler
    if holder.kind in _KERNELS_OWN:
        asked = _asked_last(facts)
        return asked if asked.label("module") else _taker(facts, holder) or asked
    return Culprit("kernel_function", _HELD.get(holder.name, holder.name))


def _of_task(facts: Facts, key: int) -> Culprit:
    return Culprit("kernel_function", _HELD["anonymous"], None, (("task", _task_name(facts, key)),))


def _filler(facts: Facts, cache: str, module: str, functions: tuple[str, ...]) -> Culprit:
    """Who fills a cache: the owner module's function that asked in vain, a function its objects name, or the cache."""
    labels = (("cache", cache),)
    frames = [frame for frame in telling(facts.stack) if frame.module] if facts.kind == "oom" else []
    mine = [f for f in frames if f.module == module or (not module and (f.module in facts.foreign or not functions))]
    if mine:
        accused = function_of(mine[0])
        return Culprit("kernel_function", accused.name, None, (*accused.labels, *labels))
    if functions:
        name, of = _parts(functions[0])
        owner = of or module
        return Culprit("kernel_function", plain(name), None, (*((("module", owner),) if owner else ()), *labels))
    return Culprit("kernel_function", cache, None, (*((("module", module),) if module else ()), *labels))


def _task_name(facts: Facts, key: int) -> str:
    task = facts.vmcore.task(key) or next((t for t in facts.vmcore.tasks if t.pid == key), None)
    return task.name if task else f"pid {key}"


def _no_memory(facts: Facts, _: Culprit) -> Finding | None:
    return facts.first_report(1.0 if facts.kind == "oom" else 0.0, lacks=("oom",))


def _held(facts: Facts, _: Culprit) -> Finding | None:
    memory = facts.vmcore.memory
    part, size = _largest(memory)
    if memory is None or not part or not _short(facts):
        return None
    if memory.holders and memory.holders[0].statement:
        holder = memory.holders[0]
        cache = next((c for c in memory.caches if holder.kind == "slab" and holder.name in (c.name, *c.aliases)), None)
        show = ("--struct", "kmem_cache", f"{cache.address:#x}") if cache is not None and cache.address else ()
        values: dict[str, Number] = {"held": holder.bytes, "share": holder.share}
        return facts.finding(holder.share, holder.statement, "slab_unreclaimable:", values, "By", show)
    total = memory.total or sum(size for _, size in memory.parts) or 1
    free = dict(memory.parts).get("free", 0)
    return facts.finding(
        size / total,
        f"{_HELD.get(part, part)}: {size / _MIB:.0f} MiB of {total / _MIB:.0f} MiB; free: {free / _MIB:.0f} MiB",
        "slab_unreclaimable:",
        {"held": size, "total": total, "free": free},
        "By",
    )


def _cached(facts: Facts, _: Culprit) -> Finding | None:
    """How much of the slab one cache takes."""
    memory, cache = facts.vmcore.memory, _top_cache(facts.vmcore.memory)
    if memory is None or cache is None or not _short(facts):
        return None
    slab = sum(one.bytes for one in memory.caches) or 1
    merged = f", with {cache.merged} more merged into it" if cache.merged else ""
    if facts.vmcore.header.tier == "log":
        merged = " (caches of like size share the name of the first)"
    objects = f", {cache.active} objects" if cache.active else ""
    return facts.finding(
        cache.bytes / slab,
        f"the cache {cache.name} takes {cache.bytes / _MIB:.0f} MiB of {slab / _MIB:.0f} MiB in slab{objects}{merged}",
        cache.name,
        {"cache": cache.bytes, "slab": slab, "objects": cache.active, "merged": cache.merged},
        "By",
        ("--struct", "kmem_cache", f"{cache.address:#x}") if cache.address else (),
    )


def _memory_headline(facts: Facts, culprit: Culprit, findings: Mapping[str, Finding]) -> str:
    cache, module = culprit.label("cache"), culprit.label("module")
    held = findings.get("held")
    told = f": {held.statement}" if held else ""
    where = f"{culprit.name} [{module}]" if module else culprit.name
    by = culprit.label("known_by")
    if by == _LAST:
        what = f"{where} asked last when nothing was left, and likely took most{told}"
    elif by == _CODE:
        task = _inside(facts, f"{culprit.name} [{module}]")
        runs = f" (run by {task.name})" if task else ""
        what = f"{where}{runs} most likely took the memory, by its code{told}"
    elif by:
        alike = findings.get("alike")
        what = f"too many tasks, {alike.statement if alike else by.replace(' in it', f' in {where}')}{told}"
    elif cache == culprit.name and held and held.statement.startswith("vmalloc by "):
        what = f"{where} holds most, by vmalloc: {held.statement.removeprefix(f'vmalloc by {where}: ')}"
    elif cache and culprit.name != cache:
        what = f"{where} is the likely filler of the cache {cache}{told}"
    elif cache:
        what = (
            f"too many tasks, whose structures fill the cache {cache}{told}"
            if cache == _TASKS
            else f"the cache {cache} grew{told}"
        )
    else:
        who = culprit.label("task")
        what = f"the largest part is {culprit.name}{f', first {who}' if who else ''}{told}"
    return f"The kernel ran out of memory: {what}."


OUT_OF_MEMORY = Playbook(
    fault="kernel.out_of_memory",
    culprit="kernel_function",
    prior=0.12,
    suspects=_holders,
    clues=(
        Clue("reported", _no_memory, Curve((0.0, -3.5), (1.0, 3.5)), needed=True),
        Clue("held", _held, Curve((0.1, -0.2), (0.3, 0.6), (0.6, 1.5)), ask="where the memory is: the dump knows"),
        Clue(
            "cache",
            _cached,
            Curve((0.2, 0.0), (0.6, 1.0)),
            ask="boot with slub_debug=U: the cache's allocation traces then name who fills it",
        ),
        Clue("alike", _alike, Curve((0.0, 0.0), (1.0, 0.5))),
        Clue("takers", _takers, Curve((0.4, 0.0), (1.0, 0.4))),
    ),
    headline=_memory_headline,
    chain=lambda _, c: (
        f"{c.name} took the memory and did not give it back",
        "nothing could be freed",
        "the kernel gave up",
    ),
    symptoms=("kernel.hung_task", "kernel.panic_requested"),
    actions=(*TREATMENT, "kernel.trace_slab"),
)


# --- asked for

_ASKED = {"sysrq": 1.0, "requested": 0.9, "warning": 0.85}


def _host(facts: Facts) -> list[Culprit]:
    if facts.panic is None:
        return []
    labels: list[tuple[str, str]] = []
    if facts.who():
        labels.append(("task", facts.who()))
    if facts.kind in ("requested", "warning") and (found := facts.accused) is not None:
        labels.append(("function", found.frame.name))
    return [Culprit("host", facts.vmcore.header.hostname or "localhost", None, tuple(labels))]


def _asked(facts: Facts, _: Culprit) -> Finding | None:
    panic = facts.panic
    if panic is None:
        return None
    value = _ASKED.get(facts.kind, 0.0)
    if facts.kind == "warning" and "panic_on_warn" not in panic.message:
        value = 0.3
    words = facts.kind.replace("_", " ")
    who = f", in {facts.who()}" if facts.who() else ""
    return facts.finding(
        value, f"the panic says: {panic.message}; the first report{who} is of the class {words}", panic.message[:80]
    )


def _before(facts: Facts, _: Culprit) -> Finding | None:
    """What the kernel had reported before somebody asked for the crash: most likely why it was asked for."""
    before = [report for report in facts.vmcore.reports if report.kind in _REASONS]
    if facts.kind != "sysrq" or not before:
        return None
    stack = blame(before[-1].stack, facts.foreign)
    where = f", in {stack.frame.name}" if stack else ""
    return facts.finding(
        1.0,
        f"before it was asked for, the kernel had reported: {before[-1].title}{where}; that is likely why",
        before[-1].title[:80],
        {"reports": len(before)},
    )


_REASONS = frozenset(("hung_task", "soft_lockup", "hard_lockup", "rcu_stall"))


def _requested_headline(facts: Facts, culprit: Culprit, findings: Mapping[str, Finding]) -> str:
    who = culprit.label("task")
    by = f" by {who}" if who else ""
    ran = f", while {who} ran" if who else ""
    if facts.kind == "sysrq":
        why = f": {findings['before'].statement}" if "before" in findings else ""
        return f"The crash was asked for through sysrq{by}{why}."
    where = culprit.label("function")
    at = f" in {where}" if where else ""
    if facts.kind == "warning":
        return f"A setting (panic_on_warn) turned a warning{at} into a crash{ran}."
    if facts.panic and facts.panic.message.startswith("NMI"):
        return f"An NMI from outside (a button, the hypervisor, hardware) stopped the kernel{ran}{at}."
    return f"The kernel's code called for the panic itself{at}{ran}: {facts.panic.message if facts.panic else ''}."


PANIC_REQUESTED = Playbook(
    fault="kernel.panic_requested",
    culprit="host",
    prior=0.12,
    suspects=_host,
    clues=(
        Clue("asked", _asked, Curve((0.0, -3.0), (0.3, 0.0), (0.85, 4.2), (1.0, 5.0)), needed=True),
        Clue("before", _before, Curve((0.0, 0.0), (1.0, -2.2))),
    ),
    headline=_requested_headline,
    chain=lambda *_: ("someone or a setting asked for the crash",),
    severity="warning",
    actions=("host.collect_vmcore",),
)
PLAYBOOKS = (OUT_OF_MEMORY, PANIC_REQUESTED)
