"""The injectors do to the kernel what they say, and nothing of them is left, however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import janitor, kernel
from tests.faults.scenario import Scenario, scenarios
from tests.faults.stage import LeftBehindError, NotBitingError, Stage, scratch

ROOT = Path(__file__).resolve().parents[2]
ALL = scenarios()

BITES = [
    "cpu.throttling/threads",
    "cpu.affinity/mask",
    "lock.contention/compute",
    "mem.exhaustion/one",
    "mem.leak/free",
    "mem.thrashing/file",
    "io.saturation/small",
    "io.latency/reads",
    "fs.inodes/ext4",
    "fs.readonly/error",
    "net.loss/stream",
    "net.backlog/c",
    "net.ports/kept",
    "proc.hung/mutexes",
    "proc.fd_exhaustion/server",
    "proc.zombies/c",
]
KILLED = [
    "cpu.throttling/threads",
    "mem.thrashing/swap",
    "io.latency/commits",
    "net.loss/requests",
    "proc.fork_storm/spawn",
    "proc.crash_loop/signal",
]


def leftovers(stage_id: str) -> list[str]:
    """Everything on this host that carries a stage's id."""
    found = [f"process {pid}" for pid in janitor.marked(f"STAGE_ID={stage_id}")]
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"**/*-{stage_id}")]
    found += [f"folder {path}" for path in Path("/run/netns").glob(f"*-{stage_id}")]
    found += [f"link {path.name}" for path in Path("/sys/class/net").glob(f"e{stage_id}*")]
    folder = f"run-{stage_id}"
    found += [f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if folder in line]
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        if folder in backing.read_text():
            found.append(f"loop device {backing}")
    if (scratch() / folder).exists():
        found.append(f"folder {folder}")
    return found


def possible(name: str) -> Scenario:
    """The scenario, or a skip with the reason why this host cannot show it."""
    if reason := ALL[name].probe():
        pytest.skip(reason)
    return ALL[name]


def test_every_scenario_says_what_it_is_and_needs_nothing_at_import() -> None:
    assert len(ALL) >= 40
    for name, scenario in ALL.items():
        assert scenario.about, name
        assert scenario.faults or name.startswith("healthy/"), name


@pytest.mark.fault
@pytest.mark.parametrize("name", BITES)
def test_a_fault_shows_in_the_kernel_while_it_lasts_and_leaves_nothing(name: str) -> None:
    scenario = possible(name)
    with Stage(scenario.lasts_s) as stage:
        injected = scenario.body(stage)
        assert tuple(truth.fault for truth in injected.truths) == scenario.faults
        assert injected.held()
        assert leftovers(stage.id), "the check itself must be able to see the stage"
    assert leftovers(stage.id) == []


@pytest.mark.fault
@pytest.mark.parametrize("name", KILLED)
def test_nothing_is_left_when_the_runner_is_killed(name: str) -> None:
    possible(name)
    swaps = Path("/proc/swaps").read_text()
    code = f"""
from tests.faults.scenario import scenarios
from tests.faults.stage import Stage
with Stage() as stage:
    scenarios()[{name!r}].body(stage)
    print(stage.id, flush=True)
    time.sleep(100)
"""
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with runner:
        assert runner.stdout is not None
        stage_id = runner.stdout.readline().strip()
        assert stage_id, "the runner did not get to inject"
        assert leftovers(stage_id)
        runner.send_signal(signal.SIGKILL)
    assert janitor.until(lambda: not leftovers(stage_id), 20), leftovers(stage_id)
    assert janitor.until(lambda: Path("/proc/swaps").read_text() == swaps)


def test_the_janitor_ends_a_fault_that_outlives_its_time() -> None:
    with Stage(lasts_s=0.5) as stage:
        program = stage.spawn("sleep", "60")
        assert janitor.until(lambda: program.poll() == -signal.SIGKILL)
        assert janitor.until(lambda: leftovers(stage.id) == [])


def test_a_deed_that_cannot_be_undone_is_reported() -> None:
    with pytest.raises(LeftBehindError, match="/proc/self"), Stage() as stage:
        stage.will_undo("tree", "/proc/self")


def test_a_fault_that_does_not_bite_is_no_fault() -> None:
    with pytest.raises(NotBitingError, match="pigs fly"), Stage() as stage:
        stage.wait_until(lambda: False, "pigs fly", timeout_s=0.1)


def test_a_program_keeps_its_everyday_name_and_its_children_are_found() -> None:
    with Stage() as stage:
        program = stage.spawn("/bin/sh", "-c", "sleep 60 & wait")
        assert janitor.until(lambda: len(kernel.children(program.pid)) == 1)
        family = {program.pid, *kernel.children(program.pid)}
        assert set(janitor.marked(f"STAGE_ID={stage.id}")) == family
    assert janitor.until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in family))
