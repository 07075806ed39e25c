"""Checks the documentation against the tree: ``python -m tests.docs.check``.

Links lead somewhere, every fault and metric is documented, and nothing in the tree speaks of anything but the product.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rca.faults import all_models
from wardround.models.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
# Paths of one person's machine and addresses of package registries have no place in a product's tree.
_FOREIGN = re.compile(
    r"(?<![\w.])/(?:work|root|home/\w+)/|pypi\.org|pythonhosted|registry\.npmjs|deb\.debian\.org|snapshot\.debian"
)
_TEXT = {
    ".py",
    ".md",
    ".toml",
    ".sh",
    ".c",
    ".h",
    ".j2",
    ".service",
    ".json",
    ".lock",
    ".css",
    ".js",
    "",
    ".txt",
    ".yaml",
}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def broken_links(files: list[Path]) -> Iterator[str]:
    for file in files:
        if file.suffix == ".md":
            for target in _LINK.findall(file.read_text()):
                if not (file.parent / target).exists():
                    yield f"{file.relative_to(ROOT)}: the link {target} leads nowhere"


def undocumented() -> Iterator[str]:
    faults, metrics = (ROOT / "docs/faults.md").read_text(), (ROOT / "docs/metrics.md").read_text()
    for model in all_models():
        if f"`{model.fault}`" not in faults:
            yield f"docs/faults.md does not tell of {model.fault}: run python -m tests.docs.generate"
    for name in METRICS:
        if f"`{name}`" not in metrics:
            yield f"docs/metrics.md does not tell of {name}: run python -m tests.docs.generate"


def foreign(files: list[Path]) -> Iterator[str]:
    for file in files:
        if file.suffix in _TEXT and file.resolve() != Path(__file__).resolve():
            for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
                if _FOREIGN.search(line):
                    yield f"{file.relative_to(ROOT)}:{number}: names a path or address that is not the product's"


def problems() -> list[str]:
    """Return every problem as a sentence."""
    files = tracked()
    return [*broken_links(files), *undocumented(), *foreign(files)]


if __name__ == "__main__":
    found = problems()
    print("\n".join(found) or "the documentation agrees with the tree")
    sys.exit(bool(found))
