"""Builds the wheel from the sdist, installs it in an empty environment and runs it from ``/``.

Run as ``python -m tests.packaging.wheel``. The wheel's dependencies come from the lock, so this also shows that
the lock is complete.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = {"wardround", "collectors", "detectors", "rca", "remediation", "agents", "cli"}


def run(*command: str | Path, cwd: Path | str = "/") -> str:
    """Run a command, its output passed on only where it fails."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise SystemExit(f"failed: {' '.join(str(c) for c in command)}")
    return done.stdout


def data_files() -> list[str]:
    """Files of our packages that are no Python: eBPF programs, templates, known crashes."""
    found = (path for name in OURS for path in (ROOT / name).rglob("*") if path.is_file())
    kept = (path for path in found if path.suffix not in (".py", ".pyc"))
    return [str(path.relative_to(ROOT)) for path in kept]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
        (wheel,) = out.glob("*.whl")
        held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
        names = {name.split("/")[0] for name in held}
        if names != OURS:
            raise SystemExit(f"the wheel holds {sorted(names)}, not {sorted(OURS)}")
        if missing := set(data_files()) - held:
            raise SystemExit(f"the wheel lacks {sorted(missing)}")
        venv.create(out / "env", with_pip=True)
        python = out / "env/bin/python"
        lock = ROOT / "requirements.lock"
        run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r", lock)
        run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", wheel)
        print(run(out / "env/bin/diagnose", "--version").strip())
        print(run(out / "env/bin/diagnose", "doctor"))
        print(f"the wheel {wheel.name} works outside the tree")


if __name__ == "__main__":
    main()
