"""A process killed anywhere in a round leaves it resumable, and the resumed round ends as if nothing had happened."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from agents.round import resume, run_round, unfinished
from tests.agents import observations
from tests.agents.observations import without_run
from wardround.ids import new_id
from wardround.models.diagnosis import Diagnosis
from wardround.settings import Settings


def _in_child(work: Callable[[], object], out: Path) -> int:
    """Run `work` in a forked process; return the signal that ended it, 0 if none did."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            out.write_bytes(pickle.dumps(work()))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    assert os.waitstatus_to_exitcode(status) == 0, "the child failed"
    return 0


def _dying(settings: Settings, run_id: str, point: int) -> Callable[[], Diagnosis]:
    """Return a round that is killed at its n-th step, event or checkpoint call."""
    reached = 0

    def here() -> None:
        nonlocal reached
        reached += 1
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(method: str) -> None:
        plain = getattr(SqliteSaver, method)

        def killing(*args: object, **kwargs: object) -> object:
            here()
            value = plain(*args, **kwargs)
            here()
            return value

        setattr(SqliteSaver, method, killing)

    def work() -> Diagnosis:
        around("put")
        around("put_writes")
        return run_round(
            observations.throttled(), settings, run_id=run_id, on_event=lambda _: here(), keep=lambda _: here()
        )

    return work


def test_killed_at_every_point_and_resumed_the_diagnosis_is_the_same(settings: Settings, tmp_path: Path) -> None:
    run_id = new_id("run")
    expected = without_run(run_round(observations.throttled(), settings, run_id=run_id, durable=False))
    out = tmp_path / "out"
    for point in range(1, 500):
        if _in_child(_dying(settings, run_id, point), out) == 0:
            break
        left = unfinished(settings.state_dir)
        assert [path.name for path in left] == [f"{run_id}.wardround"], f"kill point {point}"
        assert _in_child(lambda: resume(left[0], settings), out) == 0  # noqa: B023 - run at once
        assert without_run(pickle.loads(out.read_bytes())) == expected, f"kill point {point}"
        assert unfinished(settings.state_dir) == ()
    assert 20 < point < 499
    assert without_run(pickle.loads(out.read_bytes())) == expected


def test_a_resumed_round_does_not_repeat_what_it_knows(settings: Settings, tmp_path: Path) -> None:
    """After a kill late in the round, the resumed process asks no tool again through the listener."""
    run_id = new_id("run")

    def work() -> Diagnosis:
        def listener(event: object) -> None:
            if getattr(event, "data", {}).get("step") == "report":
                os.kill(os.getpid(), signal.SIGKILL)

        return run_round(observations.throttled(), settings, run_id=run_id, on_event=listener)

    assert _in_child(work, tmp_path / "out") == signal.SIGKILL
    names: list[str] = []
    diagnosis = resume(unfinished(settings.state_dir)[0], settings, on_event=lambda e: names.append(e.name))
    assert "tool.started" not in names
    assert diagnosis.usage.tool_calls > 0
    assert diagnosis.run_id == run_id


def test_a_round_that_another_process_works_on_is_not_unfinished(settings: Settings) -> None:
    seen: list[int] = []
    run_round(observations.throttled(), settings, keep=lambda _: seen.append(len(unfinished(settings.state_dir))))
    assert seen == [0]


@pytest.mark.parametrize("spoil", [b"", b"\xff" * 4096])
def test_without_a_usable_checkpoint_the_round_starts_over(settings: Settings, tmp_path: Path, spoil: bytes) -> None:
    run_id = new_id("run")
    assert _in_child(_dying(settings, run_id, 25), tmp_path / "out") == signal.SIGKILL
    (settings.state_dir / "checkpoints.sqlite").write_bytes(spoil)
    for suffix in ("-wal", "-shm"):
        (settings.state_dir / f"checkpoints.sqlite{suffix}").unlink(missing_ok=True)
    diagnosis = resume(unfinished(settings.state_dir)[0], settings)
    assert diagnosis.hypotheses[0].fault == "cpu.throttling"


def test_a_round_that_ends_its_process_every_time_is_dropped_in_the_end(settings: Settings, tmp_path: Path) -> None:
    run_id = new_id("run")
    assert _in_child(_dying(settings, run_id, 10), tmp_path / "out") == signal.SIGKILL
    tries = 0
    while unfinished(settings.state_dir):
        tries += 1
        assert _in_child(_dying(settings, run_id, 3), tmp_path / "out") == signal.SIGKILL
    assert tries == 3
    assert list((settings.state_dir / "rounds").iterdir()) == []


def test_a_round_of_last_month_is_dropped(settings: Settings, tmp_path: Path) -> None:
    assert _in_child(_dying(settings, new_id("run"), 10), tmp_path / "out") == signal.SIGKILL
    (left,) = unfinished(settings.state_dir)
    os.utime(left, (1_000_000_000, 1_000_000_000))
    assert unfinished(settings.state_dir) == ()
