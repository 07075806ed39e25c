"""Work items: those that workers run, and those that wait, with their function and workqueue.

Source: ``workqueues``, each queue's pools, their busy workers, and the lists of what is queued or held back. It cannot
know delayed work whose timer has not fired yet, nor functions that ended by jumping into another.
Cost: 8 ms.
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Program

from collectors.vmcore.layout import each_node, layout
from collectors.vmcore.modules import AddressMap
from collectors.vmcore.open import Dump
from collectors.vmcore.walk import nodes
from collectors.vmcore.words import words
from wardround.models.vmcore import WorkItem

MOST_QUEUES = 4096
MOST_ITEMS = 2000
_MOST_POOLS = 4096
_MOST_BUSY = 512
# flags and colour in the low bits of a work item's data, which else is the address of its queue's pool part
_FLAG_BITS = (8, 9)


class _Queues:
    """The workqueues, their parts in pools (by address), and the pools."""

    def __init__(self, prog: Program) -> None:
        self.prog, self.words = prog, words(prog)
        self.work, self.worker = layout(prog, "struct work_struct"), layout(prog, "struct worker")
        self.part, self.pool = layout(prog, "struct pool_workqueue"), layout(prog, "struct worker_pool")
        self.queue = layout(prog, "struct workqueue_struct")
        self.names: dict[int, str] = {}
        self.parts: dict[int, int] = {}
        self.rescuers: list[int] = []
        self.pools: dict[int, None] = {}
        for node in nodes(prog, prog.symbol("workqueues").address, MOST_QUEUES, "workqueues"):
            try:
                self._add(node - self.queue.at("list"))
            except FaultError:
                continue

    def _add(self, queue: int) -> None:
        self.names[queue] = self.words.text(queue + self.queue.at("name"), 32)
        for node in each_node(self.prog, queue + self.queue.at("pwqs"), _MOST_POOLS):
            part = node - self.part.at("pwqs_node")
            self.parts[part] = queue
            self.pools[self.words.u64(part + self.part.at("pool"))] = None
        if rescuer := self.words.u64(queue + self.queue.at("rescuer")):
            self.rescuers.append(rescuer)

    def name(self, part: int) -> str:
        return self.names.get(self.parts.get(part, 0), "")

    def workers(self) -> Iterator[int]:
        """Yield the workers that run something."""
        for pool in self.pools:
            try:
                heads = self.words.many(pool + self.pool.at("busy_hash"), self.pool.length("busy_hash"))
            except FaultError:
                continue
            for first in heads:
                entries = [first, *each_node(self.prog, first, _MOST_BUSY)] if first else []
                yield from (node - self.worker.at("hentry") for node in entries)
        yield from self.rescuers

    def waiting(self) -> Iterator[tuple[int, str]]:
        """Yield (work item, queue) of what is queued in a pool or held back by its queue's limit."""
        for pool in self.pools:
            for node in nodes(self.prog, pool + self.pool.at("worklist"), MOST_ITEMS, "queued work"):
                yield node - self.work.at("entry"), ""
        held = self.part.at("inactive_works", "delayed_works")
        for part in self.parts:
            for node in each_node(self.prog, part + held, MOST_ITEMS):
                yield node - self.work.at("entry"), self.name(part)

    def queue_of(self, work: int) -> str:
        """The queue that an item's data tells while it is queued."""
        data = self.words.u64(work + self.work.at("data"))
        found = (self.name(data >> bits << bits) for bits in _FLAG_BITS)
        return next((name for name in found if name), "")


def read_work(dump: Dump, areas: AddressMap) -> tuple[WorkItem, ...]:
    """Return what runs, then what waits. :raises LookupError, FaultError: the dump's workqueues cannot be read"""
    queues = _Queues(dump.prog)
    found = [*_running(queues, areas), *_queued(queues, areas)]
    return tuple(found[:MOST_ITEMS])


def _running(queues: _Queues, areas: AddressMap) -> Iterator[WorkItem]:
    memory, worker = queues.words, queues.worker
    for address in queues.workers():
        try:
            if not memory.u64(address + worker.at("current_work")):
                continue
            function = memory.u64(address + worker.at("current_func"))
            part = memory.u64(address + worker.at("current_pwq"))
            task = memory.u64(address + worker.at("task"))
        except FaultError:
            continue
        yield WorkItem(_symbol(queues.prog, function), queues.name(part), task or None, areas.module(function))


def _queued(queues: _Queues, areas: AddressMap) -> Iterator[WorkItem]:
    for work, queue in queues.waiting():
        try:
            function = queues.words.u64(work + queues.work.at("func"))
            name = queue or queues.queue_of(work)
        except FaultError:
            continue
        yield WorkItem(_symbol(queues.prog, function), name, None, areas.module(function))


def _symbol(prog: Program, address: int) -> str:
    try:
        return str(prog.symbol(address).name)
    except LookupError:
        return hex(address)
