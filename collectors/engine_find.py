"""Finds the processes of inference engines, by what they have mapped; a name alone is only a reason to look.

Source: /proc/PID/{maps,cmdline,exe,statm,task}, listening sockets. Needs root for other users' processes. Measured
cost: 0.1 to 0.5 ms a process whose maps are read; those are read once, and again when its memory grew by half.

A model library or model file in the map is proof; a process that only has an engine's name must answer like one before
it is called one. An engine inside a program of another name is found by its library.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from collectors import inetdiag
from collectors.base import Roots
from collectors.inetdiag import LISTENING, address_text
from wardround.text import clean

SMALLEST = 24 << 20  # bytes resident: nothing that computes with a model is smaller
# in this order: an engine that brings ggml along is that engine
MAPPED: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"/vllm/[^\n]*\.so"), "vllm"),
    (re.compile(rb"/sgl_kernel/[^\n]*\.so"), "sglang"),
    (re.compile(rb"/ollama\n|/ollama/[^\n]*\.so"), "ollama"),
    (re.compile(rb"/[^\n]*(?:libllama|libggml|llama_cpp|xllamacpp)[^\n/]*\.so|\.gguf\n"), "llama.cpp"),
)
NAMED: tuple[tuple[str, str], ...] = (
    ("vllm", "vllm"), ("sglang", "sglang"), ("ollama", "ollama"), ("llama-server", "llama.cpp"),
    ("llama_cpp.server", "llama.cpp"), ("text-generation-router", "tgi"), ("text-generation-launcher", "tgi"),
)  # fmt: skip
_MODEL_FILE = re.compile(rb"(/[^\n]*\.gguf)\n")
_THREADS = ("-t", "--threads")
_MODELS = ("-m", "--model", "--model-path", "--model-id", "-hf", "--hf-repo")
COMPUTES = 0.25  # share of the busiest thread's CPU time from which a thread counts as one that computes
WARM = 1.0  # seconds of CPU time of the busiest thread before threads can be told apart


@dataclass(frozen=True, slots=True)
class Found:
    """A process that is an engine (`proved`) or has the name of one. `host` and `port` where it listens, else None."""

    pid: int
    kind: str
    proved: bool
    model: str
    threads: int | None
    host: str
    port: int | None
    netns: int

    @property
    def address(self) -> str:
        if self.port is None:
            return ""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Finder:
    """Looks for engines and remembers which processes are none."""

    def __init__(self, roots: Roots) -> None:
        self._proc = roots.proc
        self._seen: dict[tuple[int, str], tuple[int, str, bool]] = {}  # process -> pages when looked at, kind, proved

    def __call__(self) -> list[Found]:
        kinds: dict[int, tuple[str, bool]] = {}
        parents: dict[int, int] = {}
        seen = {}
        for name in os.listdir(self._proc):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            stat = _read(f"{self._proc}/{name}/stat").rpartition(b")")[2].split()
            if len(stat) < 22 or stat[0] in (b"Z", b"X"):
                continue
            pid, pages = int(name), int(stat[21])
            parents[pid] = int(stat[1])
            key = (pid, stat[19].decode())
            known = self._seen.get(key)
            if known is None or (not known[2] and pages > 1.5 * known[0]):
                known = (pages, *self._judge(pid, pages))
            seen[key] = known
            if known[1]:
                kinds[pid] = known[1:]
        self._seen = seen
        found = [self._describe(pid, kind, proved) for pid, (kind, proved) in kinds.items()]
        return _leaders(found, parents)

    def _judge(self, pid: int, pages: int) -> tuple[str, bool]:
        """Return the kind of engine a process is, and whether that is proved; an empty kind for none."""
        if pages * os.sysconf("SC_PAGE_SIZE") >= SMALLEST:
            maps = _read(f"{self._proc}/{pid}/maps")
            kind = next((kind for pattern, kind in MAPPED if pattern.search(maps)), "")
            if kind:
                return kind, True
        words = _words(self._proc, pid)[:4]
        names = {os.path.basename(word) for word in words} | set(words[1:3])
        return next(
            (kind for name, kind in NAMED if name in names or f"{name}.entrypoints" in " ".join(words)), ""
        ), False

    def _describe(self, pid: int, kind: str, proved: bool) -> Found:
        words = _words(self._proc, pid)
        model = _option(words, _MODELS)
        if not model and "serve" in words[:4]:  # vllm serve MODEL
            model = next((word for word in words[words.index("serve") + 1 :] if not word.startswith("-")), "")
        if not model:
            mapped = _MODEL_FILE.search(_read(f"{self._proc}/{pid}/maps"))
            model = mapped[1].decode("utf-8", "replace") if mapped else ""
        threads = _option(words, _THREADS)
        host, port = self._listens(pid, _option(words, ("--port",)))
        return Found(
            pid=pid,
            kind=kind,
            proved=proved,
            model=clean(os.path.basename(model.rstrip("/")) if model.startswith("/") else model, 256),
            threads=int(threads) if threads.isdigit() and int(threads) > 0 else self._computing(pid),
            host=host,
            port=port,
            netns=_inode(f"{self._proc}/{pid}/ns/net"),
        )

    def _computing(self, pid: int) -> int | None:
        """Return how many threads do most of the work; None while too little was done to tell."""
        times = []
        try:
            for tid in os.listdir(f"{self._proc}/{pid}/task"):
                fields = _read(f"{self._proc}/{pid}/task/{tid}/stat").rpartition(b")")[2].split()
                if len(fields) > 12:
                    times.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        except OSError:
            return None
        busiest = max(times, default=0.0)
        return sum(time >= COMPUTES * busiest for time in times) if busiest >= WARM else None

    def _listens(self, pid: int, wanted: str) -> tuple[str, int | None]:
        """Return where a process listens: the port its command line names, else its lowest one."""
        inodes = set()
        try:
            for descriptor in os.listdir(f"{self._proc}/{pid}/fd"):
                link = os.readlink(f"{self._proc}/{pid}/fd/{descriptor}")
                if link.startswith("socket:["):
                    inodes.add(int(link[8:-1]))
        except (OSError, ValueError):
            pass
        table = inetdiag.from_proc(f"{self._proc}/{pid}/net", LISTENING)
        places = sorted(
            (int(table.local_port[at]), address_text(table.local[at].tobytes()))
            for at in range(len(table))
            if int(table.inode[at]) in inodes
        )
        if not places:
            return "", None
        port, host = next((place for place in places if str(place[0]) == wanted), places[0])
        return {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host), port


def _leaders(found: list[Found], parents: dict[int, int]) -> list[Found]:
    """Of an engine's processes keep the one that listens nearest the top, else the topmost."""
    by_pid = {one.pid: one for one in found}
    families: dict[int, list[Found]] = {}
    for one in found:
        top = one.pid
        while parents.get(top) in by_pid:
            top = parents[top]
        families.setdefault(top, []).append(one)
    kept = []
    for top, members in families.items():
        members.sort(key=lambda one: (one.port is None, one.pid != top, one.pid))
        kept.append(members[0])
    return kept


def _words(proc: str, pid: int) -> list[str]:
    return [word.decode("utf-8", "replace") for word in _read(f"{proc}/{pid}/cmdline").split(b"\0")[:-1]]


def _option(words: list[str], names: tuple[str, ...]) -> str:
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else words[at + 1] if at + 1 < len(words) else ""
    return ""


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
