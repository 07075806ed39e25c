"""The real crash dumps that the tests read: made once a machine by `make_vmcores.sh`, kept in the cache folder."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.vmcore.guest import is_made, read_scenarios, recipe_of

SERIES = ("6.1", "6.12")
SCENARIOS = tuple(scenario["name"] for scenario in read_scenarios() if not scenario.get("extra"))
CANNOT_BE_HAD = 3
MAKE_SECONDS = 1200


@dataclass(frozen=True, slots=True)
class Dump:
    """One dump and the facts its scenario put there (see scenarios.json); `modules` holds the .ko files with DWARF."""

    scenario: str
    series: str
    kernel: str
    format: str
    kaslr: bool
    path: Path
    log: Path
    modules: Path
    expected: Mapping[str, Any]


class Vmcores:
    """Makes what is missing when it is first asked for, and remembers why it could not be had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._refused: dict[str, str] = {}

    def get(self, scenario: str, series: str = "6.1", form: str = "elf") -> Dump:
        """The dump of a scenario, of the newest kernel of its series. Skips where QEMU or a kernel cannot be had."""
        found = self._find(scenario, series, form)
        if found is None:
            # All of a series at once: its guests run side by side.
            self._make(series, "" if form == "elf" and scenario in SCENARIOS else scenario, form)
            found = self._find(scenario, series, form)
        if found is None:
            pytest.fail(f"make_vmcores.sh made no {form} dump of {scenario} on {series}")
        return found

    def made(self, scenario: str, series: str, form: str = "elf") -> Dump:
        """A dump that is there already: of other kernels, or saved by a crash kernel. Skips where it is not made."""
        found = self._find(scenario, series, form)
        if found is None:
            made_by = f"make_vmcores.sh --kernel {series} --format {form.partition('-')[0]} --only {scenario}"
            pytest.skip(f"not made here: {made_by}")
        return found

    def _find(self, scenario: str, series: str, form: str) -> Dump | None:
        recipe = next(recipe_of(s) for s in read_scenarios() if s["name"] == scenario)
        records = sorted(self._folder.glob(f"*/{scenario}.{form}.json"), key=lambda path: path.stat().st_mtime)
        made = [json.loads(path.read_text(encoding="utf-8")) for path in records if is_made(path, recipe)]
        facts = next((facts for facts in reversed(made) if facts["series"] == series), None)
        if facts is None:
            return None
        return Dump(
            scenario=scenario,
            series=series,
            kernel=facts["kernel"],
            format=form,
            kaslr=facts["kaslr"],
            path=Path(facts["path"]),
            log=Path(facts["log"]),
            modules=Path(facts["modules"]),
            expected=facts["expected"],
        )

    def _make(self, series: str, only: str, form: str) -> None:
        if series in self._refused:
            pytest.skip(self._refused[series])
        script = str(Path(__file__).with_name("make_vmcores.sh"))
        command = [script, "--out", str(self._folder), "--kernel", series, "--format", form, "--only", only]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=MAKE_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            pytest.fail(f"no dumps of kernel {series} within {MAKE_SECONDS} s")
        if done.returncode == CANNOT_BE_HAD:
            self._refused[series] = f"no crash dumps of kernel {series}: {done.stderr.strip()}"
            pytest.skip(self._refused[series])
        if done.returncode:
            pytest.fail(f"make_vmcores.sh ended with {done.returncode}: {done.stderr.strip()}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that asks for a dump may wait for QEMU, longer than any test may otherwise take."""
    for item in items:
        if "vmcores" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(MAKE_SECONDS + 60))


@pytest.fixture(scope="session")
def vmcores() -> Vmcores:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Vmcores(cache / "wardround-tests" / "vmcores")


@pytest.fixture(params=[(series, name) for series in SERIES for name in SCENARIOS], ids=lambda pair: "-".join(pair))
def dump(request: pytest.FixtureRequest, vmcores: Vmcores) -> Dump:
    """Every scenario on every kernel series, one after the other."""
    series, name = request.param
    return vmcores.get(name, series)
