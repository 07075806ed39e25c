"""One declarative file a family: for each fault its suspects, its questions, its neighbours and its treatment."""

from __future__ import annotations

from importlib import import_module

from rca.model import FaultModel

FAMILIES = ("cpu", "lock", "mem", "io", "fs", "net", "proc", "kernel", "engine", "accelerator", "hardware", "change")


def all_models() -> tuple[FaultModel, ...]:
    """Return every fault model, in the order of the taxonomy."""
    return tuple(model for family in FAMILIES for model in import_module(f"rca.faults.{family}").MODELS)
