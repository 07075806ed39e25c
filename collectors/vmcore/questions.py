"""Follow-up questions about a dump: the stack of a task, a structure, a variable, a lock, lines of the log.

    python -m collectors.vmcore.questions FILE       (standard input: the question as JSON; output: one JSON line)

The questions are a closed list with typed arguments: nobody, a model least of all, runs code over a dump. An answer is
at most `MOST_TEXT` characters, cleaned of control sequences and of the secrets that can be recognised.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from drgn import Object, Program, TypeKind, sizeof
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from collectors.vmcore import worker
from collectors.vmcore.open import DAMAGE, Dump, open_dump
from wardround.deadline import at_most
from wardround.errors import UserError, one_line
from wardround.models.vmcore import Lock, Task
from wardround.redaction import redact
from wardround.text import clean

MOST_TEXT = 16_000
MOST_LINES = 200
SECONDS = 30.0
_UNTYPED_BYTES = 64
_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]{0,127}$")]


class _Question(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AskStack(_Question):
    """The stack of one task."""

    ask: Literal["stack"] = "stack"
    pid: int = Field(ge=0, le=2**22)


class AskStructure(_Question):
    """The members of a structure at an address."""

    ask: Literal["struct"] = "struct"
    type: _Name
    address: int = Field(ge=0, lt=2**64)


class AskVariable(_Question):
    """The value of a variable, by its symbol."""

    ask: Literal["variable"] = "variable"
    name: _Name


class AskLock(_Question):
    """Who holds a lock and who waits for it."""

    ask: Literal["lock"] = "lock"
    address: int = Field(ge=0, lt=2**64)


class AskLog(_Question):
    """The lines of the kernel log that hold a text, letter case ignored."""

    ask: Literal["log"] = "log"
    text: str = Field(min_length=2, max_length=100)


Question = Annotated[AskStack | AskStructure | AskVariable | AskLock | AskLog, Field(discriminator="ask")]
QUESTION: TypeAdapter[Question] = TypeAdapter(Question)


def answer(dump: Dump, question: Question) -> str:
    """Return the answer as text. :raises UserError: what was asked for is not in the dump"""
    if isinstance(question, AskStack):
        lines = _stack(dump, question.pid)
    elif isinstance(question, AskStructure):
        lines = iter([_structure(dump.prog, question.type, question.address)])
    elif isinstance(question, AskVariable):
        lines = iter([_variable(dump.prog, question.name)])
    elif isinstance(question, AskLock):
        lines = _lock(dump, question.address)
    else:
        lines = _log(dump, question.text)
    text = "\n".join(_cleaned(line) for part in lines for line in part.splitlines())
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "\n… (cut)"


def _cleaned(line: str) -> str:
    told = line.expandtabs(4)
    return " " * (len(told) - len(told.lstrip(" "))) + redact(clean(told, 4096))


def _tasks(dump: Dump) -> tuple[Task, ...]:
    from collectors.vmcore.tasks import read_tasks

    return read_tasks(dump)


def _stack(dump: Dump, pid: int) -> Iterator[str]:
    found = [task for task in _tasks(dump) if task.pid == pid]
    if not found:
        raise UserError(f"no task has the pid {pid}", "it had ended, or the list of tasks is damaged", "")
    for task in found:
        waiting = f", off the CPU for {task.waiting:.1f} s" if task.waiting is not None else ""
        yield f"{task.name} at {task.address:#x}, state {task.state}, CPU {task.cpu}{waiting}"
        for frame in task.stack:
            place = f" ({frame.file}:{frame.line})" if frame.file else ""
            yield f"  {'*' if frame.exception else ' '} {frame.name}+{frame.offset:#x}{place}"
            yield from (f"        {name} = {value}" for name, value in frame.variables)


def _structure(prog: Program, name: str, address: int) -> str:
    for kind in ("struct", "union"):
        try:
            type_ = prog.type(f"{kind} {name}")
        except LookupError:
            continue
        return str(Object(prog, type_, address=address).format_(columns=110, dereference=False))
    try:
        return str(Object(prog, prog.type(name), address=address).format_(columns=110, dereference=False))
    except LookupError:
        raise UserError(
            f"the dump knows no type {name}", "the kernel's own type information does not hold it", ""
        ) from None


def _variable(prog: Program, name: str) -> str:
    try:
        symbol = prog.symbol(name)
    except LookupError:
        raise UserError(f"the dump has no symbol {name}", "", "names are those of /proc/kallsyms") from None
    try:
        found = prog.variable(name)
    except LookupError:
        raw = prog.read(symbol.address, min(symbol.size or _UNTYPED_BYTES, _UNTYPED_BYTES))
        if len(raw) in (1, 2, 4, 8):
            signed = int.from_bytes(raw, "little", signed=True)
            told = f"{len(raw)} bytes of unknown type: {raw[::-1].hex()} (as a signed number {signed})"
            return f"{name} at {symbol.address:#x}, {told}"
        words = " ".join(f"{int.from_bytes(raw[i : i + 8], 'little'):016x}" for i in range(0, len(raw), 8))
        return f"{name} at {symbol.address:#x}, of unknown type: {words}"
    large = found.type_.kind == TypeKind.ARRAY and sizeof(found.type_) > MOST_TEXT
    return f"{name} at {symbol.address:#x}: " + (
        "too large" if large else found.format_(columns=110, dereference=False)
    )


def _lock(dump: Dump, address: int) -> Iterator[str]:
    from collectors.vmcore.locks import read_locks

    tasks = _tasks(dump)
    names = {task.address: task.name for task in tasks}
    found: list[Lock] = [lock for lock in read_locks(dump, tasks).locks if lock.address == address]
    if not found:
        raise UserError(f"no task waits for a lock at {address:#x}", "only locks that someone waits for are known", "")
    for lock in found:
        holder = names.get(lock.owner or 0, "nobody known")
        yield f"{lock.kind} {lock.symbol or ''} at {lock.address:#x}: held by {holder} ({lock.certainty})"
        yield from (f"  waits: {names.get(waiter, hex(waiter))}" for waiter in lock.waiters)


def _log(dump: Dump, text: str) -> Iterator[str]:
    from collectors.vmcore.log import read_log

    wanted = text.casefold()
    found = [line for line in read_log(dump) if wanted in line.text.casefold()]
    yield f"{len(found)} lines hold {text!r}" + (f", the last {MOST_LINES}:" if len(found) > MOST_LINES else "")
    yield from (f"[{line.time:12.6f}] {line.text}" for line in found[-MOST_LINES:])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    question = QUESTION.validate_json(sys.stdin.read())
    core = worker.limit()
    try:
        with at_most(SECONDS, worker.OutOfTimeError):
            worker.tell(answer=answer(open_dump(options.file, core=core), question))
    except UserError as error:
        worker.tell(refused={"what": error.what, "why": error.why, "do": error.do})
    except worker.OutOfTimeError:
        worker.tell(refused={"what": "the question was given up", "why": f"it took over {SECONDS:g} s", "do": ""})
    except DAMAGE as error:
        worker.tell(refused={"what": "the dump does not answer", "why": one_line(error), "do": ""})
    return 0


if __name__ == "__main__":
    sys.exit(main())
