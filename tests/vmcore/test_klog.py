"""Kernel logs in every shape an operator may have them in, and in shapes nobody should have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.vmcore import klog
from collectors.vmcore.fromlog import from_log, read_log
from rca.vmcore.classify import classify
from wardround.models.vmcore import Vmcore

LOGS = Path(__file__).parent / "logs"
BASE = (LOGS / "null_write_6.12.log").read_text()
_LINE = re.compile(r"\[ *(\d+\.\d+)\] ?(.*)")


def _each(shape: str) -> str:
    """The log in another shape; `{time}`, `{text}`, `{day}`, `{clock}` (of a wall clock) and `{n}` are the line's."""
    out = []
    for n, line in enumerate(BASE.splitlines()):
        found = _LINE.fullmatch(line)
        assert found
        seconds = int(float(found[1]))
        clock = f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        day = 20 + seconds // 86400
        micro = int(float(found[1]) * 1e6)
        out.append(shape.format(time=f"{float(found[1]):12.6f}", text=found[2], clock=clock, day=day, n=n, micro=micro))
    return "\n".join(out)


SHAPES = {
    "as it is": BASE,
    "serial console with carriage returns": BASE.replace("\n", "\r\r\n"),
    "coloured dmesg": _each("\x1b[32m[{time}] \x1b[0m\x1b[31m{text}\x1b[0m"),
    "without times": _each("{text}"),
    "raw printk": _each("<4>[{time}] {text}"),
    "raw printk with callers": _each("<4>[{time}][ T2041] {text}"),
    "with callers": _each("[{time}][ T2041] {text}"),
    "decoded levels": _each("kern  :warn  : [{time}] {text}"),
    "wall clock": _each("[Fri Nov {day} {clock} 2026] {text}"),
    "journal, short": _each("Nov {day} {clock} db-01 kernel: {text}"),
    "journal, short-iso": _each("2026-11-{day}T{clock}+0100 db-01 kernel: {text}"),
    "journal, short-monotonic": _each("[{time}] db-01 kernel: {text}"),
    "kern.log of rsyslog": _each("2026-11-{day}T{clock}.120000+01:00 db-01 kernel: [{time}] {text}"),
    "dmesg with ISO times": _each("2026-11-{day}T{clock},120017+01:00 {text}"),
    "kmsg records": _each("4,{n},{micro},-;{text}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:1f.2"),
    "ramoops": "====1795161601.120-D\n" + _each("<4>[{time}] {text}"),
}


def _told(vmcore: Vmcore) -> object:
    """What must not depend on the log's shape."""
    assert vmcore.panic is not None
    context = vmcore.panic.context
    assert context is not None
    return (
        [(r.kind, r.function, r.module, r.pid, r.comm, r.stack) for r in vmcore.reports],
        (vmcore.panic.kind, vmcore.panic.function, vmcore.panic.message, vmcore.panic.tainted, vmcore.panic.stack),
        (context.registers, context.address, context.access, context.meaning),
        vmcore.header.release,
        vmcore.modules,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_tells_the_same(shape: str) -> None:
    assert _told(from_log(SHAPES[shape].encode())) == _told(from_log(BASE.encode()))


def test_pstore_parts_are_put_in_order(tmp_path: Path) -> None:
    """Part 1 holds the crash's last lines, so the files' order is not the order of time."""
    lines = BASE.splitlines()
    cuts = [lines[:20], lines[20:45], lines[45:]]
    for part, held in zip((3, 2, 1), cuts, strict=True):
        text = f"Panic#1 Part{part}\n" + "\n".join(f"<4>{line}" for line in held) + "\n"
        (tmp_path / f"dmesg-efi_pstore-17951616010{part}001").write_text(text)
    assert _told(read_log(tmp_path)) == _told(from_log(BASE.encode()))


def test_of_many_boots_the_last_that_crashed_is_kept() -> None:
    quiet = "[    0.000000] Linux version 6.12.94-amd64 (x)\n[    4.000000] systemd[1]: Hello\n"
    log = klog.parse((quiet + BASE + "\n" + quiet).encode())
    assert log.boots == 3
    assert _told(from_log((quiet + BASE + "\n" + quiet).encode())) == _told(from_log(BASE.encode()))
    assert log.lines[-1].text.startswith("---[ end Kernel panic")


def test_other_programs_of_a_system_log_are_left_out() -> None:
    text = "Nov 20 10:00:00 db sshd[77]: BUG: kernel NULL pointer dereference, address: 0\n"
    text += "Nov 20 10:00:01 db kernel: all is well\n"
    assert [line.text for line in klog.parse(text.encode()).lines] == ["all is well"]


def test_a_line_written_into_another_is_put_apart() -> None:
    lines = klog.parse(b"[   12.345678] Call Tra[   12.345679] usb 1-1: new device\n").lines
    assert [(line.time, line.text) for line in lines] == [(12.345678, "Call Tra"), (12.345679, "usb 1-1: new device")]


def test_the_end_of_an_endless_log_is_read_and_a_line_of_a_megabyte_is_bounded() -> None:
    long = b"[    1.000000] " + b"A" * 2**20
    log = klog.parse(long + b"\n" + BASE.encode())
    assert len(log.lines[0].text) <= klog.LINE
    assert _told(from_log(long + b"\n" + BASE.encode())) == _told(from_log(BASE.encode()))


def test_host_text_is_cleaned() -> None:
    line = klog.parse("[    1.000000] a\x00b\x1b[2Jc\u202ed\udcff\n".encode("utf-8", "surrogateescape")).lines[0]
    assert line.text.startswith("abcd")
    assert all(character.isprintable() for character in line.text)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_read(data: bytes) -> None:
    assert from_log(data).header.tier == "log"


_FRAGMENTS = sorted({line for path in LOGS.glob("*.log") for line in path.read_text().splitlines()})


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(_FRAGMENTS),
            st.sampled_from(_FRAGMENTS).flatmap(lambda line: st.integers(0, len(line)).map(lambda n: line[:n])),
            st.text(max_size=80),
        ),
        max_size=80,
    )
)
def test_lines_lost_cut_and_out_of_order_are_read(lines: list[str]) -> None:
    vmcore = from_log("\n".join(lines).encode("utf-8", "replace"))
    assert classify(vmcore, 0.0).summary
    assert all(frame.function for report in vmcore.reports for frame in report.stack)
