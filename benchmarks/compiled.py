"""Programs are timed as they are installed: with their bytecode compiled, also where Python is told to write none."""

from __future__ import annotations

import compileall
from importlib.util import find_spec

PACKAGES = ("wardround", "collectors", "detectors", "rca", "remediation", "agents", "cli")


def compile_packages() -> None:
    """Compile what has changed since it was last compiled; a file that cannot be stays as it is."""
    for name in PACKAGES:
        spec = find_spec(name)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            compileall.compile_dir(folder, quiet=2)
