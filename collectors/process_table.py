"""The processes of the host at one moment, with their threads and the locks these sleep on.

Source: /proc/PID/{stat,statm,status,cmdline,exe,cgroup,ns,fd}, sched_getaffinity(2), and per thread
/proc/PID/task/TID/{stat,schedstat,wchan,syscall}; what is not permitted stays empty. Threads are read for every
user process while the host has fewer than `ALL_THREADS` of them, else for suspects only: blocked or stopped, the most
threads, the most CPU; and in all for at most `THREAD_SECONDS`, processes of few threads first, so that `threads` may
hold fewer than `thread_count`. Measured: 90 µs a process and 40 µs a thread.
"""

from __future__ import annotations

import os
import re
import resource
import time
from dataclasses import replace
from functools import lru_cache

from collectors.base import Roots
from collectors.facts import cpu_list
from collectors.futex import find_locks
from wardround.models.topology import Process, Thread

TICK = 1.0 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PF_KTHREAD = 0x00200000
ALL_THREADS = 5000
THREAD_SECONDS = 0.4
SUSPECTS = 20  # of each kind
MAX_COMMAND = 4096
STATES_BLOCKED = frozenset("DTt")
POLICIES = {0: "other", 1: "fifo", 2: "rr", 3: "batch", 5: "idle", 6: "deadline", 7: "ext"}
UNIT = re.compile(r"/([^/]+\.(?:service|scope|socket|mount|swap))(?=/|$)")
STATUS_FIELDS = re.compile(r"^(Uid|TracerPid|Mems_allowed_list):\s*(\S+)", re.MULTILINE)
SWITCHES = re.compile(rb"voluntary_ctxt_switches:\s+(\d+)\nnonvoluntary_ctxt_switches:\s+(\d+)")


def snapshot_processes(roots: Roots | None = None) -> dict[int, Process]:
    """Return every process by pid; those that end while being read are left out."""
    proc = (roots or Roots()).proc
    found: dict[int, Process] = {}
    for name in os.listdir(proc):
        if name.isdigit() and (process := read_process(proc, int(name))) is not None:
            found[process.pid] = process
    deadline = time.monotonic() + THREAD_SECONDS
    for pid in _to_look_into(found):
        process = found[pid]
        threads = read_threads(proc, pid, deadline)
        found[pid] = replace(process, threads=threads, locks=find_locks(proc, pid, threads))
    return found


def read_process(proc: str, pid: int) -> Process | None:
    """Return one process without its threads, None if it is gone."""
    try:
        stat = _bytes(f"{proc}/{pid}/stat")
        name = stat[stat.index(b"(") + 1 : stat.rindex(b")")].decode("utf-8", "replace")
        fields = stat[stat.rindex(b")") + 2 :].split()
        process = Process(
            pid=pid,
            ppid=int(fields[1]),
            name=name,
            start=round(_boot(proc) + int(fields[19]) * TICK, 2),
            state=fields[0].decode("ascii", "replace"),
            nice=int(fields[16]),
            policy=POLICIES.get(int(fields[38]) if len(fields) > 38 else 0, "other"),
            cpu_time=(int(fields[11]) + int(fields[12])) * TICK,
            thread_count=int(fields[17]),
            kernel=bool(int(fields[6]) & PF_KTHREAD),
        )
        return replace(process, affinity=_affinity(pid)) if process.kernel else _with_details(proc, process)
    except (OSError, ValueError, IndexError):
        return None


def _with_details(proc: str, process: Process) -> Process:
    folder = f"{proc}/{process.pid}"
    sizes = _bytes(f"{folder}/statm").split()
    status = dict(STATUS_FIELDS.findall(_bytes(f"{folder}/status").decode("utf-8", "replace")))
    cgroups = _cgroups(_bytes(f"{folder}/cgroup").decode("utf-8", "replace"))
    units = [match for _, path in cgroups for match in UNIT.findall(path)[-1:]]
    return replace(
        process,
        cmdline=_bytes(f"{folder}/cmdline")[:MAX_COMMAND].rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace"),
        exe=_link(f"{folder}/exe"),
        uid=int(status.get("Uid", 0)),
        cgroups=cgroups,
        unit=units[0] if units else "",
        netns=_namespace(f"{folder}/ns/net"),
        mntns=_namespace(f"{folder}/ns/mnt"),
        affinity=_affinity(process.pid),
        mems=cpu_list(status.get("Mems_allowed_list", "")),
        rss=int(sizes[1]) * PAGE,
        anon=(int(sizes[1]) - int(sizes[2])) * PAGE,
        fds=_open_files(f"{folder}/fd"),
        fd_limit=_file_limit(folder, process.pid),
        traced=status.get("TracerPid", "0") != "0",
    )


def read_threads(proc: str, pid: int, deadline: float = float("inf")) -> tuple[Thread, ...]:
    """Return the threads of a process that can be read before `deadline` (monotonic seconds), by tid."""
    try:
        tids = sorted(int(name) for name in os.listdir(f"{proc}/{pid}/task"))
    except OSError:
        return ()
    threads = []
    for tid in tids:
        if time.monotonic() > deadline:
            break
        thread = _read_thread(f"{proc}/{pid}/task/{tid}", tid)
        if thread is not None:
            threads.append(thread)
    return tuple(threads)


def _read_thread(folder: str, tid: int) -> Thread | None:
    try:
        stat = _bytes(f"{folder}/stat")
        fields = stat[stat.rindex(b")") + 2 :].split()
        cpu_time, switches = _scheduled(folder, (int(fields[11]) + int(fields[12])) * TICK)
        wchan = _text_or_empty(f"{folder}/wchan")
        return Thread(
            tid=tid,
            name=stat[stat.index(b"(") + 1 : stat.rindex(b")")].decode("utf-8", "replace"),
            state=fields[0].decode("ascii", "replace"),
            cpu_time=cpu_time,
            switches=switches,
            wchan="" if wchan == "0" else wchan,
            syscall=_text_or_empty(f"{folder}/syscall"),
        )
    except (OSError, ValueError, IndexError):
        return None


def _scheduled(folder: str, coarse: float) -> tuple[float, int]:
    """Return a thread's CPU time and how often it was put on a CPU, from schedstat (to the ns), else from status."""
    fields = _text_or_empty(f"{folder}/schedstat").split()
    if len(fields) == 3:
        return int(fields[0]) * 1e-9, int(fields[2])
    match = SWITCHES.search(_bytes(f"{folder}/status"))
    return coarse, int(match[1]) + int(match[2]) if match else 0


def _to_look_into(processes: dict[int, Process]) -> list[int]:
    """Return whose threads to read, the blocked first: all user processes and blocked kernel threads, or suspects."""
    blocked = [p.pid for p in processes.values() if p.state in STATES_BLOCKED]
    users = [p for p in processes.values() if not p.kernel]
    if sum(p.thread_count for p in users) < ALL_THREADS:
        return list(dict.fromkeys([*blocked, *(p.pid for p in sorted(users, key=lambda p: p.thread_count))]))
    by_threads = sorted(users, key=lambda p: p.thread_count, reverse=True)[:SUSPECTS]
    by_cpu = sorted(users, key=lambda p: p.cpu_time, reverse=True)[:SUSPECTS]
    return list(dict.fromkeys([*blocked, *(p.pid for p in by_cpu), *(p.pid for p in by_threads)]))


@lru_cache(maxsize=4)
def _boot(proc: str) -> float:
    """Return the boot time in Unix seconds, read once: a start time must not move when the clock is set."""
    del proc  # one answer for each root
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _cgroups(text: str) -> tuple[tuple[str, str], ...]:
    """Return ``(controller, path)`` pairs of lines such as ``1:cpu,cpuacct:/a.slice`` and ``0::/a.slice``."""
    pairs = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        pairs += [(controller, path) for controller in controllers.split(",")]
    return tuple(pairs)


def _affinity(pid: int) -> tuple[int, ...]:
    try:
        return tuple(sorted(os.sched_getaffinity(pid)))
    except OSError:
        return ()


def _namespace(path: str) -> int:
    """Return the inode number of a link such as ``net:[4026531840]``, 0 where it may not be read."""
    return int("".join(filter(str.isdigit, _link(path))) or 0)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _open_files(folder: str) -> int | None:
    try:
        return os.stat(folder).st_size or len(os.listdir(folder))  # the size is the count since Linux 6.2
    except OSError:
        return None


def _file_limit(folder: str, pid: int) -> int | None:
    try:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except OSError:
        match = re.search(r"^Max open files\s+(\d+)", _text_or_empty(f"{folder}/limits"), re.MULTILINE)
        return int(match[1]) if match else None


def _text_or_empty(path: str) -> str:
    try:
        return _bytes(path).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _bytes(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()
