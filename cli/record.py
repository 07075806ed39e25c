"""`diagnose record FILE`: observe this host and keep what was seen as one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cli import options as opt
from wardround.errors import UserError


def record(
    file: Annotated[Path, typer.Argument(help="Where to write the recording.", show_default=False)],
    window: Annotated[
        float | None,
        typer.Option("--window", metavar="SECONDS", help="How long to observe (setting `window`, 30 by default)."),
    ] = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
    debug: opt.Debug = False,
) -> None:
    """Observe this host and write what was seen to FILE, to diagnose it elsewhere.

    Secrets in command lines and logs are taken out. `diagnose replay FILE` diagnoses it.
    """
    from cli.diagnose import prepare
    from cli.interrupt import clean_termination
    from cli.output import View
    from cli.progress import Progress
    from cli.window import observe_host
    from collectors.recording import save

    settings = prepare(View(quiet=quiet, verbose=verbose), {"window": window})
    if file.is_dir() or not os.access(file.absolute().parent, os.W_OK):
        raise UserError(f"the recording {file} cannot be written", do="choose another place")
    with Progress(not quiet) as progress, clean_termination():
        observation = observe_host(settings.window, settings, progress)
        progress.doing = "writing the recording"
        save(observation, file)
    typer.echo(f"{file}: {len(observation.window.times)} ticks, {len(observation.window.series)} series")
