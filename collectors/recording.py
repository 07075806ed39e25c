"""A recording: one observation as one file, so that a case can be sent to a colleague and diagnosed again.

A zip archive: ``meta.json`` names the format and version; ``facts.json`` holds host, topology at both ends, logs,
events, crashes that left files, coverage and the series' names; the arrays lie beside it as ``.npy`` members (so
``numpy.load`` opens them).
Secrets are taken out of all host text on saving. A file from elsewhere is not trusted on loading: nothing in it is
executed or unpickled, sizes are bounded before anything is unpacked, and what does not fit is refused in a sentence.
It cannot know whether a recording was altered after it was made.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from wardround import __version__
from wardround.errors import StateError, UserError
from wardround.files import write_whole
from wardround.models.diagnosis import Coverage, Skipped
from wardround.models.metrics import METRICS
from wardround.models.observation import Observation
from wardround.models.records import KernelEvent, LogRecord
from wardround.models.series import Baseline, FloatArray, Series, Window
from wardround.models.topology import Engine, Host, Mount, Process, TopologySnapshot
from wardround.models.vmcore import PastCrash
from wardround.redaction import redact, redact_value
from wardround.text import encodable

FORMAT = "wardround.recording"
VERSION = 1
MAX_META = 64 * 1024
MAX_FACTS = 128 * 1024 * 1024
MAX_ARRAY = 256 * 1024 * 1024
_ARRAYS = ("times", "clock", "values", "baseline_level", "baseline_scale", "baseline_count")


@dataclass(frozen=True)
class _Facts:
    """Everything of an observation that is not an array."""

    host: Host
    before: TopologySnapshot
    after: TopologySnapshot
    series: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    baseline_source: str
    logs: tuple[LogRecord, ...]
    events: tuple[KernelEvent, ...]
    coverage: Coverage
    own_pids: frozenset[int]
    crashes: tuple[PastCrash, ...] = ()


@cache
def _codec() -> TypeAdapter[_Facts]:
    _Facts.__pydantic_config__ = ConfigDict(ser_json_inf_nan="constants")  # type: ignore[attr-defined]
    return TypeAdapter(_Facts)


def save(observation: Observation, path: Path) -> None:
    """Write `observation` to `path`, readable by its owner only; an existing file is replaced at the end.

    :raises StateError: the file cannot be written
    """
    meta = {"format": FORMAT, "version": VERSION, "by": f"wardround {__version__}", "host": observation.host.name}
    arrays = (
        observation.window.times,
        observation.window.clock,
        observation.window.values,
        observation.baseline.level,
        observation.baseline.scale,
        observation.baseline.count,
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.writestr("meta.json", json.dumps(meta))
        archive.writestr("facts.json", _dump(_without_secrets(observation)))
        for name, array in zip(_ARRAYS, arrays, strict=True):
            archive.writestr(f"{name}.npy", _pack(array))
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise StateError(f"the recording {path} cannot be written", str(error), "choose another place") from None


def _dump(facts: _Facts) -> bytes:
    """Return the facts as JSON; names that are no UTF-8 (a control group's, a file's) lose what cannot be written."""
    try:
        return _codec().dump_json(facts)
    except PydanticSerializationError:
        return json.dumps(encodable(_codec().dump_python(facts))).encode()


def load(path: Path) -> Observation:
    """Read a recording.

    :raises UserError: the file is missing, foreign, damaged, too large, or of a version this program cannot read
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_meta(_member(archive, "meta.json", MAX_META), path)
            facts = _codec().validate_json(_member(archive, "facts.json", MAX_FACTS))
            arrays = [_unpack(_member(archive, f"{name}.npy", MAX_ARRAY)) for name in _ARRAYS]
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{path} cannot be read as a recording", why, "make one with `diagnose record`") from None
    except (ValidationError, ValueError, EOFError) as error:
        why = _first_complaint(error)
        raise UserError(
            f"{path} is a damaged recording", why, "ask for it again; it is not diagnosed in part"
        ) from None
    return _assemble(facts, arrays, path)


def _first_complaint(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'][:6])}: {first['msg']}"
    return str(error)


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Unpack one member, never more than `limit` bytes whatever its header says."""
    try:
        with archive.open(name) as member:
            data = member.read(limit + 1)
    except KeyError:
        raise zipfile.BadZipFile(f"it has no {name}") from None
    except (zipfile.zlib.error, OverflowError) as error:  # type: ignore[attr-defined]
        raise zipfile.BadZipFile(f"{name} is damaged: {error}") from None
    if len(data) > limit:
        raise ValueError(f"{name} is larger than {limit // 1024} KiB")
    return data


def _check_meta(data: bytes, path: Path) -> None:
    meta = json.loads(data)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError("it does not say that it is a recording")
    if meta.get("version") != VERSION:
        raise UserError(
            f"{path} is a recording of version {meta.get('version')!r}",
            f"this program (wardround {__version__}) reads version {VERSION}",
            f"it was made by {str(meta.get('by', 'an unknown program'))[:80]!r}: use that version",
        )


def _pack(array: FloatArray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array, np.float64), allow_pickle=False)
    return buffer.getvalue()


def _unpack(data: bytes) -> FloatArray:
    """Decode one array, after checking that its header tells the truth about its size."""
    buffer = io.BytesIO(data)
    if np.lib.format.read_magic(buffer) != (1, 0):
        raise ValueError("an array has an unknown layout")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
    body = data[buffer.tell() :]
    if dtype != np.float64 or fortran or int(np.prod(shape, dtype=object)) * 8 != len(body):
        raise ValueError("an array's header does not match its contents")
    return np.frombuffer(body, np.float64).reshape(shape).copy()


def _assemble(facts: _Facts, arrays: list[FloatArray], path: Path) -> Observation:
    """Put the parts together where they agree; metrics that this version does not know are left out and said."""
    times, clock, values, level, scale, count = arrays
    ticks, columns = len(times), len(facts.series)
    shapes_agree = (
        times.shape == clock.shape == (ticks,)
        and values.shape == (ticks, columns)
        and level.shape == scale.shape == count.shape == (columns,)
    )
    if not shapes_agree or not ticks or not np.isfinite(times).all() or not (np.diff(clock) > 0).all():
        raise UserError(f"{path} is a damaged recording", "its arrays do not fit together", "ask for it again")
    known = [column for column, (name, _) in enumerate(facts.series) if name in METRICS]
    unknown = sorted({name for name, _ in facts.series if name not in METRICS})
    coverage = facts.coverage
    if unknown:
        reason = f"the recording has metrics this version does not know: {', '.join(unknown[:5])}"
        skipped = Skipped("collectors.recording", reason, "use the version that made it")
        coverage = replace(coverage, skipped=(*coverage.skipped, skipped))
    series = tuple(Series(facts.series[c][0], facts.series[c][1]) for c in known)
    values = np.where(np.isfinite(values), values, np.nan)[:, known]
    return Observation(
        host=facts.host,
        window=Window(times, clock, values, series),
        baseline=Baseline(level[known], scale[known], count[known], facts.baseline_source),
        before=facts.before,
        after=facts.after,
        logs=facts.logs,
        events=facts.events,
        coverage=coverage,
        own_pids=facts.own_pids,
        crashes=facts.crashes,
    )


def _without_secrets(observation: Observation) -> _Facts:
    return _Facts(
        host=observation.host,
        before=_clean_topology(observation.before),
        after=_clean_topology(observation.after),
        series=tuple((each.name, each.labels) for each in observation.window.series),
        baseline_source=observation.baseline.source,
        logs=tuple(replace(each, text=redact(each.text)) for each in observation.logs),
        events=tuple(replace(each, attributes=redact_value(dict(each.attributes))) for each in observation.events),
        coverage=observation.coverage,
        own_pids=observation.own_pids,
        crashes=tuple(map(_clean_crash, observation.crashes)),
    )


def _clean_topology(topology: TopologySnapshot) -> TopologySnapshot:
    return replace(
        topology,
        processes={pid: _clean_process(each) for pid, each in topology.processes.items()},
        mounts=tuple(_clean_mount(each) for each in topology.mounts),
        engines=tuple(_clean_engine(each) for each in topology.engines),
    )


def _clean_process(process: Process) -> Process:
    cmdline = redact(process.cmdline)
    return process if cmdline == process.cmdline else replace(process, cmdline=cmdline)


def _clean_mount(mount: Mount) -> Mount:
    return replace(mount, source=redact(mount.source), options=tuple(redact(each) for each in mount.options))


def _clean_engine(engine: Engine) -> Engine:
    return replace(engine, address=redact(engine.address), detail=redact(engine.detail), model=redact(engine.model))


def _clean_crash(crash: PastCrash) -> PastCrash:
    if crash.vmcore is None:
        return crash
    codec = TypeAdapter(PastCrash)
    return codec.validate_python(redact_value(codec.dump_python(crash)))
