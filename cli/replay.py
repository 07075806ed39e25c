"""`diagnose replay FILE`: run the round over a recording instead of this host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options as opt


def replay(
    file: Annotated[Path, typer.Argument(help="A file that `diagnose record` wrote.", show_default=False)],
    output: opt.Output = "text",
    html: opt.Html = None,
    pid: opt.Pid = None,
    cgroup: opt.CgroupPath = None,
    fail_on: opt.FailOn = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
    no_color: opt.NoColor = False,
    debug: opt.Debug = False,
) -> None:
    """Diagnose a recording: the same evidence gives the same diagnosis."""
    from cli.diagnose import Request, conclude, prepare
    from cli.interrupt import clean_termination
    from cli.output import View, emit
    from cli.progress import Progress
    from collectors.recording import load

    view = View(output, html, fail_on, quiet, verbose, no_color)
    settings = prepare(view, {})
    with Progress(view.progress) as progress, clean_termination():
        progress.doing = "reading the recording"
        document = conclude(load(file), settings, Request(pid=pid, cgroup=cgroup), progress, durable=False)
    raise typer.Exit(emit(document, view))
