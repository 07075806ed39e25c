"""Follow-up tools of the vmcore specialist about a crash: a stack, a lock, lines of the log, a structure, a variable.

The first three are answered from what was read of the crash, the others by its dump where that still lies there (each
opens it anew in a limited process: about 0.6 s of CPU). The questions are a closed list with typed arguments. Log lines
are text that outsiders may have written: a model is told their number, never their words.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from agents.tools.base import Arguments, RefusedError, Tool, plain
from rca.case import Case
from rca.ground import numbers
from rca.vmcore.told import frame_words, lock_words
from wardround.errors import WardroundError
from wardround.models.diagnosis import Evidence, Number, Trust
from wardround.models.vmcore import Lock, PastCrash, Task, Vmcore
from wardround.shell import command

if TYPE_CHECKING:
    from collectors.vmcore.questions import Question

MOST_FRAMES = 16
MOST_WAITERS = 8
MOST_LINES = 3
MOST_LINE = 160
MOST_ANSWER = 560
MOST_FIGURES = 40
SECONDS = 20.0
_NAME = r"^[A-Za-z_][\w.]{0,127}$"
_ADDRESS = r"^0x[0-9a-f]{1,16}$"


class StackArguments(Arguments):
    """A task by its process id."""

    pid: int = Field(ge=0, le=2**22)


class StructArguments(Arguments):
    """A structure's type and its address."""

    type: str = Field(pattern=_NAME)
    address: str = Field(pattern=_ADDRESS)


class VariableArguments(Arguments):
    """A variable of the kernel or of a module, by its symbol."""

    name: str = Field(pattern=_NAME)


class LockArguments(Arguments):
    """A lock that tasks wait for, by its symbol or its address (0x…)."""

    lock: str = Field(pattern=r"^\w{1,128}$")


class LogArguments(Arguments):
    """A text to look for in the kernel log, letter case ignored."""

    text: str = Field(min_length=2, max_length=100)


def crashes(case: Case) -> tuple[PastCrash, ...]:
    """Return the crashes that were read: what these tools can answer about."""
    return tuple(crash for crash in case.view.observation.crashes if crash.vmcore is not None)


def alone(case: Case) -> bool:
    """Whether a crash alone is judged: there is no window of a running host beside it."""
    return bool(crashes(case)) and not len(case.view.window.times)


def stack(case: Case, arguments: StackArguments) -> list[Evidence]:
    """Tell the state and the frames of a task."""
    crash, vmcore = _read(case)
    found = [task for task in vmcore.tasks if task.pid == arguments.pid]
    again = _show(crash, "--stack", str(arguments.pid))
    if not found and crash.dump:
        from collectors.vmcore.questions import AskStack

        return [_of_dump(case, crash, f"stack|{arguments.pid}", AskStack(pid=arguments.pid), again)]
    if not found:
        raise RefusedError(f"no task with the pid {arguments.pid} was read of this crash")
    return [_evidence(case, crash, f"stack|{arguments.pid}", _task(found[0]), again)]


def _task(task: Task) -> str:
    waiting = f", off the CPU for {task.waiting:.1f} s" if task.waiting is not None else ""
    frames = " ← ".join(frame_words(frame) for frame in task.stack[:MOST_FRAMES]) or "no frame was read"
    return f"{task.name} in state {task.state}{waiting}: {frames}"


def lock(case: Case, arguments: LockArguments) -> list[Evidence]:
    """Tell who holds a lock and who waits for it."""
    crash, vmcore = _read(case)
    asked = int(arguments.lock, 16) if arguments.lock.startswith("0x") else None
    found = next((each for each in vmcore.locks if each.symbol == arguments.lock or each.address == asked), None)
    if found is None:
        raise RefusedError(f"no task waits for a lock {arguments.lock}")
    again = _show(crash, "--lock", f"{found.address:#x}")
    return [_evidence(case, crash, f"lock|{found.address}", _lock(vmcore, found), again)]


def _lock(vmcore: Vmcore, found: Lock) -> str:
    holder = vmcore.task(found.owner)
    held = f"held by {holder.name} ({found.certainty})" if holder is not None else "its holder is not known"
    waiting = [task.name for each in found.waiters if (task := vmcore.task(each)) is not None]
    shown = ", ".join(waiting[:MOST_WAITERS])
    return f"{lock_words(found)}: {held}; {len(found.waiters)} wait for it: {shown}"


def log(case: Case, arguments: LogArguments) -> list[Evidence]:
    """Count the lines of the kernel log that hold a text and show the latest."""
    crash, vmcore = _read(case)
    wanted = arguments.text.casefold()
    found = [line for line in vmcore.log if wanted in line.text.casefold()]
    told = f"{len(found)} lines of the kernel log read of the crash hold {plain(arguments.text)!r}"
    if found:
        told += "; the latest: " + " / ".join(line.text[:MOST_LINE] for line in found[-MOST_LINES:])
    again = _show(crash, "--log", plain(arguments.text))
    return [_evidence(case, crash, f"log|{wanted}", told, again, {"lines": len(found)}, "text")]


def struct(case: Case, arguments: StructArguments) -> list[Evidence]:
    """Tell the members of a structure; only the dump knows them."""
    from collectors.vmcore.questions import AskStructure

    crash, _ = _read(case)
    question = AskStructure(type=arguments.type, address=int(arguments.address, 16))
    again = _show(crash, "--struct", arguments.type, arguments.address)
    return [_of_dump(case, crash, f"struct|{arguments.type}|{arguments.address}", question, again)]


def variable(case: Case, arguments: VariableArguments) -> list[Evidence]:
    """Tell the value of a variable: of those read with the crash, else of the dump."""
    crash, vmcore = _read(case)
    again = _show(crash, "--variable", arguments.name)
    found = next((each for each in vmcore.variables if each.name == arguments.name), None)
    if found is not None:
        meaning = f", {found.meaning}" if found.meaning else ""
        told = f"{found.name} of {found.module} at {found.address:#x} is {found.value:#x}{meaning}"
        return [_evidence(case, crash, f"variable|{found.name}", told, again, {"value": found.value})]
    from collectors.vmcore.questions import AskVariable

    return [_of_dump(case, crash, f"variable|{arguments.name}", AskVariable(name=arguments.name), again)]


def _read(case: Case) -> tuple[PastCrash, Vmcore]:
    for crash in crashes(case):
        if crash.vmcore is not None:
            return crash, crash.vmcore
    raise RefusedError("no crash of this host was read")


def _of_dump(case: Case, crash: PastCrash, name: str, question: Question, again: str) -> Evidence:
    from collectors.vmcore.read import ask

    if not crash.dump or not Path(crash.dump).is_file():
        raise RefusedError("only the crash's dump knows that, and it is not here")
    try:
        told = ask(Path(crash.dump), question, SECONDS)
    except WardroundError as error:
        raise RefusedError(error.what, error.why) from None
    return _evidence(case, crash, name, " ".join(told.split()), again)


def _show(crash: PastCrash, option: str, *words: str) -> str:
    """The command that asks the same of the file; a log knows its lines alone."""
    if crash.dump:
        return command(f"diagnose vmcore show {{}} {option}" + " {}" * len(words), crash.dump, *words)
    if option == "--log":
        return command("grep -n -i -F -- {} {}", words[0], crash.log)
    return command("diagnose vmcore {} -o json", crash.log)


def _evidence(
    case: Case,
    crash: PastCrash,
    name: str,
    told: str,
    again: str,
    values: dict[str, Number] | None = None,
    trust: Trust = "kernel",
) -> Evidence:
    statement = told if len(told) <= MOST_ANSWER else told[:MOST_ANSWER] + " …"
    return Evidence(
        id=case.identify("ev", f"vmcore.{name}"),
        kind="vmcore",
        source="agents.tools.vmcore",
        statement=statement,
        values=(values or {}) | _quoted(statement, (values or {}).values()),
        unit="1",
        reproduce=again,
        trust=trust,
        start=crash.time,
        end=crash.time,
        feature=name.partition("|")[0],
    )


def _quoted(statement: str, known: Collection[Number]) -> dict[str, Number]:
    """The figures that a statement tells, as values: it may tell none that it does not hold."""
    figures = [float(figure) for figure in numbers(statement)[:MOST_FIGURES]]
    return {f"quoted_{n}": figure for n, figure in enumerate((f for f in figures if f not in known), 1)}


TOOLS = (
    Tool("vmcore.stack", "the stack and state of a task at the crash", StackArguments, stack),
    Tool("vmcore.lock", "who held a lock at the crash and who waited", LockArguments, lock),
    Tool("vmcore.log", "lines of the crashed kernel's log that hold a text", LogArguments, log),
    Tool("vmcore.struct", "the members of a kernel structure in the dump", StructArguments, struct),
    Tool("vmcore.variable", "the value of a kernel variable in the dump", VariableArguments, variable),
)
