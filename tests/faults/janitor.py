"""Undoes what a fault scenario did to the host, also when the scenario's own process was killed.

It runs as a process of its own, in a session of its own, and reads one JSON object a line from its standard
input: what to undo, written by the stage *before* the deed. End of input, whether the stage closed it or the kernel
did because the stage died, or the deadline, starts the clean-up in reverse order: there is one way out, so the clean-up
after a kill is the clean-up of every run. What could not be undone is printed as a JSON list of sentences.

Standard library only, started with `python -I -S`. It cannot help where the machine itself goes down.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 8.0
"""Longest wait for one thing to go away: a task in throttled I/O, a busy mount."""


def marked(mark: str) -> list[int]:
    """Pids of the live processes whose environment holds `mark` (`NAME=value`); descendants inherit it."""
    needle = mark.encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            environ = Path(entry.path, "environ").read_bytes()
        except OSError:
            continue
        if needle in environ.split(b"\0"):
            found.append(int(entry.name))
    return found


def kill(pids: list[int]) -> None:
    """SIGKILL each pid that still exists."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def until(done: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Poll `done` until it holds; False when patience ran out."""
    end = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def command(*argv: str) -> str:
    """Run a system tool for at most PATIENCE_S; its complaint, or the empty string."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


def undo_processes(mark: str, patience_s: float = PATIENCE_S) -> str:
    def gone() -> bool:
        pids = marked(mark)
        kill(pids)
        return not pids

    return "" if until(gone, patience_s) else f"processes still alive: {marked(mark)}"


def undo_cgroup(path: str) -> str:
    group = Path(path)

    def gone() -> bool:
        if not group.exists():
            return True
        try:
            kill([int(pid) for pid in (group / "cgroup.procs").read_text().split()])
            group.rmdir()
        except OSError:
            return not group.exists()
        return True

    return "" if until(gone) else f"cgroup {path} is still there"


def undo_netns(name: str) -> str:
    if not Path("/run/netns", name).exists():
        return ""
    return command("ip", "netns", "del", name)


def undo_link(name: str) -> str:
    if not Path("/sys/class/net", name).exists():
        return ""
    return command("ip", "link", "del", name)


def undo_mount(path: str) -> str:
    if not os.path.ismount(path):
        return ""
    if until(lambda: not command("umount", path), patience_s=3.0):
        return ""
    return command("umount", "-l", path)


def loop_devices(backing: str) -> list[str]:
    """Names of the loop devices bound to a file."""
    return [
        path.parent.parent.name
        for path in Path("/sys/block").glob("loop*/loop/backing_file")
        if path.read_text().strip().removesuffix(" (deleted)") == backing
    ]


def undo_loop(backing: str) -> str:
    def gone() -> bool:
        for name in loop_devices(backing):
            command("losetup", "-d", f"/dev/{name}")
        return not loop_devices(backing)

    return "" if until(gone) else f"loop device over {backing} is still bound"


def undo_swap(device: str) -> str:
    if device in Path("/proc/swaps").read_text():
        return command("swapoff", device)
    return ""


def undo_zram(number: str) -> str:
    if not Path(f"/sys/block/zram{number}").exists():
        return ""
    try:
        Path(f"/sys/block/zram{number}/reset").write_text("1")
        Path("/sys/class/zram-control/hot_remove").write_text(number)
    except OSError as error:
        return f"zram{number}: {error}"
    return ""


def undo_write(path_and_text: str) -> str:
    path, text = path_and_text.split("\n", 1)
    try:
        Path(path).write_text(text)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"writing {text!r} to {path}: {error}"
    return ""


def undo_tree(path: str) -> str:
    shutil.rmtree(path, ignore_errors=True)
    return f"{path} is still there" if Path(path).exists() else ""


UNDO: dict[str, Callable[[str], str]] = {
    "cgroup": undo_cgroup,
    "netns": undo_netns,
    "link": undo_link,
    "mount": undo_mount,
    "loop": undo_loop,
    "swap": undo_swap,
    "zram": undo_zram,
    "write": undo_write,
    "tree": undo_tree,
}


def deeds(deadline_s: float) -> list[tuple[str, str]]:
    """Read the deeds from standard input until its end or the deadline."""
    end = time.monotonic() + deadline_s
    buffer = b""
    while (left := end - time.monotonic()) > 0:
        if not select.select([0], [], [], left)[0]:
            break
        chunk = os.read(0, 65536)
        if not chunk:
            break
        buffer += chunk
    lines = buffer.split(b"\n")[:-1]
    return [(record["undo"], record["what"]) for record in map(json.loads, lines)]


def main() -> int:
    """Wait for the end of the stage, undo its deeds last first, say what stayed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    mark = sys.argv[1]
    todo = deeds(float(sys.argv[2]))
    undo_processes(mark, patience_s=2.0)  # those in throttled I/O end only when their limit is lifted below
    left = [complaint for undo, what in reversed(todo) if (complaint := UNDO[undo](what))]
    if complaint := undo_processes(mark):
        left.append(complaint)
    with contextlib.suppress(BrokenPipeError):  # nobody is left to be told
        print(json.dumps(left), flush=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
