"""The command without a subcommand: observe this host, run the round, print the diagnosis, keep it in the store."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cli.interrupt import clean_termination
from cli.output import View, emit
from cli.progress import Progress
from wardround.errors import StateError, UserError

if TYPE_CHECKING:
    from agents.events import RoundEvent
    from wardround.models.diagnosis import Diagnosis
    from wardround.models.document import Document
    from wardround.models.observation import Observation
    from wardround.settings import Settings

MOST_RESUMED = 3


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: `window` s (None: the setting), `since` Unix seconds, what to focus on, `timeout` s."""

    window: float | None = None
    since: float | None = None
    pid: int | None = None
    cgroup: str | None = None
    timeout: float | None = None


def run(request: Request, view: View) -> int:
    """Diagnose this host and return the exit code.

    :raises UserError: an option, a setting or the focus is wrong
    :raises WardroundError: the result could not be written, or the time limit passed
    """
    from cli.focus import check_focus
    from cli.window import RESERVE, observe_host, time_limit

    settings = prepare(view, {"window": request.window})
    check_focus(request.pid, request.cgroup)
    seconds = settings.window
    with Progress(view.progress) as progress, clean_termination(), time_limit(request.timeout):
        if request.timeout is not None and seconds > request.timeout - RESERVE:
            seconds = max(2.0, request.timeout - RESERVE)
            progress.note(f"the window is shortened to {seconds:g} s to be done within --timeout")
        observation = observe_host(seconds, settings, progress, request.since)
        document = conclude(observation, settings, request, progress, durable=True)
    code = emit(document, view)
    finish_killed_rounds(settings)
    return code


def prepare(view: View, flags: dict[str, object], *, logs: bool = True) -> Settings:
    """Load the settings, set up logging, and refuse at once a page that could not be written after the window.

    Without `logs` nothing is logged unless a model is asked: logging alone would be a tenth of a short command's cost.
    """
    from wardround.settings import load

    loaded = load(flags)
    if logs or loaded.settings.model.configured:
        from wardround.logging import configure

        configure(view.verbose)
    for note in loaded.notes:
        print(f"diagnose: {note}", file=sys.stderr)
    if view.html is not None:
        _check_writable(view.html)
    return loaded.settings


def _check_writable(path: Path) -> None:
    if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        why = "it is a folder" if path.is_dir() else f"the folder {path.absolute().parent} cannot be written"
        raise UserError(f"the page {path} cannot be written", why, "choose another place for --html")


def conclude(
    observation: Observation, settings: Settings, request: Request, progress: Progress, *, durable: bool
) -> Document:
    """Run the round over `observation` and return the document that every surface shows.

    `durable` keeps it in the store, before the round counts as finished, so that a kill loses nothing.
    :raises UserError: the focus was not seen in the observation
    """
    from agents.round import run_round
    from cli.focus import focused
    from wardround.models.document import to_document

    def told(diagnosis: Diagnosis) -> Diagnosis:
        whole = replace(diagnosis.usage, seconds=diagnosis.usage.seconds + (observation.end - observation.start))
        return focused(replace(diagnosis, usage=whole), observation, request.pid, request.cgroup)

    def keep(diagnosis: Diagnosis) -> None:
        _store(told(diagnosis), settings, progress.note)

    progress.doing = "judging"
    diagnosis = run_round(
        observation, settings, on_event=partial(_show, progress), keep=keep if durable else None, durable=durable
    )
    return to_document(told(diagnosis))


def _show(progress: Progress, event: RoundEvent) -> None:
    """Put the round's steps on the progress line."""
    if event.name == "step.started":
        progress.doing = f"judging: {event.data['step']}"


def _store(diagnosis: Diagnosis, settings: Settings, tell: Callable[[str], None]) -> None:
    """Put a diagnosis into the store; where that is not possible say so and go on: the answer matters more."""
    from wardround.models.document import to_document
    from wardround.store.history import save_run

    try:
        save_run(settings.state_dir, to_document(diagnosis))
    except StateError as error:
        tell(f"diagnose: this run is not stored: {error.what} ({error.why})")


def finish_killed_rounds(settings: Settings) -> None:
    """End the rounds that killed commands left, a few at a time, and say what they found."""
    from agents.round import resume, unfinished

    tell = partial(print, file=sys.stderr)
    for path in unfinished(settings.state_dir)[:MOST_RESUMED]:
        try:
            diagnosis = resume(path, settings, keep=partial(_store, settings=settings, tell=tell))
        except UserError as error:
            path.unlink(missing_ok=True)
            tell(f"diagnose: an interrupted round was dropped: {error.what} ({error.why})")
        else:
            tell(f"diagnose: an interrupted round was finished: {diagnosis.summary}")
