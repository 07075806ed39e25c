"""The dumps that the other tests rely on are what they claim to be."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.vmcore.conftest import Dump, Vmcores
from tests.vmcore.guest import read_scenarios

FORMATS = {"elf": b"\x7fELF", "kdump": b"KDUMP   ", "flattened": b"makedumpfile"}


def test_every_dump_is_of_a_panic_of_its_kernel(dump: Dump) -> None:
    log = dump.log.read_text(encoding="utf-8", errors="replace")
    assert dump.kernel in log
    assert "Kernel panic - not syncing" in log
    with dump.path.open("rb") as file:
        start = file.read(1 << 20)
    assert start.startswith(FORMATS["elf"])
    assert f"OSRELEASE={dump.kernel}".encode() in start


def test_the_formats_begin_with_their_signatures(vmcores: Vmcores) -> None:
    for form, signature in FORMATS.items():
        with vmcores.get("nullptr", form=form).path.open("rb") as file:
            assert file.read(len(signature)) == signature


def test_every_scenario_names_a_module_that_is_here() -> None:
    modules = {path.stem for path in Path(__file__).with_name("modules").glob("*.c")}
    assert {s["module"] for s in read_scenarios() if "module" in s} == modules


def test_wrong_use_is_answered_with_the_usage(tmp_path: Path) -> None:
    script = Path(__file__).with_name("make_vmcores.sh")
    done = subprocess.run([script, "--nonsense"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "--kernel" in done.stderr
    assert not list(tmp_path.iterdir())
