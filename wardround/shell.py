"""Commands an operator may paste: a word that comes from the host is quoted, for whoever may name a process, a cgroup
or a file could else choose what runs. Nothing here runs anything."""

from __future__ import annotations

from shlex import quote


def command(pattern: str, *words: object) -> str:
    """Fill each ``{}`` of a command with one quoted word.

    >>> command("df -h {}", "/srv/a; reboot")
    "df -h '/srv/a; reboot'"
    """
    return pattern.format(*(quote(str(word)) for word in words))
