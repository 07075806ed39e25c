"""Decides which kernel headers BCC compiles against, and lays out a borrowed tree where the kernel has none of its own.

Own headers lie at ``/lib/modules/<release>/build``. Where they are absent, another version's do as well, because
the programs never use a header's structures: they read tracepoint arguments, and kernel members at offsets taken
from the running kernel's BTF. Debian splits headers in a ``-common`` part and an architecture part; BCC wants one
tree, so a tree of symbolic links is merged in the program's own cache folder. Nothing of the system changes.

It cannot know whether an exotic compiler option of the running kernel breaks the borrowed headers: then the
compilation fails and the reason is reported.
Standard library only and valid for Python 3.10: the loader imports it under the system's interpreter.
Cost: about 150 links, 10 ms, once a boot of the program; a copy of the whole tree would be 12,000 links and 49 MB.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

_ARCH_FOLDER = {
    "x86_64": "x86",
    "i686": "x86",
    "aarch64": "arm64",
    "ppc64le": "powerpc",
    "s390x": "s390",
    "riscv64": "riscv",
}
_NEEDED = ("include", "arch")


@dataclass(frozen=True)
class Headers:
    """Where headers come from: `kind` ``own``, ``borrowed`` or ``none``; `parts` are laid over each other in order."""

    kind: str
    version: str = ""
    parts: tuple[str, ...] = ()

    def source(self, cache: Path) -> str | None:
        """Return the value for ``BCC_KERNEL_SOURCE`` (None: BCC finds its own). :raises OSError: cache not writable"""
        if self.kind != "borrowed":
            return None
        if len(self.parts) == 1:
            return self.parts[0]
        return str(merged_tree(cache / f"headers-{self.version}", [Path(part) for part in self.parts]))


def find_headers(
    release: str | None = None, modules: Path = Path("/lib/modules"), sources: Path = Path("/usr/src")
) -> Headers:
    """Look for headers of the running kernel, else the newest others on this machine."""
    release = release or platform.release()
    if (modules / release / "build" / "include").is_dir():
        return Headers("own", release)
    if Path("/sys/kernel/kheaders.tar.xz").exists():
        return Headers("own", release)  # CONFIG_IKHEADERS: BCC unpacks them itself
    candidates = [found for folder in _folders(sources) if (found := _headers_in(folder)) is not None]
    return max(candidates, key=lambda found: _version_key(found.version), default=Headers("none"))


def merged_tree(target: Path, parts: list[Path]) -> Path:
    """Lay `parts` over each other as links below `target` (later parts win) and return it; an existing tree is kept.

    A folder that only one part has becomes one link; only folders that several parts have are real.
    """
    complete = target / ".complete"
    if complete.exists() and all(path.exists() for path in target.iterdir()):
        return target
    shutil.rmtree(target, ignore_errors=True)
    for name in _NEEDED:
        _merge(target / name, [part / name for part in parts if (part / name).is_dir()])
    complete.touch()
    return target


def _merge(target: Path, parts: list[Path]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in sorted({entry for part in parts for entry in os.listdir(part)}):
        holders = [part / name for part in parts if (part / name).exists()]
        folders = [holder for holder in holders if holder.is_dir()]
        if not holders:
            continue  # a dangling link of the distribution
        if len(folders) == len(holders) > 1:
            _merge(target / name, folders)
        else:
            (target / name).symlink_to(holders[-1].resolve())


def _folders(sources: Path) -> list[Path]:
    try:
        return [path for path in sources.iterdir() if path.is_dir()]
    except OSError:
        return []


def _headers_in(folder: Path) -> Headers | None:
    """Read one folder of /usr/src as an architecture's configured headers, with its common part where split."""
    arch = _ARCH_FOLDER.get(platform.machine(), platform.machine())
    if not (folder / "include/generated/autoconf.h").exists():
        return None
    version = folder.name.replace("linux-headers-", "").replace("kernel-", "")
    if (folder / "include/linux/types.h").exists() and (folder / f"arch/{arch}/include").is_dir():
        return Headers("borrowed", version, (str(folder),))
    common = _common_part(folder, version)
    return Headers("borrowed", version, (str(common), str(folder))) if common is not None else None


def _common_part(folder: Path, version: str) -> Path | None:
    """Find what goes with 6.1.0-56-cloud-amd64: Debian's 6.1.0-56-common; Ubuntu's 5.15.0-9-generic with 5.15.0-9."""
    base = re.match(r"\d+\.\d+(?:\.\d+)?(?:[-+~.]?(?:deb|rc)?\d+)*", version)
    if base is None:
        return None
    suffix = "-common-rt" if "-rt-" in version else "-common"
    names = (f"linux-headers-{base[0]}{suffix}", f"linux-headers-{base[0]}")
    found = (folder.parent / name for name in names)
    return next((path for path in found if path != folder and (path / "include/linux/types.h").exists()), None)


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
