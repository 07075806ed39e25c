"""Bounds what hot tracepoints cost: a subject whose events are too frequent is traced for a share of the time.

Even an empty program on sched_switch costs about 80 ns a switch and on sys_exit 100 ns a call (measured on a 2 GHz
EPYC guest: 3 % and 9 % of ``perf bench sched pipe``), so sampling inside a program cannot keep to a small budget.
A gate attaches its programs all the time while events are rare; at higher rates only for
``budget / (events a second on the busiest CPU * cost)`` of every second. Counts are scaled back by the time traced.
It cannot see a wait that is longer than the traced slice: at such rates long waits show in other sources. Scaled
counts are estimates from about a tenth of the time, up to a third off in one tick.
Cost: a look takes 0.2 ms of CPU, one a second on a calm host, else five; opening and closing takes 0.7 ms of CPU, only
while a gate is not always open.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from collectors.ebpf.bpf import Map
from collectors.ebpf.handover import Program

log = structlog.get_logger(__name__)
CYCLE, LOOK, FIRST_SLICE, SHORTEST_SLICE = 1.0, 0.2, 0.05, 0.02
# Opening and closing a gate costs all CPUs an interrupt: where events are many it is done seldom, for longer.
BUSY_CYCLE = 4.0
ALWAYS = 0.9  # a share above this is not worth opening and closing
CALM = 5.0  # times the budget exceeds what is used, above which a look a second is enough


@dataclass
class Gate:
    """One subject's hot programs. `cost` seconds an event, `budget` the share of a CPU it may take.

    Through `opened` the programs learn when tracing began again, so that nothing is measured across a gap.
    """

    subject: str
    programs: Sequence[Program]
    events: Map
    cost: float
    budget: float
    opened: Map | None = None
    share: float = 0.0
    headroom: float = 0.0  # how many times the budget is what tracing all the time would cost now
    _opened: float | None = None
    _open_time: float = 0.0
    _seen: int = 0
    _taken: tuple[float, float] | None = None  # clock and open time at the last `scale`
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> None:
        with self._lock:
            if self._opened is None:
                if self.opened is not None:
                    self.opened.set(0, time.monotonic_ns())
                for program in self.programs:
                    program.attach()
                self._opened = time.monotonic()
                self._taken = self._taken or (self._opened, 0.0)

    def add(self, programs: Sequence[Program]) -> None:
        """Let more programs through from now on."""
        with self._lock:
            self.programs = (*self.programs, *programs)
            if self._opened is not None:
                for program in programs:
                    program.attach()

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                for program in self.programs:
                    program.detach()
                self._open_time += time.monotonic() - self._opened
                self._opened = None

    def _traced(self, now: float) -> float:
        return self._open_time + (now - self._opened if self._opened is not None else 0.0)

    def scale(self) -> float | None:
        """Return by how much what was counted since the last call must be multiplied; None: nothing was traced yet.

        With None the counts stay where they are, and the next call covers this time too.
        """
        with self._lock:
            now = time.monotonic()
            traced = self._traced(now)
            clock, before = self._taken or (now, traced)
            if traced <= before:
                return None
            self._taken = (now, traced)
            return max(1.0, (now - clock) / (traced - before))

    def judge(self, traced_before: float) -> float:
        """Set `share` by the events since the last call, and return the traced time they fell into as a new mark."""
        with self._lock:
            traced = self._traced(time.monotonic())
        _, values = self.events.read()
        busiest = int(values.max(initial=0))
        rate = (busiest - self._seen) / max(traced - traced_before, 1e-3)
        self._seen = busiest
        self.headroom = self.budget / max(rate * self.cost, 1e-9)
        self.share = min(1.0, self.headroom)
        return traced


class Governor(threading.Thread):
    """Opens and closes gates, once a cycle by what they saw in the last; ends at `halt`."""

    def __init__(self, gates: Sequence[Gate]) -> None:
        super().__init__(name="ebpf-governor", daemon=True)
        self.gates = gates
        self._halt = threading.Event()
        self._random = random.Random()  # of its own: a thread must not move the state the rest of a process shares

    def run(self) -> None:
        marks = dict.fromkeys((gate.subject for gate in self.gates), 0.0)
        try:
            for gate in self.gates:
                gate.open()
            self._halt.wait(FIRST_SLICE)
            while not self._halt.is_set():
                for gate in self.gates:
                    marks[gate.subject] = gate.judge(marks[gate.subject])
                self._cycle()
        except OSError as error:  # a descriptor closed under us while stopping, or tracing taken away meanwhile
            if not self._halt.is_set():
                log.warning("ebpf_gates_stopped", reason=str(error))
        finally:
            for gate in self.gates:
                gate.close()

    def _cycle(self) -> None:
        """Close each gate after its share of this cycle; the cycle's length varies, lest it beat with the load."""
        busy = sorted((gate for gate in self.gates if gate.share < ALWAYS), key=lambda gate: gate.share)
        calm = all(gate.headroom >= CALM for gate in self.gates)
        length = (BUSY_CYCLE if busy else CYCLE) * self._random.uniform(0.8, 1.2) if busy or calm else LOOK
        began = time.monotonic()
        for gate in self.gates:
            gate.open()
        for gate in busy:
            self._halt.wait(max(began + max(gate.share * length, SHORTEST_SLICE) - time.monotonic(), 0.0))
            gate.close()
        self._halt.wait(max(began + length - time.monotonic(), 0.0))

    def halt(self) -> None:
        self._halt.set()
        if self.is_alive():
            self.join(timeout=2 * CYCLE)
