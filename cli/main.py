"""The command `diagnose`: its entry point, its exit codes and the one place where errors become sentences.

Exit codes: 0 it ran, 1 it could not, 2 usage, 3 a fault was found and ``--fail-on`` was given, 130 interrupted
(143 terminated). Results go to standard output, progress and errors to standard error; with ``-o json`` an error is
also a JSON object on standard output. Nothing heavy is imported here: each command imports what it needs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from cli import config, diagnose, vmcore
from cli import options as opt
from cli.doctor import doctor
from cli.output import View
from cli.record import record
from cli.replay import replay
from cli.schema import schema
from cli.watch import watch
from wardround import __version__
from wardround.errors import UserError, WardroundError

_OUTPUT = ("-o", "--output")
EPILOG = (
    "Exit codes: 0 it ran, 1 it could not, 2 usage, 3 a fault was found and --fail-on was given, 130 interrupted. "
    "Results go to standard output, progress to standard error. Needs no model, server or network; what it could not "
    "see without root stands in the report."
)

app = typer.Typer(
    add_completion=True,
    rich_markup_mode=None,  # plain help: rich would double the start-up time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"wardround {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
]


@app.callback(invoke_without_command=True, epilog=EPILOG)
def root(
    context: typer.Context,
    output: opt.Output = "text",
    html: opt.Html = None,
    window: Annotated[
        float | None,
        typer.Option("--window", metavar="SECONDS", help="How long to observe (setting `window`, 30 by default)."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="AGE|TIME", help="It began no earlier (15m, 2h, RFC 3339): before was usual."),
    ] = None,
    pid: opt.Pid = None,
    cgroup: opt.CgroupPath = None,
    fail_on: opt.FailOn = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
    no_color: opt.NoColor = False,
    timeout: opt.Timeout = None,
    no_input: opt.NoInput = False,
    debug: opt.Debug = False,
    version: Version = False,
) -> None:
    """Find what is wrong with this Linux host and show why.

    Without a command: observe the host for a while, then print the root cause, the culprit by name and pid, the
    evidence with commands to see it again, what was ruled out, and what could be done. Nothing is changed.
    """
    if context.invoked_subcommand is not None:
        return
    view = View(output, html, fail_on, quiet, verbose, no_color)
    request = diagnose.Request(window, opt.parse_since(since) if since else None, pid, cgroup, timeout)
    raise typer.Exit(diagnose.run(request, view))


for command in (watch, record, replay, doctor, schema):
    app.command()(command)
app.add_typer(vmcore.app, name="vmcore")
app.add_typer(config.app, name="config")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; the boundary at which every failure becomes a sentence."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        code = app(words, prog_name="diagnose", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except typer.TyperException as error:
        if debug:
            raise
        hint = "`diagnose --help` lists the options"
        return _fail(UserError(error.format_message().replace("Value error, ", ""), do=hint), words, error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    except WardroundError as error:
        if debug:
            raise
        return _fail(error, words, error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to flush
        return 1
    except Exception as error:  # the task's boundary: whoever is on call gets a sentence, not a traceback
        if debug:
            raise
        sorry = WardroundError(
            "Sorry, wardround failed in a way it should not have; nothing of this host was changed.",
            f"{type(error).__name__}: {error}",
            "Run it again with --debug to see where, and please report that.",
        )
        return _fail(sorry, words, 1)


def _fail(error: WardroundError, words: Sequence[str], code: int) -> int:
    """Tell what happened, why, and what to do: on standard error, and for ``-o json`` also as an object."""
    from cli.output import error_json

    print(f"diagnose: {error}", file=sys.stderr)
    if _wants_json(words):
        with contextlib.suppress(OSError):  # standard output may be what failed; the sentence is on standard error
            print(error_json(error, code), flush=True)
    return code


def _wants_json(words: Sequence[str]) -> bool:
    pairs = zip(["", *words], words, strict=False)
    return any(word in ("-ojson", "--output=json") or (before in _OUTPUT and word == "json") for before, word in pairs)


if __name__ == "__main__":
    sys.exit(main())
