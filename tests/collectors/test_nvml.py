"""GPUs: a host without one, one with, and a scripted library for what real hardware seldom does."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from collectors.base import Roots
from collectors.nvml import NvmlCollector
from tests.collectors.netlab import told
from wardround.models.series import Catalogue


def driver() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True


@pytest.mark.skipif(driver(), reason="there is a driver here")
def test_without_a_driver_it_says_so():
    """Unavailable with the library's own words, and stopping is safe."""
    collector = NvmlCollector(Catalogue(), Roots())
    capability = collector.probe()
    assert not capability.available
    assert "no NVIDIA driver" in capability.reason
    assert len(collector.read(1.0, 1.0).frame.ids) == 0
    collector.stop()


@pytest.mark.skipif(not driver(), reason="needs an NVIDIA GPU")
def test_a_real_gpu_tells_its_memory_and_use():
    """Within bounds, whatever it is."""
    catalogue = Catalogue()
    collector = NvmlCollector(catalogue, Roots())
    collector.start()
    seen = told(catalogue, collector.read(1.0, 1.0).frame)
    collector.stop()
    assert 0 < seen["hw.gpu.memory.usage", "0"] <= seen["hw.gpu.memory.limit", "0"]
    assert 0 <= seen["hw.gpu.utilization", "0"] <= 1


class Scripted:
    """Answers like pynvml for one GPU that knows little, and then is lost."""

    NVMLError = pynvml.NVMLError
    NVML_ERROR_GPU_IS_LOST = pynvml.NVML_ERROR_GPU_IS_LOST
    NVML_ERROR_RESET_REQUIRED = pynvml.NVML_ERROR_RESET_REQUIRED

    def __init__(self) -> None:
        self.lost = False
        self.asked_clock = 0

    def nvmlInit(self) -> None: ...  # noqa: N802 - the library's names
    def nvmlShutdown(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUtilizationRates(self, _: int) -> SimpleNamespace:  # noqa: N802
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(gpu=40)

    def nvmlDeviceGetClockInfo(self, _: int, __: int) -> int:  # noqa: N802
        self.asked_clock += 1
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetCurrentClocksEventReasons(self, _: int) -> int:  # noqa: N802
        return 0x1 | 0x40

    def nvmlDeviceGetComputeRunningProcesses(self, _: int) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=7, usedGpuMemory=1 << 30), SimpleNamespace(pid=8, usedGpuMemory=None)]


def test_what_a_gpu_does_not_know_is_left_out_and_its_loss_is_told_once():
    """An unsupported question is asked once; heat shows as a reason; a lost device is an event, not an error."""
    library, catalogue = Scripted(), Catalogue()
    collector = NvmlCollector(catalogue, Roots(), library)
    assert collector.probe().available
    collector.start()
    for _ in range(2):
        seen = told(catalogue, collector.read(1.0, 1.0).frame)
    assert seen["hw.gpu.utilization", "0"] == pytest.approx(0.4)
    assert seen["hw.gpu.throttle", "0", "hw_thermal"] == 1
    assert seen["hw.gpu.throttle", "0", "power_cap"] == 0
    assert seen["hw.gpu.process.memory", "0", "7"] == 1 << 30
    assert library.asked_clock == 1
    library.lost = True
    [event] = collector.read(2.0, 2.0).events
    assert event.kind == "gpu_fault"
    assert event.attributes["gpu"] == 0
    assert collector.read(3.0, 3.0).events == ()
