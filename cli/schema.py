"""`diagnose schema`: the JSON schema of what ``-o json`` prints."""

from __future__ import annotations

import typer


def schema() -> None:
    """Print the JSON schema (draft 2020-12) of the diagnosis document."""
    import json

    from wardround.models.document import schema as document_schema

    typer.echo(json.dumps(document_schema(), indent=2))
