"""Playbooks of how it ended without a fault of its own: no memory left, or a crash that somebody asked for.

What holds the memory decides whom an out-of-memory panic accuses: a slab cache with the module that fills it, tasks, or
the page cache. From a log only sizes and the caller that found no memory are known, so the accused is likely, not sure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rca.model import Curve, Finding
from rca.vmcore.facts import Facts, function_of
from rca.vmcore.playbook import TREATMENT, Clue, Playbook
from rca.vmcore.story import blame, telling
from wardround.models.diagnosis import Culprit, Number
from wardround.models.vmcore import CacheUse, MemoryHolder, MemoryUse, plain

_MIB = 2**20
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
}


_LAST = "the last to ask for memory"
_KERNELS_OWN = ("kernel", "unaccounted", "vmalloc")


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
    if memory is None:
        return [Culprit("kernel_function", "unknown holder")] if facts.kind == "oom" else []
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


def _of_stacks(facts: Facts) -> Culprit | None:
    """Kernel stacks are tasks: the module's function in which most kernel threads of one module sleep."""
    found = [blame(task.stack, facts.foreign) for task in facts.vmcore.tasks]
    places = Counter((one.frame.function, one.frame.module) for one in found if one and one.frame.module)
    if not places:
        return None
    (function, module), times = places.most_common(1)[0]
    if 2 * times < len(facts.vmcore.tasks):
        return None
    labels = (("module", module), ("known_by", f"{times} of {len(facts.vmcore.tasks)} tasks are in it"))
    return Culprit("kernel_function", plain(function), None, labels)


def _ranked(facts: Facts, holder: MemoryHolder) -> Culprit:
    if holder.kind == "process":
        try:
            return _of_task(facts, int(holder.name, 16))
        except ValueError:
            return Culprit("kernel_function", _HELD["anonymous"])
    if holder.kind in ("slab", "vmalloc"):
        named = (holder.name,) if holder.kind == "vmalloc" else ()
        return _filler(facts, holder.name, holder.module, (*holder.functions, *named))
    if holder.kind in _KERNELS_OWN:
        return _asked_last(facts)
    if "stack" in holder.kind and (stacks := _of_stacks(facts)) is not None:
        return stacks
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
        name, _, of = functions[0].partition(" [")
        owner = of.rstrip("]") or module
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
    if memory is None or not part:
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
    if memory is None or cache is None:
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
        return f"The kernel ran out of memory: {where} asked last when nothing was left, and likely took most{told}."
    if by:
        return f"The kernel ran out of memory: too many tasks, {by.replace(' in it', f' in {where}')}{told}."
    if cache == culprit.name and held and held.statement.startswith("vmalloc by "):
        return f"The kernel ran out of memory: {where} holds most, by vmalloc{told}."
    if cache and culprit.name != cache:
        return f"The kernel ran out of memory: {where} is the likely filler of the cache {cache}{told}."
    if cache:
        return f"The kernel ran out of memory: the cache {cache} grew{told}."
    who = culprit.label("task")
    return f"The kernel ran out of memory: the largest part is {culprit.name}{f', first {who}' if who else ''}{told}."


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
    ),
    headline=_memory_headline,
    chain=lambda _, c: (
        f"{c.label('cache') or c.name} took the memory",
        "nothing could be freed",
        "the kernel gave up",
    ),
    symptoms=("kernel.hung_task", "kernel.panic_requested"),
    actions=(*TREATMENT, "kernel.trace_slab"),
)


# --- asked for

_ASKED = {"sysrq": 1.0, "requested": 0.85, "warning": 0.55}


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
    if facts.kind == "sysrq":
        why = f": {findings['before'].statement}" if "before" in findings else ""
        return f"The crash was asked for through sysrq{by}{why}."
    where = culprit.label("function")
    at = f" in {where}" if where else ""
    if facts.kind == "warning":
        return f"A setting (panic_on_warn) turned a warning{at} into a crash{by}."
    return f"The kernel's code called for the panic itself{at}{by}: {facts.panic.message if facts.panic else ''}."


PANIC_REQUESTED = Playbook(
    fault="kernel.panic_requested",
    culprit="host",
    prior=0.12,
    suspects=_host,
    clues=(
        Clue("asked", _asked, Curve((0.0, -3.0), (0.3, 0.0), (0.55, 2.2), (0.85, 3.0), (1.0, 5.0)), needed=True),
        Clue("before", _before, Curve((0.0, 0.0), (1.0, -2.2))),
    ),
    headline=_requested_headline,
    chain=lambda *_: ("someone or a setting asked for the crash",),
    severity="warning",
    actions=("host.collect_vmcore",),
)
PLAYBOOKS = (OUT_OF_MEMORY, PANIC_REQUESTED)
