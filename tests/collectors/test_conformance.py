"""What every collector of the registry owes: honest probing, declared series only, calm in the face of missing things.

A collector is covered by being registered. Those that load programs into the kernel run in their own suite's time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest

from collectors.base import Capability, Collector, Reading, Roots
from collectors.registry import BUILTIN, factories
from wardround.models.metrics import METRICS
from wardround.models.series import Catalogue

NAMES = [name for name in BUILTIN if not name.startswith("collectors.ebpf")]
FACTORIES = dict(factories())


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue()


@pytest.fixture
def collector(name: str, catalogue: Catalogue) -> Iterator[Collector]:
    built = FACTORIES[name](catalogue, Roots())
    capability = built.probe()
    if not capability.available:
        pytest.skip(f"{name}: {capability.reason}")
    built.start()
    yield built
    built.stop()


def read(collector: Collector) -> Reading:
    return collector.read(time.time(), time.monotonic())


def test_it_is_known_by_its_name_and_reads_on_whole_ticks(name, collector):
    assert collector.name == name
    assert collector.every >= 1


def test_it_emits_declared_metrics_with_the_declared_labels(collector, catalogue):
    for _ in range(2):
        reading = read(collector)
        assert reading.frame.ids.dtype == np.int64
        assert reading.frame.values.dtype == np.float64
        assert reading.frame.ids.shape == reading.frame.values.shape
        for number in reading.frame.ids:
            series = catalogue[int(number)]
            assert {key for key, _ in series.labels} == set(METRICS[series.name].labels), series


def test_a_frame_names_no_series_twice_and_holds_no_infinity(collector):
    frame = read(collector).frame
    assert len(np.unique(frame.ids)) == len(frame.ids)
    assert not np.isinf(frame.values).any()


def test_counters_of_the_kernel_never_fall_between_two_reads(collector, catalogue):
    first = read(collector).frame
    second = read(collector).frame
    before = dict(zip(first.ids.tolist(), first.values.tolist(), strict=True))
    fell = [
        str(catalogue[number])
        for number, value in zip(second.ids.tolist(), second.values.tolist(), strict=True)
        if catalogue[number].metric.kind == "counter" and value < before.get(number, value)
    ]
    assert fell == []


def test_where_the_kernel_files_are_missing_it_is_unavailable_with_a_reason_or_reads_nothing(name, tmp_path):
    empty = str(tmp_path)
    built = FACTORIES[name](Catalogue(), Roots(proc=empty, sys=empty, dev=empty))
    capability: Capability = built.probe()
    if capability.available:
        built.start()
        read(built)
    else:
        assert capability.reason
    built.stop()


def test_stopping_twice_is_harmless_and_it_can_start_again(collector):
    read(collector)
    collector.stop()
    collector.stop()
    collector.start()
    assert isinstance(read(collector), Reading)


class Opened:
    """Files this program opens for writing while `on`; an audit hook can be set but not taken away."""

    on = False
    paths: ClassVar[list[str]] = []


def note_writing(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and Opened.on:
        path, mode, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            Opened.paths.append(f"{path} {mode} {flags:o}")


@pytest.fixture(scope="session")
def opened():
    sys.addaudithook(note_writing)
    return Opened


def test_it_opens_nothing_for_writing(name, opened):
    built = FACTORIES[name](Catalogue(), Roots())
    opened.paths.clear()
    opened.on = True
    try:
        if built.probe().available:
            built.start()
            read(built)
            built.stop()
    finally:
        opened.on = False
    assert opened.paths == []


def test_processes_that_vanish_while_it_reads_do_not_disturb_it(collector):
    """Hundreds of processes are born and die during the reads."""
    storm = subprocess.Popen(
        [sys.executable, "-c", "import os\nfor _ in range(400):\n if os.fork() == 0: os._exit(0)\n os.wait()"]
    )
    try:
        while storm.poll() is None:
            read(collector)
    finally:
        storm.kill()
        storm.wait()
    assert storm.returncode == 0
