"""`diagnose vmcore`: explain a kernel crash from its dump or its log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from cli import options as opt

if TYPE_CHECKING:
    from agents.events import RoundEvent


class _ExplainByDefault(TyperGroup):
    """`diagnose vmcore FILE` explains FILE; only the name of another command stands for that command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["explain", *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    cls=_ExplainByDefault, no_args_is_help=True, help="Explain a kernel crash from its dump (vmcore) or its log."
)


@app.command()
def explain(
    file: Annotated[
        Path,
        typer.Argument(help="A crash dump, a kernel log as text, or a folder of pstore files.", show_default=False),
    ],
    vmlinux: Annotated[
        Path | None, typer.Option("--vmlinux", metavar="FILE", help="Debug information of the very kernel: adds lines.")
    ] = None,
    modules: Annotated[
        Path | None, typer.Option("--modules", metavar="DIR", help="Folder with the modules' .ko files.")
    ] = None,
    output: opt.Output = "text",
    html: opt.Html = None,
    fail_on: opt.FailOn = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
    no_color: opt.NoColor = False,
    debug: opt.Debug = False,
) -> None:
    """Say what happened, in which function and task, and show why. No debug information is needed."""
    from cli.diagnose import prepare
    from cli.interrupt import clean_termination
    from cli.output import View, emit
    from cli.progress import Progress
    from collectors.vmcore.read import read_crash

    view = View(output, html, fail_on, quiet, verbose, no_color)
    settings = prepare(view, {}, logs=False)
    with Progress(view.progress) as progress, clean_termination():

        def tell(section: str) -> None:
            progress.doing = f"reading {section}"

        def follow(event: RoundEvent) -> None:
            if event.name == "step.started":
                progress.doing = f"judging: {event.data['step']}"

        vmcore = read_crash(file, tell, vmlinux=vmlinux, modules=modules)
        progress.doing = "judging"
        # only now: the reader is gone, and what judges takes as much memory again
        from agents.crash import diagnose_crash
        from wardround.models.document import to_document

        document = to_document(diagnose_crash(vmcore, settings, file.stat().st_mtime, follow))
    raise typer.Exit(emit(document, view))


@app.command()
def slim(
    file: Annotated[Path, typer.Argument(help="A crash dump.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Where to write the copy (.xz: packed).", show_default=False)],
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
    debug: opt.Debug = False,
) -> None:
    """Write a small copy that holds just what the analysis reads, to share a crash.

    Memory of user programs is not copied. Secrets that are recognised in the kernel log are overwritten; names of
    tasks, modules and devices stay.
    """
    from cli.diagnose import prepare
    from cli.interrupt import clean_termination
    from cli.output import View
    from cli.progress import Progress
    from collectors.vmcore import read

    prepare(View(quiet=quiet, verbose=verbose), {}, logs=False)
    with Progress(not quiet) as progress, clean_termination():

        def tell(section: str) -> None:
            progress.doing = f"reading {section}"

        size, pages, secrets = read.slim(file, out, tell)
    typer.echo(
        f"{out}: {pages} pages, {size / 2**20:.1f} MiB before packing, of {file.stat().st_size / 2**20:.0f} MiB; "
        f"{secrets} secrets of the kernel log overwritten; no memory of user programs was copied on purpose"
    )


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A crash dump.", show_default=False)],
    stack: Annotated[int | None, typer.Option("--stack", metavar="PID", help="The stack of a task.")] = None,
    struct: Annotated[
        tuple[str, str] | None, typer.Option("--struct", metavar="TYPE ADDRESS", help="A structure's members.")
    ] = None,
    variable: Annotated[str | None, typer.Option("--variable", metavar="NAME", help="A variable's value.")] = None,
    lock: Annotated[
        str | None, typer.Option("--lock", metavar="ADDRESS", help="Who holds a lock and who waits for it.")
    ] = None,
    log: Annotated[str | None, typer.Option("--log", metavar="TEXT", help="Kernel log lines that hold a text.")] = None,
    verbose: opt.Verbose = 0,
    debug: opt.Debug = False,
) -> None:
    """Ask a dump a follow-up question."""
    from pydantic import ValidationError

    from cli.diagnose import prepare
    from cli.output import View
    from collectors.vmcore import read
    from collectors.vmcore.questions import QUESTION

    prepare(View(verbose=verbose), {}, logs=False)
    asked: list[dict[str, object]] = []
    if stack is not None:
        asked.append({"ask": "stack", "pid": stack})
    if struct is not None:
        asked.append({"ask": "struct", "type": struct[0], "address": _address(struct[1])})
    if variable is not None:
        asked.append({"ask": "variable", "name": variable})
    if lock is not None:
        asked.append({"ask": "lock", "address": _address(lock)})
    if log is not None:
        asked.append({"ask": "log", "text": log})
    if not asked:
        raise typer.BadParameter("name what to show: --stack, --struct, --variable, --lock or --log")
    for one in asked:
        try:
            question = QUESTION.validate_python(one)
        except ValidationError as error:
            raise typer.BadParameter(str(error.errors()[0]["msg"])) from None
        typer.echo(read.ask(file, question))


def _address(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no address in hexadecimal") from None


@app.command()
def keep(
    file: Annotated[Path, typer.Argument(help="A crash dump or the log of a crash.", show_default=False)],
    cause: Annotated[str, typer.Option("--cause", metavar="TEXT", help="What it was.", show_default=False)],
    fix: Annotated[str, typer.Option("--fix", metavar="TEXT", help="What helped.")] = "",
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="The case's name; else class and function.")] = "",
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
    debug: opt.Debug = False,
) -> None:
    """Keep a crash whose cause is known: the next one that looks alike is told with it.

    The class, the module and the functions of the stack are kept, and the texts, masked; nothing of the log.
    """
    from cli.diagnose import prepare
    from cli.interrupt import clean_termination
    from cli.output import View
    from cli.progress import Progress
    from collectors.vmcore.read import read_crash
    from rca.vmcore import known
    from rca.vmcore.facts import Facts

    settings = prepare(View(quiet=quiet, verbose=verbose), {}, logs=False)
    with Progress(not quiet) as progress, clean_termination():
        progress.doing = f"reading {file.name}"
        vmcore = read_crash(file)
    case = known.case_of(Facts(vmcore, vmcore.header.time or 0.0), cause, fix, name)
    path = known.save(known.library(settings.state_dir), case)
    typer.echo(f"{path}: {case.title}; known by {' → '.join(reversed(case.stack))}")


@app.command()
def cases(
    output: Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="Form of the result.")] = "text",
    verbose: opt.Verbose = 0,
    debug: opt.Debug = False,
) -> None:
    """List the known cases that crashes are compared with: the kept ones, and those that come with the program."""
    import json
    from dataclasses import asdict

    from cli.diagnose import prepare
    from cli.output import View
    from rca.vmcore import known

    settings = prepare(View(verbose=verbose), {}, logs=False)
    folder = known.library(settings.state_dir)
    shipped = {case.id for case in known.load()}
    found = list(known.load(folder))
    if output == "json":
        typer.echo(json.dumps([asdict(case) for case in found], indent=2, ensure_ascii=False))
        return
    for case in found:
        typer.echo(f"{case.id}{'' if case.id in shipped else ' (kept)'}\n    {case.title}")
        for word, text in (("cause", case.cause), ("fix", case.fix)):
            if text and (verbose or case.id not in shipped):
                typer.echo(f"    {word}: {text}")
    typer.echo(f"{len(found)} cases; kept ones are in {folder}")


@app.command("diff")
def diff(
    left: Annotated[Path, typer.Argument(help="A crash dump or the log of a crash.", show_default=False)],
    right: Annotated[Path, typer.Argument(help="Another one.", show_default=False)],
    output: Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="Form of the result.")] = "text",
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
    debug: opt.Debug = False,
) -> None:
    """Say whether two crashes look alike and in what they differ."""
    import json
    from dataclasses import asdict

    from cli.diagnose import prepare
    from cli.interrupt import clean_termination
    from cli.output import View
    from cli.progress import Progress
    from cli.render.words import percent, plain
    from collectors.vmcore.read import read_crash
    from rca.vmcore.difference import difference

    prepare(View(quiet=quiet, verbose=verbose), {}, logs=False)
    with Progress(not quiet) as progress, clean_termination():
        progress.doing = f"reading {left.name}"
        one = read_crash(left)
        progress.doing = f"reading {right.name}"
        told = difference(one, read_crash(right))
    if output == "json":
        typer.echo(json.dumps(asdict(told), indent=2))
        return
    shared = " → ".join(reversed(told.shared)) or "no function"
    typer.echo(f"likeness {percent(told.likeness)}; both stacks hold {plain(shared)}\n")
    for aspect in told.aspects:
        if aspect.same and not verbose:
            continue
        sign = {True: "=", False: "≠", None: "?"}[aspect.same]
        typer.echo(f"{sign} {aspect.name}\n    {plain(aspect.left)}\n    {plain(aspect.right)}")
