"""NVIDIA GPUs: use, memory, clocks, heat, power, what holds the clocks down, errors, and memory by process.

Source: NVML through `pynvml`. Needs the NVIDIA driver; other users' processes need root in some containers.
Cost: not measured yet (no GPU was at hand); about twelve questions to the driver a GPU, every second tick.

A question that a GPU does not know is left out for it from then on. A GPU that falls off the bus is told as lost, once,
as an event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from collectors.base import Capability, Reading, Roots
from wardround.models.records import KernelEvent
from wardround.models.series import Catalogue, Frame

MEGA, MILLI, PERCENT = 1e6, 1e-3, 0.01
SM_CLOCK, TEMPERATURE_GPU, VOLATILE = 1, 0, 0  # NVML_CLOCK_SM, NVML_TEMPERATURE_GPU, NVML_VOLATILE_ECC
# bits of nvmlDeviceGetCurrentClocksEventReasons; idle, application settings and sync boost are no complaint
REASONS = {
    0x4: "power_cap", 0x8: "hw_slowdown", 0x20: "sw_thermal", 0x40: "hw_thermal", 0x80: "hw_power_brake",
}  # fmt: skip
Row = tuple[float, str, dict[str, object]]


class NvmlCollector:
    """Collector of GPU state."""

    name = "collectors.nvml"
    every = 2

    def __init__(self, catalogue: Catalogue, roots: Roots, library: Any = None) -> None:
        self._catalogue = catalogue
        self._nvml: Any = library
        self._handles: list[Any] = []
        self._unknown: set[tuple[int, str]] = set()
        self._lost: set[int] = set()

    def _load(self) -> Any:
        if self._nvml is None:
            import pynvml

            self._nvml = pynvml
        return self._nvml

    def probe(self) -> Capability:
        try:
            nvml = self._load()
        except ImportError:
            return Capability(False, "the package nvidia-ml-py is not installed", "pip install nvidia-ml-py")
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            return Capability(False, f"no NVIDIA driver: {error}", "the NVIDIA driver, where there is such a GPU")
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError:
            count = 0
        nvml.nvmlShutdown()
        return Capability(count > 0, "" if count else "the driver sees no GPU")

    def start(self) -> None:
        nvml = self._load()
        nvml.nvmlInit()
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []
        events: list[KernelEvent] = []
        for gpu, handle in enumerate(self._handles):
            if gpu in self._lost:
                continue
            try:
                for value, metric, labels in self._rows(gpu, handle):
                    ids.append(self._catalogue.id(metric, gpu=gpu, **labels))
                    values.append(value)
            except self._nvml.NVMLError as error:
                self._lost.add(gpu)
                events.append(KernelEvent(time, "gpu_fault", attributes={"gpu": gpu, "reason": str(error)}))
        frame = Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64))
        return Reading(frame, events=tuple(events))

    def _ask(self, gpu: int, name: str, *arguments: Any) -> Any:
        """Return an answer, None where this GPU does not know the question; raises NVMLError where it is lost."""
        nvml = self._nvml
        if (gpu, name) in self._unknown or not hasattr(nvml, name):
            return None
        question: Callable[..., Any] = getattr(nvml, name)
        try:
            return question(*arguments)
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED):
                raise
            self._unknown.add((gpu, name))
            return None

    def _rows(self, gpu: int, handle: Any) -> Iterator[Row]:
        if (use := self._ask(gpu, "nvmlDeviceGetUtilizationRates", handle)) is not None:
            yield use.gpu * PERCENT, "hw.gpu.utilization", {}
        if (memory := self._ask(gpu, "nvmlDeviceGetMemoryInfo", handle)) is not None:
            yield float(memory.used), "hw.gpu.memory.usage", {}
            yield float(memory.total), "hw.gpu.memory.limit", {}
        if (heat := self._ask(gpu, "nvmlDeviceGetTemperature", handle, TEMPERATURE_GPU)) is not None:
            yield float(heat), "hw.gpu.temperature", {}
        if (clock := self._ask(gpu, "nvmlDeviceGetClockInfo", handle, SM_CLOCK)) is not None:
            yield clock * MEGA, "hw.gpu.clock", {}
        if (power := self._ask(gpu, "nvmlDeviceGetPowerUsage", handle)) is not None:
            yield power * MILLI, "hw.gpu.power", {}
        held = self._ask(gpu, "nvmlDeviceGetCurrentClocksEventReasons", handle)
        if held is None:  # its name before driver 535
            held = self._ask(gpu, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        if held is not None:
            for bit, reason in REASONS.items():
                yield float(bool(held & bit)), "hw.gpu.throttle", {"reason": reason}
        yield from self._errors(gpu, handle)
        for process in self._ask(gpu, "nvmlDeviceGetComputeRunningProcesses", handle) or ():
            if process.usedGpuMemory is not None:
                yield float(process.usedGpuMemory), "hw.gpu.process.memory", {"pid": process.pid}

    def _errors(self, gpu: int, handle: Any) -> Iterator[Row]:
        for number, kind in ((0, "corrected"), (1, "uncorrected")):
            count = self._ask(gpu, "nvmlDeviceGetTotalEccErrors", handle, number, VOLATILE)
            if count is not None:
                yield float(count), "hw.gpu.errors", {"kind": kind}
        if (rows := self._ask(gpu, "nvmlDeviceGetRemappedRows", handle)) is not None:
            yield float(rows[0] + rows[1]), "hw.gpu.errors", {"kind": "remapped_rows"}
        if (replays := self._ask(gpu, "nvmlDeviceGetPcieReplayCounter", handle)) is not None:
            yield float(replays), "hw.gpu.errors", {"kind": "pcie_replay"}

    def stop(self) -> None:
        if self._handles:
            self._handles = []
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError:
                return
