"""The kernel log out of a dump's memory.

Source: the lockless ring of printk (kernel 5.10), read in three pieces and decoded here, so that a missing page costs
the lines on it and no more; older kernels' log through drgn's helper. The text is anybody's: it is cleaned and bounded.
It cannot know lines that the ring had overwritten. Measured cost: 12 ms for 430 lines.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from drgn import Object, Program, sizeof
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
    level: int
    level_shift: int


def read_log(dump: Dump) -> tuple[LogLine, ...]:
    """Return the lines, oldest first; the end wins where they are too many.

    :raises FaultError, LookupError: the log's own head cannot be read
    """
    prog = dump.prog
    try:
        ring = prog["prb"]
    except KeyError:
        return _older(prog)
    lines: list[LogLine] = []
    for time, level, caller, text in _records(dump, ring):
        lines.extend(_lines(time, level, caller, text))
    return tuple(lines[-MOST_LINES:])


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


def _records(dump: Dump, ring: Object) -> Iterator[tuple[float, int, str, bytes]]:
    """Yield (seconds, level, caller, text) of every record that was finished."""
    prog = dump.prog
    layout = _layout(prog)
    descs, texts = ring.desc_ring, ring.text_data_ring
    bits, data_bits = descs.count_bits.value_(), texts.size_bits.value_()
    if not 0 < bits <= _MOST_BITS or not 0 < data_bits <= _MOST_BITS:
        raise ValueError(f"a log of 2^{bits} records in 2^{data_bits} bytes is none")
    count = 1 << bits
    desc, lost = read_lossy(prog, descs.descs.value_(), count * layout.desc)
    info, lost_info = read_lossy(prog, descs.infos.value_(), count * layout.info)
    data, lost_data = read_lossy(prog, texts.data.value_(), 1 << data_bits)
    if lost + lost_info + lost_data:
        dump.lost["log"] = f"{lost + lost_info + lost_data} bytes of the kernel log are missing: lines are left out"
    mask = (1 << _ID_BITS) - 1
    first = descs.tail_id.counter.value_() & mask
    last = descs.head_id.counter.value_() & mask
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
            yield time / 1e9, info[at + layout.level] >> layout.level_shift & 7, _caller(caller), text


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


def _layout(prog: Program) -> _Layout:
    desc, info = prog.type("struct prb_desc"), prog.type("struct printk_info")
    position = desc.member("text_blk_lpos")
    level = info.member("level")
    return _Layout(
        desc=sizeof(desc),
        state=desc.member("state_var").offset,
        begin=position.offset + position.type.member("begin").offset,
        next=position.offset + position.type.member("next").offset,
        info=sizeof(info),
        time=info.member("ts_nsec").offset,
        length=info.member("text_len").offset,
        caller=info.member("caller_id").offset,
        level=level.bit_offset // 8,
        level_shift=level.bit_offset % 8,
    )
