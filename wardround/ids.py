"""Identifiers: ULIDs with a prefix that says the kind, the same on every surface."""

from __future__ import annotations

from typing import Literal

from ulid import ULID

Prefix = Literal["inc", "ev", "hyp", "act", "run", "ano"]


def new_id(prefix: Prefix) -> str:
    """Return a fresh identifier such as ``ev_01JD8Z3V7M0000000000000000``; ids of one process sort by time."""
    return f"{prefix}_{ULID()}"
