"""Identifiers: ULIDs with a prefix that says the kind, the same on every surface."""

from __future__ import annotations

import hashlib
from typing import Literal

from ulid import ULID

Prefix = Literal["inc", "ev", "hyp", "act", "run", "ano"]


def new_id(prefix: Prefix) -> str:
    """Return a fresh identifier such as ``ev_01JD8Z3V7M0000000000000000``; ids of one process sort by time."""
    return f"{prefix}_{ULID()}"


def derived_id(prefix: Prefix, run_id: str, name: str) -> str:
    """Return the identifier of what `name` means within a round: the same each time, so a resumed round agrees.

    It carries the time of `run_id` and 80 bits of a hash.

    :raises ValueError: when `run_id` is not ``run_`` and a ULID
    """
    time = ULID.from_str(run_id.removeprefix("run_")).bytes[:6]
    digest = hashlib.sha256(f"{run_id}\0{prefix}\0{name}".encode()).digest()
    return f"{prefix}_{ULID.from_bytes(time + digest[:10])}"
