"""The pieces without a kernel to trace: type information, headers, histograms, tallies, gates."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from collectors.base import Roots
from collectors.ebpf import collector as collector_module
from collectors.ebpf import handover
from collectors.ebpf.btf import Btf
from collectors.ebpf.collector import EbpfCollector
from collectors.ebpf.gate import Governor
from collectors.ebpf.handover import interpreter_with_bcc, load
from collectors.ebpf.headers import find_headers, merged_tree
from collectors.ebpf.histogram import BUCKETS, log_linear_edges, octave_edges, quantiles
from collectors.ebpf.host import inspect_host
from collectors.ebpf.subjects.reader import text
from collectors.tally import BURST, ROWS, Sink, Tally
from wardround.errors import CapabilityMissing
from wardround.models.series import Catalogue


def _btf(strings: bytes, types: bytes) -> bytes:
    head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return head + types + strings


class TestBtf:
    def test_finds_members_through_anonymous_unions_and_bit_fields(self) -> None:
        """struct s { int a; union { int b; }; int flag : 1 at bit 67; }"""
        strings = b"\0int\0s\0a\0b\0flag\0color\0RED\0BLUE\0"
        at = {
            name: strings.index(b"\0" + name + b"\0") + 1
            for name in (b"int", b"s", b"a", b"b", b"flag", b"color", b"RED", b"BLUE")
        }
        types = struct.pack("=III I", at[b"int"], 1 << 24, 4, 32)
        types += struct.pack("=III III", 0, 5 << 24 | 1, 4, at[b"b"], 1, 0)
        members = (at[b"a"], 1, 0, 0, 2, 32, at[b"flag"], 1, 1 << 24 | 67)
        types += struct.pack("=III 9I", at[b"s"], 1 << 31 | 4 << 24 | 3, 12, *members)
        types += struct.pack("=III IiIi", at[b"color"], 6 << 24 | 2, 4, at[b"RED"], 0, at[b"BLUE"], 7)
        btf = Btf(_btf(strings, types))
        b, flag = btf.member("s", "b"), btf.member("s", "flag")
        assert b is not None
        assert b.byte == 4
        assert flag is not None
        assert (flag.byte, flag.mask) == (8, 0b1000)
        assert btf.member("s", "nothing") is None
        assert btf.member("nothing", "a") is None
        assert btf.enum("color") == {0: "RED", 7: "BLUE"}

    @pytest.mark.parametrize("blob", [b"", b"\x7fELF", b"\0" * 64])
    def test_refuses_what_is_not_btf(self, blob: bytes) -> None:
        with pytest.raises(ValueError, match="BTF"):
            Btf(blob)

    @pytest.mark.skipif(not os.path.exists("/sys/kernel/btf/vmlinux"), reason="the kernel publishes no BTF")
    def test_reads_the_running_kernel(self) -> None:
        """What no kernel lacks: a task has an id, sched_switch passes at least three arguments."""
        btf = Btf.of_kernel()
        assert btf.member("task_struct", "tgid") is not None
        assert (btf.arguments("sched_switch") or 0) >= 3
        assert btf.arguments("no_such_tracepoint") is None


class TestHeaders:
    def _tree(self, folder: Path, *files: str) -> Path:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        return folder

    def test_prefers_the_kernel_s_own(self, tmp_path: Path) -> None:
        self._tree(tmp_path / "modules/9.9", "build/include/linux/types.h")
        assert find_headers("9.9", tmp_path / "modules", tmp_path).kind == "own"

    @pytest.mark.skipif(os.uname().machine != "x86_64", reason="the tree is that of x86")
    def test_merges_debian_s_two_parts_by_links(self, tmp_path: Path) -> None:
        """The newest version wins; a folder that both parts have is merged, every other is one link."""
        sources = tmp_path / "src"
        for version in ("6.1.0-9", "6.1.0-56"):
            self._tree(
                sources / f"linux-headers-{version}-common", "include/linux/types.h", "arch/x86/include/asm/page.h"
            )
            self._tree(
                sources / f"linux-headers-{version}-cloud-amd64",
                "include/generated/autoconf.h",
                "arch/x86/include/generated/asm.h",
            )
        headers = find_headers("9.9", tmp_path / "modules", sources)
        assert (headers.kind, headers.version) == ("borrowed", "6.1.0-56-cloud-amd64")
        tree = Path(headers.source(tmp_path / "cache") or "")
        assert (tree / "include/linux").is_symlink()
        assert (tree / "arch/x86/include/asm/page.h").read_text() == "arch/x86/include/asm/page.h"
        assert (tree / "include/generated/autoconf.h").exists()
        assert (tree / "arch/x86/include/generated/asm.h").exists()

    def test_a_half_made_tree_is_made_anew(self, tmp_path: Path) -> None:
        part = self._tree(tmp_path / "part", "include/a.h", "arch/b.h")
        (tmp_path / "tree/include").mkdir(parents=True)
        assert (merged_tree(tmp_path / "tree", [part]) / "include/a.h").exists()

    def test_none_where_there_are_none(self, tmp_path: Path) -> None:
        assert find_headers("9.9", tmp_path / "modules", tmp_path / "src").kind == "none"


class TestHost:
    def test_says_what_is_missing_and_what_would_help(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No root, no BCC, no headers, no BTF: each is a reason, each with its remedy."""
        status = tmp_path / "status"
        status.write_text("CapEff:\t0000000000000000\n")
        monkeypatch.setattr("collectors.ebpf.host.interpreter_with_bcc", lambda: None)
        host = inspect_host(tmp_path, tmp_path / "modules", tmp_path / "src", status)
        assert len(host.missing) == 5
        assert any("python3-bpfcc" in advice for advice in host.improve)
        assert host.case == "no kernel headers on this host"

    def test_no_interpreter_without_bcc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(handover, "_has_bcc", lambda interpreter: False)
        assert interpreter_with_bcc() is None

    def test_a_collector_that_cannot_start_says_why_and_reads_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        missing = inspect_host(tmp_path, tmp_path, tmp_path, tmp_path / "status")
        monkeypatch.setattr(collector_module, "inspect_host", lambda sys: missing)
        collector = EbpfCollector(Catalogue(), Roots(cache_dir=tmp_path))
        collector.start()
        assert not collector.wait(30)
        assert "needs root" in collector.probe().reason
        assert "needs root" in collector.failure
        assert len(collector.read(0.0, 0.0).frame.ids) == 0
        collector.stop()

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give it up")
    @pytest.mark.skipif(interpreter_with_bcc() is None, reason="BCC is not installed")
    def test_without_root_the_loader_gives_a_sentence(self, tmp_path: Path) -> None:
        """The loader under an ordinary user: a reason, no traceback, nothing left open."""
        dropped = tmp_path / "python"
        dropped.write_text('#!/bin/sh\nexec setpriv --reuid 65534 --regid 65534 --clear-groups /usr/bin/python3 "$@"\n')
        dropped.chmod(0o755)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(CapabilityMissing) as caught:
            load(tmp_path, str(dropped))
        assert caught.value.why
        assert "Traceback" not in str(caught.value)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_loader_that_dies_is_a_reason(self, tmp_path: Path) -> None:
        with pytest.raises(CapabilityMissing, match="without an answer"):
            load(tmp_path, "/bin/false")

    def test_ctrl_c_at_a_terminal_does_not_reach_the_loader(self, tmp_path: Path) -> None:
        """It leads a session of its own."""
        sessions: list[bool] = []
        with pytest.raises(CapabilityMissing):
            load(tmp_path, "/bin/false", started=lambda p: sessions.append(os.getsid(p.pid) == p.pid))
        assert sessions == [True]


class TestHistograms:
    def test_edges_rise_and_a_quantile_lies_in_its_bucket(self) -> None:
        for edges in (log_linear_edges(), octave_edges()):
            assert (np.diff(edges) > 0).all()
            counts = np.zeros(len(edges) - 1)
            counts[20] = 11
            low, high = quantiles(counts, edges, (0.5, 1.0))
            assert edges[20] < low < high == edges[21]

    def test_log_linear_edges_mirror_the_program(self) -> None:
        """`bucket_of` of programs/sched.c, written again in integers: each value falls between its bucket's edges."""
        edges = log_linear_edges()
        for ns in (1, 63, 64, 79, 80, 1000, 4096, 123_456, 10**9, 10**12):
            value = ns >> 4
            power = value.bit_length() - 1
            bucket = value if value < 4 else (power - 1) * 4 + (value >> (power - 2) & 3)
            assert bucket < BUCKETS
            assert edges[bucket] <= ns * 1e-9 * (1 + 1e-12)
            assert ns * 1e-9 < edges[bucket + 1] * (1 + 1e-12)

    def test_empty_is_nan(self) -> None:
        assert np.isnan(quantiles(np.zeros(4), np.arange(5.0), (0.5,))[0])


class TestTally:
    def test_tells_zero_first_and_adds_up(self) -> None:
        sink = Sink(Catalogue())
        tally = Tally("linux.process.forks", lambda pid: {"pid": pid})
        told = []
        for _ in range(3):
            tally.add([7, 7], np.array([1.0, 2.0]), sink.catalogue)
            tally.emit(sink)
            told.append(sink.frame(0, 0).values.tolist())
        assert told == [[0.0], [6.0], [9.0]]

    def test_a_storm_of_entities_stays_bounded(self) -> None:
        """100 ticks with 1,000 new entities each: few series are numbered, fewer kept; the largest come first."""
        sink = Sink(Catalogue())
        tally = Tally("linux.process.forks", lambda pid: {"pid": pid})
        for tick in range(100):
            keys = list(range(tick * 1000, (tick + 1) * 1000))
            tally.add(keys, np.arange(1.0, 1001.0), sink.catalogue)
            tally.emit(sink)
            assert len(sink.frame(0, 0).ids) <= ROWS
        assert sink.catalogue[0].label("pid") == "999"
        assert len(sink.catalogue) <= BURST + 4 * 100


def test_a_comm_is_shown_without_control_characters() -> None:
    assert text(b"a\x1b[31mb\xff\0rest") == "a\\x1b[31mb\\xff"


def test_pacing_the_gates_leaves_the_random_numbers_of_others_alone() -> None:
    """The governor is a thread beside whatever else draws from the process's shared generator."""
    governor = Governor([])
    governor.halt()
    state = random.getstate()
    governor._cycle()
    assert random.getstate() == state
