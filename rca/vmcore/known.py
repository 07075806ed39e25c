"""Whether a crash is known: its normalised stack beside those of a library of cases.

A stack is normalised to the functions that tell something: panic, entry and library frames dropped, compiler suffixes
and offsets removed. Likeness weighs the top frames most, then the longest common subsequence (frames may be missing on
either side), then the class of the report and the module. Likeness is evidence for a reader, never a verdict: two bugs
of one driver share most of a stack. The idea of the subsequence is that of the published crash-triage work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rca.vmcore.facts import Facts
from rca.vmcore.story import telling
from wardround.errors import StateError, UserError
from wardround.files import write_whole
from wardround.models.vmcore import StackFrame, plain
from wardround.redaction import plain as masked
from wardround.text import clean

SHIPPED = Path(__file__).parent / "cases"
LIKE = 0.6  # from here on a case is worth a line
MOST = 3
MOST_CASES = 5000
MOST_FRAMES = 24
_MOST_BYTES = 64 * 1024
_MOST_NAME, _MOST_TEXT = 100, 2000
# What likeness is made of; the rest of the weight goes to what both sides know.
_TOP, _COMMON, _KIND, _MODULE = 0.45, 0.3, 0.15, 0.1


@dataclass(frozen=True, slots=True)
class KnownCase:
    """One case: the class of its first report, the functions of its stack innermost first, and what is known of it."""

    id: str
    title: str
    kind: str
    stack: tuple[str, ...]
    module: str = ""
    cause: str = ""
    fix: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """A case that looks like the crash: `score` 0 to 1, `shared` the functions in common in order."""

    case: KnownCase
    score: float
    shared: tuple[str, ...]


class _CaseFile(BaseModel):
    """A case as it stands in a file."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(min_length=1, max_length=100)
    title: str = Field(min_length=1, max_length=300)
    kind: str = Field(max_length=40)
    stack: tuple[str, ...] = Field(max_length=64)
    module: str = Field(default="", max_length=64)
    cause: str = Field(default="", max_length=2000)
    fix: str = Field(default="", max_length=2000)
    source: str = Field(default="", max_length=500)


def library(state: Path) -> Path:
    """Return where the operator's own cases lie below the state folder."""
    return state / "cases"


def normalised(stack: Sequence[StackFrame]) -> tuple[str, ...]:
    """The telling functions of a stack, innermost first; recursion counts once."""
    out: list[str] = []
    for frame in telling(stack, unsure=not any(frame.sure for frame in stack)):
        name = plain(frame.function)
        if not out or out[-1] != name:
            out.append(name)
        if len(out) >= MOST_FRAMES:
            break
    return tuple(out)


def load(*folders: Path) -> Iterator[KnownCase]:
    """Read the cases of folders, the shipped first; files that are no cases are passed over."""
    read = 0
    for folder in (SHIPPED, *folders):
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            if read >= MOST_CASES:
                return
            try:
                if path.stat().st_size > _MOST_BYTES:
                    continue
                held = _CaseFile.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                continue
            read += 1
            yield _case(held)


def _case(held: _CaseFile) -> KnownCase:
    """Text of files is cleaned: users' own cases may quote logs."""
    return KnownCase(
        id=clean(held.id),
        title=clean(held.title),
        kind=clean(held.kind),
        stack=tuple(clean(name, 256) for name in held.stack),
        module=clean(held.module),
        cause=clean(held.cause),
        fix=clean(held.fix),
        source=clean(held.source),
    )


def save(folder: Path, case: KnownCase) -> Path:
    """Add a case to a folder.

    :raises UserError: the folder has a case of that name
    :raises StateError: it cannot be written
    """
    path = folder / f"{named(case.id)}.json"
    if path.exists():
        raise UserError(f"there is a case {path.stem} already", str(path), "name this one otherwise: --name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(case), indent=2, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise StateError(f"the case cannot be kept in {folder}", str(error)) from error
    return path


def case_of(facts: Facts, cause: str, fix: str = "", name: str = "") -> KnownCase:
    """Make a case of a crash: its class, module and telling functions, and what the operator knows; nothing of its log.

    Text that is given is masked as logs are: a library is shared sooner or later.

    :raises UserError: the crash tells no function to know it by, or a text is empty or too long
    """
    stack = normalised(facts.stack)
    if not stack or not facts.kind:
        raise UserError(
            "this crash cannot be kept as a known case", "no function of its stack tells anything", "keep another one"
        )
    for word, text, most in (("cause", cause, _MOST_TEXT), ("fix", fix, _MOST_TEXT), ("name", name, _MOST_NAME)):
        if len(text) > most:
            raise UserError(f"the {word} is too long", f"{len(text)} characters, {most} at most", "shorten it")
    if not cause.strip():
        raise UserError("a known case needs its cause", "the text is empty", 'say it in a sentence: --cause "…"')
    module = facts.accused.frame.module if facts.accused else ""
    where = f"{stack[0]} [{module}]" if module else stack[0]
    title = f"{facts.kind.replace('_', ' ')} in {where}"
    return KnownCase(
        id=named(masked(name)) if name.strip() else f"{facts.kind}-{stack[0]}",
        title=masked(name) if name.strip() else title,
        kind=facts.kind,
        stack=stack,
        module=module,
        cause=masked(cause),
        fix=masked(fix),
        source=f"a crash of kernel {clean(facts.vmcore.header.release)}",
    )


def named(text: str) -> str:
    """Return a text as the name of a file."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip(".-")
    return name[:_MOST_NAME] or "case"


def matches(facts: Facts, cases: Iterable[KnownCase]) -> tuple[Match, ...]:
    """The cases most like a crash, the likest first."""
    stack = normalised(facts.stack)
    accused = facts.accused
    module = accused.frame.module if accused else ""
    found = [match for case in cases if (match := compare(stack, facts.kind, module, case)).score >= LIKE]
    return tuple(sorted(found, key=lambda match: (-match.score, match.case.id))[:MOST])


def compare(stack: Sequence[str], kind: str, module: str, case: KnownCase) -> Match:
    """How like a crash is to a case.

    >>> case = KnownCase("a", "a", "bug", ("f", "g", "h"))
    >>> round(compare(("f", "g", "h"), "bug", "", case).score, 2)
    1.0
    """
    shared = _common(stack, case.stack)
    parts = [(_TOP, _top(stack, case.stack)), (_KIND, float(kind == case.kind))]
    parts.append((_COMMON, 2.0 * len(shared) / max(len(stack) + len(case.stack), 1)))
    if module or case.module:
        parts.append((_MODULE, float(module == case.module)))
    score = sum(weight * value for weight, value in parts) / sum(weight for weight, _ in parts)
    return Match(case, score if shared else 0.0, shared)


def _top(stack: Sequence[str], known: Sequence[str]) -> float:
    """Agreement of the top frames, each worth half of the one above; a frame may have moved by one."""
    weights = [0.5**n for n in range(min(len(known), len(stack), 5))]
    if not weights:
        return 0.0
    held = 0.0
    for n, weight in enumerate(weights):
        if stack[n] == known[n]:
            held += weight
        elif stack[n] in known[max(n - 1, 0) : n + 2]:
            held += weight / 2
    return held / sum(weights)


def _common(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    """The longest common subsequence; stacks are short."""
    one, other = one[:MOST_FRAMES], other[: 2 * MOST_FRAMES]
    best: list[list[tuple[str, ...]]] = [[()] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            longer = max(best[i][j + 1], best[i + 1][j], key=len)
            best[i + 1][j + 1] = (*best[i][j], left) if left == right else longer
    return best[-1][-1]
