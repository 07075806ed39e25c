"""Taint letters: what the kernel or a module did that makes its reports less trustworthy.

Source: Documentation/admin-guide/tainted-kernels.rst; bits never change their meaning. `tainted_mask` is the kernel's,
`taints` a module's own.
"""

from __future__ import annotations

# (letter, what it means), by bit
TAINTS: tuple[tuple[str, str], ...] = (
    ("P", "a proprietary module was loaded"),
    ("F", "a module was loaded by force"),
    ("S", "the processor is used out of its specification"),
    ("R", "a module was unloaded by force"),
    ("M", "the processor reported a machine check"),
    ("B", "a bad page was found"),
    ("U", "a user asked for the taint"),
    ("D", "the kernel died before (oops or BUG)"),
    ("A", "an ACPI table was overridden"),
    ("W", "the kernel warned before"),
    ("C", "a staging driver was loaded"),
    ("I", "a workaround for broken firmware is in use"),
    ("O", "a module from outside the kernel's tree was loaded"),
    ("E", "an unsigned module was loaded"),
    ("L", "a soft lockup occurred before"),
    ("K", "the kernel was live-patched"),
    ("X", "a taint of the distribution's own"),
    ("T", "the kernel was built with randomised structures"),
    ("N", "a test module was loaded"),
    ("J", "firmware was controlled from user space"),
)


def letters(mask: int) -> str:
    """Return the letters of the bits set; bits without a letter are left out.

    >>> letters(1 << 12 | 1 << 13)
    'OE'
    """
    return "".join(letter for bit, (letter, _) in enumerate(TAINTS) if mask >> bit & 1)


def kernel_letters(mask: int) -> str:
    """Return a kernel's letters as it prints them: led by ``G`` where no module is proprietary, empty if untainted.

    >>> kernel_letters(1 << 12 | 1 << 13), kernel_letters(1), kernel_letters(0)
    ('GOE', 'P', '')
    """
    if not mask:
        return ""
    return letters(mask) if mask & 1 else "G" + letters(mask)


def meanings(found: str) -> tuple[str, ...]:
    """Say in words what a string of letters means; ``G`` and unknown ones say nothing."""
    table = dict(TAINTS)
    return tuple(table[letter] for letter in found if letter in table)
