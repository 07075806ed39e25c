"""One set of loaded programs for all tests here: every event traced, the maps read when a test asks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from collectors.base import Roots
from collectors.ebpf.collector import EbpfCollector
from wardround.models.records import KernelEvent
from wardround.models.series import Catalogue, Series


@dataclass
class Traced:
    """What was seen while a piece of work ran: how much each counter rose, the last gauges, the events."""

    rose: dict[Series, float]
    events: list[KernelEvent]

    def of(self, name: str, **labels: object) -> float:
        wanted = {key: str(value) for key, value in labels.items()}.items()
        return sum(v for s, v in self.rose.items() if s.name == name and wanted <= dict(s.labels).items())


class Tracer:
    def __init__(self, collector: EbpfCollector, catalogue: Catalogue) -> None:
        self.collector, self.catalogue = collector, catalogue

    def read(self) -> tuple[dict[Series, float], list[KernelEvent]]:
        reading = self.collector.read(time.time(), time.monotonic())
        pairs = zip(reading.frame.ids.tolist(), reading.frame.values.tolist(), strict=True)
        return {self.catalogue[number]: value for number, value in pairs}, list(reading.events)

    def during(self, work: Callable[[], object]) -> Traced:
        """Run `work` between two readings; a third brings the values of counters first seen in the second."""
        self.read()
        before, _ = self.read()
        work()
        seen, events = self.read()
        after, more = self.read()
        gauges = {series: value for series, value in seen.items() if series.metric.kind == "gauge"}
        rose = {s: v - before.get(s, 0.0) for s, v in after.items() if s.metric.kind == "counter"}
        return Traced({**gauges, **rose}, events + more)


@pytest.fixture(scope="package")
def tracer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracer]:
    catalogue = Catalogue()
    collector = EbpfCollector(catalogue, Roots(cache_dir=tmp_path_factory.mktemp("cache")), bounded=False)
    missing = collector.inspect().missing
    if missing:
        pytest.skip("; ".join(missing))
    collector.start()
    assert collector.wait(60), collector.reason
    yield Tracer(collector, catalogue)
    collector.stop()
    collector.wait(30)


@pytest.fixture(scope="session")
def root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
