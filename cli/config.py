"""`diagnose config show`: the settings in force, and where each came from."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cli import options as opt

app = typer.Typer(rich_markup_mode=None, help="The settings in force.")


@app.callback()
def config() -> None:
    """The settings in force."""


@app.command()
def show(
    origin: Annotated[bool, typer.Option("--origin", help="Also say where each value came from.")] = False,
    output: Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="Form of the result.")] = "text",
    debug: opt.Debug = False,
) -> None:
    """Print every setting with its value; secrets are masked.

    Order, first wins: flag, environment (WARDROUND_WINDOW), ./wardround.toml if you own it, the XDG configuration
    folder, /etc/wardround/config.toml, default.
    """
    import json

    from wardround.settings import load

    loaded = load()
    for note in loaded.notes:
        typer.echo(f"diagnose: {note}", err=True)
    rows = loaded.explain()
    if output == "json":
        typer.echo(json.dumps({key: {"value": value, "origin": where} for key, value, where in rows}, indent=2))
        return
    width = max(len(key) for key, _, _ in rows)
    for key, value, where in rows:
        typer.echo(f"{key:<{width}}  {value}" + (f"  ({where})" if origin else ""))
