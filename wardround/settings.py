"""The settings: one frozen model, filled from layers, each value knowing where it came from.

Order, first wins: command-line flag, environment (``WARDROUND_WINDOW``, nested ``WARDROUND_MODEL__BASE_URL``; a
secret also as ``WARDROUND_MODEL__API_KEY_FILE`` or as the file ``model.api_key`` in ``$CREDENTIALS_DIRECTORY``),
``./wardround.toml`` if the user owns it, ``$XDG_CONFIG_HOME/wardround/config.toml``, ``/etc/wardround/config.toml``,
default. `load` is called by commands, never at import; plain pydantic, because the layers must keep their origin
and pydantic-settings adds 0.17 s of CPU and 7 MiB to every start.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from wardround.errors import UserError

PREFIX = "WARDROUND_"
CREDENTIALS = "CREDENTIALS_DIRECTORY"
SYSTEM_FILE = Path("/etc/wardround/config.toml")
SYSTEM_STATE = Path("/var/lib/wardround")
SYSTEM_CACHE = Path("/var/cache/wardround")
MASK = "********"


def _split(value: object) -> object:
    """Let an environment variable give a list as ``a,b``."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_split)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]


def _state_dir() -> Path:
    return SYSTEM_STATE if os.geteuid() == 0 else platformdirs.user_state_path("wardround", appauthor=False)


def _cache_dir() -> Path:
    return SYSTEM_CACHE if os.geteuid() == 0 else platformdirs.user_cache_path("wardround", appauthor=False)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelSettings(_Part):
    """One OpenAI-compatible endpoint. No `base_url`: the rules work alone. `timeout` s for one call."""

    base_url: str = ""
    model: str = ""
    api_key: SecretStr | None = None
    timeout: float = Field(default=60.0, gt=0, le=600)

    @property
    def configured(self) -> bool:
        return bool(self.base_url and self.model)


class Budget(_Part):
    """What one round may spend before it must conclude: tool calls, model tokens, and seconds beside the window."""

    tool_calls: int = Field(default=24, ge=1)
    tokens: int = Field(default=60_000, ge=0)
    seconds: float = Field(default=120.0, gt=0)


class HistorySettings(_Part):
    """Parquet segments of `diagnose watch`, kept for `hours` and at most `max_bytes`.

    One point per `step` s (the median of its ticks), one file per `segment` s.
    """

    hours: float = Field(default=72.0, gt=0)
    max_bytes: int = Field(default=512 * 1024 * 1024, ge=1024 * 1024)
    step: float = Field(default=10.0, ge=1, le=300)
    segment: float = Field(default=300.0, ge=10, le=3600)


class Settings(_Part):
    """All settings. `Settings()` is the defaults alone and reads nothing; `load` reads the layers.

    `window` s observed by the one-shot command; `ring` s held in memory by `diagnose watch`; `false_alarms` per host
    and day that the thresholds are derived from; `log_files` are followed beside the journal; `engines` are base
    addresses of inference engines that discovery would miss (``http://127.0.0.1:8080``). `crash_dirs` are folders that
    may hold crash dumps beside those of kdump and pstore; a crash of the last `crash_days` is read and told by the
    diagnosis of a host (0: none is).
    """

    state_dir: Path = Field(default_factory=_state_dir)
    cache_dir: Path = Field(default_factory=_cache_dir)
    window: float = Field(default=30.0, ge=2, le=3600)
    ring: float = Field(default=900.0, ge=60, le=7200)
    false_alarms: float = Field(default=0.1, gt=0, le=1000)
    log_files: Paths = ()
    engines: Names = ()
    crash_dirs: Paths = ()
    crash_days: float = Field(default=3.0, ge=0, le=365)
    model: ModelSettings = ModelSettings()
    budget: Budget = Budget()
    history: HistorySettings = HistorySettings()


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings: a nested mapping, and for messages where each dotted key in it was written."""

    values: dict[str, Any]
    origins: dict[str, str]


@dataclass(frozen=True)
class Loaded:
    """The settings in force, the origin of every dotted key, and sentences about what was passed over."""

    settings: Settings
    origins: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())

    def explain(self) -> list[tuple[str, str, str]]:
        """Return ``(key, value, origin)`` of every setting in order of declaration; secrets are masked."""
        return [
            (key, MASK if isinstance(value, SecretStr) else _show(value), self.origins.get(key, "default"))
            for key, value in _walk(self.settings)
        ]


def load(flags: Mapping[str, object] | None = None) -> Loaded:
    """Read all layers. `flags` are dotted keys given on the command line; None values mean "not given".

    :raises UserError: for an unknown key, an invalid value or an unreadable file, naming where it was written
    """
    notes: list[str] = []
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    layers = [_layer(given, lambda key: f"flag for {key}"), *_environment()]
    for path, must_own in ((Path("wardround.toml"), True), (_user_file(), False), (SYSTEM_FILE, False)):
        layer = _file(path, must_own, notes)
        if layer is not None:
            layers.append(layer)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in reversed(layers):
        _merge(values, layer.values)
        origins.update(layer.origins)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, origins) from None
    return Loaded(settings, origins, tuple(notes))


def _layer(dotted: Mapping[str, object], origin: Any) -> Layer:
    values: dict[str, Any] = {}
    for key, value in dotted.items():
        _merge(values, _nest(key, value))
    return Layer(values, {key: origin(key) for key in dotted})


def _environment() -> list[Layer]:
    """Read ``WARDROUND_*``, then secret files. A one-word unknown variable is another program's and is left alone."""
    keys = dict(_keys(Settings))
    plain: dict[str, object] = {}
    files: dict[str, Path] = {}
    for variable, text in os.environ.items():
        if not variable.startswith(PREFIX):
            continue
        key = variable.removeprefix(PREFIX).lower().replace("__", ".")
        if key.endswith("_file") and keys.get(key.removesuffix("_file")):
            files[key.removesuffix("_file")] = Path(text)
        elif key in keys or key.split(".")[0] in Settings.model_fields:
            plain[key] = text
    credentials = os.environ.get(CREDENTIALS)
    stored = {k: Path(credentials) / k for k, secret in keys.items() if secret} if credentials else {}
    return [
        _layer(plain, _variable),
        _layer({k: _secret(p) for k, p in files.items()}, lambda key: f"{_variable(key)}_FILE ({files[key]})"),
        _layer({k: _secret(p) for k, p in stored.items() if p.exists()}, lambda key: f"credential {stored[key]}"),
    ]


def _variable(key: str) -> str:
    return PREFIX + key.upper().replace(".", "__")


def _secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the secret file {path} cannot be read", str(error), "check the path and its owner") from None


def _user_file() -> Path:
    return platformdirs.user_config_path("wardround", appauthor=False) / "config.toml"


def _file(path: Path, must_own: bool, notes: list[str]) -> Layer | None:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if must_own and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
                notes.append(f"./{path} was ignored: it is not owned by you alone (chown it and chmod go-w)")
                return None
            values = tomllib.load(file)
    except FileNotFoundError:
        return None
    except PermissionError:
        notes.append(f"{path} was ignored: no permission to read it")
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read", str(error), "correct the file or move it away") from None
    name = f"./{path}" if must_own else str(path)
    return Layer(values, dict.fromkeys(_flatten(values), name))


def _refusal(error: ValidationError, origins: Mapping[str, str]) -> UserError:
    """Turn pydantic's first complaint into a sentence; values are left out, they may be secrets."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    path = [str(part) for part in first["loc"]]
    key = next((".".join(path[:n]) for n in range(len(path), 0, -1) if ".".join(path[:n]) in origins), ".".join(path))
    origin = next((where for name, where in origins.items() if name == key or name.startswith(key + ".")), "")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, [name for name, _ in _keys(Settings)], 1, 0.5)
        advice = f"did you mean {near[0]!r}?" if near else "`diagnose config show` lists all settings"
        return UserError(f"there is no setting {key!r}", f"it is written in {origin}" if origin else "", advice)
    reason = str(first["msg"])
    return UserError(
        f"the setting {key!r} has a wrong value: {reason[0].lower()}{reason[1:]}",
        f"it is written in {origin}" if origin else "",
        "correct it; `diagnose config show --origin` prints where each value comes from",
    )


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield ``(dotted key, is a secret)`` of every setting."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, "SecretStr" in str(kind)


def _walk(part: BaseModel, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _nest(key: str, value: object) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nest(rest, value)} if rest else {head: value}


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Lay `more` over `into`, table by table."""
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, dict) else value


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(part) for part in value) or "(none)"
    return "(none)" if value is None or value == "" else str(value)
