"""The one exception tree.

    WardroundError                what, why, what to do: never a traceback for the user
    ├── UserError                 the call is wrong: exit 2
    ├── CapabilityMissing         this host lacks something: degrade and say so
    ├── UpstreamError             another program or a model failed: may be retried
    └── StateError                our own files cannot be read or written: go on without them and say so

A bug is none of these and is never caught.
"""

from __future__ import annotations


class WardroundError(Exception):
    """An expected failure, told in a sentence: `what` happened, `why`, and `do`, what the reader can do about it."""

    exit_code = 1

    def __init__(self, what: str, why: str = "", do: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.do = what, why, do

    def __str__(self) -> str:
        parts = [self.what, self.why, self.do]
        return "\n".join(part for part in parts if part)


class UserError(WardroundError):
    """Seen by the person who typed the command: an option, a file or a value is wrong."""

    exit_code = 2


class CapabilityMissing(WardroundError):  # noqa: N818 - a state of the world, not an error
    """Seen in the coverage of a report: this host or this user lacks what the part needs."""


class UpstreamError(WardroundError):
    """A model, an engine or another program answered wrongly or not at all."""


class StateError(WardroundError):
    """A file of our own state is full, corrupt or not ours to write."""


def one_line(error: BaseException) -> str:
    """Return what a library's error says as one line of at most 300 characters, its kind where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__
