"""Declarative files, each with a few faults that are told apart by one idea.

A fault states its suspects, questions, symptoms and treatment.
"""

from __future__ import annotations

from importlib import import_module

from rca.model import FaultModel

FAMILIES = (
    "cpu",
    "lock",
    "mem",
    "leak",
    "oom",
    "numa",
    "io",
    "fs",
    "net",
    "sockets",
    "link",
    "crash",
    "hung",
    "proc",
    "fork",
    "kernel",
    "engine",
    "accelerator",
    "hardware",
    "change",
)


def all_models() -> tuple[FaultModel, ...]:
    """Return every fault model, in the order of the taxonomy."""
    return tuple(model for family in FAMILIES for model in import_module(f"rca.faults.{family}").MODELS)
