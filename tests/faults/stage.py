"""Where a fault scenario plays: its processes, cgroups, namespaces, mounts and loop devices, and their removal.

Every deed is told to the janitor before it is done, so it is undone even when this process is killed in between.
Programs run under everyday names in a folder of their own: a diagnosis must find a fault by what it does.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from platformdirs import user_cache_path

from tests.faults.cgroups import Cgroup, hierarchy

WORKLOADS = Path(__file__).with_name("workloads")
JANITOR = Path(__file__).with_name("janitor.py")
PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def scratch() -> Path:
    """A folder for temporary files, on a block device where there is one: limits and loop devices need it."""
    choices = (Path(tempfile.gettempdir()), Path("/var/tmp"))
    return next((path for path in choices if path.is_dir() and on_disk(path)), choices[0])


def on_disk(path: Path) -> bool:
    """Whether a path lies on a block device, not in memory or on an overlay."""
    where = path.stat().st_dev
    return Path(f"/sys/dev/block/{os.major(where)}:{os.minor(where)}").exists()


class NotBitingError(AssertionError):
    """The injected fault did not show in the kernel's own counters."""


class LeftBehindError(AssertionError):
    """The janitor could not undo everything."""


class Stage:
    """One scenario's belongings; a context manager whose exit leaves nothing behind."""

    def __init__(self, lasts_s: float = 90.0) -> None:
        self.id = secrets.token_hex(3)
        self.lasts_s = lasts_s
        self._programs: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._mark = f"STAGE_ID={self.id}"
        self._janitor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(JANITOR), self._mark, str(self.lasts_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        self.folder = scratch() / f"run-{self.id}"
        self.will_undo("tree", str(self.folder))
        self.folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        said, _ = self._janitor.communicate(timeout=120)
        for program in self._programs:
            program.wait(timeout=10)
        if left := json.loads(said):
            raise LeftBehindError("; ".join(left)) from error

    def will_undo(self, undo: str, what: str) -> None:
        """Tell the janitor what to undo; called before the deed."""
        assert self._janitor.stdin is not None
        self._janitor.stdin.write(json.dumps({"undo": undo, "what": what}).encode() + b"\n")
        self._janitor.stdin.flush()

    # --- programs ---------------------------------------------------------------------------------------------

    def compiled(self, source: str, name: str) -> Path:
        """A C workload, compiled once into the user's cache, under an everyday name of its own."""
        text = (WORKLOADS / source).read_bytes()
        built = user_cache_path("wardround") / "faults" / f"{Path(source).stem}-{hashlib.sha256(text).hexdigest()[:12]}"
        if not built.exists():
            built.parent.mkdir(parents=True, exist_ok=True)
            compiler = shutil.which("gcc") or shutil.which("cc") or "cc"
            partial = built.with_suffix(f".{os.getpid()}")
            command = [compiler, "-O1", "-g", "-pthread", "-o", str(partial), str(WORKLOADS / source)]
            subprocess.run(command, check=True, timeout=60)
            partial.rename(built)
        return self._under(name, built)

    def script(self, source: str, name: str) -> list[str]:
        """A Python workload under an everyday name, as a command line."""
        return [sys.executable, "-S", str(self._under(name, WORKLOADS / source))]

    def _under(self, name: str, file: Path) -> Path:
        placed = self.folder / name
        if placed.exists() and placed.read_bytes() != file.read_bytes():
            raise ValueError(f"two programs of one scenario are called {name}")
        if not placed.exists():
            shutil.copy2(file, placed)
        return placed

    def spawn(
        self,
        *argv: str | Path,
        cgroups: Sequence[Cgroup] = (),
        netns: str | None = None,
        cpus: set[int] | None = None,
        open_files: int | None = None,
        nice: int = 0,
        output: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program that dies with this process, in cgroups, a network namespace, on some CPUs, under a limit."""

        def before_exec() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            for group in cgroups:
                (group.path / "cgroup.procs").write_text("0")
            if netns is not None:
                handle = os.open(f"/run/netns/{netns}", os.O_RDONLY)
                if _libc.setns(handle, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                os.close(handle)
            if cpus is not None:
                os.sched_setaffinity(0, cpus)
            if open_files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
            os.nice(nice)

        sink = output.open("wb") if output else None
        try:
            program = subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=sink or subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=dict(os.environ) | (env or {}) | {"STAGE_ID": self.id},
                start_new_session=True,
                preexec_fn=before_exec,
            )
        finally:
            if sink:
                sink.close()
        self._programs.append(program)
        return program

    def wait_until(self, bites: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
        """Wait until the kernel's counters show the fault; NotBitingError with `what` was expected when not."""
        end = time.monotonic() + timeout_s
        while not bites():
            if time.monotonic() > end:
                raise NotBitingError(f"not seen within {timeout_s:g} s: {what}")
            time.sleep(0.05)

    # --- places -----------------------------------------------------------------------------------------------

    def cgroup(self, controller: str, name: str) -> Cgroup:
        """A new control group `<name>-<id>` below the root of the controller's hierarchy."""
        found = hierarchy(controller)
        if found is None:
            raise NotBitingError(f"no hierarchy holds {controller}")
        mount, version = found
        group = Cgroup(mount / f"{name}-{self.id}", version)
        self.will_undo("cgroup", str(group.path))
        group.path.mkdir(exist_ok=True)
        return group

    def throttle(self, group: Cgroup, device: str, *, ops: int = 0, rate: int = 0) -> None:
        """Limit a group's I/O to a device (`major:minor`); lifted first of all at the end."""
        for path, text in group.unthrottle_writes(device):
            self.will_undo("write", f"{path}\n{text}")
        group.throttle(device, ops=ops, rate=rate)

    def file(self, name: str, size: int, *, sparse: bool = True) -> Path:
        """A file of this size in the stage's folder; a sparse one takes no space."""
        path = self.folder / name
        if not sparse:
            return self.prefilled(path, size)
        with path.open("wb") as out:
            out.truncate(size)
        return path

    def prefilled(self, path: Path, size: int) -> Path:
        """A file of random bytes, on its device and out of the page cache."""
        block = os.urandom(1 << 20)
        with path.open("wb") as out:
            for _ in range(size >> 20):
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
            # else its pages stay charged to this process's own group
            os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return path

    def loop(self, name: str, size: int, *, sparse: bool = True) -> str:
        """A loop device over a new file, past the page cache where possible: `/dev/loopN`."""
        backing = self.file(name, size, sparse=sparse)
        self.will_undo("loop", str(backing))
        return self.run("losetup", "--direct-io=on", "-f", "--show", str(backing)).strip()

    def ext4(
        self, device: str, name: str, *, options: str = "noatime", inodes: int | None = None, features: str = ""
    ) -> Path:
        """A fresh ext4 filesystem on a device, mounted below the stage's folder."""
        # without the lazy initialisation no background thread writes into the scenario
        extended = "lazy_itable_init=0,lazy_journal_init=0"
        count = ["-N", str(inodes)] if inodes else []
        wanted = ["-O", features] if features else []
        self.run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", extended, *wanted, *count, device)
        return self._mount(name, "-o", options, device)

    def tmpfs(self, name: str, *, size: str, inodes: int = 0) -> Path:
        """A tmpfs of its own."""
        options = f"size={size}" + (f",nr_inodes={inodes}" if inodes else "")
        return self._mount(name, "-t", "tmpfs", "-o", options, "tmpfs")

    def _mount(self, name: str, *arguments: str) -> Path:
        where = self.folder / name
        where.mkdir()
        self.will_undo("mount", str(where))
        self.run("mount", *arguments, str(where))
        return where

    def zram(self, size: int) -> str:
        """A compressed memory device of its own: `/dev/zramN`."""
        number = Path("/sys/class/zram-control/hot_add").read_text().strip()
        self.will_undo("zram", number)
        Path(f"/sys/block/zram{number}/disksize").write_text(str(size))
        return f"/dev/zram{number}"

    def swap_on(self, device: str) -> None:
        """Use a device for swap."""
        self.run("mkswap", device)
        self.will_undo("swap", device)
        self.run("swapon", device)

    def netns(self, name: str) -> str:
        """A network namespace `<name>-<id>` with its loopback up."""
        full = f"{name}-{self.id}"
        self.will_undo("netns", full)
        self.run("ip", "netns", "add", full)
        self.run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def veth(self, here: str | None, there: str, address: str, peer: str) -> tuple[str, str]:
        """A virtual cable: `e<id>a` with `address` in namespace `here` (None: the host's), `e<id>b` with `peer`."""
        a, b = f"e{self.id}a", f"e{self.id}b"
        if here is None:
            self.will_undo("link", a)
        self.run("ip", "link", "add", a, "type", "veth", "peer", "name", b, "netns", there)
        if here is not None:
            self.run("ip", "link", "set", a, "netns", here)
        for space, link, own in ((here, a, address), (there, b, peer)):
            inside = ["-n", space] if space else []
            self.run("ip", *inside, "addr", "add", f"{own}/30", "dev", link)
            self.run("ip", *inside, "link", "set", link, "up")
        return a, b

    def free_port(self) -> int:
        """A TCP port of the loopback that nobody listens on now."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            return int(probe.getsockname()[1])

    def run(self, *argv: str) -> str:
        """Run a system tool; its output. NotBitingError with its complaint when it fails."""
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode:
            raise NotBitingError(f"{' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout
