"""Where the memory was, from the report the kernel prints when it runs out.

Sources: its Mem-Info block (pages), the table of unreclaimable slab caches (kB; printed only where slab outweighs user
memory) and the table of tasks (pages). Pages are taken to be of 4 KiB; the log does not say. It cannot know
who allocated a slab cache's objects: only a dump tells that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from wardround.models.vmcore import CacheUse, LogLine, MemoryUse, Task

MOST_ROWS = 4096
_PAGES = re.compile(
    r"\b(active_anon|inactive_anon|active_file|inactive_file|unevictable|slab_reclaimable|slab_unreclaimable|shmem|pagetables|free|kernel_misc_reclaimable|isolated_anon|isolated_file):(\d{1,15})\b"
)
_RAM = re.compile(r"(\d{1,15}) pages RAM")
_RESERVED = re.compile(r"(\d{1,15}) pages reserved")
_STACKS = re.compile(r" active_anon:.* kernel_stack:(\d{1,15})kB")
_SLAB = re.compile(r"(?P<name>\S{1,64})\s+(?P<used>\d{1,15})KB\s+(?P<total>\d{1,15})KB")
_TASK = re.compile(r"\[\s*(?P<pid>\d{1,9})\]\s+\d+\s+\d+\s+\d+\s+(?P<rss>\d{1,15})\s+.*?(?P<name>\S+)")
_PARTS = {
    "anonymous": ("active_anon", "inactive_anon", "isolated_anon"),
    "page_cache": ("active_file", "inactive_file", "isolated_file"),
    "unevictable": ("unevictable",),
    "shared": ("shmem",),
    "slab_reclaimable": ("slab_reclaimable",),
    "slab_unreclaimable": ("slab_unreclaimable",),
    "page_tables": ("pagetables",),
    "free": ("free",),
}


def memory(lines: Iterable[LogLine]) -> MemoryUse | None:
    """Return the last report's account, or None where the log has none. Tasks are given by pid, bytes resident."""
    pages: dict[str, int] = {}
    caches: list[CacheUse] = []
    tasks: list[tuple[int, int]] = []
    ram = reserved = stacks = 0
    for line in lines:
        text = line.text
        if "invoked oom-killer" in text:
            pages, caches, tasks, stacks = {}, [], [], 0
        elif text.startswith("Node ") and (found := _STACKS.search(text)):
            stacks += int(found[1])
        elif text.startswith(
            (
                "active_anon:",
                "active_file:",
                "unevictable:",
                "slab_",
                "mapped:",
                "free:",
                "sec_pagetables:",
                "kernel_misc",
            )
        ):
            for name, count in _PAGES.findall(text):
                pages.setdefault(name, int(count))
        elif found := _RAM.search(text):
            ram = int(found[1])
        elif found := _RESERVED.search(text):
            reserved = int(found[1])
        elif (found := _SLAB.fullmatch(text)) and len(caches) < MOST_ROWS:
            caches.append(_cache(found))
        elif text.startswith("[") and (found := _TASK.fullmatch(text)) and len(tasks) < MOST_ROWS:
            tasks.append((int(found["pid"]), int(found["rss"])))
    if not pages and not caches:
        return None
    size = 4096
    parts = [(part, size * sum(pages.get(name, 0) for name in names)) for part, names in _PARTS.items()]
    if reserved:
        parts.append(("reserved", size * reserved))
    if stacks:
        parts.append(("kernel_stacks", 1024 * stacks))
    return MemoryUse(
        total=size * ram,
        parts=tuple((part, amount) for part, amount in parts if amount),
        caches=tuple(sorted(caches, key=lambda cache: -cache.bytes)),
        largest_tasks=tuple((pid, size * rss) for pid, rss in sorted(tasks, key=lambda t: -t[1])[:10]),
    )


def tasks(lines: Iterable[LogLine]) -> tuple[Task, ...]:
    """The tasks of the last report's table, those with most memory first; it tells name and pid, no state."""
    rows: list[tuple[int, Task]] = []
    for line in lines:
        if "invoked oom-killer" in line.text:
            rows = []
        elif line.text.startswith("[") and (found := _TASK.fullmatch(line.text)) and len(rows) < MOST_ROWS:
            pid = int(found["pid"])
            rows.append((int(found["rss"]), Task(pid, pid, pid, found["name"], "", -1)))
    return tuple(task for _, task in sorted(rows, key=lambda row: -row[0])[:10])


def _cache(found: re.Match[str]) -> CacheUse:
    """The table gives bytes only: objects are not counted."""
    return CacheUse(
        name=found["name"],
        address=0,
        object_size=0,
        active=0,
        total=0,
        bytes=1024 * int(found["total"]),
    )
