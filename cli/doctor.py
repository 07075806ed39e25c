"""`diagnose doctor`: what this host lets the program see, and what would improve it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli import options as opt

if TYPE_CHECKING:
    from cli.checks import Check

_MARKS = {"ok": "ok", "limited": "limited", "missing": "MISSING"}
_STYLES = {"ok": "green", "limited": "yellow", "missing": "red"}


def doctor(
    output: Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="Form of the result.")] = "text",
    check_model: Annotated[
        bool, typer.Option("--check-model", help="Ask the configured model endpoint for its list of models.")
    ] = False,
    no_color: opt.NoColor = False,
    debug: opt.Debug = False,
) -> None:
    """Check what this host lets wardround see, and say what would improve it.

    Exit code 0 where a diagnosis can run, 1 where it cannot.
    """
    from cli.checks import run_checks
    from wardround.logging import configure
    from wardround.settings import load

    configure()
    checks = list(run_checks(load().settings, check_model))
    able = not any(check.required and check.state == "missing" for check in checks)
    if output == "json":
        _print_json(checks, able)
    else:
        _print_table(checks, able, no_color)
    raise typer.Exit(0 if able else 1)


def _print_json(checks: list[Check], able: bool) -> None:
    import json
    from dataclasses import asdict

    body = {"schema": "wardround.doctor/v1", "able": able, "checks": [asdict(check) for check in checks]}
    typer.echo(json.dumps(body, indent=2))


def _print_table(checks: list[Check], able: bool, no_color: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from cli.render.words import plain

    console = Console(highlight=False, color_system=None if no_color else "auto")
    name_width = max(len(check.name) for check in checks)
    for check in checks:
        line = Text(f"{_MARKS[check.state]:<8}", _STYLES[check.state])
        line.append(f"{check.name:<{name_width}}  ", "bold").append(plain(check.detail))
        console.print(line, soft_wrap=True)
        if check.improve:
            console.print(Text(" " * (10 + name_width) + f"→ {plain(check.improve)}", "dim"), soft_wrap=True)
    counts = ", ".join(
        f"{sum(check.state == state for check in checks)} {state}" for state in ("ok", "limited", "missing")
    )
    verdict = "A diagnosis can run here" if able else "A diagnosis cannot run here"
    console.print(f"\n{verdict}: {counts}.", style="bold")
