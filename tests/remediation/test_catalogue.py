"""The catalogue is closed, typed, graded by rule, and covers every fault; every action keeps its contract."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import remediation
from rca.faults import all_models
from remediation.action import Effect, Spec
from remediation.catalogue import CATALOGUE, propose
from tests.agents import observations
from tests.remediation.hosts import CASES, crashed, full_filesystem, hypothesis
from wardround.models.diagnosis import Action, Risk
from wardround.models.topology import BlockDevice, Mount
from wardround.models.vmcore import LogLine, ModuleInfo

SPECS = sorted(CATALOGUE.values(), key=lambda spec: spec.name)


@pytest.mark.parametrize("model", all_models(), ids=lambda model: model.fault)
def test_every_fault_names_actions_that_the_catalogue_holds(model: object) -> None:
    actions = model.actions  # type: ignore[attr-defined]
    assert actions
    assert set(actions) <= set(CATALOGUE)


@pytest.mark.parametrize(
    ("effect", "risk"),
    [
        (Effect(changes=False), "R0"),
        (Effect(changes=False, interrupts=True, wide=True), "R0"),
        (Effect(), "R1"),
        (Effect(interrupts=True), "R2"),
        (Effect(wide=True), "R3"),
        (Effect(reversible=False), "R3"),
        (Effect(reversible=False, interrupts=True), "R3"),
    ],
)
def test_risk_follows_from_the_effect(effect: Effect, risk: Risk) -> None:
    assert effect.risk == risk


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_parameters_are_closed_bounded_and_immutable(spec: Spec) -> None:
    schema = spec.params.model_json_schema()
    assert spec.params.model_config["extra"] == "forbid"
    assert spec.params.model_config["frozen"]
    for name, field in schema["properties"].items():
        for option in field.get("anyOf", [field]):
            bounded = {"enum", "const", "maximum", "maxLength", "pattern"} & set(option)
            assert bounded or option["type"] in ("boolean", "null") or name == "start", (name, option)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_an_action_explains_itself(spec: Spec) -> None:
    assert spec.name.count(".") == 1
    assert len(spec.about) > 10
    assert issubclass(spec.params, BaseModel)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_against_a_culprit_that_is_gone_an_action_reads_or_is_not_proposed(spec: Spec) -> None:
    """Nothing is drafted on a guess: without its target in the observation only reading is proposed."""
    observation = observations.healthy()
    for kind in ("process", "cgroup", "filesystem", "interface"):
        gone = hypothesis("proc.hung", kind, "no-such-thing", pid=4_000_000)
        for action in propose([spec.name], gone, observation):
            assert action.risk == "R0" or spec.name in _ON_HOST, action


# Actions that treat the host or what bears the given name: a snapshot need not show it.
_ON_HOST = {
    "accelerator.drain",
    "engine.restart",
    "host.compact_memory",
    "host.reboot",
    "host.spread_interrupts",
    "net.widen_port_range",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.action)
def test_the_preview_tells_the_value_now_and_the_value_after(case: object) -> None:
    (action, *_) = propose([case.action], case.hypothesis, case.observation)  # type: ignore[attr-defined]
    assert isinstance(action, Action)
    assert action.risk == case.risk  # type: ignore[attr-defined]
    for part in case.told:  # type: ignore[attr-defined]
        assert part in action.preview, action.preview
    for part in (action.blast_radius, action.rollback, action.precheck, action.verify):
        assert part
    assert action.treats == case.hypothesis.id  # type: ignore[attr-defined]
    # what was proposed can be read back by its own type, and nothing can be slipped in
    params = CATALOGUE[action.action].params
    assert params.model_validate(dict(action.params)).model_dump() == dict(action.params)
    with pytest.raises(ValidationError):
        params.model_validate({**action.params, "command": "reboot"})


@pytest.mark.parametrize(
    ("mount", "how"),
    [
        (Mount("/srv", "sdb1", "ext4", ("rw",), "8:17", "/dev/sdb1"), "then resize2fs /dev/sdb1"),
        (Mount("/srv", "dm-0", "xfs", ("rw",), "253:0", "/dev/vg/srv"), "lvextend -r -L"),
        (
            Mount("/srv", "loop7", "xfs", ("rw",), "7:7", "/dev/loop7"),
            "'/img/a b' && losetup -c /dev/loop7 && xfs_growfs /srv",
        ),
        (Mount("/srv", "0:50", "tmpfs", ("rw",), "0:50", "none"), "mount -o remount,size="),
    ],
    ids=lambda value: value.device if isinstance(value, Mount) else "",
)
def test_a_filesystem_grows_in_the_way_of_its_device(mount: Mount, how: str) -> None:
    loop = BlockDevice("loop7", "7:7", 1 << 30, rotational=False, readonly=False, backing="/img/a b")
    host = full_filesystem(mount, {"loop7": loop})
    (action,) = propose(["fs.grow"], hypothesis("fs.full", "filesystem", "/srv"), host)
    assert how in action.preview


def test_a_dump_is_kept_where_it_lies() -> None:
    (action,) = propose(["host.collect_vmcore"], hypothesis("kernel.deadlock", "host", "h"), crashed())
    assert "keep '/var/crash/a b/vmcore'" in action.preview
    assert "diagnose vmcore slim '/var/crash/a b/vmcore' crash.xz" in action.preview


def test_a_module_of_the_kernels_own_tree_is_never_kept_from_loading() -> None:
    """It may carry the disk that the host starts from."""
    host = crashed(modules=(ModuleInfo("ext4", 0, 4096),))
    culprit = hypothesis("kernel.null_dereference", "kernel_function", "ext4_map_blocks", labels={"module": "ext4"})
    assert not propose(["kernel.block_module"], culprit, host)


def test_slab_tracing_is_proposed_only_where_the_allocator_kept_no_record() -> None:
    leak = hypothesis("kernel.out_of_memory", "kernel_function", "f", labels={"cache": "entries"})
    traced = crashed(log=(LogLine(0.0, "Kernel command line: quiet slub_debug=FZPU"),))
    assert propose(["kernel.trace_slab"], leak, crashed())
    assert not propose(["kernel.trace_slab"], leak, traced)
    assert not propose(["kernel.trace_slab"], hypothesis("kernel.out_of_memory", "kernel_function", "f"), crashed())


def test_proposals_come_with_the_least_risky_first() -> None:
    case = next(case for case in CASES if case.action == "process.terminate")
    actions = propose(
        ["process.terminate", "process.renice", "process.capture_stacks"], case.hypothesis, case.observation
    )
    assert [action.risk for action in actions] == ["R0", "R1", "R2"]


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        propose(["shell.run"], CASES[0].hypothesis, CASES[0].observation)


def test_nothing_in_the_package_can_write_or_run() -> None:
    """No module of the package imports what executes or opens files."""
    folder = Path(remediation.__file__).parent
    forbidden = {"subprocess", "os", "shutil", "signal", "socket", "pathlib", "ctypes", "multiprocessing"}
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        imported |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert not imported & forbidden, path.name
        assert not called & {"open", "exec", "eval", "compile", "__import__"}, path.name


def test_every_action_of_the_catalogue_has_a_case_here() -> None:
    assert {case.action for case in CASES} == set(CATALOGUE)
