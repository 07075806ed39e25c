"""The kernel log out of a dump's memory.

Source: the lockless ring of printk (kernel 5.10), read in three pieces and decoded here, so that a missing page costs
the lines on it and no more; VMCOREINFO tells its layout, so that neither symbols nor types are needed; older kernels'
log through drgn's helper. The text is anybody's: it is cleaned and bounded.
It cannot know lines that the ring had overwritten. Measured cost: 12 ms for 430 lines.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from drgn import Program, offsetof, sizeof
from drgn.helpers.linux.printk import get_printk_records

from collectors.vmcore.open import Dump
from collectors.vmcore.walk import read_lossy
from wardround.models.vmcore import LogLine
from wardround.text import clean_bytes

MOST_LINES = 200_000
LINE = 8192  # the list of linked modules is the longest line a kernel writes
_MOST_BITS = 26  # of a ring's size; more is damage
_ID_BITS = 62
_COMMITTED, _FINALIZED = 1, 2
_LEVEL = 3  # bytes behind the length: facility, then five bits of flags and three of level (VMCOREINFO is silent here)
_FROM_CPU = 0x80000000


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where in a descriptor and in a record's information the values lie, in bytes."""

    desc: int
    state: int
    begin: int
    next: int
    info: int
    time: int
    length: int
    caller: int


def read_log(dump: Dump) -> tuple[LogLine, ...]:
    """Return the lines, oldest first; the end wins where they are too many.

    :raises FaultError, LookupError: the log's own head cannot be read
    """
    lines: list[LogLine] = []
    ring = _ring(dump)
    if ring is None:
        return _older(dump.prog)
    for time, level, caller, text in _records(dump, ring):
        lines.extend(_lines(time, level, caller, text))
    return tuple(lines[-MOST_LINES:])


def _ring(dump: Dump) -> int | None:
    """The address of the ring; None before kernel 5.10. VMCOREINFO tells it even where symbols and types are lost."""
    prog = dump.prog
    if told := dump.info.get("SYMBOL(prb)"):
        return int(prog.read_u64(int(told, 16)))
    try:
        return int(prog.read_u64(prog.symbol("prb").address))
    except LookupError:
        prog.symbol("log_first_idx")  # :raises LookupError: there is no log at all
        return None


def _offset(dump: Dump, structure: str, member: str) -> int:
    told = dump.info.get(f"OFFSET({structure}.{member})", "")
    return int(told) if told.isdecimal() else offsetof(dump.prog.type(f"struct {structure}"), member)


def _size(dump: Dump, structure: str) -> int:
    told = dump.info.get(f"SIZE({structure})", "")
    return int(told) if told.isdecimal() else sizeof(dump.prog.type(f"struct {structure}"))


def _lines(time: float, level: int, caller: str, text: bytes) -> Iterator[LogLine]:
    for part in text.split(b"\n"):
        if line := clean_bytes(part, LINE):
            yield LogLine(time=time, text=line, level=level, caller=caller)


def _caller(number: int) -> str:
    return f"C{number & ~_FROM_CPU}" if number & _FROM_CPU else f"T{number}"


def _older(prog: Program) -> tuple[LogLine, ...]:
    lines: list[LogLine] = []
    for record in get_printk_records(prog)[-MOST_LINES:]:
        caller = f"T{record.caller_tid}" if record.caller_tid is not None else ""
        caller = f"C{record.caller_cpu}" if record.caller_cpu is not None else caller
        lines.extend(_lines(record.timestamp / 1e9, record.level, caller, record.text))
    return tuple(lines)


def _records(dump: Dump, ring: int) -> Iterator[tuple[float, int, str, bytes]]:
    """Yield (seconds, level, caller, text) of every record that was finished."""
    prog = dump.prog
    layout = _layout(dump)
    descs = ring + _offset(dump, "printk_ringbuffer", "desc_ring")
    texts = ring + _offset(dump, "printk_ringbuffer", "text_data_ring")
    bits = prog.read_u32(descs + _offset(dump, "prb_desc_ring", "count_bits"))
    data_bits = prog.read_u32(texts + _offset(dump, "prb_data_ring", "size_bits"))
    if not 0 < bits <= _MOST_BITS or not 0 < data_bits <= _MOST_BITS:
        raise ValueError(f"a log of 2^{bits} records in 2^{data_bits} bytes is none")
    count = 1 << bits
    desc, lost = read_lossy(prog, prog.read_u64(descs + _offset(dump, "prb_desc_ring", "descs")), count * layout.desc)
    info, lost_info = read_lossy(
        prog, prog.read_u64(descs + _offset(dump, "prb_desc_ring", "infos")), count * layout.info
    )
    data, lost_data = read_lossy(prog, prog.read_u64(texts + _offset(dump, "prb_data_ring", "data")), 1 << data_bits)
    if lost + lost_info + lost_data:
        dump.lost["log"] = f"{lost + lost_info + lost_data} bytes of the kernel log are missing: lines are left out"
    mask = (1 << _ID_BITS) - 1
    first = prog.read_u64(descs + _offset(dump, "prb_desc_ring", "tail_id")) & mask
    last = prog.read_u64(descs + _offset(dump, "prb_desc_ring", "head_id")) & mask
    for number in range(min((last - first) & mask, count - 1) + 1):
        current = (first + number) & mask
        at = (current & (count - 1)) * layout.desc
        state, begin, next_ = (struct.unpack_from("<Q", desc, at + off)[0] for off in _places(layout))
        if state & mask != current or state >> _ID_BITS not in (_COMMITTED, _FINALIZED):
            continue
        at = (current & (count - 1)) * layout.info
        (length,) = struct.unpack_from("<H", info, at + layout.length)
        (time,) = struct.unpack_from("<Q", info, at + layout.time)
        (caller,) = struct.unpack_from("<I", info, at + layout.caller)
        text = _text(data, data_bits, begin, next_, length)
        if text:
            yield time / 1e9, info[at + layout.length + _LEVEL] >> 5, _caller(caller), text


def _places(layout: _Layout) -> tuple[int, int, int]:
    return layout.state, layout.begin, layout.next


def _text(data: bytes, bits: int, begin: int, next_: int, length: int) -> bytes:
    """A record's text: its block starts at `begin`, or at the ring's start where it would not have fitted the end."""
    if begin & 1 and next_ & 1:
        return b""  # no text at all
    mask = (1 << bits) - 1
    start, end = begin & mask, next_ & mask
    if begin >> bits != next_ >> bits:
        start = 0 if end else start
        end = end or 1 << bits
    start += 8  # the block's first word is the record's number
    return data[start : min(end, start + length)]


def _layout(dump: Dump) -> _Layout:
    position = _offset(dump, "prb_desc", "text_blk_lpos")
    return _Layout(
        desc=_size(dump, "prb_desc"),
        state=_offset(dump, "prb_desc", "state_var"),
        begin=position + _offset(dump, "prb_data_blk_lpos", "begin"),
        next=position + _offset(dump, "prb_data_blk_lpos", "next"),
        info=_size(dump, "printk_info"),
        time=_offset(dump, "printk_info", "ts_nsec"),
        length=_offset(dump, "printk_info", "text_len"),
        caller=_offset(dump, "printk_info", "caller_id"),
    )
